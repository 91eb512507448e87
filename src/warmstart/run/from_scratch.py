"""The same design trained from nothing, beside what the run has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.events import BESIDE, Event, Steps, note
from warmstart.evidence import check
from warmstart.features.machine import freed_memory_kept
from warmstart.network.feature_layers import feature_layers
from warmstart.network.finished_run import partition_base
from warmstart.network.ledger import take_digests
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network
from warmstart.nouns import IMAGES, Nouns
from warmstart.planning import fine_tuning
from warmstart.planning.schedule import schedule
from warmstart.planning.verdict import has_signal
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.records.summary import Evidence, Inspection, Verdict
from warmstart.request import Request
from warmstart.run import plan as run_plan
from warmstart.run.base_model import open_base
from warmstart.run.inputs import SIZE, input_options
from warmstart.solve.calibration import Calibration
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.learning_curve import FORECAST_SD, fit_power_law
from warmstart.stats.paired import mean_interval
from warmstart.stats.permutation import spread_order
from warmstart.training.cached_activations import augmentations_of
from warmstart.training.checkpoint import NoCheckpoints
from warmstart.training.dataset import LabelledRows, TrainingDataset, members
from warmstart.training.fine_tune import FineTuned, held_out_folds
from warmstart.training.job import TrainingJob
from warmstart.training.linear_probe import HeadFit, zero_head
from warmstart.training.live import read_pixels
from warmstart.training.score import ModelEvaluation
from warmstart.training.shared import LiveBatches, TrainingContext
from warmstart.training.trainable import TrainableNetwork, trainable
from warmstart.training.validation import CANDIDATES, choose

# ---- Would the same design, trained from nothing, reach this start with twice the examples?


NAME = "scratch"
BOOTS = 400
Values = NDArray[np.float64]
Indices = NDArray[np.int64]


def scratch(
    sizes: Values,
    hits: Values,
    warm: Values,
    groups: Indices,
    side: int,
    rng: np.random.Generator,
    nouns: Nouns = IMAGES,
) -> Evidence:
    """Accuracy from nothing at twice the examples, less that of the warm start with these.

    A power law of the odds through the sizes, carried on to twice the largest; rows are drawn
    with replacement, blocks whole, for the interval, and the form's own error stands beside.
    Shapes: sizes (S,) rows learnt from, S >= 2, hits (S, n) whether each row is answered
    rightly by a network that had not seen it, warm (n,) the same of the warm start, blocks (n,).
    `side` of the images in px.
    """
    n = hits.shape[1]
    to = 2 * sizes[-1]
    law = fit_power_law(sizes, hits.mean(axis=1))
    value = law.at(to) - float(warm.mean())
    spread = float(np.std([_drawn(sizes, hits, warm, groups, to, rng) for _ in range(BOOTS)]))
    error = float(np.hypot(spread, FORECAST_SD / np.sqrt(sizes[-1])))
    now, later = float(hits[-1].mean()), law.at(to)
    return Evidence(
        name=NAME,
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=n,
        meaning=(
            f"Trained from nothing{nouns.sized.format(side)}, the same design is right "
            f"{100 * now:.0f} % of the time, and about {100 * later:.0f} % with twice the "
            f"{nouns.many}; this start is right {100 * float(warm.mean()):.0f} % of the time with "
            "these."
        ),
        details={
            "error": error,
            "now": now,
            "later": later,
            "warm": float(warm.mean()),
            **{
                f"accuracy.{round(float(m))}": float(h.mean())
                for m, h in zip(sizes, hits, strict=True)
            },
        },
    )


def behind(
    size: float, hits: Values, warm: Values, groups: Indices, side: int, nouns: Nouns = IMAGES
) -> Evidence | None:
    """The same from one size, where it is plain: half the errors would still be too many.

    Twice the examples halve the errors of a network that learns as fast as any do (Hestness et
    al. 2017, "Deep Learning Scaling is Predictable, Empirically", §2: errors fall with a power
    of the number of examples, at most its first). None where that could reach the warm start.
    Shapes: hits, warm, blocks (n,), of one fold that was held out; `size` rows learnt from.

    >>> right, nothing, groups = np.ones(60), np.tile([0.0, 0.0, 1.0], 20), np.arange(60)
    >>> behind(120, nothing, right, groups, 96).value, behind(120, right, right, groups, 96)
    (-0.333..., None)
    """
    later = 1 - (1 - hits) / 2
    value, low, high = mean_interval(later - warm, groups)
    if high >= 0:
        return None
    now, base = float(hits.mean()), float(warm.mean())
    return Evidence(
        name=NAME,
        value=value,
        low=low,
        high=high,
        n=len(hits),
        meaning=(
            f"Trained from nothing{nouns.sized.format(side)}, the same design is right "
            f"{100 * now:.0f} % of the time, this start {100 * base:.0f} %; it would stay behind "
            f"if twice the {nouns.many} halved its errors."
        ),
        details={
            "error": (high - low) / (2 * 1.96),
            "now": now,
            "later": float(later.mean()),
            "warm": base,
            f"accuracy.{round(size)}": now,
        },
    )


def not_measured(n: int, why: str) -> Evidence:
    """The same, where no network was trained from nothing.

    >>> not_measured(30, "too few examples").meaning
    'Not measured: too few examples.'
    """
    return Evidence(
        name=NAME, value=None, low=None, high=None, n=n, meaning=f"Not measured: {why}."
    )


def _drawn(
    sizes: Values, hits: Values, warm: Values, groups: Indices, to: float, rng: np.random.Generator
) -> float:
    """The same of blocks drawn with replacement."""
    names, place = np.unique(groups, return_inverse=True)
    weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[place]
    total = max(int(weight.sum()), 1)
    law = fit_power_law(sizes, hits @ weight / total)
    return law.at(to) - float(warm @ weight) / total


SIDE = 96  # px at most, a fifth of the work of 224
SHARES = (1.0, 0.5, 0.25)  # of the rows that a fold leaves
FOLDS = 3


def concluded(
    request: Request,
    training_data: TrainingDataset,
    inspection: Inspection,
    fine_tuned: FineTuned,
    measured: ModelEvaluation,
) -> Steps[tuple[Inspection, Verdict]]:
    """The evidence with what training brought, and the verdict.

    With `--budget thorough` and a signal, what training from nothing brings is measured too.
    """
    if _is_wanted(request, inspection):
        with freed_memory_kept():
            found = yield from measure(request, training_data, fine_tuned)
        inspection = replace(inspection, evidence=(*inspection.evidence, found))
    return check.conclude(training_data, inspection, fine_tuned, measured)


def _is_wanted(request: Request, inspection: Inspection) -> bool:
    """Not where the user counts the minutes: nothing that ships depends on it."""
    p = next(float(e.details["p"]) for e in inspection.evidence if e.name == "permutation_test")
    return request.budget == "thorough" and request.minutes is None and has_signal(p)


@dataclass(frozen=True, slots=True)
class _Nothing:
    """Networks of the start's design, about to be trained from nothing on prepared images."""

    training_data: TrainingDataset
    network: Network
    context: TrainingContext
    plans: tuple[Plan, ...]  # one for each of SHARES
    said: dict[tuple[int, int], tuple[Array, int]] = field(default_factory=dict)

    def hits(self, number: int, folds: Mapping[int, Rows]) -> Steps[tuple[Array, float]]:
        """Whether each row is answered rightly by a network that had not seen it, (n,).

        And how many rows the networks learnt from, on average. `folds`: held-out rows by place;
        0 is said of rows in none of them.
        """
        context, labelled = self.context, self.training_data.labelled
        n, k = len(context.labels), labelled.n_classes
        scores, fold = np.full((len(CANDIDATES), n, k), np.nan), np.full(n, -1)
        learnt = []
        for place, held in folds.items():
            said, count = yield from self._one(number, place, held)
            scores[:, held], fold[held] = said, place
            learnt.append(count)
        plain = Calibration(1.0, np.zeros(k))
        said = choose(scores, context.labels, fold, context.groups, plain, context.target).scores
        credits = context.target.credits(np.nan_to_num(said), context.labels)
        return credits, float(np.mean(learnt))

    def _one(self, number: int, place: int, held: Rows) -> Steps[tuple[Array, int]]:
        """What a network says of held rows, (C, m, K), and how many others it learnt from."""
        if (number, place) not in self.said:
            others = np.setdiff1d(np.arange(len(self.context.labels)), held)
            keep = self._drawn(others, SHARES[number], place)
            taught = yield from self._job(number, place, keep, held).learn()
            self.said[number, place] = taught.scores, len(keep)
        return self.said[number, place]

    def _drawn(self, rows: Rows, share: float, place: int) -> Rows:
        """Some rows, whole blocks, classes in proportion; smaller draws lie in larger ones."""
        rng = np.random.default_rng([self.training_data.seed, 14, place])
        own = np.unique(self.context.groups[rows], return_inverse=True)[1]
        strata = self.context.target.strata(self.context.labels[rows])
        order, ends = spread_order(strata, members(own), rng)
        stop = int(ends[min(int(np.searchsorted(ends, share * len(rows))), len(ends) - 1)])
        return np.sort(rows[order[:stop]])

    def _job(self, number: int, place: int, keep: Rows, held: Rows) -> TrainingJob:
        plan, seed = self.plans[number], self.training_data.seed

        def make() -> TrainableNetwork:
            return trainable(
                self.network, plan, _blank(self.network, self.training_data), _none, seed
            )

        return TrainingJob(
            make=make,
            schedule=schedule(plan),
            context=self.context,
            rows=keep,
            held=held,
            number=FOLDS * number + place,
        )


def measure(
    request: Request, training_data: TrainingDataset, fine_tuned: FineTuned
) -> Steps[Evidence]:
    """Train from nothing on all that one fold leaves; at three sizes where that was not plain.

    Three folds each then, and the curve is carried on.
    """
    labelled, n = training_data.labelled, len(training_data.labelled.learn)
    small = _small_base(request, training_data)
    network = partition_base(small)
    if labelled.facts().n_groups < fine_tuning.LEAST_GROUPS:
        return not_measured(n, "too few independent examples")
    if why := _too_long(request, network, fine_tuning.samples_from_scratch(_sizes(n)[0])):
        return not_measured(n, why)
    yield note("fine_tune", "Scratch", "the same design is trained from nothing, to compare")
    told: dict[str, float | int | str] = {
        "trainings": FOLDS * len(SHARES),
        "unit": labelled.nouns.many,
        BESIDE: "scratch",
    }
    yield Event(stage="fine_tune", kind="begin", values=told)
    folds = held_out_folds(training_data, FOLDS)
    nothing = _nothing(request, training_data, small, network)
    warm, groups = _warm(fine_tuned, labelled), labelled.groups()
    side = small.record.preprocessing.shape[0]
    hits, size = yield from nothing.hits(0, {0: folds[0]})
    rows = _both(folds[:1], warm)
    found = behind(size, hits[rows], warm[rows], groups[rows], side, labelled.nouns)
    if found is None:
        if why := _too_long(
            request, network, FOLDS * sum(map(fine_tuning.samples_from_scratch, _sizes(n)))
        ):
            found = not_measured(n, why)
        else:
            curve = yield from _curve(nothing, folds)
            rows = _both(folds, warm)
            rng = np.random.default_rng([training_data.seed, 15])
            sizes, hits = np.array([m for _, m in curve]), np.stack([one[rows] for one, _ in curve])
            found = scratch(sizes, hits, warm[rows], groups[rows], side, rng, labelled.nouns)
    yield Event(stage="fine_tune", kind="end")
    return found


def _curve(nothing: _Nothing, folds: Sequence[Rows]) -> Steps[list[tuple[Array, float]]]:
    """Hits and rows learnt from, at each size, the smallest first."""
    found = []
    for number in reversed(range(len(SHARES))):
        found.append((yield from nothing.hits(number, dict(enumerate(folds)))))
    return found


def _both(folds: Sequence[Rows], warm: Array) -> Rows:
    """Rows of these folds that the warm start was asked about too."""
    return np.intersect1d(np.concatenate(folds), np.flatnonzero(~np.isnan(warm)))


def _too_long(request: Request, network: Network, passes: float) -> str:
    """Why so many images are not passed; nothing where they are."""
    seconds = fine_tuning.seconds(network.record, passes)
    is_long = seconds > fine_tuning.MOST_SECONDS[request.budget]
    return f"it would take about {seconds / 60:.0f} minutes more" if is_long else ""


def _sizes(n: int) -> list[int]:
    """Rows learnt from at each of SHARES."""
    return [max(round(share * n * (1 - 1 / FOLDS)), 1) for share in SHARES]


def _small_base(request: Request, training_data: TrainingDataset) -> PretrainedModel:
    """The design, for images of SIDE px at most. What it has learnt is of no account."""
    wish = input_options(request, training_data.collection)
    if isinstance(training_data.prep, Preprocessing):
        side = min(*training_data.prep.size, SIDE)
        wish = replace(wish, size=None if side == training_data.prep.size[0] else side)
    return open_base(request.base, request.arch, request.preprocessing, wish)


def _nothing(
    request: Request, training_data: TrainingDataset, small: PretrainedModel, network: Network
) -> _Nothing:
    labelled, prep = training_data.labelled, small.record.preprocessing
    size = () if prep == training_data.prep else (f"{SIZE}={prep.shape[0]}",)
    kept = tuple(s for s in request.settings if s.startswith(("input.", "start.")))
    wanted = replace(
        request,
        strategy="scratch",
        lr=None,
        plan=None,
        given=frozenset({"strategy"}),
        settings=tuple(s for s in kept if not (size and s.startswith(SIZE))) + size,
    )
    facts = run_plan.network_facts(wanted, small, network, None)
    plans = tuple(
        run_plan.make_plan(
            wanted,
            replace(labelled.facts(), n=n),
            facts,
            tuple(training_data.probe_layers),
            training_data.extracted.engine,
        )
        for n in _sizes(len(labelled.learn))
    )
    chosen = schedule(plans[0])
    source = LiveBatches(
        pixels=read_pixels(training_data.collection, labelled.learn, prep),
        contents=tuple(example.sha256 for example in labelled.learn),
        augmentations=augmentations_of(chosen),
        seed=chosen.seed,
        prep=prep,
    )
    context = TrainingContext(
        source=source,
        labels=labelled.labels,
        groups=labelled.groups(),
        target=labelled.target,
        digests=take_digests(network),
        checkpoints=NoCheckpoints(),
        steps=tuple(schedule(plan).n_steps for plan in plans for _ in range(FOLDS)),
    )
    return _Nothing(training_data, network, context, plans)


def _warm(fine_tuned: FineTuned, labelled: LabelledRows) -> Array:
    """How often what the run has made answers each row rightly, (n,); NaN if never held out."""
    head, held = fine_tuned.head, fine_tuned.head.fold >= 0
    found = np.full(len(labelled.labels), np.nan)
    found[held] = labelled.target.credits(head.probabilities[held], labelled.labels[held])
    return found


def _blank(network: Network, training_data: TrainingDataset) -> HeadFit:
    """Only how many classes there are: above fresh layers an output begins at zero."""
    last = feature_layers(network.record)[-1]
    return zero_head(
        (last,), 0, training_data.labelled.n_classes, len(training_data.labelled.learn)
    )


def _none(layer: FeatureLayer) -> Features:
    """Nothing is read: no head was fitted."""
    return np.empty((0, 0), np.float32)
