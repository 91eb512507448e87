"""From what was asked to a plan that can be followed: rules, then a plan file, then --set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch.nn import Parameter

from warmstart.data.dataset import Collection
from warmstart.distributed import foreseen
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
from warmstart.planning.actions import as_blocks_say
from warmstart.planning.build import build
from warmstart.planning.cached_activations import FULL_BYTES, stored_bytes, with_store
from warmstart.planning.check import check_facts, check_plan, check_values
from warmstart.planning.facts import DataFacts, NetworkFacts, Wishes
from warmstart.planning.feature_layers import probe_layers
from warmstart.planning.fine_tuning import tries_tail
from warmstart.planning.machine import with_parallel
from warmstart.planning.plan_file import open_plan, overlay, wishes_for
from warmstart.planning.settings import PAIRS, apply_settings, is_early, parse_settings, typed
from warmstart.planning.strategy import n_tuned, parse, strategy_of
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan
from warmstart.records.summary import Verdict
from warmstart.request import Request
from warmstart.run.inputs import is_partial
from warmstart.training.dataset import arrange
from warmstart.training.device import AUTO, check_machine, find_machine
from warmstart.training.prior import SUFFIX


def with_plan_file(request: Request) -> Request:
    """The request with its plan file read: its start and seed hold where none was typed.

    Raises: PlanError if the file is no plan, or has values that no plan can have; for an
    engine that is none, or is not installed.
    """
    own = _own_engine(request)
    if request.plan is None:
        return request
    plan = open_plan(request.plan) if isinstance(request.plan, Path) else request.plan
    check_values(plan)
    if own is None:
        check_name(str(plan.training.engine.value), f"the plan's {SETTING}")
    typed, arch = request.typed, plan.arch
    read = replace(request, plan=plan, given=typed)
    if "seed" not in typed:
        read = replace(read, seed=int(plan.training.seed.number))
    if "budget" not in typed:  # how closely the evidence looks is the budget's, too
        is_fast = plan.head.permutations.value == rules.permutations("fast")
        read = replace(read, budget="fast" if is_fast else "balanced")
    if "base" not in typed:
        own = str(arch.value) if arch is not None else None
        read = replace(read, base=str(plan.base.value), arch=request.arch or own)
    return read


def engine_of(request: Request) -> Choice | None:
    """The engine that --set names, else that of the plan; None where the look chooses.

    Raises: PlanError for an engine that is none, or is not installed.
    """
    own = _own_engine(request)
    if own is not None:
        return Choice(value=own, because="your choice (--set)", source="user")
    return request.plan.training.engine if isinstance(request.plan, Plan) else None


def _own_engine(request: Request) -> str | None:
    text = parse_settings(request.settings).get(SETTING)
    return None if text is None else check_name(text.lower(), f"--set {SETTING}={text}")


def _own_pairs(request: Request) -> bool | None:
    """Whether texts are learnt by pairs, where --set says so: other choices follow from it."""
    text = parse_settings(request.settings).get(PAIRS)
    return None if text is None else bool(typed(PAIRS, text, "switch"))


def make_plan(
    request: Request,
    facts: DataFacts,
    network: NetworkFacts,
    head_names: Sequence[str],
    engine: Choice,
) -> Plan:
    """The plan; what the user set wins and is marked as theirs.

    `asked` is settled; `engine` is the one that the look has taken.
    Raises: PlanError for a plan that this network or this data do not allow.
    """
    if may_fine_tune(request, network.record, facts) and not network.tries_tail:
        request = _untrained(request)
    base = request.base if isinstance(request.base, (str, Path)) else type(request.base).__name__
    wishes = Wishes(
        base=str(base),
        strategy=request.strategy,
        budget=request.budget,
        seed=request.seed,
        arch=request.arch,
        lr=request.lr,
        given=request.typed,
        contrastive=_own_pairs(request),
        processes=foreseen().size,
        machine=find_machine(request.device, n_threads()),
    )
    if isinstance(request.plan, Plan):
        wishes = wishes_for(request.plan, wishes)
    made = build(wishes, facts, network, head_names, engine)
    if request.base_choice is not None:
        made = replace(made, base=request.base_choice)
    if isinstance(request.plan, Plan):
        on_device = {"device"} if request.device != AUTO else set[str]()
        made = overlay(made, request.plan, request.typed | on_device)
    if is_partial(request):
        mine = Choice(value=True, because="your choice (--set)", source="user", rule=False)
        made = replace(made, partial=mine)
    if request.stream is not None:
        made = replace(made, training=replace(made.training, offload=request.stream))
    late = [s for s in request.settings if not is_early(s.partition("=")[0].strip())]
    made = apply_settings(replace(made, training=replace(made.training, engine=engine)), late)
    made = with_store(as_blocks_say(made, network), network, facts)
    made = with_parallel(made, network.record, foreseen().local, free_memory())
    check_plan(made, network.record)
    check_facts(made, facts, network, head_names)
    check_machine(made)
    return made


def stored_block(request: Request, base: PretrainedModel, n: int) -> int:
    """The part of a streamed network whose output a look keeps; 0 for none.

    Where the layers begin that were typed to be trained; else those of `last:1`, which may be
    asked for next, while that is little.
    Raises: PlanError as `n_tuned` does.
    """
    if not base.stream:
        return 0
    wish = parse(request.strategy)
    if isinstance(request.plan, Plan) and "strategy" not in request.typed:
        wish = strategy_of(request.plan)
    record = partition_base(base).record
    tuned = 0 if wish.depth == "auto" else n_tuned(wish, len(record.blocks))
    cut = len(record.blocks) - max(tuned, 1)
    is_little = cut and stored_bytes(record, cut, n, 0, base.stream) <= FULL_BYTES
    return cut if tuned or is_little else 0


def may_fine_tune(request: Request, network: NetworkRecord, facts: DataFacts) -> bool:
    """Whether upper layers will be trained beside a head, if only there is a signal."""
    is_ours = parse(request.strategy).depth == "auto" and not isinstance(request.plan, Plan)
    return is_ours and tries_tail(network, facts, request.budget)


def _untrained(request: Request) -> Request:
    """Without what was set for a training that turned out to have no signal to train for."""
    kept = tuple(s for s in request.settings if not s.strip().startswith("training."))
    return replace(request, lr=None, settings=kept)


def validate(request: Request, collection: Collection, base: PretrainedModel) -> None:
    """Make the plan once before any folder is made or any image is passed, where one was typed.

    What only the run can know, the verdict and the engine, does not matter to what is refused.
    Raises: PlanError as `make_plan` does; DataError where too few images are independent.
    """
    is_plain = request.plan is None and not request.settings and request.lr is None
    if is_plain and request.strategy == "auto":
        return
    network = partition_base(base)
    plain = tuple(probe_layers(feature_layers(network.record)))
    names = (*plain, *(f"{name}{SUFFIX}" for name in plain))
    data = arrange(collection.record).facts()
    facts = network_facts(
        request, base, network, None, may_fine_tune(request, network.record, data)
    )
    engine = Choice(value="torch", because="only rehearsed", source="rule")
    make_plan(request, data, facts, names, engine)


def network_facts(
    request: Request,
    base: PretrainedModel,
    network: Network,
    verdict: Verdict | None,
    is_tried: bool = False,
) -> NetworkFacts:
    """What a plan needs to know of a start and its parts.

    A part is fresh where more than half of its parameters have random values, and touched
    where some tensors have. The neck counts as a piece of the last part, with which it is
    trained.
    """
    touched, fresh = _random_blocks(base.random_tensors, network)
    return NetworkFacts(
        record=network.record,
        recipe=base.record.recipe,
        preprocessing=base.record.preprocessing,
        usual=base.usual,
        is_drawn=base.record.is_drawn,
        verdict=verdict.kind if verdict else None,
        tries_tail=is_tried,
        fresh=fresh,
        touched=touched - fresh,
        bare=bare_blocks(network) if _is_low_rank(request) else frozenset(),
    )


def _random_blocks(
    drawn: frozenset[str], network: Network
) -> tuple[frozenset[str], frozenset[str]]:
    """Parts with some drawn tensors, and those whose parameters are mostly drawn."""
    names = [block.name for block in network.record.blocks]
    homes = {**{name: name for name in names}, "neck": names[-1]}
    touched: set[str] = set()
    whole, new = Counter[str](), Counter[str]()
    for name, tensor in tensors_of(network).items() if drawn else ():
        block = homes.get(network.owners[name])
        if block is None:  # the old classifier, and what is never read
            continue
        n = tensor.numel() if isinstance(tensor, Parameter) else 0
        whole[block] += n
        if name in drawn:
            new[block] += n
            touched.add(block)
    return frozenset(touched), frozenset(block for block in new if 2 * new[block] > whole[block])


def _is_low_rank(request: Request) -> bool:
    """Whether some part may get low-rank updates; only then is it worth asking which can."""
    planned = request.plan.blocks if isinstance(request.plan, Plan) else ()
    return (
        "lora" in parse(request.strategy).extras
        or any("low-rank" in setting for setting in request.settings)
        or any(block.action.value == "low-rank" for block in planned)
    )
