"""The plan of a run: rules, then a plan file, then --set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.nn import Parameter

from warmstart.data.dataset import Collection
from warmstart.distributed import expected_group
from warmstart.features.engine_choice import SETTING, check_name
from warmstart.features.machine import n_threads
from warmstart.machine import free_memory
from warmstart.network.feature_layers import feature_layers
from warmstart.network.finished_run import partition_base
from warmstart.network.ledger import tensors_of
from warmstart.network.load import PretrainedModel
from warmstart.network.lora import bare_blocks
from warmstart.network.partition import Network
from warmstart.planning import rules
from warmstart.planning.actions import reconcile_strategy
from warmstart.planning.build import build
from warmstart.planning.cached_activations import FULL_BYTES, cache_bytes, plan_cache
from warmstart.planning.check import check_facts, check_plan, check_values
from warmstart.planning.facts import DataFacts, NetworkFacts, PlanOptions
from warmstart.planning.feature_layers import probe_layers
from warmstart.planning.fine_tuning import compares_fine_tuning
from warmstart.planning.machine import with_parallel
from warmstart.planning.plan_file import open_plan, options_for, overlay
from warmstart.planning.settings import (
    PAIRS,
    apply_settings,
    is_early,
    parse_value,
)
from warmstart.planning.strategy import n_tuned, parse, strategy_of
from warmstart.records.block_actions import LOW_RANK
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan
from warmstart.records.summary import Verdict
from warmstart.request import Request
from warmstart.run.inputs import is_partial
from warmstart.training.dataset import arrange
from warmstart.training.device import AUTO, check_machine, find_machine
from warmstart.training.head_families import SUFFIX


def with_plan_file(request: Request) -> Request:
    """The request with its plan file read: its base model and seed hold where none was typed.

    Raises: PlanError for a file that is no plan, values that no plan can have, or an engine
    that does not exist or is not installed.
    """
    engine = _set_engine(request)
    if request.plan is None:
        return request
    plan = open_plan(request.plan) if isinstance(request.plan, Path) else request.plan
    check_values(plan)
    if engine is None:
        check_name(str(plan.training.engine.value), f"the plan's {SETTING}")
    typed, changes = request.typed, dict[str, Any]()
    if "seed" not in typed:
        changes["seed"] = int(plan.training.seed.number)
    if "budget" not in typed:  # it decides which checks are made
        is_fast = plan.head.permutations.value == rules.PERMUTATIONS["fast"]
        changes["budget"] = "fast" if is_fast else "balanced"
    if "base" not in typed:
        changes["base"] = str(plan.base.value)
        changes["arch"] = request.arch or (str(plan.arch.value) if plan.arch else None)
    return replace(request, plan=plan, given=typed, **changes)


def engine_of(request: Request) -> Choice | None:
    """The extraction engine of --set, else that of the plan; None where it is to be chosen."""
    engine = _set_engine(request)
    if engine is not None:
        return Choice(value=engine, because="your choice (--set)", source="user")
    return request.plan.training.engine if isinstance(request.plan, Plan) else None


def _set_engine(request: Request) -> str | None:
    text = request.overrides.get(SETTING)
    return None if text is None else check_name(text.lower(), f"--set {SETTING}={text}")


def make_plan(
    request: Request,
    facts: DataFacts,
    network: NetworkFacts,
    head_names: Sequence[str],
    engine: Choice,
) -> Plan:
    """The plan; what the user set overrides the rules and is marked.

    `request` has its plan file read; `engine` is the one that extracts the features.
    Raises: PlanError for a plan that this network or these data do not allow.
    """
    if may_fine_tune(request, network.record, facts) and not network.compares_fine_tuning:
        # Without settings for a training that has no signal to train on.
        rest = tuple(s for s in request.settings if not s.strip().startswith("training."))
        request = replace(request, lr=None, settings=rest)
    base = request.base if isinstance(request.base, (str, Path)) else type(request.base).__name__
    pairs = request.overrides.get(PAIRS)  # other choices follow from it
    options = PlanOptions(
        base=str(base),
        strategy=request.strategy,
        budget=request.budget,
        seed=request.seed,
        arch=request.arch,
        lr=request.lr,
        explicit=request.typed,
        contrastive=None if pairs is None else bool(parse_value(PAIRS, pairs, "switch")),
        processes=expected_group().size,
        machine=find_machine(request.device, n_threads()),
    )
    if isinstance(request.plan, Plan):
        options = options_for(request.plan, options)
    plan = build(options, facts, network, head_names, engine)
    if request.base_choice is not None:
        plan = replace(plan, base=request.base_choice)
    if isinstance(request.plan, Plan):
        on_device = {"device"} if request.device != AUTO else set[str]()
        plan = overlay(plan, request.plan, request.typed | on_device)
    if is_partial(request):
        choice = Choice(value=True, because="your choice (--set)", source="user", rule=False)
        plan = replace(plan, partial=choice)
    if request.stream is not None:
        plan = replace(plan, training=replace(plan.training, offload=request.stream))
    late = [s for s in request.settings if not is_early(s.partition("=")[0].strip())]
    plan = apply_settings(replace(plan, training=replace(plan.training, engine=engine)), late)
    plan = plan_cache(reconcile_strategy(plan, network), network, facts)
    plan = with_parallel(plan, network.record, expected_group().local, free_memory())
    check_plan(plan, network.record)
    check_facts(plan, facts, network, head_names)
    check_machine(plan)
    return plan


def stored_block(request: Request, base: PretrainedModel, n: int) -> int:
    """The number of the block whose output an offloaded network caches; 0 for none.

    The last frozen block of the strategy that was typed; else that of `last:1`, which may come
    next, while its output is small. Raises: PlanError as `n_tuned` does.
    """
    if not base.stream:
        return 0
    strategy = parse(request.strategy)
    if isinstance(request.plan, Plan) and "strategy" not in request.typed:
        strategy = strategy_of(request.plan)
    record = partition_base(base).record
    tuned = 0 if strategy.depth == "auto" else n_tuned(strategy, len(record.blocks))
    cut = len(record.blocks) - max(tuned, 1)
    is_small = cut and cache_bytes(record, cut, n, 0, base.stream) <= FULL_BYTES
    return cut if tuned or is_small else 0


def may_fine_tune(request: Request, network: NetworkRecord, facts: DataFacts) -> bool:
    """Whether upper blocks will be fine-tuned beside the linear probe if there is a signal."""
    return follows_verdict(request) and compares_fine_tuning(network, facts, request.budget)


def follows_verdict(request: Request) -> bool:
    """Whether measurements of the run may still change its strategy."""
    return parse(request.strategy).depth == "auto" and not isinstance(request.plan, Plan)


def validate(request: Request, collection: Collection, base: PretrainedModel) -> None:
    """Make a plan that was typed once, before a folder is made or an image is passed.

    The verdict and the engine are not known yet, and nothing is refused because of them.
    Raises: PlanError as `make_plan` does; DataError where too few images are independent.
    """
    is_plain = request.plan is None and not request.settings and request.lr is None
    if is_plain and request.strategy == "auto":
        return
    network = partition_base(base)
    layers = tuple(probe_layers(feature_layers(network.record)))
    names = (*layers, *(f"{name}{SUFFIX}" for name in layers))
    data = arrange(collection.record).facts()
    tries = may_fine_tune(request, network.record, data)
    engine = Choice(value="torch", because="only validated", source="rule")
    make_plan(request, data, network_facts(request, base, network, None, tries), names, engine)


def network_facts(
    request: Request,
    base: PretrainedModel,
    network: Network,
    verdict: Verdict | None,
    compares_fine_tuning: bool = False,
) -> NetworkFacts:
    """What planning needs to know of a base model and its blocks.

    A block is fresh where more than half of its parameters are random, partly fresh where some
    tensors are. The neck belongs to the last block, with which it is trained.
    """
    partly_fresh, fresh = _random_blocks(base.random_tensors, network)
    planned = request.plan.blocks if isinstance(request.plan, Plan) else ()
    has_lora = (
        "lora" in parse(request.strategy).extras
        or any(LOW_RANK.name in setting for setting in request.settings)
        or any(block.behaviour.has_updates for block in planned)
    )
    return NetworkFacts(
        record=network.record,
        recipe=base.record.recipe,
        preprocessing=base.record.preprocessing,
        base_inputs=base.origin.preprocessing,
        is_random=base.record.is_random,
        verdict=verdict.kind if verdict else None,
        compares_fine_tuning=compares_fine_tuning,
        fresh=fresh,
        partly_fresh=partly_fresh - fresh,
        no_lora=bare_blocks(network) if has_lora else frozenset(),
    )


def _random_blocks(
    names: frozenset[str], network: Network
) -> tuple[frozenset[str], frozenset[str]]:
    """Blocks with some random tensors, and those with mostly random parameters."""
    blocks = [block.name for block in network.record.blocks]
    homes = {**{name: name for name in blocks}, "neck": blocks[-1]}
    total, random = Counter[str](), Counter[str]()
    for name, tensor in tensors_of(network).items() if names else ():
        block = homes.get(network.owners[name])
        if block is None:  # the old classifier, and what is never read
            continue
        n = tensor.numel() if isinstance(tensor, Parameter) else 0
        total[block] += n
        if name in names:
            random[block] += n
    return frozenset(random), frozenset(b for b in random if 2 * random[b] > total[b])
