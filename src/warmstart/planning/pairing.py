"""Training on pairs of texts: layers learn which texts are of one class, an output comes after.

A handful of texts says little of an output, and much of which of them are alike: n texts make
n (n - 1) / 2 pairs. Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts" (SetFit),
pass them one by one; here one update compares all pairs of a batch.
"""

from __future__ import annotations

from dataclasses import replace

from warmstart.planning import few
from warmstart.planning.facts import DataFacts, NetworkFacts, Wishes
from warmstart.planning.strategy import Strategy
from warmstart.records import Choice, Plain, TextInputs, TrainingPlan

# Draws of 8 a class of trec6, MiniLM: bench/results/failed_ideas.md compares depths and rates.
RATE = 6e-4
UPDATES = 4
BATCH, TOKENS = 128, 8192  # texts of a batch at most, and their tokens: all is held in memory
LEAST = 16


def pair_parts(n_parts: int) -> int:
    """Uppermost parts that learn from pairs: more than half, as few updates reach as far.

    >>> [pair_parts(n) for n in (1, 7, 13)]
    [1, 4, 7]
    """
    return n_parts // 2 + 1


def on_pairs(
    wishes: Wishes, facts: DataFacts, network: NetworkFacts, strategy: Strategy
) -> bool | None:
    """Whether layers learn from pairs; None where there are no texts, or no classes.

    What the user set wins; else pairs are for a handful of texts, whose layers are tuned plainly.
    """
    if not network.is_text or facts.task != "classify":
        return None
    if wishes.pairs is not None:
        return wishes.pairs
    is_plain = strategy.depth != "scratch" and not strategy.extras and not network.random
    return is_plain and few.are_few("text", facts.n, facts.n_classes)


def with_pairs(
    training: TrainingPlan, wishes: Wishes, facts: DataFacts, network: NetworkFacts,
    strategy: Strategy,
) -> TrainingPlan:  # fmt: skip
    """The training, changed to one on pairs where that is what layers learn from."""
    is_paired = on_pairs(wishes, facts, network, strategy)
    if is_paired:
        return _paired(training, wishes, facts.n, network)
    if is_paired is None:
        return training
    why = "layers learn by the loss of the output that was fitted before them"
    return replace(training, pairs=_rule(False, why))


def pair_batch(n: int, length: int) -> int:
    """Texts of an update: all, or as many as memory holds where they are of so many tokens.

    >>> pair_batch(48, 32), pair_batch(200, 32), pair_batch(200, 256)
    (48, 128, 32)
    """
    return min(n, BATCH, max(TOKENS // max(length, 1), LEAST))


def _paired(training: TrainingPlan, wishes: Wishes, n: int, network: NetworkFacts) -> TrainingPlan:
    """The choices that suit pairs; a rate of the user's own stays."""
    inputs = network.preprocessing
    batch = pair_batch(n, inputs.length if isinstance(inputs, TextInputs) else 1)
    rate = _rule(RATE, "pairs say little each, and a few updates have to do")
    if wishes.lr is not None and training.rate is not None:
        rate = replace(training.rate, rule=RATE)
    whole = "one update compares all texts" if n <= batch else f"all pairs of {batch} texts"
    return replace(
        training,
        pairs=_rule(True, "so few texts say more by which of them are of one class"),
        rate=rate,
        layer_decay=_rule(1.0, "few updates: lower layers move as fast"),
        batch=_rule(batch, whole),
        micro_batch=_rule(batch, "pairs are compared within what is passed at once"),
        passes=_rule(UPDATES * n, f"each of {n:,} texts {UPDATES} times"),
        warm_up=_rule(0.0, "few updates: none is spent on rising"),
        average=_rule(0.0, "few updates: there are no late ones to take the mean of"),
        l2_sp=_rule(0.0, "few updates do not lead far away"),
    )


def _rule(value: Plain, because: str) -> Choice:
    return Choice(value=value, because=because, source="rule")
