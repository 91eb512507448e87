"""Contrastive training on pairs of texts: blocks learn which texts share a class, then a head.

n texts make n (n - 1) / 2 pairs. Tunstall et al. 2022, "Efficient Few-Shot Learning Without
Prompts" (SetFit), train on them one by one; here one update compares all pairs of a batch.
"""

from __future__ import annotations

from dataclasses import replace

from warmstart.planning import rules
from warmstart.planning.facts import DataFacts, NetworkFacts, PlanOptions
from warmstart.planning.strategy import Strategy
from warmstart.records.plan import Choice, TrainingPlan, by_rule
from warmstart.tasks.registry import TASKS

# All texts in one update: samples of 8 a class of trec6, MiniLM; bench/results/failed_ideas.md
# compares depths and learning rates.
RATE, UPDATES = 6e-4, 4
# More texts than that: splits of the 600 of trec6 and of sst2; other learning rates, losses,
# depths and epochs in the same file.
MANY_RATE, MANY_BATCH, MANY_EPOCHS = 3e-4, 64, 4
LEAST_UPDATES = 16
WARM_UP, TEMPERATURE = 0.1, 0.1
AVERAGED = 0.5  # share of the updates that the moving average of the weights covers
MOST, TOKENS = 128, 8192  # most texts of an update, and their tokens: all are in memory
LEAST = 16  # texts of an update, whatever their length
_ONE_UPDATE = "all pairs in one update: each cosine is pulled to 1 or 0"


def pair_blocks(n_blocks: int) -> int:
    """Uppermost blocks that learn from pairs: more than half, as few updates reach that far.

    >>> [pair_blocks(n) for n in (1, 7, 13)]
    [1, 4, 7]
    """
    return n_blocks // 2 + 1


def learns_from_pairs(
    options: PlanOptions, facts: DataFacts, network: NetworkFacts, strategy: Strategy
) -> bool | None:
    """Whether blocks learn from pairs; None without texts or classes.

    The user's choice wins; else plainly fine-tuned blocks do, where one process has whole batches.
    """
    if not network.modality.learns_from_pairs or not TASKS[facts.task].has_classes:
        return None
    if options.contrastive is not None:
        return options.contrastive
    is_plain = strategy.depth != "scratch" and not strategy.extras and not network.random
    return is_plain and options.processes == 1


def with_contrastive(
    training: TrainingPlan,
    options: PlanOptions,
    facts: DataFacts,
    network: NetworkFacts,
    strategy: Strategy,
) -> TrainingPlan:
    """The training, contrastive where blocks learn from pairs; the user's learning rate stays."""
    is_paired = learns_from_pairs(options, facts, network, strategy)
    if is_paired is None:
        return training
    if not is_paired:
        why = "blocks learn through the loss of the head that was fitted before"
        return replace(training, contrastive=by_rule(False, why))
    inputs, n = network.preprocessing, facts.n
    length = inputs.shape[0] if inputs else 1
    batch, samples = pair_batch(n, length), pair_samples(n, length)
    paired = _in_one_batch(training) if batch == n else _in_batches(training, samples, batch)
    if options.lr is not None and training.lr is not None and paired.lr is not None:
        paired = replace(paired, lr=replace(training.lr, rule=paired.lr.value))
    why = "each text is contrasted with all others of an update; larger batches leave few updates"
    if batch == n:
        why = "one update compares all texts"
    return replace(
        paired,
        epochs=by_rule(rules.epochs(samples, n), f"{samples:,} texts seen in all"),
        layer_decay=by_rule(1.0, "pairs move lower layers as fast"),
        batch_size=by_rule(batch, why),
        micro_batch=by_rule(batch, "pairs are compared within one forward pass"),
        l2_sp=by_rule(0.0, "a few epochs do not move the weights far"),
    )


def pair_batch(n: int, length: int) -> int:
    """Texts of an update, of `length` tokens: all if they fit into memory, else a batch.

    >>> pair_batch(48, 32), pair_batch(200, 32), pair_batch(200, 256)
    (48, 64, 32)
    """
    fitting = max(TOKENS // max(length, 1), LEAST)
    return n if n <= min(MOST, fitting) else min(MANY_BATCH, fitting)


def pair_samples(n: int, length: int = 1) -> int:
    """Samples of a training, texts times epochs.

    >>> pair_samples(48), pair_samples(200), pair_samples(5000)
    (192, 1024, 20000)
    """
    batch = pair_batch(n, length)
    return UPDATES * n if batch == n else max(MANY_EPOCHS * n, LEAST_UPDATES * batch)


def pair_ema_decay(samples: int, batch: int) -> Choice:
    """Decay of the moving average of the weights, where an epoch has several batches.

    Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization", §3.

    >>> pair_ema_decay(2400, 64).value
    0.9474
    """
    n_steps = -(-samples // batch)
    decay = round(1 - 1 / max(AVERAGED * n_steps, 2), 4)
    return by_rule(decay, "a moving average over about half of the updates, at one learning rate")


def updated_ema_decay(old: Choice, samples: int, batch: int) -> Choice:
    """The decay for another number of updates; 0, without an average, stays 0."""
    return pair_ema_decay(samples, batch) if old.number else old


def _in_one_batch(training: TrainingPlan) -> TrainingPlan:
    return replace(
        training,
        contrastive=by_rule(True, "so few texts say more through which of them share a class"),
        contrastive_temperature=by_rule(0.0, _ONE_UPDATE),
        lr=by_rule(RATE, "pairs say little each, and a few updates have to suffice"),
        warmup=by_rule(0.0, "few updates: none is spent on warming up"),
        ema_decay=by_rule(0.0, "few updates: there are no late ones to average"),
    )


def _in_batches(training: TrainingPlan, samples: int, batch: int) -> TrainingPlan:
    return replace(
        training,
        contrastive=by_rule(True, "texts say more through which of them share a class"),
        contrastive_temperature=by_rule(TEMPERATURE, "the nearest of other classes count most"),
        lr=by_rule(MANY_RATE, "a few epochs have to suffice"),
        warmup=by_rule(WARM_UP, "learning rates rise over the first tenth, for mild first steps"),
        ema_decay=pair_ema_decay(samples, batch),
    )
