"""`warmstart suggest RUN UNLABELLED...`: which images to label next, and what it should bring."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from warmstart.data.place import read_file
from warmstart.errors import DataError, UsageError
from warmstart.evaluation.active_learning import choose_queries
from warmstart.events import Event, Steps
from warmstart.modalities.preprocessing import encode
from warmstart.nouns import Nouns, nouns_of
from warmstart.records.answer import ExpectedGain, LabelAnswer, Skipped, Suggestion, Suggestions
from warmstart.records.data import SEPARATOR, DataRecord
from warmstart.records.inputs import Inputs
from warmstart.records.run_folder import read_json, write_csv
from warmstart.records.summary import Evidence, Inspection
from warmstart.run.predict_inputs import find_files
from warmstart.run.predictor import BATCH, AnswerPlace, Predictor, load
from warmstart.stats.learning_curve import PowerLaw

COUNT = 20
CLOSE = 0.5  # a second class at least half as probable as the first is named beside it


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Images as the model sees them. Shapes: probabilities (m, K), points (m, d), is_strange (m,).

    An image is strange if it is unlike all that the model has learnt from.
    """

    paths: tuple[str, ...]
    probabilities: NDArray[np.float32]
    points: NDArray[np.float32]
    is_strange: NDArray[np.bool_]


@dataclass(slots=True)
class _Sieve:
    """Lets each readable image through once, and not those that the run's data holds."""

    labelled: frozenset[str]  # sha256 of the run's own examples
    met: set[str] = field(default_factory=set)
    known: int = 0
    copies: int = 0
    unreadable: int = 0
    reason: str = ""  # why the first that could not be read was not

    def take(self, path: str, preprocessing: Inputs) -> NDArray[np.uint8] | None:
        """The prepared image (H, W, C), or None if it is left out."""
        try:
            payload = read_file(path)
            digest = sha256(payload).hexdigest()
            if digest in self.labelled:
                self.known += 1
                return None
            if digest in self.met:
                self.copies += 1
                return None
            image = encode(payload, path, preprocessing)
        except DataError as error:
            self.unreadable += 1
            self.reason = self.reason or f"{path} {str(error).removeprefix(path).strip(' :')}"
            return None
        self.met.add(digest)
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
        check_sheet(out)
    predictor = load(run)
    record = read_json(run / "data.json", DataRecord)
    sieve = _Sieve(frozenset(example.sha256 for example in record.examples))
    kind = predictor.input_kind
    seen = yield from _look(find_files(paths, nouns_of(kind)), sieve, predictor)
    rows = choose_queries(
        seen.probabilities,
        seen.points,
        predictor.neighbours.points,
        count,
        predictor.replies.uncertainty(seen.probabilities),
    )
    chosen = tuple(_suggestion(seen, row, predictor) for row in rows)
    if out is not None:
        write_sheet(out, chosen)
    return Suggestions(
        suggestions=chosen,
        expected=expected_gain(read_evidence(run), len(predictor.bundle.ids), len(chosen)),
        skipped=Skipped(known=sieve.known, copies=sieve.copies, unreadable=sieve.unreadable),
        candidates=len(seen.paths),
        kind=None if kind == "image" else kind,
    )


def _look(paths: Sequence[str], sieve: _Sieve, predictor: Predictor) -> Steps[_Batch]:
    """Pass the images that the sieve lets through. Raises: DataError if there is none."""
    batches = []
    yield Event(stage="features", kind="begin", of=len(paths))
    for start in range(0, len(paths), BATCH):
        names = paths[start : start + BATCH]
        images = [sieve.take(name, predictor.bundle.record.preprocessing) for name in names]
        kept = {name: image for name, image in zip(names, images, strict=True) if image is not None}
        if kept:
            batches.append(_pass(kept, predictor))
        step = start + len(names)
        yield Event(stage="features", kind="step", step=step, of=len(paths))
    if not batches:
        raise _nothing_new(len(paths), sieve, nouns_of(predictor.input_kind))
    return _Batch(
        tuple(path for batch in batches for path in batch.paths),
        np.concatenate([batch.probabilities for batch in batches]),
        np.concatenate([batch.points for batch in batches]),
        np.concatenate([batch.is_strange for batch in batches]),
    )


def _pass(images: Mapping[str, NDArray[np.uint8]], predictor: Predictor) -> _Batch:
    probabilities, joined = predictor.probabilities(np.stack(list(images.values())))
    calibration, neighbours = predictor.bundle.calibration, predictor.neighbours
    distances, _ = neighbours.nearest(joined, calibration.nearest)
    return _Batch(
        tuple(images),
        probabilities.astype(np.float32),
        neighbours.place(joined),
        distances > calibration.ood_from,
    )


def _nothing_new(n: int, sieve: _Sieve, nouns: Nouns) -> DataError:
    if sieve.known:
        torn = f", {sieve.unreadable:,} cannot be read" if sieve.unreadable else ""
        return DataError(
            f"none of the {n:,} {nouns.many} is new: {sieve.known:,} are in the run's own "
            f"data{torn}; name {nouns.many} that have no label yet."
        )
    return DataError(f"none of the {n:,} {nouns.many} can be read (first: {sieve.reason}).")


def _suggestion(seen: _Batch, row: int, predictor: Predictor) -> Suggestion:
    p, labels = seen.probabilities[row], predictor.labels
    if predictor.task != "classify":
        why = "unlike what it knows" if seen.is_strange[row] else "stands for others like it"
        said = predictor.replies.answer(
            AnswerPlace(seen.paths[row], False, ()), p.astype(np.float64)
        )
        named = said.labels if isinstance(said, LabelAnswer) else (said.label or "",)
        return Suggestion(
            path=seen.paths[row],
            label=SEPARATOR.join(named),
            probability=said.probability or 0.0,
            why=why,
        )
    best, second = np.argsort(-p, kind="stable")[:2]
    if seen.is_strange[row]:
        why = "unlike what it knows"
    elif p[second] >= CLOSE * p[best]:
        why = f"unsure: {labels[best]} or {labels[second]}"
    else:
        why = "stands for others like it"
    return Suggestion(path=seen.paths[row], label=labels[best], probability=float(p[best]), why=why)


def read_evidence(run: Path) -> Evidence | None:
    """What the run measured of its appetite for examples; None if it did not."""
    if not (run / "inspection.json").is_file():
        return None
    found = read_json(run / "inspection.json", Inspection).evidence
    return next((evidence for evidence in found if evidence.name == "learning_curve"), None)


def expected_gain(learning_curve: Evidence | None, n: int, more: int) -> ExpectedGain | None:
    """What `more` examples drawn at random would add to `n`; None where nothing was measured.

    The gain that was measured, of a doubling, is scaled with its interval by the share that
    falls to the first `more` on the fitted learning curve.
    """
    if (
        learning_curve is None
        or learning_curve.value is None
        or learning_curve.low is None
        or learning_curve.high is None
    ):
        return None
    scale, rate = learning_curve.details.get("scale"), learning_curve.details.get("rate")
    if not isinstance(scale, (int, float)) or not isinstance(rate, (int, float)):
        return None
    law = PowerLaw(float(scale), float(rate))
    doubling = law.at(2 * n) - law.at(n)
    if doubling <= 0 or more > n:
        return None
    share = (law.at(n + more) - law.at(n)) / doubling
    return ExpectedGain(
        gain=share * learning_curve.value,
        low=share * learning_curve.low,
        high=share * learning_curve.high,
        n=more,
    )


def check_sheet(path: Path) -> None:
    """Raises: UsageError if a table cannot be written there, or something is there already."""
    if path.suffix.lower() != ".csv":
        raise UsageError(f"--out {path}: it needs the name of a table, FILE.csv.")
    if path.exists() or path.is_symlink():
        raise UsageError(f"--out {path} exists; nothing was changed. Name another file.")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}; make it first.")


def write_sheet(path: Path, suggestions: Sequence[Suggestion]) -> None:
    """Write a table of path, label (empty: to be filled in) and suggested (the present guess).

    Paths are relative to the table where they lie beside or below it, as `fit` reads them.
    Raises: UsageError if it cannot be written.
    """
    here = os.path.abspath(path.parent)
    rows = []
    for one in suggestions:
        place = os.path.abspath(one.path)
        is_below = os.path.commonpath([here, place]) == here
        rows.append((os.path.relpath(place, here) if is_below else place, "", one.label))
    try:
        write_csv(path, ("path", "label", "suggested"), rows)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written ({error.strerror}).") from error
