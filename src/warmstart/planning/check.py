"""Whether a plan can be followed: by this network, on this data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any, Literal, NamedTuple

from warmstart.errors import PlanError
from warmstart.formatting import joined
from warmstart.nouns import Nouns, count
from warmstart.planning import rules
from warmstart.planning.facts import (
    DEVICES,
    FSDP,
    MOST_WORKERS,
    PARALLEL_MODES,
    PIPELINE,
    PRECISIONS,
    DataFacts,
    NetworkFacts,
    is_parallel_mode,
    parallel_mode,
)
from warmstart.planning.fine_tuning import CACHE_DTYPES, MOST_AUGMENTATIONS, frozen_prefix
from warmstart.planning.rules import OPTIMIZERS
from warmstart.planning.strategy import added_name, check_agreement
from warmstart.records.block_actions import FRESH, TUNED, for_blocks
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan, wrong_value
from warmstart.tasks.registry import TASKS

LEAST_SIZE = 16  # px: less leaves nothing after a few halvings
MOST_CHANNELS = 13  # bands of Sentinel-2, the most that the input surgery supports
MOST_RANK = 256  # of updates: above it they are hardly smaller than what they are added to
MOST_SHUFFLES = 100_000  # permutations: more reveal nothing new and take hours
AGAIN = "make a new plan with --dry-run"

Test = Callable[[Any], bool]
SettingKind = Literal["whole", "number", "switch", "word", "words", "numbers", "wholes"]


class Limit(NamedTuple):
    """What a value must be: its kind for --set, a test that it passes, and words for errors."""

    kind: SettingKind
    test: Test
    words: str


def _is_whole(least: int, most: float) -> Test:
    return lambda value: type(value) is int and least <= value <= most


def _whole(least: int, most: int | None = None, unit: str = "") -> Limit:
    if most is None:
        words = f"a whole number{unit}, {least} or more"
        return Limit("whole", _is_whole(least, math.inf), words)
    words = f"a whole number from {least} to {most}{unit}"
    return Limit("whole", _is_whole(least, most), words)


def _number(test: Callable[[float], bool], words: str) -> Limit:
    def is_valid(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and test(value)

    return Limit("number", is_valid, f"a number{words}")


def _between(least: float, most: float) -> Limit:
    return _number(lambda value: least <= value <= most, f" from {least} to {most}")


def _one_of(names: Collection[str]) -> Limit:
    return Limit("word", lambda value: value in tuple(names), " or ".join(names))


_TEXT = Limit("word", lambda value: type(value) is str, "text")
_SWITCH = Limit("switch", lambda value: type(value) is bool, "true or false")
_RATE = _number(lambda value: value > 0, " above 0")
_POSITIVE = _whole(1)
_NOT_NEGATIVE = _number(lambda value: value >= 0, ", 0 or more")
_SHARE = _number(lambda value: 0 < value <= 1, " above 0, at most 1")
_BELOW_1 = _number(lambda value: 0 <= value < 1, " from 0, below 1")
SOUND_LIMITS: dict[str, Limit] = {
    "input.sample_rate": _whole(2_000, 48_000, " samples a second"),
    "input.seconds": _between(0.05, 60),
    "input.n_mels": _whole(8, 512),
    "input.top_db": _between(5, 200),
}
LIMITS: dict[str, Limit] = {
    "base": _TEXT,
    "arch": _TEXT,
    "strategy": _TEXT,
    "partial": _SWITCH,
    "training.batch_size": _POSITIVE,
    "training.seed": _whole(0, 2**32 - 1),
    "training.optimizer": _one_of(OPTIMIZERS),
    "training.lr": _RATE,
    "training.layer_decay": _SHARE,
    "training.weight_decay": _NOT_NEGATIVE,
    "training.epochs": _RATE,
    "training.warmup": _between(0, 1),
    "training.crop": _SHARE,
    "training.flip": _SWITCH,
    "training.folds": _POSITIVE,
    "training.model_soup": _POSITIVE,
    "training.color_jitter": _BELOW_1,
    "training.time_shift": _BELOW_1,
    "training.spec_augment": _BELOW_1,
    "training.augmentations": _whole(0, MOST_AUGMENTATIONS),
    "training.split_at": _whole(0),
    "training.cache_dtype": _one_of(CACHE_DTYPES),
    "training.offload": _one_of(CACHE_DTYPES),
    "training.ema_decay": _BELOW_1,
    "training.l2_sp": _NOT_NEGATIVE,
    "training.micro_batch": _POSITIVE,
    "training.parallel": Limit("word", is_parallel_mode, PARALLEL_MODES),
    "training.contrastive": _SWITCH,
    "training.contrastive_temperature": _between(0, 10),
    "training.gradient_checkpointing": _SWITCH,
    "training.device": _one_of(DEVICES),
    "training.precision": _one_of(PRECISIONS),
    "training.workers": _whole(0, MOST_WORKERS),
    "training.compile": _SWITCH,
    "training.lora_rank": _whole(1, MOST_RANK),
    "head.outer_folds": _POSITIVE,
    "head.permutations": _whole(1, MOST_SHUFFLES),
    "input.size": _POSITIVE,
    "input.channels": _POSITIVE,
    **SOUND_LIMITS,
}
# For values that the user set; a base model of their own may have any.
_USER_LIMITS: dict[str, Limit] = {
    "input.size": _whole(LEAST_SIZE, unit=" of px"),
    "input.channels": _whole(1, MOST_CHANNELS),
}


def check_values(plan: Plan) -> None:
    """Refuse values of a wrong type or out of bounds, before the plan is used.

    Raises: PlanError that names the value, and what it must be.
    """
    limits = dict(LIMITS)
    for path, limit in _USER_LIMITS.items():
        choice = _choice_at(plan, path)
        if choice is not None and choice.source == "user":
            limits[path] = limit
    for path, limit in limits.items():
        value = value_at(plan, path)
        if value is not None:
            _check_value(path, value, limit)
    _check_lists(plan)
    if not plan.blocks:
        raise PlanError(f"the plan has no blocks; {AGAIN} to compare.")
    for block in plan.blocks:
        _ = block.behaviour  # raises for an action that is none
        if block.lr is not None:
            _check_value(f"block.{block.name}.lr", block.lr.value, _RATE)


def _check_value(path: str, value: object, limit: Limit) -> None:
    if not limit.test(value):
        raise wrong_value(f"the plan's {path}", limit.words, value)


def _check_lists(plan: Plan) -> None:
    for penalty in items(plan.head.penalties):
        if not _RATE.test(penalty):
            raise wrong_value("the plan's head.penalties", "numbers above 0", penalty)
    for name in ("candidates", "penalties"):
        if not items(getattr(plan.head, name)):
            raise PlanError(f"the plan has nothing in head.{name}; name at least one.")
    if plan.input is not None and plan.input.rgb is not None:
        rgb, channels = items(plan.input.rgb), int(value_at(plan, "input.channels"))
        is_band = _is_whole(0, channels - 1)
        if len(set(rgb)) != 3 or len(rgb) != 3 or not all(map(is_band, rgb)):
            bands = f"three different bands from 0 to {channels - 1}"
            raise wrong_value("the plan's input.rgb", bands, rgb)


def value_at(plan: Plan, path: str) -> Any:
    """The value at a path such as `training.batch_size` or `base`; None where there is none."""
    choice = _choice_at(plan, path)
    return None if choice is None else choice.value


def _choice_at(plan: Plan, path: str) -> Choice | None:
    section, _, name = path.partition(".")
    record = getattr(plan, section)
    choice: Choice | None = getattr(record, name) if name and record is not None else record
    return choice


def items(choice: Choice) -> tuple[Any, ...]:
    """The values of a choice, one or several."""
    return choice.value if isinstance(choice.value, tuple) else (choice.value,)


# Choices that a plan with training may lack.
_FOR_SOUNDS = ("time_shift", "spec_augment")
_FOR_TEXTS = ("contrastive", "contrastive_temperature")
_OPTIONAL = {*_FOR_SOUNDS, *_FOR_TEXTS, "model_soup", "lora_rank", "parallel", "offload"}
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
    for field in fields(plan.training):
        if field.name not in _OPTIONAL and getattr(plan.training, field.name) is None:
            raise PlanError(f"the plan trains blocks without training.{field.name}; {AGAIN}.")
    parallel = value_at(plan, "training.parallel")
    if plan.training.offload is not None and parallel_mode(parallel) in (FSDP, PIPELINE):
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
    soup = plan.training.model_soup
    if soup is None or soup.value == 1:
        return
    if any(block.behaviour.has_updates for block in plan.blocks):
        reason = "low-rank updates are not averaged"
    elif any(block.behaviour.is_new for block in plan.blocks):
        reason = "new blocks are initialised at random, and end far from each other"
    elif "gradual" in str(plan.strategy.value):
        reason = "blocks are unfrozen one after the other"
    elif plan.training.is_paired:
        reason = "blocks learn from pairs"
    else:
        return
    raise PlanError(
        f"the plan has training.model_soup {soup.value}, and {reason}; --set training.model_soup=1."
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
    if not TASKS[facts.task].has_classes:
        raise PlanError(
            "training.contrastive pulls examples of one class together, and the task has no "
            f"classes; {cure}"
        )
    new = [block.name for block in plan.blocks if block.behaviour.is_new]
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
        if block.name in network.random and not block.behaviour.trains_weights:
            cure = (FRESH if block.name in network.fresh else TUNED).name
            raise PlanError(
                f"the plan has block {block.name} {block.action.value}, and it would stay at "
                "random values, because its weights did not carry over; "
                f"--set block.{block.name}.action={cure} trains it."
            )
        if block.behaviour.has_updates and block.name in network.no_lora:
            raise PlanError(
                f"the plan has block {block.name} low-rank, and it has no linear or plain "
                f"convolution layer for that; --set block.{block.name}.action=tuned, or frozen."
            )


def _check_heads(plan: Plan, facts: DataFacts, head_names: Sequence[str], nouns: Nouns) -> None:
    special = ("class-mean", "logistic") if TASKS[facts.task].has_classes else ("stack",)
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
    default = rules.outer_folds(facts.n_groups, facts.n)
    by_path = {
        "training.folds": (plan.training.folds, min(facts.n_groups, 5)),
        "head.outer_folds": (plan.head.outer_folds, default),
    }
    for path, (choice, fewer) in by_path.items():
        if choice is None:
            continue
        if facts.holdout and choice.value != 1:
            raise PlanError(
                f"the plan has {path} {choice.value}, and the validation set in your data is the "
                f"only fold; --set {path}=1."
            )
        if choice.number > facts.n_groups:
            raise PlanError(
                f"the plan has {path} {choice.value}, and the {nouns.many} form {facts.n_groups} "
                f"independent groups; --set {path}={fewer}."
            )
    if not facts.holdout and plan.head.outer_folds.value == 1:
        raise PlanError(
            "the plan has head.outer_folds 1, and your data has no validation set; "
            f"--set head.outer_folds={default}."
        )


def _check_blocks(plan: Plan, network: NetworkRecord) -> None:
    """The blocks of the network in its order, added layers, the head."""
    base = plan.base.value
    for name, times in Counter(block.name for block in plan.blocks).items():
        if times > 1:
            raise PlanError(f"the plan has block {name} {times} times; keep one.")
    for place, expected in enumerate(network.blocks):
        has = f"ends after {count(place, 'block')}"
        if place < len(plan.blocks):
            has = f"has block {plan.blocks[place].name}"
        if has != f"has block {expected.name}":
            raise PlanError(
                f"the plan was made for another network: it {has}, {base} has {expected.name} "
                f"at place {place + 1}; {AGAIN}."
            )
    above = plan.blocks[len(network.blocks) :]
    if not above or above[-1].name != "output" or above[-1].behaviour.place != "head":
        raise PlanError("the plan has no block output, replaced, at its end; add it.")
    names = [block.name for block in network.blocks]
    for block in above[:-1]:
        if block.behaviour.place != "above":
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
        if block.behaviour.place != "block":
            raise PlanError(
                f"the plan has block {block.name} {block.action.value}; a block of {base} must be "
                f"{joined(for_blocks(), 'or')}."
            )


def _check_actions(plan: Plan) -> None:
    """Each block has what its action needs, and nothing that it has no use for."""
    moving = [b for b in plan.blocks if b.behaviour.trains_network]
    for block in (*moving, *(plan.blocks[-1:] if moving else [])):
        if block.lr is None:
            raise PlanError(
                f"the plan has block {block.name} {block.action.value} without a learning rate; "
                f"add --set block.{block.name}.lr=0.001."
            )
    for block in plan.blocks:
        if block.lr is not None and not block.behaviour.is_trained:
            raise PlanError(
                f"the plan has a learning rate for block {block.name}, which is frozen; remove it, "
                f"or --set block.{block.name}.action=tuned."
            )
    if plan.training.lora_rank is None and any(b.behaviour.has_updates for b in moving):
        raise PlanError(
            "the plan has low-rank blocks and lacks training.lora_rank; "
            "add --set training.lora_rank=8."
        )
