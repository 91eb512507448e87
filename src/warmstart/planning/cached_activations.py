"""The cached activations of frozen blocks: where they end, and how many augmentations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import takewhile

from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.rules import MAX_AUGMENTATIONS, Budget, training_seconds
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan, by_rule

CACHE_DTYPES = ("float32", "float16")
BYTES = {"float32": 4, "float16": 2}
MOST_AUGMENTATIONS = 64
FULL_BYTES = 1_000_000_000  # cached in float32 up to here
PATIENCE_S = 1800.0  # for the augmentations of an offloaded network, without --minutes
_EVERY_EPOCH = "one for each epoch"


def frozen_prefix(plan: Plan) -> int:
    """Number of frozen blocks from the input on, without a gap."""
    return sum(1 for _ in takewhile(lambda block: not block.behaviour.is_trained, plan.blocks))


def choose_augmentations(samples: int, n: int, budget: Budget) -> Choice:
    """Augmented versions of each image, never more than the epochs.

    Four gained as much as a new one every epoch; a single one collapsed (`bench run fine_tuning`).

    >>> [choose_augmentations(*sizes, "balanced").value for sizes in ((1000, 50), (16000, 9000))]
    [4, 2]
    """
    most = MAX_AUGMENTATIONS[budget]
    count = min(most, max(math.ceil(samples / max(n, 1)), 1))
    why = _EVERY_EPOCH if count < most else f"--budget {budget}"
    return by_rule(count, why)


def offloaded_augmentations(record: NetworkRecord, cut: int, n: int) -> int:
    """Augmentations of n images that an offloaded network caches in half an hour, by its macs."""
    return max(int(PATIENCE_S // _augmentation_seconds(record, cut, n)), 1)


def _augmentation_seconds(record: NetworkRecord, cut: int, n: int) -> float:
    return max(training_seconds(n * sum(block.macs for block in record.blocks[:cut])), 1e-9)


def cache_bytes(record: NetworkRecord, cut: int, n: int, n_augmentations: int, dtype: str) -> int:
    """Disk space of the outputs of block `cut`, for all augmentations and the plain image."""
    return n * (n_augmentations + 1) * math.prod(record.blocks[cut - 1].shape_out) * BYTES[dtype]


def plan_cache(plan: Plan, network: NetworkFacts, facts: DataFacts) -> Plan:
    """Choose where a trained plan's frozen blocks end, and how their outputs are cached.

    Choices that the plan already has stay, as far as its blocks allow.
    """
    if not plan.is_trained:
        return plan
    training, prefix = plan.training, frozen_prefix(plan)
    cut = training.split_at
    if cut is None or (cut.source != "user" and (cut.number > prefix or 0 < cut.number < prefix)):
        cut = _choose_split(plan, network, facts, prefix)
    augmentations = _limit_augmentations(plan, cut, network, facts)
    plan = replace(plan, training=replace(training, split_at=cut, augmentations=augmentations))
    dtype = training.cache_dtype
    if dtype is None or dtype.source != "user":
        dtype = _choose_dtype(plan, network, facts, cut)
    return replace(plan, training=replace(plan.training, cache_dtype=dtype))


def _limit_augmentations(
    plan: Plan, cut: Choice, network: NetworkFacts, facts: DataFacts
) -> Choice | None:
    current, epochs = plan.training.augmentations, plan.training.epochs
    if current is None or current.source == "user":
        return current
    if not cut.value:
        why = "they cost next to nothing where the whole network is run at each step"
        return by_rule(0, f"new ones every epoch: {why}")
    if plan.training.offload is not None and current.source == "rule":
        most = offloaded_augmentations(network.record, int(cut.number), facts.n)
        if current.number > most:
            minutes = _augmentation_seconds(network.record, int(cut.number), facts.n) / 60
            why = f"each takes about {minutes:,.0f} minutes of reading the network from its file"
            return by_rule(most, why, rule=current.value)
    if epochs is None or epochs.source == "rule":  # both were chosen together
        return current
    most = max(math.ceil(epochs.number), 1)
    if current.number > most:
        return by_rule(most, _EVERY_EPOCH)
    return current


def _n_augmentations(plan: Plan) -> int:
    return int(plan.training.augmentations.number) if plan.training.augmentations is not None else 0


def _choose_split(plan: Plan, network: NetworkFacts, facts: DataFacts, prefix: int) -> Choice:
    if not prefix:
        return by_rule(0, "no frozen layers at the input")
    count = _n_augmentations(plan)
    if not count:
        why = "augmentations that are new every epoch need the whole network"
        return by_rule(0, why, rule=prefix)
    if plan.training.offload is not None:
        count = min(count, offloaded_augmentations(network.record, prefix, facts.n))
    least = cache_bytes(network.record, prefix, facts.n, count, "float16")
    if least > network.max_cache_bytes:
        why = f"the outputs of the frozen layers would take {least / 1e9:.1f} GB of disk"
        return by_rule(0, why)
    why = "the frozen layers are run once per augmentation, and their outputs are cached"
    return by_rule(prefix, why)


def _choose_dtype(plan: Plan, network: NetworkFacts, facts: DataFacts, cut: Choice) -> Choice:
    if not cut.value:
        return by_rule("float32", "nothing is cached")
    record, count = network.record, _n_augmentations(plan)
    size = cache_bytes(record, int(cut.number), facts.n, count, "float32")
    if size > FULL_BYTES:
        why = f"half precision: in full it would be {size / 1e9:.1f} GB"
        return by_rule("float16", why)
    return by_rule("float32", f"{size / 1e6:,.0f} MB in full precision")
