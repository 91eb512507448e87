"""From a few measured speeds to what a run will take: plain numbers in, seconds and MB out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from warmstart.nouns import IMAGES, Nouns
from warmstart.planning import rules
from warmstart.planning.cached_activations import BYTES
from warmstart.planning.contrastive import LEAST_UPDATES, updated_ema_decay
from warmstart.planning.rules import HOLDOUT_DIVISOR, training_seconds
from warmstart.planning.schedule import Schedule, head_only, for_fold, schedule
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Forecast, Plan

LOOKS = 9  # passes of the rows held out: before, on the way, and at shares of the way
ENDS = 2  # passes of some rows at the end of each training
MEAN_COPIES = 3  # models beside, where the mean of several is taken: the first, its weights, theirs
PIXELS_MB = 64  # of images kept in memory; more lie on disk
# What an engine takes beside torch, measured with EfficientNet-Lite0.
ENGINE_MB = {"torch": 0, "traced": 30, "onnxruntime": 100, "openvino": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What this machine needs, measured with this network a moment ago."""

    elapsed: float  # seconds until now: imports, reading, loading, cutting
    forward: float  # seconds an image, passing the frozen network in torch
    setup: float  # seconds until the engine of the look runs
    extracted: float  # seconds an image, passing the network in that engine
    decode: float  # seconds an image, on one core
    step: float  # seconds of one training step; 0 where nothing is trained
    augment: float  # seconds of one random view of an image, on one core; 0 likewise
    algebra: float  # seconds of one inverse of 300 rows
    forward_mb: float  # most memory until a pass of the network was over
    step_mb: float  # what a step of training took beyond that
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much there is to do."""

    n: int
    n_test: int
    n_missing: int  # images whose features are not in the store
    n_classes: int
    holdout: int  # rows that the user set apart
    width: int  # numbers kept of each image, all taps together
    image_bytes: int  # of one prepared image
    model_bytes: int
    is_streamed: bool = False  # whether no more of it is in memory than a step was measured with
    n_sharing: int = 1  # processes that share the weights while they are trained
    offload_bytes: int = 0  # on disk between two parts of such a network
    trained_share: float = 1.0  # share of a pass that training repeats, above what is stored
    cached_values: int = 0  # numbers that are stored of each view of an image
    caches_plain: bool = False  # whether the look has kept the plain view of them
    runs_controls: bool = False  # whether the budget runs the network again for evidence


def forecast(plan: Plan, load: Load, speeds: Speeds) -> Forecast:
    """Seconds by stage, memory and disk of following a plan."""
    see = speeds.forward + speeds.decode / speeds.threads
    seconds = {
        "read": speeds.elapsed,
        "features": _look(load, speeds),
        "checks": _check(load, speeds),
        "head": _head(plan, load.n, speeds),
        "fine_tune": _tune(plan, load, speeds) if plan.is_trained else 0.0,
        "evaluate": see * load.n_test if plan.is_trained else 0.1,
        "deliver": 0.5 + (load.trained_share * see * load.n if plan.is_trained else 0.0),
    }
    total = sum(seconds.values())
    return Forecast(
        seconds={**{k: round(v, 2) for k, v in seconds.items()}, "total": round(total, 2)},
        memory_mb=round(_memory(plan, load, speeds), 1),
        disk_mb=round(_disk(plan, load) / 1e6 + 1.0, 1),
    )


def _disk(plan: Plan, load: Load) -> float:
    """Bytes of the model, of features, of the stored outputs of frozen layers."""
    features = 4 * load.width * load.n_missing + load.offload_bytes
    if not plan.is_trained or not (chosen := schedule(plan)).split_at:
        return load.model_bytes + features
    return (
        load.model_bytes
        + features
        + load.n * _views(chosen) * load.cached_values * BYTES[chosen.cache_dtype]
    )


def _views(chosen: Schedule) -> int:
    """Views of an image that are stored, the plain one among them."""
    return chosen.augmentations + 1 if chosen.is_varied else 1


def _look(load: Load, speeds: Speeds) -> float:
    """Passing what the store lacks."""
    if not load.n_missing:
        return 0.3
    see = speeds.extracted + speeds.decode / speeds.threads
    return 0.2 + speeds.setup + load.n_missing * see


def _check(load: Load, speeds: Speeds) -> float:
    """The signal test and the curves grow with the rows; controls pass images again."""
    closed = 0.1 + 1.2 * load.n * speeds.algebra
    return closed + (control_images(load.n) * speeds.forward if load.runs_controls else 0.0)


def control_images(n: int) -> float:
    """Passes that the knowledge, distance and preprocessing tests are worth, in whole images.

    By eye from runs on eight image sets: 100 to 300 at first, more where the first step of the
    knowledge test is not plain. bench/results/forecast.json judges it on five of them.

    >>> control_images(50) < control_images(500)
    True
    """
    return 100 + 0.5 * min(n, 400)


def _head(plan: Plan, n: int, speeds: Speeds) -> float:
    """Every candidate and penalty. Measured from 59 to 1,000 rows: in line with the rows."""
    fits = _count(plan.head.candidates.value) * _count(plan.head.penalties.value)
    return 0.1 + fits * 0.067 * n * speeds.algebra


def _tune(plan: Plan, load: Load, speeds: Speeds) -> float:
    """All trainings and their looks, a head for each, and what is stored before them."""
    chosen = schedule(plan)
    n_folds = 1 if load.holdout else chosen.folds
    held = load.holdout or (load.n // HOLDOUT_DIVISOR if n_folds == 1 else load.n)
    kept = load.n - held // n_folds
    fits = n_folds * _head(plan, kept, speeds) / 3
    # A pass without a gradient takes a third of a step.
    seen = speeds.step / chosen.batch_size / 3
    # Every row once more for an output in closed form; those at two other ends are not counted.
    ends = ENDS * min(kept, 64) + load.n
    looks = (LOOKS * held + (n_folds + chosen.model_soup) * ends) * seen
    n_steps = n_folds * for_fold(chosen, load.n - kept, load.n).n_steps
    n_steps += chosen.model_soup * chosen.n_steps
    return n_steps * speeds.step + fits + looks + _stored(load, speeds, plan)


def _stored(load: Load, speeds: Speeds, plan: Plan) -> float:
    """The images decoded once; where outputs are stored, every view of them passed."""
    chosen = schedule(plan)
    decoded = load.n * speeds.decode / speeds.threads
    if not chosen.split_at:
        return decoded
    passed = (_views(chosen) - load.caches_plain) * (1 - load.trained_share) * speeds.forward
    made = (_views(chosen) - 1) * speeds.augment / speeds.threads
    return decoded + load.n * (passed + made)


def _memory(plan: Plan, load: Load, speeds: Speeds) -> float:
    """What a pass took at most, and what the largest stage adds."""
    rows = min(load.n, 2000)
    features = 4 * load.width * (load.n + load.n_test) / 1e6
    kernels = 8 * rows**2 * (_count(plan.head.candidates.value) + 4) / 1e6
    is_live = plan.is_trained and not schedule(plan).split_at
    pixels = min(load.image_bytes * load.n / 1e6, PIXELS_MB) if is_live else 0.0
    # Weights, gradients, two moments; where they are shared, first the weights and a share.
    copies = max(4 / load.n_sharing, 1 + 1 / load.n_sharing)
    is_beside = plan.is_trained and not load.is_streamed
    copies += MEAN_COPIES if is_beside and schedule(plan).model_soup > 1 else 0
    trained = copies * load.model_bytes / 1e6 if is_beside else 0.0
    beside = ENGINE_MB.get(str(plan.training.engine.value), 0) if load.n_missing else 0
    exported = beside + load.model_bytes / 1e6 if beside else 0.0
    stages = max(kernels, pixels + trained + speeds.step_mb)
    return speeds.forward_mb + exported + features + stages


def _count(value: object) -> int:
    return len(value) if isinstance(value, tuple) else 1


# ---- --minutes M: a plan cut down until its forecast fits, saying what was given up.
#
# What the user set stays as it is. What goes first costs least: trainings that only sharpen the
# estimate, then images passed, then training itself.


# ---- The time that a run may take for its trainings.


@dataclass(frozen=True, slots=True)
class Allowance:
    """Until when there is time for training, of `time.perf_counter`; None: as much as it takes."""

    until: float | None = None

    def share(self, part: float) -> float | None:
        """When a training should end that may take this part of the time that is left.

        >>> Allowance().share(0.5) is None
        True
        """
        if self.until is None:
            return None
        now = time.perf_counter()
        return now + part * max(self.until - now, 0.0)


MARGIN = 0.9  # share of the minutes that the forecast may fill: it may be wrong by a tenth
LEAST_STEPS = 40  # updates below which a training says little
CLOSE = 0.08  # share of the minutes that a close look at what the start knows may take
TRIES = 6  # times that the number of images passed is halved in on
_FROM, _GONE = "cut from ", " was given up: "
_NO_TIME = "the minutes leave no time for it"


def skips_controls(minutes: float, network: NetworkRecord, n: int) -> bool:
    """Whether a close look at what the start knows would take too much of the minutes.

    By multiply-adds, so that two runs agree.
    """
    macs = sum(block.macs for block in network.blocks)
    return training_seconds(control_images(n) * macs) > CLOSE * 60 * minutes


def fit_to_time(plan: Plan, seconds: float, forecast: Callable[[Plan], float]) -> Plan:
    """The plan, cut no more than it takes for its forecast to fit.

    Where not even `LEAST_STEPS` updates fit, the output alone is learnt; a plan whose images
    passed are the user's own is left as it is. Views of which a streamed network was given few
    become as many as fit. `forecast` gives the seconds that following a plan takes in all.
    """

    def fits(other: Plan) -> bool:
        return forecast(other) <= MARGIN * seconds

    folds, epochs = plan.training.folds, plan.training.epochs
    if not plan.is_trained or folds is None or epochs is None:
        return plan
    minutes, once = seconds / 60, plan
    if fits(plan):
        return _with_views(plan, minutes, fits)
    soup = plan.training.model_soup
    fewer = [("folds", folds, n) for n in (3, 2, 1)]
    fewer += [("model_soup", soup, n) for n in range(int(soup.number) - 1, 0, -1)] if soup else []
    for name, choice, value in fewer:
        if choice.source != "user" and choice.number > value:
            cut = {name: _cut(choice, value, minutes)}
            once = replace(once, training=replace(once.training, **cut))
            if fits(once):
                return once
    return once if epochs.source == "user" else _shortened(once, minutes, fits) or _without(plan)


def _with_views(plan: Plan, minutes: float, fits: Callable[[Plan], bool]) -> Plan:
    """The plan with as many of the views that were given up for time as there is time for."""
    seen = plan.training.augmentations
    if plan.training.offload is None or seen is None or seen.source != "rule" or seen.rule is None:
        return plan
    for count in range(int(float(str(seen.rule))), int(seen.number), -1):
        views = replace(
            seen, value=count, because=f"as many as --minutes {minutes:g} allow", source="measured"
        )
        more = replace(plan, training=replace(plan.training, augmentations=views))
        if fits(more):
            return more
    return plan


def _shortened(plan: Plan, minutes: float, fits: Callable[[Plan], bool]) -> Plan | None:
    """The longest training that fits, to some hundredths; None where none does."""
    training, batch = plan.training, int(plan.training.batch_size.number)
    epochs = training.epochs
    if epochs is None:
        return None

    def of(n_steps: int) -> Plan:
        cut = _cut(epochs, rules.epochs(n_steps * batch, plan.examples), minutes)
        average = training.ema_decay
        if training.is_paired and average is not None and average.source == "rule":
            average = updated_ema_decay(average, n_steps * batch, batch)
        return replace(plan, training=replace(training, epochs=cut, ema_decay=average))

    least = LEAST_UPDATES if training.is_paired else LEAST_STEPS
    most = -(-plan.samples_seen // batch)
    if least >= most or not fits(of(least)):
        return None
    for _ in range(TRIES):
        middle = (least + most) // 2
        least, most = (middle, most) if fits(of(middle)) else (least, middle)
    return of(least)


def _without(plan: Plan) -> Plan:
    """The plan of the output alone, where there is no time for layers."""
    if plan.strategy.source == "user":
        return head_only(plan, _NO_TIME, f"{plan.strategy.value}{_GONE}{_NO_TIME}")
    return head_only(plan, f"{plan.strategy.value} was not tried: {_NO_TIME}")


def time_ran_out(plan: Plan) -> str:
    """Why a training that the user chose was left out; nothing where none was."""
    because = plan.strategy.because
    return _NO_TIME if because.endswith(f"{_GONE}{_NO_TIME}") else ""


def given_up(plan: Plan, nouns: Nouns = IMAGES) -> str:
    """What was cut from a plan, in words; nothing where nothing was."""
    if plan.strategy.because.endswith(_NO_TIME):
        return plan.strategy.because
    found = []
    held = f"trainings that hold {nouns.many} out"
    alike = "trainings whose weights are averaged"
    for name, what in (("folds", held), ("model_soup", alike), ("epochs", "epochs")):
        choice: Choice | None = getattr(plan.training, name)
        if choice is not None and choice.because.startswith(_FROM):
            before = choice.because.removeprefix(_FROM).partition(" ")[0]
            found.append(f"{what} {choice.number:.4g} instead of {before}")
    return "; ".join(found)


def _cut(choice: Choice, value: float, minutes: float) -> Choice:
    because = f"{_FROM}{choice.number:.4g} to fit --minutes {minutes:g}"
    rule = choice.value if choice.rule is None else choice.rule
    return Choice(value=value, because=because, source="measured", rule=rule)
