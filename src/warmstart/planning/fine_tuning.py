"""The choices of step-by-step training: learning rates, epochs, augmentations."""

from __future__ import annotations

import math
from dataclasses import replace

from warmstart.errors import PlanError
from warmstart.modalities.image import COLOUR
from warmstart.modalities.registry import MODALITIES
from warmstart.planning import cached_activations, contrastive, learning_rates, machine, rules
from warmstart.planning.contrastive import pair_blocks, pair_samples
from warmstart.planning.facts import DataFacts, NetworkFacts, PlanOptions
from warmstart.planning.learning_rates import OPTIMIZERS, LearningRateSpread
from warmstart.planning.rules import Budget
from warmstart.planning.strategy import Strategy
from warmstart.records.data import Task
from warmstart.records.inputs import pictures
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, TrainingPlan, by_rule
from warmstart.tasks.registry import TASKS

LEAST_GROUPS = 40  # independent examples below which held-out rows show no fine-tuning gain
# Seconds on two cores, by multiply-adds, of fine-tuning that nobody asked for.
MOST_SECONDS = {"fast": 0.0, "balanced": 900.0, "thorough": 5400.0}
TABLE_SECONDS = 20.0  # for rows of a table, whatever the budget: a training takes a moment
STEP = 3.0  # forward passes that an update costs


def fine_tuning_seconds(network: NetworkRecord, facts: DataFacts, budget: Budget) -> float:
    """Approximate seconds to cache the lower half's activations and train the upper half.

    From multiply-adds alone, so that two runs agree. Texts are trained on pairs.
    """
    is_paired = MODALITIES[facts.kind].learns_from_pairs and TASKS[facts.task].has_classes
    count = (pair_blocks if is_paired else rules.fine_tuned_blocks)(len(network.blocks))
    frozen_macs = sum(block.macs for block in network.blocks[:-count])
    trained_macs = sum(block.macs for block in network.blocks[-count:])
    cached = 1 if is_paired else rules.MAX_AUGMENTATIONS[budget] + 1
    folds = 1 if facts.holdout else rules.training_folds(budget, facts.n_groups)
    # Trainings of a fold see fewer rows.
    trainings = max(folds, 2 - 1 / rules.HOLDOUT_DIVISOR)
    trainings += rules.SOUP - 1 if budget == "thorough" and not is_paired else 0
    samples = pair_samples(facts.n) if is_paired else rules.samples_seen(facts.n)
    return rules.training_seconds(
        cached * facts.n * frozen_macs + trainings * samples * STEP * trained_macs
    )


def compares_fine_tuning(network: NetworkRecord, facts: DataFacts, budget: Budget) -> bool:
    """Whether the examples can show a fine-tuning gain, within the time of the budget."""
    is_enough = facts.n_groups >= LEAST_GROUPS
    most = MOST_SECONDS[budget] if facts.columns is None else TABLE_SECONDS
    return is_enough and fine_tuning_seconds(network, facts, budget) <= most


# New layers learn the statistics of a batch, and few images mislead them (Wu & He 2018,
# "Group Normalization", figure 1: the error grows below 16). Signs at 96 px, 240 images seen 50
# times each: accuracy .78 with batches of 8, .88 with 16, .78 with 32 (failed_ideas.md).
BATCH = 16
# On the same signs .44 after 20 epochs, .92 after 120: random weights need updates.
LEAST, TIMES = 16_000, 120


def samples_from_scratch(n: int) -> int:
    """Images of a training from scratch: twice those of fine-tuning, at least a thousand updates.

    But at most 120 epochs, of 100 images or more.

    >>> [samples_from_scratch(n) for n in (50, 240, 1000, 9000)]
    [12000, 16000, 20000, 32000]
    """
    return max(2 * rules.samples_seen(n), min(LEAST, TIMES * max(n, 100)))


def scratch_seconds(network: NetworkRecord, images: float) -> float:
    """Approximate seconds to train a network from scratch on so many images."""
    macs = sum(block.macs for block in network.blocks)
    return rules.training_seconds(images * STEP * macs)


WARM_UP = 0.1  # v0
CROP = 0.35  # v0
WIDE_CROP = 0.8  # v0: for numbers measured in an image
SHIFT = 0.1  # v0, as is the next
MASK = 0.2
AVERAGED = 0.1  # share of the steps that the moving average of the weights covers, v0
L2_SP = 1.0  # v0
FEW_A_CLASS = 30  # examples a class below which L2-SP is used: RECIPE §5
TABLE_FOLDS = 5
# At the learning rate for new layers, 100 rows of wines were classified no better than from
# scratch; at 0.3 of it 0.4 to 2.7 points better, over four pairs of tables.
TABLE_SLOWER = 0.3
RANK = 8  # of low-rank updates, as in Hu et al. 2021, "LoRA", §7.2: more helps little


def with_training(
    closed: TrainingPlan,
    options: PlanOptions,
    facts: DataFacts,
    network: NetworkFacts,
    strategy: Strategy,
) -> TrainingPlan:
    """The training choices of a plan that trains blocks; `closed` has those of a linear probe.

    Raises: PlanError where --lr is no learning rate.
    """
    is_scratch = strategy.depth == "scratch"
    optimizer = learning_rates.choose_optimizer(network.recipe)
    name = str(optimizer.value)
    soup = _choose_soup(options, network, strategy)
    budget: rules.Budget = "balanced" if soup else options.budget
    if network.modality.form == "rows":
        samples = table_samples(facts.n, is_scratch)
        why = "the largest up to 1,024 that leaves 300 steps, or 32"
        batch = by_rule(table_batch(samples), why)
    else:
        few = rules.samples_seen(facts.n, budget)
        samples = samples_from_scratch(facts.n) if is_scratch else few
        batch = _choose_batch(facts.n, is_scratch, network)
    why = f"{samples:,} {network.nouns.many} seen in all"
    if is_scratch:
        why += ": new layers learn slowly"
    crop, flip, color_jitter = _choose_augmentations(network, facts.task)
    mild = f"mild, as is usual with {OPTIMIZERS[name]}"
    training = replace(
        closed,
        optimizer=optimizer,
        lr=_choose_lr(options, network, name, is_scratch),
        layer_decay=_choose_layer_decay(network.n_blocks, is_scratch),
        weight_decay=by_rule(learning_rates.WEIGHT_DECAY[name], mild),
        batch_size=batch,
        epochs=by_rule(rules.epochs(samples, facts.n), why),
        warmup=by_rule(WARM_UP, "learning rates rise over the first tenth, for mild first steps"),
        crop=crop,
        flip=flip,
        folds=_choose_folds(options, facts, network),
        color_jitter=color_jitter,
        augmentations=cached_activations.choose_augmentations(samples, facts.n, options.budget),
        ema_decay=choose_ema_decay(samples, int(batch.number)),
        l2_sp=_choose_l2_sp(facts, is_scratch, network),
        micro_batch=choose_micro_batch(int(batch.number)),
        gradient_checkpointing=by_rule(
            False, "activations fit into memory; recomputing them takes a third more time"
        ),
        device=machine.device(options.machine),
        precision=machine.precision(options.machine),
        workers=machine.workers(options.machine),
        compile=machine.compiled(options.machine, -(-samples // int(batch.number))),
        model_soup=soup,
        lora_rank=by_rule(RANK, "higher ranks rarely help") if "lora" in strategy.extras else None,
    )
    if network.modality.is_sound and network.modality.has_pixels:
        shift = by_rule(SHIFT, "a clip that begins a little earlier or later sounds the same")
        mask = by_rule(MASK, "a sound is recognised with a few pitches or a moment hidden")
        training = replace(training, time_shift=shift, spec_augment=mask)
    training = contrastive.with_contrastive(training, options, facts, network, strategy)
    return replace(training, model_soup=None) if training.is_paired else training


def allows_soup(strategy: Strategy) -> bool:
    """Whether several trainings of a strategy move the same weights, from the same values."""
    return strategy.depth != "scratch" and not strategy.extras


def _choose_soup(options: PlanOptions, network: NetworkFacts, strategy: Strategy) -> Choice | None:
    """Wortsman et al. 2022, "Model soups", §2: trainings that all begin at the same weights."""
    is_new = not allows_soup(strategy) or network.random or network.fresh
    if options.budget != "thorough" or is_new or network.modality.form == "rows":
        return None
    why = "trainings in different orders; their averaged weights have less log-loss than each"
    return by_rule(rules.SOUP, why)


def choose_ema_decay(samples: int, batch: int) -> Choice:
    """Polyak & Juditsky 1992: the average of the last steps is steadier than the last one.

    >>> choose_ema_decay(1500, 8).value
    0.9468
    """
    n_steps = -(-samples // max(batch, 1))
    decay = round(1 - 1 / max(AVERAGED * n_steps, 2), 4)
    return by_rule(decay, "a moving average over the last tenth of the steps")


def choose_micro_batch(batch: int) -> Choice:
    """How many images of a batch pass through the network at once."""
    return by_rule(batch, "a whole batch at once, unless memory runs out")


def lr_spread(training: TrainingPlan, strategy: Strategy) -> LearningRateSpread:
    """What the learning rates of the blocks follow from. Raises: PlanError where it is missing."""
    if training.lr is None or training.layer_decay is None:
        raise PlanError(
            "the plan trains blocks without training.lr or training.layer_decay; make a new plan "
            "with --dry-run."
        )
    optimizer = str(training.optimizer.value) if training.optimizer else ""
    return LearningRateSpread(
        base=training.lr.number,
        decay=training.layer_decay.number,
        is_scratch=strategy.depth == "scratch",
        max_new=learning_rates.max_new_lr(optimizer),
    )


def _choose_lr(
    options: PlanOptions, network: NetworkFacts, optimizer: str, is_scratch: bool
) -> Choice:
    rule = learning_rates.base_lr(network.record.family, optimizer, network.recipe)
    if is_scratch:
        rule = learning_rates.scratch_lr(optimizer)
    elif network.modality.form == "rows":
        why = "0.3 of the learning rate for new layers, to keep what the base model has learned"
        rule = replace(rule, value=learning_rates.round_lr(TABLE_SLOWER * rule.number), because=why)
    if options.lr is None:
        return rule
    if not (math.isfinite(options.lr) and options.lr > 0):
        raise PlanError(f"--lr {options.lr:g} is not a number above 0; write for instance 0.001.")
    return Choice(value=float(options.lr), because="your choice", source="user", rule=rule.value)


def _choose_layer_decay(n_blocks: int, is_scratch: bool) -> Choice:
    if is_scratch:
        return by_rule(1.0, "every layer is new, so that none should move less than another")
    why = "a layer nearer the input is more general, and moves less than the one above it"
    n, decay = learning_rates.DECAY_BLOCKS, learning_rates.DECAY
    if n_blocks > n:
        why = (
            f"{decay:g} in a network of {n} blocks, milder in one of {n_blocks}, so that its first "
            "layer moves as much"
        )
    return by_rule(learning_rates.layer_decay(n_blocks), why)


def _choose_batch(n: int, is_scratch: bool, network: NetworkFacts) -> Choice:
    if is_scratch:
        return by_rule(BATCH, "new layers learn from the statistics of a batch")
    size = rules.batch_size(n)
    if n >= 20 * size:
        return by_rule(size, "the largest up to 32 that leaves 20 steps an epoch")
    return by_rule(
        size, f"the smallest stable one; {network.nouns.count(n)} make few steps an epoch"
    )


def table_samples(n: int, is_scratch: bool) -> int:
    """Rows that a training sees in all: with few, many epochs lead to memorising.

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


def _choose_augmentations(network: NetworkFacts, task: Task) -> tuple[Choice, Choice, Choice]:
    """Crop, flip and jitter."""
    if (fixed := network.modality.augmentations) is not None:
        return fixed
    target = TASKS[task]
    crop = by_rule(CROP if target.is_crop_invariant else WIDE_CROP, target.words.crop)
    if network.record.family == "mlp":
        crop = by_rule(1.0, "an MLP ties each weight to a place, so that crops would mislead it")
    jitter = by_rule(COLOUR, "light that is a tenth brighter or paler mostly shows the same class")
    inputs = network.preprocessing
    if inputs is not None and pictures(inputs).channels not in (1, 3):
        jitter = by_rule(0.0, "bands are measurements: their brightness is not varied")
    return crop, by_rule(target.is_mirror_invariant, target.words.mirror), jitter


def _choose_l2_sp(facts: DataFacts, is_scratch: bool, network: NetworkFacts) -> Choice:
    """Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning", §3."""
    if is_scratch:
        return by_rule(0.0, "there are no pretrained weights to stay near to")
    per_class = facts.n // max(facts.n_classes, 1)
    many = network.nouns.many
    if per_class >= FEW_A_CLASS:
        return by_rule(0.0, f"{per_class} {many} a class are enough to hold the weights")
    return by_rule(L2_SP, f"with {per_class} {many} a class, weights stay near the base model's")


def _choose_folds(options: PlanOptions, facts: DataFacts, network: NetworkFacts) -> Choice:
    if facts.holdout:
        return by_rule(1, "your validation set is the only fold")
    if network.modality.form == "rows":
        why = "rows train quickly, and more held-out rows select and estimate better"
        return by_rule(min(TABLE_FOLDS, facts.n_groups), why)
    return by_rule(
        rules.training_folds(options.budget, facts.n_groups), f"--budget {options.budget}"
    )
