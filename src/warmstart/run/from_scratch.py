"""Evidence from the same design trained from scratch, against the model of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.events import BESIDE, Event, Steps, note
from warmstart.features.machine import keep_freed_memory
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import modality_of
from warmstart.network.feature_layers import feature_layers
from warmstart.network.finished_run import partition_base
from warmstart.network.ledger import take_digests
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network
from warmstart.nouns import Nouns
from warmstart.planning import fine_tuning
from warmstart.planning.schedule import Schedule, schedule
from warmstart.planning.settings import parse_settings
from warmstart.planning.strategy import Strategy
from warmstart.planning.verdict import has_signal
from warmstart.records.inputs import pictures
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.records.summary import Evidence, Inspection
from warmstart.request import Request
from warmstart.run import plan as run_plan
from warmstart.run.base_model import open_base
from warmstart.run.plan import SIZE, input_options
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.learning_curve import FORECAST_SD, fit_power_law
from warmstart.stats.paired import mean_interval
from warmstart.stats.permutation import spread_order
from warmstart.training.batches import BatchSource, live_batches
from warmstart.training.dataset import TrainingDataset, members
from warmstart.training.early_stopping import CANDIDATES, choose_end
from warmstart.training.fine_tune import FineTuned, held_out_folds
from warmstart.training.linear_probe import zero_head
from warmstart.training.loop import TrainingJob
from warmstart.training.trainable import TrainableNetwork, trainable

NAME = "scratch"
BOOTSTRAPS = 400
SIDE = 96  # px at most, a fifth of the work of 224
SHARES = (1.0, 0.5, 0.25)  # of the training rows of a fold
FOLDS = 3
Values = NDArray[np.float64]
Indices = NDArray[np.int64]


def scratch(
    sizes: Values,
    hits: Values,
    warm: Values,
    groups: Indices,
    side: int,
    rng: np.random.Generator,
    nouns: Nouns = IMAGE.nouns,
) -> Evidence:
    """Accuracy from scratch with twice the examples, less that of the base model with these.

    A power law of the odds through the sizes, extrapolated; the interval by bootstrap over groups.
    Shapes: sizes (S,), hits (S, n) of networks that had not seen the row, warm, groups (n,).
    """
    to, base = 2 * sizes[-1], float(warm.mean())
    now, later = float(hits[-1].mean()), fit_power_law(sizes, hits.mean(axis=1)).at(to)
    value = later - base
    boots = [_bootstrap(sizes, hits, warm, groups, to, rng) for _ in range(BOOTSTRAPS)]
    error = float(np.hypot(float(np.std(boots)), FORECAST_SD / np.sqrt(sizes[-1])))
    means = [float(row.mean()) for row in hits]
    accuracies = {f"accuracy.{round(float(m))}": h for m, h in zip(sizes, means, strict=True)}
    return Evidence(
        name=NAME,
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=hits.shape[1],
        meaning=(
            f"Trained from scratch{nouns.sized.format(side)}, the same design is right "
            f"{100 * now:.0f} % of the time, and about {100 * later:.0f} % with twice the "
            f"{nouns.many}; this base model is right {100 * base:.0f} % of the time with these."
        ),
        details={"error": error, "now": now, "later": later, "warm": base, **accuracies},
    )


def behind(
    size: float, hits: Values, warm: Values, groups: Indices, side: int, nouns: Nouns = IMAGE.nouns
) -> Evidence | None:
    """Evidence from one size, where it is plain: half the errors would still be too many.

    Twice the examples halve the errors of a network that learns as fast as any do (Hestness et
    al. 2017, "Deep Learning Scaling is Predictable, Empirically", §2: errors fall with a power
    of the number of examples, at most its first). None where that could reach the base model.
    Shapes: hits, warm, groups (n,), of one held-out fold; `size` training rows.

    >>> right, nothing, groups = np.ones(60), np.tile([0.0, 0.0, 1.0], 20), np.arange(60)
    >>> behind(120, nothing, right, groups, 96).value, behind(120, right, right, groups, 96)
    (-0.333..., None)
    """
    halved = 1 - (1 - hits) / 2
    value, low, high = mean_interval(halved - warm, groups)
    if high >= 0:
        return None
    error, later = (high - low) / (2 * 1.96), float(halved.mean())
    now, base = float(hits.mean()), float(warm.mean())
    accuracy = {f"accuracy.{round(size)}": now}
    return Evidence(
        name=NAME,
        value=value,
        low=low,
        high=high,
        n=len(hits),
        meaning=(
            f"Trained from scratch{nouns.sized.format(side)}, the same design is right "
            f"{100 * now:.0f} % of the time, this base model {100 * base:.0f} %; it would stay "
            f"behind if twice the {nouns.many} halved its errors."
        ),
        details={"error": error, "now": now, "later": later, "warm": base, **accuracy},
    )


def not_measured(n: int, why: str) -> Evidence:
    """Evidence without a value."""
    text = f"Not measured: {why}."
    return Evidence(name=NAME, value=None, low=None, high=None, n=n, meaning=text)


def _bootstrap(
    sizes: Values, hits: Values, warm: Values, groups: Indices, to: float, rng: np.random.Generator
) -> float:
    """The value for groups drawn with replacement."""
    names, place = np.unique(groups, return_inverse=True)
    weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[place]
    total = max(int(weight.sum()), 1)
    law = fit_power_law(sizes, hits @ weight / total)
    return law.at(to) - float(warm @ weight) / total


def with_scratch(
    request: Request, training_data: TrainingDataset, inspection: Inspection, fine_tuned: FineTuned
) -> Steps[Inspection]:
    """With `--budget thorough` and a signal, the evidence with that of training from scratch.

    Not where the user set minutes: nothing that ships depends on it.
    """
    tests = (e for e in inspection.evidence if e.name == "permutation_test")
    is_signal = has_signal(next(float(e.details["p"]) for e in tests))
    if request.budget != "thorough" or request.minutes is not None or not is_signal:
        return inspection
    with keep_freed_memory():
        evidence = yield from measure(request, training_data, fine_tuned)
    return replace(inspection, evidence=(*inspection.evidence, evidence))


@dataclass(frozen=True, slots=True)
class _Untrained:
    """Networks of the base model's design, to be trained from scratch on prepared images."""

    training_data: TrainingDataset
    network: Network
    source: BatchSource
    digests: Mapping[str, str]
    plans: tuple[Plan, ...]  # one for each of SHARES
    schedules: tuple[Schedule, ...]
    predicted: dict[tuple[int, int], tuple[Array, int]] = field(default_factory=dict)

    def hits(self, number: int, folds: Mapping[int, Rows]) -> Steps[tuple[Array, float]]:
        """Hits (n,) of networks that had not seen the row, and the mean number of training rows.

        `folds`: held-out rows by number of the fold; rows in none of them get 0.
        """
        labelled = self.training_data.labelled
        n, k = len(labelled.labels), labelled.n_classes
        scores, fold = np.full((len(CANDIDATES), n, k), np.nan), np.full(n, -1)
        counts = []
        for place, held in folds.items():
            if (number, place) not in self.predicted:
                rows = self._sample(np.setdiff1d(np.arange(n), held), SHARES[number], place)
                outcome = yield from self._job(number, place, rows, held).learn()
                self.predicted[number, place] = outcome.scores, len(rows)
            scores[:, held], count = self.predicted[number, place]
            fold[held] = place
            counts.append(count)
        groups, target = labelled.groups(), labelled.target
        best = choose_end(scores, labelled.labels, fold, groups, target).scores
        credits = target.credits(np.nan_to_num(best), labelled.labels)
        return credits, float(np.mean(counts))

    def _sample(self, rows: Rows, share: float, place: int) -> Rows:
        """Some rows, whole groups, classes in proportion; smaller samples lie in larger ones."""
        rng = np.random.default_rng([self.training_data.seed, 14, place])
        labelled = self.training_data.labelled
        group_rows = np.unique(labelled.groups()[rows], return_inverse=True)[1]
        strata = labelled.target.strata(labelled.labels[rows])
        order, ends = spread_order(strata, members(group_rows), rng)
        stop = int(ends[min(int(np.searchsorted(ends, share * len(rows))), len(ends) - 1)])
        return np.sort(rows[order[:stop]])

    def _job(self, number: int, place: int, rows: Rows, held: Rows) -> TrainingJob:
        plan, training_data = self.plans[number], self.training_data
        labelled, last = training_data.labelled, feature_layers(self.network.record)[-1]

        def read(layer: FeatureLayer) -> Features:  # there is no fitted head to read for
            return np.empty((0, 0), np.float32)

        def make() -> TrainableNetwork:
            head = zero_head((last,), 0, labelled.n_classes, len(labelled.learn))
            return trainable(self.network, plan, head, read, training_data.seed)

        return TrainingJob(
            make=make,
            schedule=self.schedules[number],
            source=self.source,
            digests=self.digests,
            rows=rows,
            held=held,
            number=FOLDS * number + place,
            steps=tuple(one.n_steps for one in self.schedules for _ in range(FOLDS)),
        )


def measure(
    request: Request, training_data: TrainingDataset, fine_tuned: FineTuned
) -> Steps[Evidence]:
    """Train from scratch on one fold; where that is not plain, on three folds of three sizes."""
    labelled, n = training_data.labelled, len(training_data.labelled.learn)
    base = _small_base(request, training_data)
    network = partition_base(base)
    samples = [fine_tuning.samples_from_scratch(size) for size in _sizes(n)]
    if labelled.facts().n_groups < fine_tuning.LEAST_GROUPS:
        return not_measured(n, "too few independent examples")
    if why := _too_long(request, network, samples[0]):
        return not_measured(n, why)
    yield note("fine_tune", "Scratch", "the same design is trained from scratch, to compare")
    yield Event(
        stage="fine_tune",
        kind="begin",
        values={"trainings": FOLDS * len(SHARES), "unit": labelled.nouns.many, BESIDE: NAME},
    )
    folds = held_out_folds(training_data, FOLDS)
    untrained = _untrained(request, training_data, base, network)
    head, held = fine_tuned.head, fine_tuned.head.fold >= 0
    warm, groups = np.full(len(labelled.labels), np.nan), labelled.groups()
    warm[held] = labelled.target.credits(head.probabilities[held], labelled.labels[held])
    side = base.record.preprocessing.shape[0]
    hits, size = yield from untrained.hits(0, {0: folds[0]})
    rows = np.intersect1d(folds[0], np.flatnonzero(~np.isnan(warm)))
    evidence = behind(size, hits[rows], warm[rows], groups[rows], side, labelled.nouns)
    if evidence is None:
        if why := _too_long(request, network, FOLDS * sum(samples)):
            evidence = not_measured(n, why)
        else:
            curve = []
            for number in reversed(range(len(SHARES))):  # the smallest size first
                curve.append((yield from untrained.hits(number, dict(enumerate(folds)))))
            rows = np.intersect1d(np.concatenate(folds), np.flatnonzero(~np.isnan(warm)))
            rng = np.random.default_rng([training_data.seed, 15])
            sizes, hits = np.array([m for _, m in curve]), np.stack([one[rows] for one, _ in curve])
            evidence = scratch(sizes, hits, warm[rows], groups[rows], side, rng, labelled.nouns)
    yield Event(stage="fine_tune", kind="end")
    return evidence


def _too_long(request: Request, network: Network, samples: float) -> str:
    seconds = fine_tuning.scratch_seconds(network.record, samples)
    is_long = seconds > fine_tuning.MOST_SECONDS[request.budget]
    return f"it would take about {seconds / 60:.0f} minutes more" if is_long else ""


def _sizes(n: int) -> list[int]:
    return [max(round(share * n * (1 - 1 / FOLDS)), 1) for share in SHARES]


def _small_base(request: Request, training_data: TrainingDataset) -> PretrainedModel:
    """The design, for images of SIDE px at most. Its weights do not matter."""
    options = input_options(request, training_data.collection)
    if modality_of(training_data.prep).has_pixels:
        size = pictures(training_data.prep).size
        side = min(*size, SIDE)
        options = replace(options, size=None if side == size[0] else side)
    return open_base(request.base, request.arch, request.preprocessing, options)


def _untrained(
    request: Request, training_data: TrainingDataset, base: PretrainedModel, network: Network
) -> _Untrained:
    labelled, prep = training_data.labelled, base.record.preprocessing
    early = ("input.", "base.")
    settings = {path: one for path, one in request.settings.items() if path.startswith(early)}
    if prep != training_data.prep:
        settings |= parse_settings([f"{SIZE}={prep.shape[0]}"])
    request = replace(
        request,
        strategy=Strategy(depth="scratch"),
        lr=None,
        plan=None,
        given=frozenset({"strategy"}),
        settings=settings,
    )
    facts = run_plan.network_facts(request, base, network, None)
    names, engine = tuple(training_data.probe_layers), training_data.extracted.engine
    plans = tuple(
        run_plan.make_plan(request, replace(labelled.facts(), n=n), facts, names, engine)
        for n in _sizes(len(labelled.learn))
    )
    schedules = tuple(schedule(plan) for plan in plans)
    source = live_batches(training_data.collection, labelled, prep, schedules[0])
    return _Untrained(training_data, network, source, take_digests(network), plans, schedules)
