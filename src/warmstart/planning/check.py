"""Whether a plan can be followed: by this network, on this data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, get_args

from warmstart.errors import PlanError
from warmstart.nouns import Nouns, count
from warmstart.planning import machine, rules
from warmstart.planning.actions import NEW, added_name, check_agreement
from warmstart.planning.cached_activations import CACHE_DTYPES, MOST_AUGMENTATIONS, frozen_prefix
from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.learning_rates import OPTIMIZERS
from warmstart.planning.machine import DEVICES, FSDP, MOST_WORKERS, PIPELINE, PRECISIONS
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Action, Choice, Plan

# ---- What each value of a plan may be.


LEAST_SIZE = 16  # px: less leaves nothing after a few halvings
MOST_CHANNELS = 13  # bands of Sentinel-2, the most that the input surgery supports
MOST_RANK = 256  # of updates: above it they are hardly smaller than what they are added to
MOST_SHUFFLES = 100_000  # permutations: more reveal nothing new and take hours
ACTIONS: tuple[str, ...] = get_args(Action)
AGAIN = "make a new plan with --dry-run"

Test = Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> Test:
    return lambda value: type(value) is int and least <= value <= most


def _number(test: Callable[[float], bool]) -> Test:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and test(value)


_TEXT: tuple[Test, str] = (lambda value: type(value) is str, "a text")
_SWITCH: tuple[Test, str] = (lambda value: type(value) is bool, "true or false")
_RATE = (_number(lambda value: value > 0), "a number above 0")
_POSITIVE = (_whole(1), "a whole number, 1 or more")
_NOT_NEGATIVE = (_number(lambda value: value >= 0), "a number, 0 or more")
_SHARE = (_number(lambda value: 0 < value <= 1), "a number above 0, at most 1")
_BELOW_1 = (_number(lambda value: 0 <= value < 1), "a number from 0, below 1")
SOUND_LIMITS: dict[str, tuple[Test, str]] = {
    "input.sample_rate": (
        _whole(2_000, 48_000),
        "a whole number from 2000 to 48000 samples a second",
    ),
    "input.seconds": (_number(lambda value: 0.05 <= value <= 60), "a number from 0.05 to 60"),
    "input.n_mels": (_whole(8, 512), "a whole number from 8 to 512"),
    "input.top_db": (_number(lambda value: 5 <= value <= 200), "a number from 5 to 200"),
}
_LIMITS: dict[str, tuple[Test, str]] = {
    "base": _TEXT,
    "arch": _TEXT,
    "strategy": _TEXT,
    "partial": _SWITCH,
    "training.batch_size": _POSITIVE,
    "training.seed": (_whole(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    "training.optimizer": (lambda value: value in tuple(OPTIMIZERS), " or ".join(OPTIMIZERS)),
    "training.lr": _RATE,
    "training.layer_decay": _SHARE,
    "training.weight_decay": _NOT_NEGATIVE,
    "training.epochs": _RATE,
    "training.warmup": (_number(lambda value: 0 <= value <= 1), "a number from 0 to 1"),
    "training.crop": _SHARE,
    "training.flip": _SWITCH,
    "training.folds": _POSITIVE,
    "training.model_soup": _POSITIVE,
    "training.color_jitter": _BELOW_1,
    "training.time_shift": _BELOW_1,
    "training.spec_augment": _BELOW_1,
    "training.augmentations": (
        _whole(0, MOST_AUGMENTATIONS),
        f"a whole number from 0 to {MOST_AUGMENTATIONS}",
    ),
    "training.split_at": (_whole(0), "a whole number, 0 or more"),
    "training.cache_dtype": (lambda value: value in CACHE_DTYPES, " or ".join(CACHE_DTYPES)),
    "training.offload": (lambda value: value in CACHE_DTYPES, " or ".join(CACHE_DTYPES)),
    "training.ema_decay": _BELOW_1,
    "training.l2_sp": _NOT_NEGATIVE,
    "training.micro_batch": _POSITIVE,
    "training.parallel": (machine.is_parallel_mode, machine.PARALLEL_MODES),
    "training.contrastive": _SWITCH,
    "training.contrastive_temperature": (
        _number(lambda value: 0 <= value <= 10),
        "a number from 0 to 10",
    ),
    "training.gradient_checkpointing": _SWITCH,
    "training.device": (lambda value: value in DEVICES, " or ".join(DEVICES)),
    "training.precision": (lambda value: value in PRECISIONS, " or ".join(PRECISIONS)),
    "training.workers": (_whole(0, MOST_WORKERS), f"a whole number from 0 to {MOST_WORKERS}"),
    "training.compile": _SWITCH,
    "training.lora_rank": (_whole(1, MOST_RANK), f"a whole number from 1 to {MOST_RANK}"),
    "head.outer_folds": _POSITIVE,
    "head.permutations": (_whole(1, MOST_SHUFFLES), f"a whole number from 1 to {MOST_SHUFFLES}"),
    "input.size": _POSITIVE,
    "input.channels": _POSITIVE,
    **SOUND_LIMITS,
}
# For values that the user set; a base model of their own may have any.
_USER_LIMITS: dict[str, tuple[Test, str]] = {
    "input.size": (_whole(LEAST_SIZE), f"a whole number of px, {LEAST_SIZE} or more"),
    "input.channels": (_whole(1, MOST_CHANNELS), f"a whole number from 1 to {MOST_CHANNELS}"),
}


def check_values(plan: Plan) -> None:
    """Refuse values of a wrong type or out of bounds, before anything is read by this plan.

    Raises: PlanError that names the value, and what it may be.
    """
    limits = _LIMITS | {
        path: limit for path, limit in _USER_LIMITS.items() if _is_users(plan, path)
    }
    for path, (test, kind) in limits.items():
        value = value_at(plan, path)
        if value is not None and not test(value):
            raise PlanError(f"the plan has {path} {_format(value)}; it is {kind}.")
    _check_lists(plan)
    if not plan.blocks:
        raise PlanError(f"the plan has no blocks; {AGAIN} to compare.")
    for block in plan.blocks:
        if block.action.value not in ACTIONS:
            raise PlanError(
                f"the plan has {_format(block.action.value)} as action of block {block.name}; "
                "there are frozen, tuned, low-rank and fresh."
            )
        if block.lr is not None and not _RATE[0](block.lr.value):
            raise PlanError(
                f"the plan has lr {_format(block.lr.value)} for block {block.name}; it is "
                f"{_RATE[1]}."
            )


def _check_lists(plan: Plan) -> None:
    """The choices of several values: heads, penalties, bands."""
    for penalty in items(plan.head.penalties):
        if not _RATE[0](penalty):
            raise PlanError(f"the plan has {penalty!r} in head.penalties; each is {_RATE[1]}.")
    for name in ("candidates", "penalties"):
        if not items(getattr(plan.head, name)):
            raise PlanError(f"the plan has nothing in head.{name}; name at least one.")
    if plan.input is not None and plan.input.rgb is not None:
        rgb, channels = items(plan.input.rgb), int(value_at(plan, "input.channels"))
        if len(set(rgb)) != 3 or len(rgb) != 3 or not all(map(_whole(0, channels - 1), rgb)):
            raise PlanError(
                f"the plan has input.rgb {','.join(map(str, rgb))}; it is three different bands "
                f"from 0 to {channels - 1}."
            )


def _is_users(plan: Plan, path: str) -> bool:
    section, _, name = path.partition(".")
    choice = getattr(getattr(plan, section), name, None)
    return choice is not None and choice.source == "user"


def value_at(plan: Plan, path: str) -> Any:
    """The value at a path such as `training.batch_size` or `base`; None where there is none."""
    section, _, name = path.partition(".")
    record = getattr(plan, section)
    choice: Choice | None = getattr(record, name) if name and record is not None else record
    return None if choice is None else choice.value


def items(choice: Choice) -> tuple[Any, ...]:
    """The values of a choice of several, or its one."""
    return choice.value if isinstance(choice.value, tuple) else (choice.value,)


def _format(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


_NEEDED = (
    "optimizer",
    "lr",
    "layer_decay",
    "weight_decay",
    "epochs",
    "warmup",
    "crop",
    "flip",
    "folds",
    "color_jitter",
    "augmentations",
    "split_at",
    "cache_dtype",
    "ema_decay",
    "l2_sp",
    "micro_batch",
    "gradient_checkpointing",
    "device",
    "precision",
    "workers",
    "compile",
)
LEAST_COMPARED = 3  # examples of a batch from which pairs say anything


def check_plan(plan: Plan, network: NetworkRecord) -> None:
    """Refuse a plan that contradicts itself, or was made for another network.

    Any block may have any action, frozen ones above tuned ones included.
    Raises: PlanError that names the block or the value, and what it may be.
    """
    check_values(plan)
    _check_blocks(plan, network)
    _check_actions(plan)
    check_agreement(plan)
    if not plan.is_trained:
        return
    for name in _NEEDED:
        if getattr(plan.training, name) is None:
            raise PlanError(
                f"the plan trains layers and lacks training.{name}; {AGAIN} to compare."
            )
    parallel = value_at(plan, "training.parallel")
    if plan.training.offload is not None and machine.parallel_mode(parallel) in (FSDP, PIPELINE):
        raise PlanError(
            f"the plan has training.parallel {parallel} and an offloaded network, which no process "
            "has in memory to share; leave out --parallel, or --set training.offload=false."
        )
    _check_soup(plan)
    batch, epochs = (value_at(plan, f"training.{name}") for name in ("batch_size", "epochs"))
    if plan.samples_seen < batch:
        raise PlanError(
            f"the plan has training.epochs {epochs:g} of {plan.examples:,} examples and "
            f"training.batch_size {batch:g}: that is not one step; set training.epochs higher."
        )
    cut, prefix = int(value_at(plan, "training.split_at")), frozen_prefix(plan)
    if cut > prefix:
        raise PlanError(
            f"the plan has training.split_at {cut}, and only the first {prefix} blocks are frozen "
            "without a gap, so that only their outputs can be cached; "
            f"--set training.split_at={prefix}."
        )
    if cut and not value_at(plan, "training.augmentations"):
        raise PlanError(
            f"the plan has training.split_at {cut} and training.augmentations 0: augmentations "
            "that are new every epoch cannot be cached; --set training.split_at=0, or "
            "training.augmentations=4."
        )


def _check_soup(plan: Plan) -> None:
    """A model soup needs trainings that move the same weights from the same values."""
    training, strategy = plan.training, str(plan.strategy.value)
    if training.model_soup is None or training.model_soup.value == 1:
        return
    actions = {block.action.value for block in plan.blocks}
    reason = (
        "low-rank updates are not averaged"
        if "low-rank" in actions
        else "new blocks are initialised at random, and end far from each other"
        if actions & NEW
        else "blocks are unfrozen one after the other"
        if "gradual" in strategy
        else "blocks learn from pairs"
        if training.is_paired
        else ""
    )
    if reason:
        raise PlanError(
            f"the plan has training.model_soup {training.model_soup.value}, and {reason}; "
            "--set training.model_soup=1."
        )


def check_facts(
    plan: Plan, facts: DataFacts, network: NetworkFacts, head_names: Sequence[str]
) -> None:
    """Refuse a plan that these examples, or these weights, do not allow.

    `head_names` are those passed to `build`.
    Raises: PlanError that names the value, and what it may be.
    """
    _check_pairs(plan, facts)
    _check_weights(plan, network)
    _check_heads(plan, facts, head_names, network.nouns)
    _check_folds(plan, facts, network.nouns)


def _check_pairs(plan: Plan, facts: DataFacts) -> None:
    """Contrastive training needs classes, a batch to compare, and a head that is fitted last."""
    training, cure = plan.training, "--set training.contrastive=false."
    if not training.is_paired:
        return
    if facts.task != "classify":
        raise PlanError(
            "training.contrastive pulls examples of one class together, and the task has no "
            f"classes; {cure}"
        )
    new = [block.name for block in plan.blocks if block.action.value in NEW]
    if new or "gradual" in str(plan.strategy.value):
        why = f"block {new[0]} is new" if new else "gradual validates the head while it unfreezes"
        raise PlanError(f"training.contrastive fits the head only at the end, and {why}; {cure}")
    batch = int(training.batch_size.number)
    micro_batch = int(training.micro_batch.number) if training.micro_batch else batch
    if min(batch, facts.n) < LEAST_COMPARED or micro_batch < batch:
        raise PlanError(
            "training.contrastive compares the examples of one forward pass, and that is "
            f"{min(micro_batch, batch)} of a batch of {batch}; set training.batch_size to "
            f"{LEAST_COMPARED} or more, and training.micro_batch to the same."
        )


def _check_weights(plan: Plan, network: NetworkFacts) -> None:
    """No block stays at random values, and low-rank blocks have layers for updates."""
    for block in plan.blocks:
        if block.name in network.random and block.action.value in ("frozen", "low-rank"):
            cure = "fresh" if block.name in network.fresh else "tuned"
            raise PlanError(
                f"the plan has block {block.name} {block.action.value}, and it would stay at "
                "random values, because its weights did not carry over; "
                f"--set block.{block.name}.action={cure} trains it."
            )
        if block.action.value == "low-rank" and block.name in network.no_lora:
            raise PlanError(
                f"the plan has block {block.name} low-rank, and it has no linear or plain "
                f"convolution layer for that; --set block.{block.name}.action=tuned, or frozen."
            )


def _check_heads(plan: Plan, facts: DataFacts, head_names: Sequence[str], nouns: Nouns) -> None:
    """The heads are among those that can be fitted."""
    special = ("class-mean", "logistic") if facts.task == "classify" else ("stack",)
    plain = [name.partition("+")[0] for name in head_names]  # without the base model's head, too
    valid = [*(special if facts.n <= rules.DUAL_LIMIT else ()), *head_names, *plain]
    valid = list(dict.fromkeys(valid))
    names = items(plan.head.candidates)
    if "stack" in names and names.index("stack") < 2:
        raise PlanError(
            "the plan has head.candidates with stack, which combines those before it; name two "
            "depths first, such as last, late, stack."
        )
    for name in names:
        if name not in valid:
            raise PlanError(
                f"the plan has {name!r} in head.candidates; for this base model and "
                f"{nouns.count(facts.n)} there are {', '.join(valid)}."
            )


def _check_folds(plan: Plan, facts: DataFacts, nouns: Nouns) -> None:
    """A validation set is the only fold; there are no more folds than independent groups."""
    folds = plan.head.outer_folds.value
    if facts.holdout and folds != 1:
        raise PlanError(
            f"the plan has head.outer_folds {folds}, and the validation set in your data is the "
            "only fold; --set head.outer_folds=1."
        )
    training_folds = plan.training.folds
    if facts.holdout and training_folds is not None and training_folds.value != 1:
        raise PlanError(
            f"the plan has training.folds {training_folds.value}, and the validation set in your "
            "data is the only fold; leave it out, or --set training.folds=1."
        )
    if training_folds is not None and int(training_folds.number) > facts.n_groups:
        raise PlanError(
            f"the plan has training.folds {training_folds.value}, and the {nouns.many} form "
            f"{facts.n_groups} independent groups; --set training.folds={min(facts.n_groups, 5)}."
        )
    usual = rules.outer_folds(facts.n_groups, facts.n)
    if int(str(folds)) > facts.n_groups:
        raise PlanError(
            f"the plan has head.outer_folds {folds}, and the {nouns.many} form {facts.n_groups} "
            f"independent groups; --set head.outer_folds={usual}."
        )
    if not facts.holdout and folds == 1:
        raise PlanError(
            "the plan has head.outer_folds 1, and your data has no validation set; "
            f"--set head.outer_folds={usual}."
        )


def _check_blocks(plan: Plan, network: NetworkRecord) -> None:
    """The blocks of the network in its order, added layers, the head."""
    base = plan.base.value
    for name, times in Counter(block.name for block in plan.blocks).items():
        if times > 1:
            raise PlanError(f"the plan has block {name} {times} times; keep one.")
    for place, expected in enumerate(network.blocks):
        name = plan.blocks[place].name if place < len(plan.blocks) else ""
        if name != expected.name or place >= len(plan.blocks):
            has = (
                f"has block {name}"
                if place < len(plan.blocks)
                else f"ends after {count(place, 'block')}"
            )
            raise PlanError(
                f"the plan was made for another network: it {has}, {base} has {expected.name} "
                f"at place {place + 1}; {AGAIN}."
            )
    above = plan.blocks[len(network.blocks) :]
    if not above or above[-1].name != "output" or above[-1].action.value != "replaced":
        raise PlanError("the plan has no block output, replaced, at its end; add it.")
    names = [block.name for block in network.blocks]
    for block in above[:-1]:
        if block.action.value != "added":
            raise PlanError(
                f"the plan was made for another network: it has block {block.name}, which {base} "
                f"does not have; {AGAIN}."
            )
        if block.name != (name := added_name(names)):
            raise PlanError(
                f"the plan calls the added layers {block.name}; here they are called {name}."
            )
        names.append(name)
    for block in plan.blocks[: len(network.blocks)]:
        if block.action.value in ("added", "replaced"):
            raise PlanError(
                f"the plan has block {block.name} {block.action.value}; {base} has it, so it can "
                "be frozen, tuned, low-rank or fresh."
            )


def _check_actions(plan: Plan) -> None:
    """Each block has what its action needs, and nothing that it has no use for."""
    moving = [b for b in plan.blocks if b.action.value not in ("frozen", "replaced")]
    for block in (*moving, *(plan.blocks[-1:] if moving else [])):
        if block.lr is None:
            raise PlanError(
                f"the plan has block {block.name} {block.action.value} without a learning rate; "
                f"add --set block.{block.name}.lr=0.001."
            )
    for block in plan.blocks:
        if block.lr is not None and block.action.value == "frozen":
            raise PlanError(
                f"the plan has a learning rate for block {block.name}, which is frozen; remove it, "
                f"or --set block.{block.name}.action=tuned."
            )
    if plan.training.lora_rank is None and any(b.action.value == "low-rank" for b in moving):
        raise PlanError(
            "the plan has low-rank blocks and lacks training.lora_rank; "
            "add --set training.lora_rank=8."
        )
