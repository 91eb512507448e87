"""Forecasts of a run's seconds and MB, from measured speeds, and plans cut to fit --minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from warmstart.modalities.nouns import IMAGES
from warmstart.nouns import Nouns
from warmstart.planning import rules
from warmstart.planning.fine_tuning import BYTES, LEAST_UPDATES, choose_ema_decay
from warmstart.planning.rules import HOLDOUT_DIVISOR, training_seconds
from warmstart.planning.schedule import Schedule, for_fold, head_only, schedule
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Forecast, Plan

VALIDATIONS = 9  # forward passes of the held-out rows in a training
ENDS = 2  # forward passes of some rows at the end of each training
MEAN_COPIES = 3  # extra models of a model soup: the first one, its weights, the others'
PIXELS_MB = 64  # of images in memory; more are on disk
# Memory of an engine on top of torch, measured with EfficientNet-Lite0.
ENGINE_MB = {"torch": 0, "traced": 30, "onnxruntime": 100, "openvino": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Speeds of this machine with this network, just measured."""

    elapsed: float  # seconds until now: imports, reading, loading, partitioning
    forward: float  # seconds an image, of a forward pass in torch
    setup: float  # seconds until the engine of the feature extraction runs
    extracted: float  # seconds an image, in that engine
    decode: float  # seconds an image, on one core
    step: float  # seconds of one training step; 0 where nothing is trained
    augment: float  # seconds of an augmentation, on one core; 0 likewise
    algebra: float  # seconds of one inverse of 300 rows
    forward_mb: float  # peak memory of a forward pass
    step_mb: float  # of a training step beyond that
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The amount of work."""

    n: int
    n_test: int
    n_missing: int  # images whose features are not cached
    n_classes: int
    holdout: int  # rows of the user's validation set
    width: int  # features of each image, all layers together
    image_bytes: int  # of one prepared image
    model_bytes: int
    is_streamed: bool = False  # offloaded: never in memory as a whole
    n_sharing: int = 1  # processes that share the weights in training
    offload_bytes: int = 0  # on disk between two blocks of such a network
    trained_share: float = 1.0  # share of a forward pass above the cache
    cached_values: int = 0  # cached numbers of each augmentation of an image
    caches_plain: bool = False  # whether feature extraction has cached the plain images
    runs_controls: bool = False  # whether the budget runs the network again for evidence


def forecast(plan: Plan, load: Load, speeds: Speeds) -> Forecast:
    """Seconds by stage, memory and disk of following a plan."""
    infer = speeds.forward + speeds.decode / speeds.threads
    seconds = {
        "read": speeds.elapsed,
        "features": _extraction_seconds(load, speeds),
        "checks": _check_seconds(load, speeds),
        "head": _head_seconds(plan, load.n, speeds),
        "fine_tune": _training_seconds(plan, load, speeds) if plan.is_trained else 0.0,
        "evaluate": infer * load.n_test if plan.is_trained else 0.1,
        "deliver": 0.5 + (load.trained_share * infer * load.n if plan.is_trained else 0.0),
    }
    total = sum(seconds.values())
    return Forecast(
        seconds={**{k: round(v, 2) for k, v in seconds.items()}, "total": round(total, 2)},
        memory_mb=round(_memory_mb(plan, load, speeds), 1),
        disk_mb=round(_disk_bytes(plan, load) / 1e6 + 1.0, 1),
    )


def _disk_bytes(plan: Plan, load: Load) -> float:
    features = 4 * load.width * load.n_missing + load.offload_bytes
    if not plan.is_trained or not (chosen := schedule(plan)).split_at:
        return load.model_bytes + features
    cached = load.n * _n_cached(chosen) * load.cached_values * BYTES[chosen.cache_dtype]
    return load.model_bytes + features + cached


def _n_cached(chosen: Schedule) -> int:
    return chosen.augmentations + 1 if chosen.is_varied else 1


def _extraction_seconds(load: Load, speeds: Speeds) -> float:
    if not load.n_missing:
        return 0.3
    infer = speeds.extracted + speeds.decode / speeds.threads
    return 0.2 + speeds.setup + load.n_missing * infer


def _check_seconds(load: Load, speeds: Speeds) -> float:
    """Permutation test and curves grow with the rows; controls run the network again."""
    closed = 0.1 + 1.2 * load.n * speeds.algebra
    return closed + (control_images(load.n) * speeds.forward if load.runs_controls else 0.0)


def control_images(n: int) -> float:
    """Forward passes of the transfer gain, domain gap and preprocessing checks, in whole images.

    By eye from runs on eight image sets; bench/results/forecast.json judges it on five of them.

    >>> control_images(50) < control_images(500)
    True
    """
    return 100 + 0.5 * min(n, 400)


def _head_seconds(plan: Plan, n: int, speeds: Speeds) -> float:
    """Every candidate and penalty: proportional to the rows, measured from 59 to 1,000."""
    fits = _count(plan.head.candidates.value) * _count(plan.head.penalties.value)
    return 0.1 + fits * 0.067 * n * speeds.algebra


def _training_seconds(plan: Plan, load: Load, speeds: Speeds) -> float:
    """All trainings and their validations, a head for each, and the cache."""
    chosen = schedule(plan)
    n_folds = 1 if load.holdout else chosen.folds
    n_held = load.holdout or (load.n // HOLDOUT_DIVISOR if n_folds == 1 else load.n)
    n_train = load.n - n_held // n_folds
    fits = n_folds * _head_seconds(plan, n_train, speeds) / 3
    # A forward pass takes a third of a step.
    forward = speeds.step / chosen.batch_size / 3
    # Every row once more for a head in closed form; those at two other ends are not counted.
    ends = ENDS * min(n_train, 64) + load.n
    validations = (VALIDATIONS * n_held + (n_folds + chosen.model_soup) * ends) * forward
    n_steps = n_folds * for_fold(chosen, load.n - n_train, load.n).n_steps
    n_steps += chosen.model_soup * chosen.n_steps
    return n_steps * speeds.step + fits + validations + _cache_seconds(load, speeds, chosen)


def _cache_seconds(load: Load, speeds: Speeds, chosen: Schedule) -> float:
    """Decoding the images once, and caching the activations of every version."""
    decoded = load.n * speeds.decode / speeds.threads
    if not chosen.split_at:
        return decoded
    forward = (_n_cached(chosen) - load.caches_plain) * (1 - load.trained_share) * speeds.forward
    augment = (_n_cached(chosen) - 1) * speeds.augment / speeds.threads
    return decoded + load.n * (forward + augment)


def _memory_mb(plan: Plan, load: Load, speeds: Speeds) -> float:
    """The peak of a forward pass, and what the largest stage adds."""
    rows = min(load.n, 2000)
    features = 4 * load.width * (load.n + load.n_test) / 1e6
    kernels = 8 * rows**2 * (_count(plan.head.candidates.value) + 4) / 1e6
    is_live = plan.is_trained and not schedule(plan).split_at
    pixels = min(load.image_bytes * load.n / 1e6, PIXELS_MB) if is_live else 0.0
    # Weights, gradients, two moments; where they are shared, first the weights and a share.
    copies = max(4 / load.n_sharing, 1 + 1 / load.n_sharing)
    is_in_memory = plan.is_trained and not load.is_streamed
    copies += MEAN_COPIES if is_in_memory and schedule(plan).model_soup > 1 else 0
    trained = copies * load.model_bytes / 1e6 if is_in_memory else 0.0
    engine = ENGINE_MB.get(str(plan.training.engine.value), 0) if load.n_missing else 0
    exported = engine + load.model_bytes / 1e6 if engine else 0.0
    stages = max(kernels, pixels + trained + speeds.step_mb)
    return speeds.forward_mb + exported + features + stages


def _count(value: object) -> int:
    return len(value) if isinstance(value, tuple) else 1


MARGIN = 0.9  # share of the minutes for the forecast, which may be wrong by a tenth
LEAST_STEPS = 40  # updates below which a training says little
CLOSE = 0.08  # share of the minutes for controls of the base model
TRIES = 6  # bisections of the number of epochs
_FROM, _GIVEN_UP = "cut from ", " was given up: "
_NO_TIME = "the minutes leave no time for it"


def skips_controls(minutes: float, network: NetworkRecord, n: int) -> bool:
    """Whether controls of the base model take too much of the minutes, by multiply-adds."""
    macs = sum(block.macs for block in network.blocks)
    return training_seconds(control_images(n) * macs) > CLOSE * 60 * minutes


def fit_to_time(plan: Plan, seconds: float, forecast: Callable[[Plan], float]) -> Plan:
    """The plan, cut until its forecast fits; its choices record the cuts.

    The user's values stay. Folds and the model soup are cut first, then epochs; where not even
    `LEAST_STEPS` updates fit, only the head is trained. An offloaded network gets as many
    augmentations as fit. `forecast` returns the seconds of a whole run with a plan.
    """

    def fits(other: Plan) -> bool:
        return forecast(other) <= MARGIN * seconds

    folds, epochs = plan.training.folds, plan.training.epochs
    if not plan.is_trained or folds is None or epochs is None:
        return plan
    minutes, shorter = seconds / 60, plan
    if fits(plan):
        return _restore_augmentations(plan, minutes, fits)
    soup = plan.training.model_soup
    cuts = [("folds", folds, n) for n in (3, 2, 1)]
    cuts += [("model_soup", soup, n) for n in range(int(soup.number) - 1, 0, -1)] if soup else []
    for name, choice, value in cuts:
        if choice.source != "user" and choice.number > value:
            cut = {name: _cut(choice, value, minutes)}
            shorter = replace(shorter, training=replace(shorter.training, **cut))
            if fits(shorter):
                return shorter
    if epochs.source == "user":
        return shorter
    if (shortest := _shorten(shorter, minutes, fits)) is not None:
        return shortest
    if plan.strategy.source == "user":
        return head_only(plan, _NO_TIME, f"{plan.strategy.value}{_GIVEN_UP}{_NO_TIME}")
    return head_only(plan, f"{plan.strategy.value} was not tried: {_NO_TIME}")


def _restore_augmentations(plan: Plan, minutes: float, fits: Callable[[Plan], bool]) -> Plan:
    """The plan with as many augmentations of an offloaded network as fit."""
    current = plan.training.augmentations
    is_offloaded = plan.training.offload is not None
    if not is_offloaded or current is None or current.source != "rule" or current.rule is None:
        return plan
    for count in range(int(float(str(current.rule))), int(current.number), -1):
        because = f"as many as --minutes {minutes:g} allow"
        choice = replace(current, value=count, because=because, source="measured")
        more = replace(plan, training=replace(plan.training, augmentations=choice))
        if fits(more):
            return more
    return plan


def _shorten(plan: Plan, minutes: float, fits: Callable[[Plan], bool]) -> Plan | None:
    """The longest training that fits, to some hundredths; None if none does."""
    training, batch = plan.training, int(plan.training.batch_size.number)
    epochs = training.epochs
    if epochs is None:
        return None

    def of(n_steps: int) -> Plan:
        cut = _cut(epochs, rules.epochs(n_steps * batch, plan.examples), minutes)
        ema_decay = training.ema_decay
        is_rule = ema_decay is not None and ema_decay.source == "rule" and ema_decay.number > 0
        if training.is_paired and is_rule:
            ema_decay = choose_ema_decay(n_steps * batch, batch, is_paired=True)
        return replace(plan, training=replace(training, epochs=cut, ema_decay=ema_decay))

    least = LEAST_UPDATES if training.is_paired else LEAST_STEPS
    most = -(-plan.samples_seen // batch)
    if least >= most or not fits(of(least)):
        return None
    for _ in range(TRIES):
        middle = (least + most) // 2
        least, most = (middle, most) if fits(of(middle)) else (least, middle)
    return of(least)


def time_ran_out(plan: Plan) -> str:
    """Why the user's training was left out; empty if it was not."""
    because = plan.strategy.because
    return _NO_TIME if because.endswith(f"{_GIVEN_UP}{_NO_TIME}") else ""


def given_up(plan: Plan, nouns: Nouns = IMAGES) -> str:
    """The cuts of a plan, in words; empty without any."""
    if plan.strategy.because.endswith(_NO_TIME):
        return plan.strategy.because
    cuts = []
    folds = f"trainings that hold {nouns.many} out"
    soup = "trainings whose weights are averaged"
    for name, what in (("folds", folds), ("model_soup", soup), ("epochs", "epochs")):
        choice: Choice | None = getattr(plan.training, name)
        if choice is not None and choice.because.startswith(_FROM):
            before = choice.because.removeprefix(_FROM).partition(" ")[0]
            cuts.append(f"{what} {choice.number:.4g} instead of {before}")
    return "; ".join(cuts)


def _cut(choice: Choice, value: float, minutes: float) -> Choice:
    because = f"{_FROM}{choice.number:.4g} to fit --minutes {minutes:g}"
    rule = choice.value if choice.rule is None else choice.rule
    return Choice(value=value, because=because, source="measured", rule=rule)
