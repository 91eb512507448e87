"""Whether upper layers are trained beside a head, where nobody asked for a depth."""

from __future__ import annotations

from warmstart.planning import rules
from warmstart.planning.facts import DataFacts
from warmstart.planning.pairing import pair_parts, pair_passes
from warmstart.planning.rules import Budget
from warmstart.records import NetworkRecord

LEAST_BLOCKS = 40  # independent examples below which held-out rows cannot tell the two apart
# Seconds on two cores, by multiply-adds: as long as people wait without having been asked.
MOST_SECONDS = {"fast": 0.0, "balanced": 900.0, "thorough": 5400.0}
TABLE_SECONDS = 20.0  # for rows of a table, whatever the budget: a training takes a moment
STEP = 3.0  # passes that an update costs


def tail_seconds(network: NetworkRecord, facts: DataFacts, budget: Budget) -> float:
    """About what storing the outputs of the lower half takes, and training the rest.

    From multiply-adds alone, so that two runs agree. Texts learn from pairs.
    """
    is_paired = facts.kind == "text" and facts.task == "classify"
    count = (pair_parts if is_paired else rules.deeper_parts)(len(network.parts))
    prefix = sum(part.macs for part in network.parts[:-count])
    tail = sum(part.macs for part in network.parts[-count:])
    views = 1 if is_paired else rules.MOST_STORED[budget] + 1
    folds = 1 if facts.holdout else rules.training_folds(budget, facts.n_blocks)
    trainings = max(folds, 2 - 1 / rules.HELD_ONCE)  # those that hold rows out learn from fewer
    trainings += rules.SOUP - 1 if budget == "thorough" and not is_paired else 0
    learnt = pair_passes(facts.n) if is_paired else rules.passes(facts.n)
    return rules.usual_seconds(views * facts.n * prefix + trainings * learnt * STEP * tail)


def tries_tail(network: NetworkRecord, facts: DataFacts, budget: Budget) -> bool:
    """True where it can be told whether training pays, in the time that the budget allows."""
    is_many = facts.n_blocks >= LEAST_BLOCKS
    most = MOST_SECONDS[budget] if facts.columns is None else TABLE_SECONDS
    return is_many and tail_seconds(network, facts, budget) <= most
