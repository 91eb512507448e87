"""`warmstart suggest RUN UNLABELLED...`: active learning, with the gain to expect."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from warmstart.errors import DataError, UsageError
from warmstart.events import Event, Steps
from warmstart.nouns import Nouns
from warmstart.records.answer import ExpectedGain, LabelAnswer, Skipped, Suggestion, Suggestions
from warmstart.records.data import SEPARATOR, DataRecord
from warmstart.records.run_folder import read_json, write_csv
from warmstart.records.summary import Evidence, Inspection
from warmstart.run.predictor import BATCH, Predictor, load, name_of, named_examples
from warmstart.stats.learning_curve import PowerLaw
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import AnswerPlace

COUNT = 20
CLOSE = 0.5  # a second class at least half as probable as the first is named beside it


class _Batch(NamedTuple):
    """What the model says of images. Shapes: probabilities (m, K), points (m, d), is_ood (m,)."""

    paths: tuple[str, ...]
    probabilities: NDArray[np.float32]
    points: NDArray[np.float32]
    is_ood: NDArray[np.bool_]


@dataclass(slots=True)
class _Filter:
    """Passes each readable image once, unless the run's data holds it."""

    labelled: frozenset[str]  # sha256 of the run's own examples
    hashes: set[str] = field(default_factory=set)
    present: int = 0
    copies: int = 0
    unreadable: int = 0
    reason: str = ""  # why the first unreadable one cannot be read

    def read(self, item: Any, name: str, predictor: Predictor) -> NDArray[np.uint8] | None:
        """The prepared image (H, W, C), or None if it is left out."""
        try:
            payload = predictor.payload(item, name)
            digest = sha256(payload).hexdigest()
            if digest in self.labelled:
                self.present += 1
                return None
            if digest in self.hashes:
                self.copies += 1
                return None
            image = predictor.modality.encode(payload, name, predictor.bundle.record.preprocessing)
        except DataError as error:
            self.unreadable += 1
            self.reason = self.reason or f"{name} {str(error).removeprefix(name).strip(' :')}"
            return None
        self.hashes.add(digest)
        return image


def suggest(
    run: Path, paths: Sequence[str], *, count: int = COUNT, out: Path | None = None
) -> Steps[Suggestions]:
    """Choose images to label next; a folder stands for the images in and below it.

    With `out`, a table to fill in is written there as well.
    Raises: RunFolderError without a model, DataError if there is no image to choose from,
    UsageError for a count below 1 or an `out` that cannot be written.
    """
    if count < 1:
        raise UsageError(f"--count {count}: it needs a whole number, 1 or more.")
    if out is not None:
        _check_table(out)
    predictor = load(run)
    record = read_json(run / "data.json", DataRecord)
    unlabelled = _Filter(frozenset(example.sha256 for example in record.examples))
    kind = predictor.modality.kind
    examples = named_examples(paths, predictor.bundle.record.preprocessing)
    candidates = yield from _extract(examples, unlabelled, predictor)
    rows = choose_queries(
        candidates.probabilities,
        candidates.points,
        predictor.neighbours.points,
        count,
        predictor.target.uncertainty(candidates.probabilities),
    )
    chosen = tuple(_suggestion(candidates, row, predictor) for row in rows)
    if out is not None:
        _write_table(out, chosen)
    return Suggestions(
        suggestions=chosen,
        expected=expected_gain(_learning_curve(run), len(predictor.bundle.ids), len(chosen)),
        skipped=Skipped(
            present=unlabelled.present, copies=unlabelled.copies, unreadable=unlabelled.unreadable
        ),
        candidates=len(candidates.paths),
        kind=kind,
    )


def _extract(examples: Sequence[Any], unlabelled: _Filter, predictor: Predictor) -> Steps[_Batch]:
    """Run the network on the new images. Raises: DataError if there is none."""
    batches = []
    yield Event(stage="features", kind="begin", of=len(examples))
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        named = {name_of(item, index): item for index, item in enumerate(some, start)}
        pixels = {name: unlabelled.read(item, name, predictor) for name, item in named.items()}
        images = {name: image for name, image in pixels.items() if image is not None}
        if images:
            probabilities, joined = predictor.probabilities(np.stack(list(images.values())))
            points, is_ood = predictor.neighbours.place(joined), predictor.is_ood(joined)
            batches.append(_Batch(tuple(images), probabilities.astype(np.float32), points, is_ood))
        step = start + len(some)
        yield Event(stage="features", kind="step", step=step, of=len(examples))
    if not batches:
        raise _no_candidates(len(examples), unlabelled, predictor.modality.nouns)
    paths, *arrays = zip(*batches, strict=True)
    return _Batch(sum(paths, ()), *map(np.concatenate, arrays))


def _no_candidates(n: int, unlabelled: _Filter, nouns: Nouns) -> DataError:
    if not unlabelled.present:
        return DataError(
            f"none of the {n:,} {nouns.many} can be read (first: {unlabelled.reason})."
        )
    damaged = f", {unlabelled.unreadable:,} cannot be read" if unlabelled.unreadable else ""
    return DataError(
        f"none of the {n:,} {nouns.many} is new: {unlabelled.present:,} are in the run's own "
        f"data{damaged}; name {nouns.many} that have no label yet."
    )


def _suggestion(candidates: _Batch, row: int, predictor: Predictor) -> Suggestion:
    path, p, labels = candidates.paths[row], candidates.probabilities[row], predictor.labels
    why = "unlike the training data" if candidates.is_ood[row] else "typical of many like it"
    if not predictor.target.has_classes:
        answer = predictor.reply(AnswerPlace(path, False, ()), p.astype(np.float64))
        names = answer.labels if isinstance(answer, LabelAnswer) else (answer.label or "",)
        label, probability = SEPARATOR.join(names), answer.probability or 0.0
        return Suggestion(path=path, label=label, probability=probability, why=why)
    best, second = np.argsort(-p, kind="stable")[:2]
    if not candidates.is_ood[row] and p[second] >= CLOSE * p[best]:
        why = f"uncertain: {labels[best]} or {labels[second]}"
    return Suggestion(path=path, label=labels[best], probability=float(p[best]), why=why)


def _learning_curve(run: Path) -> Evidence | None:
    if not (run / "inspection.json").is_file():
        return None
    evidence = read_json(run / "inspection.json", Inspection).evidence
    return next((one for one in evidence if one.name == "learning_curve"), None)


def expected_gain(learning_curve: Evidence | None, n: int, more: int) -> ExpectedGain | None:
    """The gain of `more` random examples on top of `n`; None where nothing was measured.

    That of a doubling times the share of it that the learning curve reaches with the first `more`.
    """
    if learning_curve is None:
        return None
    gain, low, high = learning_curve.value, learning_curve.low, learning_curve.high
    scale, exponent = (learning_curve.details.get(name) for name in ("scale", "exponent"))
    if gain is None or low is None or high is None:
        return None
    if not isinstance(scale, (int, float)) or not isinstance(exponent, (int, float)):
        return None
    law = PowerLaw(float(scale), float(exponent))
    doubling = law.at(2 * n) - law.at(n)
    if doubling <= 0 or more > n:
        return None
    share = (law.at(n + more) - law.at(n)) / doubling
    return ExpectedGain(gain=share * gain, low=share * low, high=share * high, n=more)


def _check_table(path: Path) -> None:
    if path.suffix.lower() != ".csv":
        raise UsageError(f"--out {path}: it needs the name of a table, FILE.csv.")
    if path.exists() or path.is_symlink():
        raise UsageError(f"--out {path} exists; nothing was changed. Name another file.")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}; make it first.")


def _write_table(path: Path, suggestions: Sequence[Suggestion]) -> None:
    """Write path (relative to the table where below it), label (empty) and the prediction."""
    here = os.path.abspath(path.parent)
    rows = []
    for one in suggestions:
        place = os.path.abspath(one.path)
        is_below = os.path.commonpath([here, place]) == here
        file = os.path.relpath(place, here) if is_below else place
        # The row of a table, or a text that was typed, has a name and no path.
        rows.append((file if os.path.exists(one.path) else one.path, "", one.label))
    try:
        write_csv(path, ("path", "label", "suggested"), rows)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written ({error.strerror}).") from error


# ---- Which unlabelled examples to label next: uncertain, diverse, typical of many.
#
# 1. The uncertainty of an example is 1 minus the gap between its two most probable classes.
# 2. Candidates are the most uncertain examples, ten times as many as to choose.
# 3. k-means clusters them in the features of the head, weighted by uncertainty, one cluster for
#    each example to choose; the first centres have the largest uncertainty * (distance to the
#    labelled examples and the centres before)^2.
# 4. The candidate nearest to each centre is chosen, the cluster with the most uncertainty first.
#
# Uncertainty alone chooses twenty images of the same thing, distance alone outliers. Sources:
# Zhdanov 2019, "Diverse mini-batch active learning" (steps 2 to 4, and the ten); margin, Scheffer
# et al. 2001; farthest-first centres, Gonzalez 1985. Measured by `bench run suggest`; other rules
# are in bench/results/failed_ideas.md.


Rows = NDArray[np.intp]
Values = NDArray[np.float64]
Points = NDArray[np.float32]

CANDIDATES = 10  # per example to choose
_LEAST_WEIGHT = 1e-6  # where the model is certain of all, distance alone decides
_CHUNK = 1024  # candidates whose distances to all labelled points are in memory at once


def choose_queries(
    probabilities: NDArray[np.floating],
    points: Points,
    labelled: Points,
    count: int,
    uncertainties: Values | None = None,
) -> Rows:
    """Up to `count` rows to label next, the most informative first.

    Shapes: probabilities (m, K), calibrated, K >= 2; points (m, d), the same examples in the
    features of the head; labelled (n, d), n >= 1; uncertainties (m,), by default those of the
    probabilities. Deterministic: ties go to the earlier row. Memory grows with m, not m^2 or m * n.

    >>> p = np.array([[0.5, 0.5], [0.6, 0.4], [0.5, 0.5], [1.0, 0.0]])
    >>> x = np.float32([[3.0], [3.1], [-3.0], [9.0]])
    >>> choose_queries(p, x, np.float32([[0.0]]), 2).tolist()
    [0, 2]
    """
    if uncertainties is None:
        uncertainties = CLASSIFICATION.uncertainty(probabilities)
    weights = np.maximum(uncertainties, _LEAST_WEIGHT)
    candidates = np.argsort(-weights, kind="stable")[: CANDIDATES * count]
    weights, inner = weights[candidates], points[candidates].astype(np.float64)
    gaps = _nearest_gaps(inner, labelled.astype(np.float64))
    first = _first_centres(weights, inner, gaps, count)
    chosen = _nearest_to_centres(weights, inner, first) if len(first) else first
    # Copies of labelled or chosen examples come last.
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)
    return np.asarray(candidates[np.concatenate([chosen, rest])[:count]])


def _first_centres(weights: Values, points: Values, gaps: Values, count: int) -> Rows:
    """Rows by the largest weight * squared distance, while there is any.

    Shapes: weights (m,), points (m, d), gaps (m,): squared distances to labelled points.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        scores = weights * gaps
        row = int(scores.argmax())
        if scores[row] <= 0.0:
            break
        chosen.append(row)
        gaps = np.minimum(gaps, ((points - points[row]) ** 2).sum(axis=1))
    return np.array(chosen, dtype=np.intp)


def _nearest_to_centres(weights: Values, points: Values, first: Rows) -> Rows:
    """The row nearest to the centre of each cluster, the cluster with the most weight first."""
    clusters = KMeans(len(first), init=points[first], n_init=1).fit(points, sample_weight=weights)
    sums = np.bincount(clusters.labels_, weights=weights)
    chosen = []
    for cluster in np.argsort(-sums, kind="stable"):
        rows = np.flatnonzero(clusters.labels_ == cluster)
        if len(rows):
            gaps = ((points[rows] - clusters.cluster_centers_[cluster]) ** 2).sum(axis=1)
            chosen.append(rows[gaps.argmin()])
    return np.array(chosen, dtype=np.intp)


def _nearest_gaps(points: Values, labelled: Values) -> Values:
    """Squared distance of each point to the nearest labelled one. Shapes: returns (m,)."""
    lengths = (labelled**2).sum(axis=1)
    nearest = np.empty(len(points))
    for first in range(0, len(points), _CHUNK):
        rows = points[first : first + _CHUNK]
        crossed = lengths - 2.0 * (rows @ labelled.T)
        nearest[first : first + _CHUNK] = (rows**2).sum(axis=1) + crossed.min(axis=1)
    return np.maximum(nearest, 0.0)
