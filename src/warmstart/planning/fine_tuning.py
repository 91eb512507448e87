"""The choices of step-by-step training: learning rates, epochs, augmentations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import takewhile

from warmstart.errors import PlanError
from warmstart.modalities.image import COLOUR
from warmstart.modalities.registry import MODALITIES
from warmstart.planning import rules
from warmstart.planning.facts import DataFacts, NetworkFacts, compiled, device, precision, workers
from warmstart.planning.rules import (
    MAX_AUGMENTATIONS,
    OPTIMIZERS,
    Budget,
    LearningRateSpread,
    training_seconds,
)
from warmstart.planning.strategy import PlanOptions, Strategy
from warmstart.records.data import Task
from warmstart.records.inputs import pictures
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan, TrainingPlan, by_rule
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
LEAST_SAMPLES, MOST_EPOCHS = 16_000, 120


def samples_from_scratch(n: int) -> int:
    """Images of a training from scratch: twice those of fine-tuning, at least a thousand updates.

    But at most 120 epochs, of 100 images or more.

    >>> [samples_from_scratch(n) for n in (50, 240, 1000, 9000)]
    [12000, 16000, 20000, 32000]
    """
    return max(2 * rules.samples_seen(n), min(LEAST_SAMPLES, MOST_EPOCHS * max(n, 100)))


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
    optimizer = rules.choose_optimizer(network.recipe)
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
        weight_decay=by_rule(rules.WEIGHT_DECAY[name], mild),
        batch_size=batch,
        epochs=by_rule(rules.epochs(samples, facts.n), why),
        warmup=by_rule(WARM_UP, "learning rates rise over the first tenth, for mild first steps"),
        crop=crop,
        flip=flip,
        folds=_choose_folds(options, facts, network),
        color_jitter=color_jitter,
        augmentations=choose_augmentations(samples, facts.n, options.budget),
        ema_decay=choose_ema_decay(samples, int(batch.number)),
        l2_sp=_choose_l2_sp(facts, is_scratch, network),
        micro_batch=choose_micro_batch(int(batch.number)),
        gradient_checkpointing=by_rule(
            False, "activations fit into memory; recomputing them takes a third more time"
        ),
        device=device(options.machine),
        precision=precision(options.machine),
        workers=workers(options.machine),
        compile=compiled(options.machine, -(-samples // int(batch.number))),
        model_soup=soup,
        lora_rank=by_rule(RANK, "higher ranks rarely help") if "lora" in strategy.extras else None,
    )
    if network.modality.is_sound and network.modality.has_pixels:
        shift = by_rule(SHIFT, "a clip that begins a little earlier or later sounds the same")
        mask = by_rule(MASK, "a sound is recognised with a few pitches or a moment hidden")
        training = replace(training, time_shift=shift, spec_augment=mask)
    training = with_contrastive(training, options, facts, network, strategy)
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


def choose_ema_decay(samples: int, batch: int, is_paired: bool = False) -> Choice:
    """Polyak & Juditsky 1992: the average of the last steps is steadier than the last one.

    Pairs have few updates, over half of which it pays: Izmailov et al. 2018, "Averaging Weights
    Leads to Wider Optima and Better Generalization", §3.

    >>> choose_ema_decay(1500, 8).value, choose_ema_decay(2400, 64, is_paired=True).value
    (0.9468, 0.9474)
    """
    n_steps = -(-samples // max(batch, 1))
    decay = round(1 - 1 / max((PAIR_AVERAGED if is_paired else AVERAGED) * n_steps, 2), 4)
    why = "a moving average over the last tenth of the steps"
    if is_paired:
        why = "a moving average over about half of the updates, at one learning rate"
    return by_rule(decay, why)


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
        max_new=rules.max_new_lr(optimizer),
    )


def _choose_lr(
    options: PlanOptions, network: NetworkFacts, optimizer: str, is_scratch: bool
) -> Choice:
    rule = rules.base_lr(network.record.family, optimizer, network.recipe)
    if is_scratch:
        why = f"usual for training new layers with {OPTIMIZERS[optimizer]}"
        rule = by_rule(rules.SCRATCH[optimizer], why)
    elif network.modality.form == "rows":
        why = "0.3 of the learning rate for new layers, to keep what the base model has learned"
        rule = replace(rule, value=rules.round_lr(TABLE_SLOWER * rule.number), because=why)
    if options.lr is None:
        return rule
    if not (math.isfinite(options.lr) and options.lr > 0):
        raise PlanError(f"--lr {options.lr:g} is not a number above 0; write for instance 0.001.")
    return Choice(value=float(options.lr), because="your choice", source="user", rule=rule.value)


def _choose_layer_decay(n_blocks: int, is_scratch: bool) -> Choice:
    if is_scratch:
        return by_rule(1.0, "every layer is new, so that none should move less than another")
    why = "a layer nearer the input is more general, and moves less than the one above it"
    n, decay = rules.DECAY_BLOCKS, rules.DECAY
    if n_blocks > n:
        why = (
            f"{decay:g} in a network of {n} blocks, milder in one of {n_blocks}, so that its first "
            "layer moves as much"
        )
    return by_rule(rules.layer_decay(n_blocks), why)


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


# ---- Contrastive training on pairs of texts: blocks learn which texts share a class, then a head.
#
# n texts make n (n - 1) / 2 pairs. Tunstall et al. 2022, "Efficient Few-Shot Learning Without
# Prompts" (SetFit), train on them one by one; here one update compares all pairs of a batch.


# All texts in one update: samples of 8 a class of trec6, MiniLM; bench/results/failed_ideas.md
# compares depths and learning rates.
PAIR_LR, PAIR_UPDATES = 6e-4, 4
# More texts than that: splits of the 600 of trec6 and of sst2; other learning rates, losses,
# depths and epochs in the same file.
BATCHED_LR, PAIR_BATCH, PAIR_EPOCHS = 3e-4, 64, 4
LEAST_UPDATES = 16
TEMPERATURE = 0.1
PAIR_AVERAGED = 0.5  # share of the updates that the moving average of the weights covers
MOST_TEXTS, MOST_TOKENS = 128, 8192  # most texts of an update, and their tokens: all are in memory
LEAST_TEXTS = 16  # texts of an update, whatever their length
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
    fitting = max(MOST_TOKENS // max(length, 1), LEAST_TEXTS)
    return n if n <= min(MOST_TEXTS, fitting) else min(PAIR_BATCH, fitting)


def pair_samples(n: int, length: int = 1) -> int:
    """Samples of a training, texts times epochs.

    >>> pair_samples(48), pair_samples(200), pair_samples(5000)
    (192, 1024, 20000)
    """
    batch = pair_batch(n, length)
    return PAIR_UPDATES * n if batch == n else max(PAIR_EPOCHS * n, LEAST_UPDATES * batch)


def _in_one_batch(training: TrainingPlan) -> TrainingPlan:
    return replace(
        training,
        contrastive=by_rule(True, "so few texts say more through which of them share a class"),
        contrastive_temperature=by_rule(0.0, _ONE_UPDATE),
        lr=by_rule(PAIR_LR, "pairs say little each, and a few updates have to suffice"),
        warmup=by_rule(0.0, "few updates: none is spent on warming up"),
        ema_decay=by_rule(0.0, "few updates: there are no late ones to average"),
    )


def _in_batches(training: TrainingPlan, samples: int, batch: int) -> TrainingPlan:
    return replace(
        training,
        contrastive=by_rule(True, "texts say more through which of them share a class"),
        contrastive_temperature=by_rule(TEMPERATURE, "the nearest of other classes count most"),
        lr=by_rule(BATCHED_LR, "a few epochs have to suffice"),
        warmup=by_rule(WARM_UP, "learning rates rise over the first tenth, for mild first steps"),
        ema_decay=choose_ema_decay(samples, batch, is_paired=True),
    )


# ---- The cached activations of frozen blocks: where they end, and how many augmentations.


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
