"""The choices of training step by step: how fast, how long, on which views of the images."""

from __future__ import annotations

import math
from dataclasses import replace

from warmstart.errors import PlanError
from warmstart.nouns import Nouns
from warmstart.planning import cached_activations, contrastive, machine, rules
from warmstart.planning.contrastive import pair_blocks, pair_samples
from warmstart.planning.facts import DataFacts, NetworkFacts, PlanOptions
from warmstart.planning.learning_rates import (
    DECAY,
    DECAY_BLOCKS,
    OPTIMIZERS,
    WEIGHT_DECAY,
    LearningRateSpread,
    base_lr,
    choose_optimizer,
    layer_decay,
    max_new_lr,
    round_lr,
    scratch_lr,
)
from warmstart.planning.rules import Budget
from warmstart.planning.strategy import Strategy
from warmstart.records.data import Task
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plain, TrainingPlan

# ---- Whether upper layers are trained beside a head, where nobody asked for a depth.


LEAST_GROUPS = 40  # independent examples below which held-out rows cannot tell the two apart
# Seconds on two cores, by multiply-adds: as long as people wait without having been asked.
MOST_SECONDS = {"fast": 0.0, "balanced": 900.0, "thorough": 5400.0}
TABLE_SECONDS = 20.0  # for rows of a table, whatever the budget: a training takes a moment
STEP = 3.0  # passes that an update costs


def fine_tuning_seconds(network: NetworkRecord, facts: DataFacts, budget: Budget) -> float:
    """About what storing the outputs of the lower half takes, and training the rest.

    From multiply-adds alone, so that two runs agree. Texts learn from pairs.
    """
    is_paired = facts.kind == "text" and facts.task == "classify"
    count = (pair_blocks if is_paired else rules.fine_tuned_blocks)(len(network.blocks))
    prefix = sum(block.macs for block in network.blocks[:-count])
    tail = sum(block.macs for block in network.blocks[-count:])
    views = 1 if is_paired else rules.MAX_AUGMENTATIONS[budget] + 1
    folds = 1 if facts.holdout else rules.training_folds(budget, facts.n_groups)
    trainings = max(folds, 2 - 1 / rules.HOLDOUT_DIVISOR)  # those that hold rows out learn from fewer
    trainings += rules.SOUP - 1 if budget == "thorough" and not is_paired else 0
    learnt = pair_samples(facts.n) if is_paired else rules.samples_seen(facts.n)
    return rules.training_seconds(views * facts.n * prefix + trainings * learnt * STEP * tail)


def compares_fine_tuning(network: NetworkRecord, facts: DataFacts, budget: Budget) -> bool:
    """True where it can be told whether training pays, in the time that the budget allows."""
    is_many = facts.n_groups >= LEAST_GROUPS
    most = MOST_SECONDS[budget] if facts.columns is None else TABLE_SECONDS
    return is_many and fine_tuning_seconds(network, facts, budget) <= most


# ---- How long a network is trained that begins with no knowledge, and what that takes.


# New layers learn the statistics of a batch, and those of few images mislead (Wu & He 2018,
# "Group Normalization", figure 1: the error grows below 16). Signs at 96 px, each of 240 images
# passed 50 times: 78 % of others right by 8 a step, 88 % by 16, 78 % by 32 (failed_ideas.md).
BATCH = 16
# Of the same signs 44 % after 20 passes, 92 % after 120: what knows nothing needs updates.
LEAST, TIMES = 16_000, 120


def samples_from_scratch(n: int) -> int:
    """Images that a training from nothing sees: twice as many as when tuning, a thousand updates at least.

    But none more than 120 times, of 100 images or more.

    >>> [samples_from_scratch(n) for n in (50, 240, 1000, 9000)]
    [12000, 16000, 20000, 32000]
    """
    return max(2 * rules.samples_seen(n), min(LEAST, TIMES * max(n, 100)))


def seconds(network: NetworkRecord, images: float) -> float:
    """About what it takes to train a network from nothing on so many images."""
    macs = sum(block.macs for block in network.blocks)
    return rules.training_seconds(images * STEP * macs)


WARM_UP = 0.1  # v0
CROP = 0.35  # v0
WIDE_CROP = 0.8  # v0: of what is measured in a picture
COLOUR = 0.1  # v0
SOUND_CROP = 0.8  # v0, as are the next two
SHIFT = 0.1
MASK = 0.2
AVERAGED = 0.1  # share of the steps that the moving average reaches back over, v0
L2_SP = 1.0  # v0
FEW_A_CLASS = 30  # examples a class below which weights are drawn back to the start: RECIPE §5
# What a view may do to a picture depends on what is told of it; v0 but for classes.
_CROPS: dict[Task, tuple[float, str]] = {
    "classify": (CROP, "a crop of a third or more mostly still shows its class"),
    "multilabel": (CROP, "a crop of a third or more mostly still shows what its labels name"),
    "regress": (WIDE_CROP, "a smaller crop changes what is large, near or many"),
}
_FLIPS: dict[Task, tuple[bool, str]] = {
    "classify": (
        True,
        "mirrored pictures keep their class; set training.flip=false where left and right matter",
    ),
    "multilabel": (
        True,
        "mirrored pictures keep their labels; set training.flip=false where left and right matter",
    ),
    "regress": (
        False,
        "a mirrored picture may have another number, such as an angle; set training.flip=true "
        "where it has the same",
    ),
}
TABLE_FOLDS = 5
# At the rate for new layers, 100 rows of wines were named as often as without a start; at 0.3 of it
# 0.4 to 2.7 points more often, over four pairs of tables.
TABLE_SLOWER = 0.3
_SLOWER = "0.3 of the rate for new layers: what a table has taught is kept"
RANK = 8  # of low-rank updates, as in Hu et al. 2021, "LoRA", §7.2: more brings little


def with_training(
    closed: TrainingPlan,
    wishes: PlanOptions,
    facts: DataFacts,
    network: NetworkFacts,
    strategy: Strategy,
) -> TrainingPlan:
    """The training of a plan whose parts move; `closed` is that of a plan where none do.

    Raises: PlanError where --lr is not a rate.
    """
    is_scratch = strategy.depth == "scratch"
    optimizer = choose_optimizer(network.recipe)
    name = str(optimizer.value)
    soup = _soup(wishes, network, strategy)
    budget: rules.Budget = "balanced" if soup else wishes.budget
    samples = _samples(facts.n, is_scratch, budget, network)
    batch = _batch(facts.n, is_scratch, network.nouns)
    if network.is_table:
        batch = _rule(table_batch(samples), "the largest up to 1,024 that leaves 300 steps, or 32")
    found = replace(
        closed,
        optimizer=optimizer,
        lr=_rate(wishes, network, name, is_scratch),
        layer_decay=_layer_decay(network.n_blocks, is_scratch),
        weight_decay=_rule(WEIGHT_DECAY[name], f"mild, as is usual with {OPTIMIZERS[name]}"),
        batch_size=batch,
        epochs=_epochs(samples, facts.n, is_scratch, network.nouns),
        warmup=_rule(WARM_UP, "rates rise over the first tenth, so that the first steps are mild"),
        crop=_crop(network, facts.task),
        flip=_flip(network, facts.task),
        time_shift=_shift(network),
        spec_augment=_mask(network),
        folds=_folds(wishes, facts, network),
        color_jitter=_colour(network),
        augmentations=cached_activations.views(samples, facts.n, wishes.budget),
        ema_decay=choose_ema_decay(samples, int(batch.number)),
        l2_sp=_l2_sp(facts, is_scratch, network.nouns),
        micro_batch=choose_micro_batch(int(batch.number)),
        gradient_checkpointing=_rule(
            False, "inner results are kept; anew they cost a third more time"
        ),
        device=machine.device(wishes.machine),
        precision=machine.precision(wishes.machine),
        workers=machine.workers(wishes.machine),
        compile=machine.compiled(wishes.machine, -(-samples // int(batch.number))),
        model_soup=soup,
        lora_rank=_rule(RANK, "more seldom brings more") if "lora" in strategy.extras else None,
    )
    found = contrastive.with_contrastive(found, wishes, facts, network, strategy)
    return replace(found, model_soup=None) if found.is_paired else found


def allows_soup(strategy: Strategy) -> bool:
    """Whether several trainings of it move the same weights, from the same values."""
    return strategy.depth != "scratch" and not strategy.extras


def _soup(wishes: PlanOptions, network: NetworkFacts, strategy: Strategy) -> Choice | None:
    """Wortsman et al. 2022, "Model soups", §2: trainings that all begin at the same weights."""
    is_new = not allows_soup(strategy) or network.random or network.fresh
    if wishes.budget != "thorough" or is_new or network.is_table:
        return None
    why = "trainings in other orders; the mean of their weights has less log-loss than each"
    return _rule(rules.SOUP, why)


def choose_ema_decay(samples: int, batch: int) -> Choice:
    """Polyak & Juditsky 1992: the mean of the last steps is steadier than the last one.

    >>> choose_ema_decay(1500, 8).value
    0.9468
    """
    n_steps = -(-samples // max(batch, 1))
    decay = round(1 - 1 / max(AVERAGED * n_steps, 2), 4)
    return _rule(decay, "a moving average over the last tenth of the steps")


def choose_micro_batch(batch: int) -> Choice:
    """How many images of a batch are worked through at once."""
    return _rule(batch, "a whole step at once, unless memory runs out")


def lr_spread(training: TrainingPlan, strategy: Strategy) -> LearningRateSpread:
    """What the rates of the parts follow from. Raises: PlanError where that is missing."""
    if training.lr is None or training.layer_decay is None:
        raise PlanError(
            "the plan trains layers and lacks training.lr or training.layer_decay; write a "
            "plan with --dry-run to compare."
        )
    optimizer = str(training.optimizer.value) if training.optimizer else ""
    return LearningRateSpread(
        base=training.lr.number,
        decay=training.layer_decay.number,
        is_scratch=strategy.depth == "scratch",
        max_new=max_new_lr(optimizer),
    )


def _rule(value: Plain, because: str) -> Choice:
    return Choice(value=value, because=because, source="rule")


def _rate(wishes: PlanOptions, network: NetworkFacts, optimizer: str, is_scratch: bool) -> Choice:
    rule = base_lr(network.record.family, optimizer, network.recipe)
    if is_scratch:
        rule = scratch_lr(optimizer)
    elif network.is_table:
        rule = replace(rule, value=round_lr(TABLE_SLOWER * rule.number), because=_SLOWER)
    if wishes.lr is None:
        return rule
    if not (math.isfinite(wishes.lr) and wishes.lr > 0):
        raise PlanError(f"--lr {wishes.lr:g} is not a number above 0; write for instance 0.001.")
    return Choice(value=float(wishes.lr), because="your choice", source="user", rule=rule.value)


def _layer_decay(n_blocks: int, is_scratch: bool) -> Choice:
    if is_scratch:
        return _rule(1.0, "every layer is new, so that none should move less than another")
    why = "a layer nearer the input is more general, and moves less than the one above it"
    if n_blocks > DECAY_BLOCKS:
        why = (
            f"{DECAY:g} in a network of {DECAY_BLOCKS} parts, milder in one of {n_blocks}, so that "
            "its first layer moves as much"
        )
    return _rule(layer_decay(n_blocks), why)


def _batch(n: int, is_scratch: bool, nouns: Nouns) -> Choice:
    if is_scratch:
        return _rule(BATCH, "new layers learn from the statistics of a batch")
    size = rules.batch_size(n)
    if n >= 20 * size:
        return _rule(size, "the largest up to 32 that leaves 20 steps a pass")
    return _rule(size, f"the least that is steady; {nouns.count(n)} make few steps a pass")


def _samples(n: int, is_scratch: bool, budget: rules.Budget, network: NetworkFacts) -> int:
    if network.is_table:
        return table_samples(n, is_scratch)
    return samples_from_scratch(n) if is_scratch else rules.samples_seen(n, budget)


def _epochs(samples: int, n: int, is_scratch: bool, nouns: Nouns) -> Choice:
    why = f"{samples:,} {nouns.many} seen in all"
    return _rule(rules.epochs(samples, n), f"{why}: new layers learn slowly" if is_scratch else why)


def _shift(network: NetworkFacts) -> Choice | None:
    if not _hears(network):
        return None
    return _rule(SHIFT, "a clip that begins a little earlier or later sounds the same")


def _mask(network: NetworkFacts) -> Choice | None:
    if not _hears(network):
        return None
    return _rule(MASK, "a few pitches and a short while hidden leave a sound to be known")


def _hears(network: NetworkFacts) -> bool:
    """Whether inputs are pictures of sounds."""
    return isinstance(network.preprocessing, Preprocessing) and bool(network.preprocessing.sound)


def table_samples(n: int, is_scratch: bool) -> int:
    """Rows that a training sees in all: few make many a network learn them by heart.

    >>> table_samples(50, True), table_samples(400, False), table_samples(90_000, True)
    (2000, 4000, 500000)
    """
    return min((20 if is_scratch else 10) * max(n, 100), 500_000)


def table_batch(samples: int) -> int:
    """Rows a step: 32 to 1,024, the largest power of two that leaves 300 steps.

    >>> [table_batch(samples) for samples in (2000, 28_000, 500_000)]
    [32, 64, 1024]
    """
    size = 32
    while size < 1024 and samples >= 600 * size:
        size *= 2
    return size


def _crop(network: NetworkFacts, task: Task) -> Choice:
    if network.is_text:
        return _rule(1.0, "texts are not cropped: half a sentence may mean the opposite")
    if _hears(network):
        return _rule(SOUND_CROP, "a little faster or slower, higher or lower is the same class")
    if not network.is_image:
        return _rule(1.0, "numbers are taken as they are: each has its place")
    if network.record.family == "mlp":
        return _rule(1.0, "an MLP ties each weight to a place, so that crops would mislead it")
    return _rule(*_CROPS[task])


def _flip(network: NetworkFacts, task: Task) -> Choice:
    if network.is_text:
        return _rule(False, "a text backwards is no text")
    if _hears(network):
        return _rule(False, "mirrored, a sound is played backwards")
    if not network.is_image:
        return _rule(False, "numbers are taken in their order")
    return _rule(*_FLIPS[task])


def _colour(network: NetworkFacts) -> Choice:
    if network.is_text:
        return _rule(0.0, "texts have no light to vary")
    if not network.is_image:
        return _rule(0.0, "numbers have no light to vary")
    prep = network.preprocessing
    if isinstance(prep, Preprocessing) and prep.channels not in (1, 3):
        return _rule(0.0, "bands are measurements: their brightness is not varied")
    if _hears(network):
        return _rule(COLOUR, "a tenth louder or fainter is the same class")
    return _rule(COLOUR, "light that is a tenth brighter or paler mostly shows the same class")


def _l2_sp(facts: DataFacts, is_scratch: bool, nouns: Nouns) -> Choice:
    """Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning", §3."""
    if is_scratch:
        return _rule(0.0, "there is no start to be drawn back to")
    a_class = facts.n // max(facts.n_classes, 1)
    if a_class >= FEW_A_CLASS:
        return _rule(0.0, f"{a_class} {nouns.many} a class hold the weights themselves")
    why = f"with {a_class} {nouns.many} a class, weights are drawn back to the start's"
    return _rule(L2_SP, why)


def _folds(wishes: PlanOptions, facts: DataFacts, network: NetworkFacts) -> Choice:
    if facts.holdout:
        return _rule(1, "your hold-out is the only fold")
    if network.is_table:
        why = "rows take a moment to learn, and more of them held out choose and judge better"
        return _rule(min(TABLE_FOLDS, facts.n_groups), why)
    return _rule(rules.training_folds(wishes.budget, facts.n_groups), f"--budget {wishes.budget}")
