"""What training keeps of the frozen layers: their outputs, for a few views of each image."""

from __future__ import annotations

import math
from dataclasses import replace

from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.rules import MAX_AUGMENTATIONS, Budget, training_seconds
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan, TrainingPlan

CACHE_DTYPES = ("float32", "float16")
BYTES = {"float32": 4, "float16": 2}
MOST_AUGMENTATIONS = 64
FULL_BYTES = 1_000_000_000  # stored in full precision up to here
PATIENCE_S = 1800.0  # that passing views of a streamed network may take where nobody gave minutes
_AS_OFTEN = "as often as it is passed"


def frozen_prefix(plan: Plan) -> int:
    """How many parts from the input on are frozen without a gap."""
    count = 0
    for block in plan.blocks:
        if block.action.value != "frozen":
            break
        count += 1
    return count


def views(samples: int, n: int, budget: Budget) -> Choice:
    """Augmented versions of each image, never more than the times that it is seen.

    Four views after a fitted head brought what fresh ones bring; a single one collapsed
    (bench/results/tail.json).

    >>> views(1000, 50, "balanced").value, views(16000, 9000, "balanced").value
    (4, 2)
    """
    most = MAX_AUGMENTATIONS[budget]
    count = min(most, max(math.ceil(samples / max(n, 1)), 1))
    seen = _AS_OFTEN if count < most else f"--budget {budget}"
    return Choice(value=count, because=seen, source="rule")


def offloaded_augmentations(record: NetworkRecord, cut: int, n: int) -> int:
    """Views of n images that a streamed network passes in about half an hour; at least one.

    From multiply-adds alone, so that two runs agree.
    """
    return max(int(PATIENCE_S // _view_seconds(record, cut, n)), 1)


def _view_seconds(record: NetworkRecord, cut: int, n: int) -> float:
    return max(training_seconds(n * sum(block.macs for block in record.blocks[:cut])), 1e-9)


def cache_bytes(record: NetworkRecord, cut: int, n: int, n_views: int, format: str) -> int:
    """Disk space of the outputs of part `cut` for all views and the plain image."""
    values = math.prod(record.blocks[cut - 1].shape_out)
    return n * (n_views + 1) * values * BYTES[format]


def plan_cache(plan: Plan, network: NetworkFacts, facts: DataFacts) -> Plan:
    """Settle where a trained plan's frozen layers end, and how their outputs are kept.

    What stands in the plan already stays, as far as its parts allow. A plan that trains
    nothing comes back as it is.
    """
    if not plan.is_trained:
        return plan
    training, prefix = plan.training, frozen_prefix(plan)
    cut = training.split_at
    if cut is None or (cut.source != "user" and (cut.number > prefix or 0 < cut.number < prefix)):
        cut = _cut(plan, network, facts, prefix)
    seen = _seen(training, cut, network, facts)
    plan = replace(plan, training=replace(training, split_at=cut, augmentations=seen))
    store = training.cache_dtype
    if store is None or store.source != "user":
        store = _format(plan, network, facts, cut)
    return replace(plan, training=replace(plan.training, cache_dtype=store))


def _seen(
    training: TrainingPlan, cut: Choice, network: NetworkFacts, facts: DataFacts
) -> Choice | None:
    """Views: ever new ones where nothing is stored, else no more than are ever passed.

    Of a network that is streamed, a view costs a pass of all that is larger than memory.
    """
    seen, epochs = training.augmentations, training.epochs
    if seen is None or seen.source == "user":
        return seen
    if not cut.value:
        why = "they cost next to nothing where the whole network is run at each step"
        return Choice(value=0, because=f"ever new ones: {why}", source="rule")
    if training.offload is not None and seen.source == "rule":
        most = offloaded_augmentations(network.record, int(cut.number), facts.n)
        if seen.number > most:
            minutes = _view_seconds(network.record, int(cut.number), facts.n) / 60
            why = f"each takes about {minutes:,.0f} minutes of passing the network from its file"
            return Choice(value=most, because=why, source="rule", rule=seen.value)
    if epochs is None or epochs.source == "rule":  # the views have been chosen beside it
        return seen
    most = max(math.ceil(epochs.number), 1)
    return Choice(value=most, because=_AS_OFTEN, source="rule") if seen.number > most else seen


def _n_views(plan: Plan) -> int:
    return int(plan.training.augmentations.number) if plan.training.augmentations is not None else 0


def _cut(plan: Plan, network: NetworkFacts, facts: DataFacts, prefix: int) -> Choice:
    if not prefix:
        return Choice(value=0, because="no frozen layers at the input", source="rule")
    if not _n_views(plan):
        why = "views that are new each time have to pass the whole network"
        return Choice(value=0, because=why, source="rule", rule=prefix)
    count = _n_views(plan)
    if plan.training.offload is not None:
        count = min(count, offloaded_augmentations(network.record, prefix, facts.n))
    least = cache_bytes(network.record, prefix, facts.n, count, "float16")
    if least > network.max_cache_bytes:
        why = f"the outputs of the frozen layers would take {least / 1e9:.1f} GB of disk"
        return Choice(value=0, because=why, source="rule")
    why = "the frozen layers are run once a view, and what they give is kept"
    return Choice(value=prefix, because=why, source="rule")


def _format(plan: Plan, network: NetworkFacts, facts: DataFacts, cut: Choice) -> Choice:
    if not cut.value:
        return Choice(value="float32", because="nothing is stored", source="rule")
    size = cache_bytes(network.record, int(cut.number), facts.n, _n_views(plan), "float32")
    if size > FULL_BYTES:
        why = f"half precision: in full it would be {size / 1e9:.1f} GB"
        return Choice(value="float16", because=why, source="rule")
    return Choice(value="float32", because=f"{size / 1e6:,.0f} MB in full precision", source="rule")
