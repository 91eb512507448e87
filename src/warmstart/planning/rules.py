"""The rules of a plan: functions of plain numbers, each checkable by hand.

A constant marked v0 is an initial value without an experiment; others carry their source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from warmstart.records.block_actions import ACTIONS, Action, BlockAction, train_network
from warmstart.records.data import Task
from warmstart.records.network import Family, FeatureLayer, Recipe
from warmstart.records.plan import Choice, by_rule
from warmstart.tasks.registry import DEFAULT_TASK, TASKS

Budget = Literal["fast", "balanced", "thorough"]

DUAL_LIMIT = 2000  # rows up to which an n x n kernel is cheaper than the primal form
LOGISTIC_LIMIT = 1500  # rows x classes up to which a logistic path costs less than extraction
# Rows above which fewer linear probes compete. On trashnet (1,000 rows) nine scored .891 by
# estimate and .850 on the test set, these five .891 and .863 in two thirds of the time.
MANY = 600
PROBES_OF_MANY = ("last", "late", "equal", "grid-late", "grid-upper")
PERMUTATIONS: dict[Budget, int] = {"fast": 199, "balanced": 999, "thorough": 999}
# Most rows of the evidence: the cost of a permutation grows with their square, and 600 still show
# an effect of 4 to 6 points.
EVIDENCE_ROWS: dict[Budget, int] = {"fast": 400, "balanced": 600, "thorough": 600}
LEARNING_CURVE_ROWS: dict[Budget, int] = {"fast": 400, "balanced": 1000, "thorough": 1000}
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # in units of the kernel's mean diagonal


def outer_folds(n_groups: int, n: int = 0) -> int:
    """Folds of the estimate: 10 up to 500 independent examples, 5 above, never more than there are.

    Up to 60 groups of several examples (`n` examples in all) get 5 folds: with one or two groups
    in a fold, the classes of the training folds lean away from the held-out ones, and the
    estimate was 3 points too low; with five folds 1 (bench/results/coverage.json).

    >>> [outer_folds(n) for n in (4, 60, 500, 501)], outer_folds(22, 100)
    ([4, 10, 10, 5], 5)
    """
    are_groups = n >= 1.5 * n_groups and n_groups <= 60
    return min(n_groups, 5 if are_groups or n_groups > 500 else 10)


def penalties(n: int) -> tuple[float, ...]:
    """Ridge penalties to choose from; every second one above 500 rows, where fits are expensive.

    On trashnet (1,000 rows) the coarser grid did not change the test accuracy.

    >>> penalties(300) == PENALTIES, penalties(3000)
    (True, (0.01, 0.1, 1.0, 10.0))
    """
    return PENALTIES if n <= 500 else PENALTIES[::2]


DEPTH_ROWS = 300  # a fit per block and penalty: enough to locate the useful layers
# Images and shuffled networks of the transfer gain: the second step where the first is not
# clear. 96 images decide all near-domain sets (3 standard errors); 400 bring the error below
# 0.04, so that a base model without transfer is recognised (bench/results/verdict.json).
TRANSFER_GAIN_STAGES = ((96, 2), (400, 3))
TRANSFER_GAIN_MOST = 600  # images, however many classes there are
LEAST_PER_CLASS = 4  # rows below which a class cannot be predicted from held-out rows
LEAST_SIDE = 32  # px below which images have too few details to compare copies or borders
BORDER_ROWS = 1000  # rows whose borders are compared with each other
SCALE_IMAGES = 24  # on which the scales of a network without BatchNorm are measured
PREPROCESSING_STAGES = (64, 300)
FIRST_BLOCKS_IMAGES = 8  # every pixel counts, so few suffice for brightness and contrast
DOMAIN_GAP_IMAGES = 24


def candidates(
    n: int,
    n_classes: int,
    smallest_class: int,
    head_names: tuple[str, ...],
    budget: Budget,
    task: Task = DEFAULT_TASK,
) -> tuple[str, ...]:
    """Heads to choose from, simplest first: ties go to the earlier.

    The class mean competes where some class has at most 5 examples (too few for a
    regression), the logistic path where it costs less than feature extraction; in tasks without
    classes a stack of all probes competes instead, while rows are few.

    >>> candidates(100, 2, 40, ("last", "late"), "fast")
    ('last', 'late')
    >>> candidates(100, 2, 4, ("last", "late"), "balanced")
    ('class-mean', 'logistic', 'last', 'late')
    >>> candidates(1800, 10, 100, ("last", "last-two", "late"), "fast")
    ('last', 'late')
    >>> candidates(100, 2, 4, ("last", "late"), "balanced", "regress")
    ('last', 'late', 'stack')
    >>> candidates(1800, 10, 100, ("last+prior", "last-two+prior"), "fast")
    ('last+prior',)
    """
    names: tuple[str, ...] = ()
    has_classes = TASKS[task].has_classes
    if has_classes and smallest_class <= 5 and n <= DUAL_LIMIT:
        names += ("class-mean",)
    if has_classes and budget != "fast" and n * n_classes <= LOGISTIC_LIMIT:
        names += ("logistic",)
    if n > MANY:
        allowed = PROBES_OF_MANY if n <= DUAL_LIMIT else PROBES_OF_MANY[:4]
        head_names = tuple(n for n in head_names if n.partition("+")[0] in allowed)
    is_stacked = not has_classes and n <= DUAL_LIMIT and len(head_names) > 1
    return names + head_names + (("stack",) if is_stacked else ())


class EngineSpeed(NamedTuple):
    """An engine's speed with one network on one machine."""

    setup: float  # seconds until it runs
    speed: float  # images a second


# EfficientNet-Lite0 at 224 px, two cores, from processor seconds (bench/results/engines.json).
REFERENCE = {
    "torch": EngineSpeed(0.2, 100.0),
    "traced": EngineSpeed(1.5, 110.0),
    "onnxruntime": EngineSpeed(1.7, 140.0),
    "openvino": EngineSpeed(1.9, 160.0),
}
REFERENCE_MACS = 384e6  # multiply-adds of this network
LEAST_WORK = 0.02  # of that, below which an image does not get any faster
MEASURED = 64  # images of a measurement
TENTH = 0.1  # of the extraction time, which all measurements may take
SHORT = 3.0  # seconds of extraction below which a better engine would hardly be noticed
OPTIMISM = 1.5  # over the estimated speed, for engines not measured yet


def estimate_speeds(measured: Mapping[str, EngineSpeed], macs: int) -> dict[str, EngineSpeed]:
    """Every engine's speed: measured, or estimated from multiply-adds and the measured engines.

    >>> estimate_speeds({}, 384_000_000)["torch"], estimate_speeds({}, 768_000_000)["torch"]
    (EngineSpeed(setup=0.2, speed=100.0), EngineSpeed(setup=0.2, speed=50.0))
    >>> estimate_speeds({"onnxruntime": EngineSpeed(1.0, 70.0)}, 384_000_000)["torch"]
    EngineSpeed(setup=0.2, speed=50.0)
    """
    work = max(macs / REFERENCE_MACS, LEAST_WORK)
    ratios = [math.log(one.speed * work / REFERENCE[name].speed) for name, one in measured.items()]
    faster = math.exp(sum(ratios) / len(ratios)) if ratios else 1.0
    estimated = {
        name: EngineSpeed(speed.setup, speed.speed / work * faster)
        for name, speed in REFERENCE.items()
    }
    return estimated | dict(measured)


def engine_seconds(speed: EngineSpeed, n_missing: int) -> float:
    """Forecast of extracting so many images. Without any, no engine is built.

    >>> engine_seconds(EngineSpeed(0.5, 75.0), 0), engine_seconds(EngineSpeed(0.5, 75.0), 750)
    (0.0, 10.5)
    """
    return speed.setup + n_missing / speed.speed if n_missing else 0.0


def choose_engine(missing: Mapping[str, int], speeds: Mapping[str, EngineSpeed]) -> str:
    """The engine with the least work left; `missing` counts images not in its feature cache.

    >>> speeds = estimate_speeds({}, 384_000_000)
    >>> choose_engine({"torch": 100, "onnxruntime": 100}, speeds)
    'torch'
    >>> choose_engine({"torch": 1000, "onnxruntime": 1000}, speeds)
    'onnxruntime'
    >>> choose_engine({"torch": 50, "onnxruntime": 250}, speeds)
    'torch'
    """
    return min(missing, key=lambda engine: engine_seconds(speeds[engine], missing[engine]))


def engine_to_measure(
    missing: Mapping[str, int], measured: Mapping[str, EngineSpeed], macs: int
) -> str | None:
    """The engine to measure before an engine is chosen; None where that would not pay.

    First the estimated best, then those that would win at half as much speed again. All
    measurements may take a tenth of the extraction. It depends on recorded numbers alone, so that
    two runs agree.

    >>> few, many = ({"torch": n, "onnxruntime": n} for n in (200, 2000))
    >>> engine_to_measure(few, {}, 384_000_000), engine_to_measure(many, {}, 384_000_000)
    (None, 'onnxruntime')
    >>> engine_to_measure(many, {"onnxruntime": EngineSpeed(1.3, 150.0)}, 384_000_000)
    'torch'
    """
    speeds = estimate_speeds(measured, macs)
    best = choose_engine(missing, speeds)
    extraction = engine_seconds(speeds[best], missing[best])
    spent = MEASURED / speeds[best].speed
    if extraction < SHORT:
        return None
    if best not in measured:
        return best if spent <= TENTH * extraction else None
    cost = {name: speed.setup + MEASURED / speed.speed for name, speed in speeds.items()}
    seconds = {}
    for name in missing:
        if name != best:
            optimistic = speeds[name]._replace(speed=OPTIMISM * speeds[name].speed)
            seconds[name] = engine_seconds(optimistic, missing[name])
    spent += sum(cost[name] for name in seconds if name in measured)
    for name in sorted(seconds, key=seconds.__getitem__):
        is_faster = name not in measured and seconds[name] < extraction
        if is_faster and spent + cost[name] <= TENTH * extraction:
            return name
    return None


def fine_tuned_blocks(n_blocks: int) -> int:
    """Uppermost blocks to fine-tune where that pays: half of them.

    On drawings and skin a third cost half the time and gained less (`bench run fine_tuning`).

    >>> [fine_tuned_blocks(n) for n in (1, 2, 12, 18)]
    [1, 1, 6, 9]
    """
    return max(n_blocks // 2, 1)


# Forward passes a second of that network in training: a step costs three, and two cores train
# 25 images a second (bench/results/train_speed.json).
TRAINED = 75.0


def training_seconds(macs: float) -> float:
    """Approximate seconds of so many multiply-adds of training; not measured, so that runs agree.

    >>> training_seconds(300 * REFERENCE_MACS)
    4.0
    """
    return macs / (REFERENCE_MACS * TRAINED)


EPOCHS: dict[Budget, int] = {"fast": 10, "balanced": 10, "thorough": 20}
# Trainings whose weights are averaged with `thorough`. Three of ten epochs had 4 to 21 % less
# log-loss on held-out rows than one of twenty (bench/results/failed_ideas.md).
SOUP = 3


def samples_seen(n: int, budget: Budget = "balanced") -> int:
    """Images that a training sees in all: ten epochs (`bench run fine_tuning` compares with five).

    At least as many as for 100 images, so that few images still make enough steps; at most as
    for 1,600, to save time. Twice as many with `thorough`.

    >>> samples_seen(50), samples_seen(400), samples_seen(9000), samples_seen(400, "thorough")
    (1000, 4000, 16000, 8000)
    """
    return EPOCHS[budget] * min(max(n, 100), 1600)


def epochs(samples: int, n: int) -> float:
    """How often each of n images is seen in a training on so many samples.

    To four digits, so that the number of samples follows from it.

    >>> epochs(1000, 48), epochs(4000, 400)
    (20.8333, 10.0)
    """
    return round(samples / max(n, 1), 4)


def batch_size(n: int) -> int:
    """Images a step: 32, or 16 where that leaves fewer than 20 steps an epoch.

    >>> [batch_size(n) for n in (50, 639, 640)]
    [16, 16, 32]
    """
    return 16 if n < 640 else 32


HOLDOUT_DIVISOR = 5  # one example in five is held out where a single training makes the estimate
MAX_AUGMENTATIONS: dict[Budget, int] = {"fast": 4, "balanced": 4, "thorough": 8}  # of an image


def training_folds(budget: Budget, n_groups: int) -> int:
    """Folds of fine-tuning, at most as many as independent examples.

    Five, as the gain from half the examples says little about the gain from all
    (bench/results/gain.json); three above 500 examples.

    >>> [training_folds("balanced", n) for n in (2, 300, 501)]
    [2, 5, 3]
    >>> training_folds("fast", 300), training_folds("thorough", 900)
    (1, 5)
    """
    folds = {"fast": 1, "balanced": 5 if n_groups <= 500 else 3, "thorough": 5}[budget]
    return min(folds, max(n_groups, 1))


# ---- The feature layers of linear probes: a few fixed weightings over depth, without labels.
#
# A greedy choice of layers flatters its own leave-one-out (wbc_cells .97 where the test set gives
# .91, RECIPE §2); a handful of fixed shapes over depth does not, and each fold can choose among
# them at no cost. That a head gains from all depths: Evci et al. 2022, "Head2Toe".


LayerWeights = dict[FeatureLayer, float]
Shape = Callable[[np.ndarray], np.ndarray]

# Shapes over relative depth, 0 (first block) to 1 (last block). Constants v0; measured on eight
# sets with EfficientNet-Lite0, mean test accuracy .848 against .804 for the last layer.
_VECTOR_SHAPES: dict[str, Shape] = {
    "late": lambda depth: 16.0**depth,
    "equal": lambda depth: np.ones_like(depth),
    "middle": lambda depth: np.exp(-0.5 * ((depth - 0.55) / 0.2) ** 2),
    "early": lambda depth: 16.0 ** (1 - depth),
}
_GRID_SHAPES: dict[str, Shape] = {
    "grid-late": lambda depth: 16.0**depth,
    "grid-upper": lambda depth: (depth >= 0.5).astype(float),
}


def probe_layers(feature_layers: Sequence[FeatureLayer]) -> dict[str, LayerWeights]:
    """Layer weights of each linear probe, summing to 1, simplest first.

    `last` is the input of the original head. The others exist where there is more than one
    depth; `grid-*` where maps are large enough for a 2x2 grid; `late-both` combines the two;
    `first-late` and `mean-and-first` where each layer has features of a text's first token.

    >>> two = (FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="neck"))
    >>> list(probe_layers(two))
    ['last', 'late', 'equal', 'middle', 'early']
    """
    vectors = [layer for layer in feature_layers if layer.pool not in ("grid2", "first")]
    grids = [layer for layer in feature_layers if layer.pool == "grid2"]
    firsts = [layer for layer in feature_layers if layer.pool == "first"]
    last = next(layer for layer in reversed(vectors) if layer.pool == "neck")
    probes: dict[str, LayerWeights] = {"last": {last: 1.0}}
    if len(vectors) > 2:
        probes["last-two"] = dict.fromkeys(vectors[-2:], 0.5)
    if len(vectors) > 1:
        probes |= {name: _weigh(vectors, shape) for name, shape in _VECTOR_SHAPES.items()}
    if len(grids) > 1:
        probes |= {name: _weigh(grids, shape) for name, shape in _GRID_SHAPES.items()}
        both = probes["late"] | probes["grid-late"]
        probes["late-both"] = {layer: w / 2 for layer, w in both.items()}
    if len(firsts) > 1:
        probes["first-late"] = _weigh(firsts, _VECTOR_SHAPES["late"])
        both = probes["late"] | probes["first-late"]
        probes["mean-and-first"] = {layer: w / 2 for layer, w in both.items()}
    return probes


def for_trained(names: Collection[str]) -> str:
    """The linear probe that is fitted on fine-tuned blocks.

    >>> for_trained(("last", "late", "equal"))
    'late'
    """
    return next(name for name in ("grid-late", "late", "last") if name in names)


def _weigh(feature_layers: Sequence[FeatureLayer], shape: Shape) -> LayerWeights:
    blocks = np.array([layer.block for layer in feature_layers], dtype=float)
    depth = (blocks - blocks[0]) / max(blocks[-1] - blocks[0], 1.0)
    weights = shape(depth)
    shares = weights / weights.sum()
    return {layer: float(w) for layer, w in zip(feature_layers, shares, strict=True)}


# ---- Learning rates.


OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}  # names in plans and in sentences

# Of fine-tuning without a recipe: AdamW 1e-3 for a convnet (3e-4 was too low for ten epochs; see
# `bench run fine_tuning`), v0 3e-5 for a transformer; SGD ten times that (BiT fine-tuned convnets
# with SGD at 0.003: Kolesnikov et al. 2020, "Big Transfer", §3.3).
DEFAULT_LRS: dict[Family, dict[str, float]] = {
    "convnet": {"adamw": 1e-3, "sgd": 1e-2},
    "transformer": {"adamw": 3e-5, "sgd": 3e-4},
    "mlp": {"adamw": 1e-3, "sgd": 1e-2},
}
SCRATCH = {"adamw": 1e-3, "sgd": 0.05}  # v0
NEW_MOST = 3.0  # times that, for some new layers among pretrained ones, v0
# AdamW decays the weights themselves, times the learning rate; SGD adds the decay to the
# gradient, where 1e-4 is usual (He et al. 2016, "Deep Residual Learning", §3.4).
WEIGHT_DECAY = {"adamw": 0.01, "sgd": 1e-4}
NEW = 10.0  # layers without pretraining or closed form, over the base learning rate
DECAY = 0.75  # a block over the block above it: Bao et al. 2022, "BEiT", .65 to .75 for 12 blocks
DECAY_BLOCKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateSpread:
    """The uppermost block's learning rate, and its decay towards the input.

    `max_new`: the highest learning rate of randomly initialised layers.
    """

    base: float
    decay: float
    is_scratch: bool = False
    max_new: float = math.inf

    def factor(self, times: float) -> float:
        """Learning rate of new layers over the base, at most `times`.

        >>> low = LearningRateSpread(base=3e-5, decay=1.0, max_new=0.003)
        >>> low.factor(10), LearningRateSpread(base=1e-3, decay=1.0, max_new=0.003).factor(10)
        (10, 3.0)
        """
        return max(min(times, round_lr(self.max_new / self.base)), 1.0)


def choose_optimizer(recipe: Recipe | None) -> Choice:
    """The optimizer that trained the base model, where it is one of ours; else AdamW.

    >>> choose_optimizer(None).value
    'adamw'
    """
    if recipe is not None and recipe.optimizer.lower() in OPTIMIZERS:
        name = recipe.optimizer.lower()
        why = f"{OPTIMIZERS[name]} trained this base model too"
        return by_rule(name, why)
    why = "it is the least sensitive to the learning rate; "
    why += "what trained this base model is not on record"
    if recipe is not None:
        why = f"{recipe.optimizer}, which trained this base model, is not offered here"
    return by_rule("adamw", why)


def base_lr(family: Family, optimizer: str, recipe: Recipe | None) -> Choice:
    """Peak learning rate of the uppermost fine-tuned block: a tenth of its pretraining's.

    With another optimizer, or without a recipe, the default of the family.

    >>> recipe = Recipe(optimizer="sgd", lr=0.01, batch_size=32, schedule="cosine")
    >>> base_lr("convnet", "sgd", recipe).value
    0.001
    >>> base_lr("transformer", "adamw", None).value
    3e-05
    """
    name = OPTIMIZERS[optimizer]
    if recipe is not None and recipe.optimizer.lower() == optimizer:
        why = f"a tenth of {recipe.lr:g}, with which {name} trained this base model"
        return by_rule(round_lr(recipe.lr / 10), why)
    lack = "its pretraining learning rate is not on record"
    if recipe is not None:
        lack = f"its pretraining learning rate {recipe.lr:g} was for {recipe.optimizer}"
    network = {"mlp": "an MLP"}.get(family, f"a {family}")
    why = f"usual for fine-tuning {network} with {name}; {lack}"
    return by_rule(DEFAULT_LRS[family][optimizer], why)


def convert_lr(lr: float, before: str, after: str, is_scratch: bool) -> float:
    """The learning rate of one optimizer that corresponds to `lr` of another.

    >>> convert_lr(3e-4, "adamw", "sgd", False)
    0.003
    """
    lrs = SCRATCH if is_scratch else DEFAULT_LRS["convnet"]  # the same ratio in every family
    return round_lr(lr * lrs[after] / lrs[before])


def max_new_lr(optimizer: str) -> float:
    """The highest learning rate of randomly initialised layers among others.

    >>> max_new_lr("adamw"), max_new_lr("another")
    (0.003, inf)
    """
    return NEW_MOST * SCRATCH.get(optimizer, math.inf)


def layer_decay(n_blocks: int) -> float:
    """A block's learning rate over that of the block above it: 0.75, milder beyond 12 blocks.

    There the first block gets the same learning rate as in a network of 12.

    >>> layer_decay(3), layer_decay(12), layer_decay(24)
    (0.75, 0.75, 0.866)
    """
    return round_lr(DECAY ** min(DECAY_BLOCKS / n_blocks, 1.0))


def block_lrs(actions: Sequence[Action], spread: LearningRateSpread) -> list[Choice | None]:
    """The rule's learning rate of each block, None where nothing moves.

    `actions` are those of the blocks, added layers and head, in this order. Where no block moves,
    the head is fitted in closed form, and all are None. Above randomly initialised layers the
    head is random, too.

    >>> spread = LearningRateSpread(base=0.01, decay=0.5)
    >>> rates = block_lrs(["frozen", "tuned", "tuned", "replaced"], spread)
    >>> [rate and rate.value for rate in rates]
    [None, 0.005, 0.01, 0.01]
    """
    if not train_network(actions):
        return [None] * len(actions)
    each = [ACTIONS[action] for action in actions]
    n_body = sum(action.place == "block" for action in each)
    is_new_head = any(action.is_random for action in each) and not spread.is_scratch
    return [
        _choose_lr(action, max(n_body - 1 - place, 0), spread, is_new_head)
        for place, action in enumerate(each)
    ]


def round_lr(lr: float) -> float:
    """Three significant digits: more would claim a precision that nobody has.

    >>> round_lr(0.000168749)
    0.000169
    """
    return float(f"{lr:.3g}")


def _choose_lr(
    action: BlockAction, height: int, spread: LearningRateSpread, is_new_head: bool
) -> Choice | None:
    base, text, new = spread.base, f"{spread.base:g}", spread.factor(NEW)
    if not action.is_trained:
        return None
    if action.is_new and not (action.is_random and spread.is_scratch):
        why = f"{new:g} x {text}: new layers have the farthest to go"
        return by_rule(round_lr(new * base), why)
    if action.place == "head" and is_new_head:
        why = f"{new:g} x {text}: above randomly initialised layers it is random too"
        return by_rule(round_lr(new * base), why)
    if action.place == "head":
        why = f"{text}, as the layers below it: it is fitted to them first"
        if spread.is_scratch:
            why = f"{text}, as for every new layer"
        return by_rule(round_lr(base), why)
    times, lead, why = 1.0, "", "layers nearer the input move less"
    if not height:
        why = "the layer next to the head moves most"
    if action.lr_factor != 1:
        times = spread.factor(action.lr_factor)
        lead, why = f"{times:g} x ", action.lr_because
    if action.is_random:
        why = "every layer is new"
    power = "" if not height or spread.decay == 1 else f" x {spread.decay:g}^{height}"
    value = round_lr(times * base * spread.decay**height)
    return by_rule(value, f"{lead}{text}{power}: {why}")
