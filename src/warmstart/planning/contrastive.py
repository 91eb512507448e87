"""Training on pairs of texts: layers learn which texts are of one class, an output comes after.

Texts say little of an output each, and much of which of them are alike: n texts make
n (n - 1) / 2 pairs. Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts" (SetFit),
pass them one by one; here one update compares all pairs of a batch.
"""

from __future__ import annotations

from dataclasses import replace

from warmstart.planning import rules
from warmstart.planning.facts import DataFacts, NetworkFacts, PlanOptions
from warmstart.planning.strategy import Strategy
from warmstart.records.inputs import TextInputs
from warmstart.records.plan import Choice, Plain, TrainingPlan

# All texts in one update: draws of 8 a class of trec6, MiniLM; bench/results/failed_ideas.md
# compares depths and rates.
RATE, UPDATES = 6e-4, 4
# More texts than that: splits of the 600 of trec6 and of sst2, other rates, losses, depths and
# passes in the same file.
MANY_RATE, MANY_BATCH, MANY_EPOCHS = 3e-4, 64, 4
LEAST_UPDATES = 16
WARM_UP, TEMPERATURE = 0.1, 0.1
AVERAGED = 0.5  # share of the updates that the moving average of the weights reaches back over
MOST, TOKENS = 128, 8192  # texts of an update at most, and their tokens: all is held in memory
LEAST = 16  # texts of an update, whatever their length


def pair_blocks(n_blocks: int) -> int:
    """Uppermost parts that learn from pairs: more than half, as few updates reach as far.

    >>> [pair_blocks(n) for n in (1, 7, 13)]
    [1, 4, 7]
    """
    return n_blocks // 2 + 1


def learns_from_pairs(
    wishes: PlanOptions, facts: DataFacts, network: NetworkFacts, strategy: Strategy
) -> bool | None:
    """Whether layers learn from pairs; None where there are no texts, or no classes.

    What the user set wins; else all layers that are tuned plainly do, where one process holds
    a whole batch.
    """
    if not network.is_text or facts.task != "classify":
        return None
    if wishes.contrastive is not None:
        return wishes.contrastive
    is_plain = strategy.depth != "scratch" and not strategy.extras and not network.random
    return is_plain and wishes.processes == 1


def with_contrastive(
    training: TrainingPlan,
    wishes: PlanOptions,
    facts: DataFacts,
    network: NetworkFacts,
    strategy: Strategy,
) -> TrainingPlan:
    """The training, changed to one on pairs where that is what layers learn from."""
    is_paired = learns_from_pairs(wishes, facts, network, strategy)
    if is_paired:
        return _paired(training, wishes, facts.n, network)
    if is_paired is None:
        return training
    why = "layers learn by the loss of the output that was fitted before them"
    return replace(training, contrastive=_rule(False, why))


def pair_batch(n: int, length: int) -> int:
    """Texts of an update: all that memory holds, or a part of more, of so many tokens.

    >>> pair_batch(48, 32), pair_batch(200, 32), pair_batch(200, 256)
    (48, 64, 32)
    """
    held = max(TOKENS // max(length, 1), LEAST)
    return n if n <= min(MOST, held) else min(MANY_BATCH, held)


def pair_samples(n: int, length: int = 1) -> int:
    """Texts that a training sees in all, of so many tokens.

    >>> pair_samples(48), pair_samples(200), pair_samples(5000)
    (192, 1024, 20000)
    """
    batch = pair_batch(n, length)
    return UPDATES * n if batch == n else max(MANY_EPOCHS * n, LEAST_UPDATES * batch)


def pair_ema_decay(samples: int, batch: int) -> Choice:
    """How far back the average of the weights reaches, where several batches make a pass.

    Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization",
    §3: the rate does not fall meanwhile.

    >>> pair_ema_decay(2400, 64).value
    0.9474
    """
    n_steps = -(-samples // batch)
    decay = round(1 - 1 / max(AVERAGED * n_steps, 2), 4)
    return _rule(decay, "a moving average over about half of the updates, at one rate")


def updated_ema_decay(old: Choice, samples: int, batch: int) -> Choice:
    """The same for another number of updates; where there is no average, there is none then."""
    return pair_ema_decay(samples, batch) if old.number else old


def _paired(training: TrainingPlan, wishes: PlanOptions, n: int, network: NetworkFacts) -> TrainingPlan:
    """The choices that suit pairs; a rate of the user's own stays."""
    inputs = network.preprocessing
    length = inputs.length if isinstance(inputs, TextInputs) else 1
    batch, samples = pair_batch(n, length), pair_samples(n, length)
    found = _whole(training) if batch == n else _in_batches(training, samples, batch)
    if wishes.lr is not None and training.lr is not None and found.lr is not None:
        found = replace(found, lr=replace(training.lr, rule=found.lr.value))
    return replace(
        found,
        epochs=_rule(rules.epochs(samples, n), f"{samples:,} texts seen in all"),
        layer_decay=_rule(1.0, "pairs move lower layers as fast"),
        batch_size=_rule(batch, "one update compares all texts" if batch == n else _PART),
        micro_batch=_rule(batch, "pairs are compared within what is passed at once"),
        l2_sp=_rule(0.0, "a few epochs do not lead far away"),
    )


_PART = "each text is told from all others of an update; larger ones would be few"


def _whole(training: TrainingPlan) -> TrainingPlan:
    """A handful: cosines of all pairs are drawn to 1 or 0 a few times."""
    return replace(
        training,
        contrastive=_rule(True, "so few texts say more by which of them are of one class"),
        contrastive_temperature=_rule(
            0.0, "all pairs in one update: each cosine is drawn to 1 or 0"
        ),
        lr=_rule(RATE, "pairs say little each, and a few updates have to do"),
        warmup=_rule(0.0, "few updates: none is spent on rising"),
        ema_decay=_rule(0.0, "few updates: there are no late ones to take the mean of"),
    )


def _in_batches(training: TrainingPlan, samples: int, batch: int) -> TrainingPlan:
    """More: updates of some, of which each is to be nearer its own class than the others."""
    return replace(
        training,
        contrastive=_rule(True, "texts say more by which of them are of one class"),
        contrastive_temperature=_rule(TEMPERATURE, "the nearest of other classes count most"),
        lr=_rule(MANY_RATE, "a few epochs have to do"),
        warmup=_rule(WARM_UP, "rates rise over the first tenth, so that the first steps are mild"),
        ema_decay=pair_ema_decay(samples, batch),
    )


def _rule(value: Plain, because: str) -> Choice:
    return Choice(value=value, because=because, source="rule")
