"""`warmstart audit MODEL DATA`: what a finished model is worth on labelled images."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits
from torch import Tensor

from warmstart.auditing.preprocessing import STAGES, try_habits
from warmstart.data import thumbnails
from warmstart.data.dataset import Columns, Listing, as_split, concatenate, some, unreadable
from warmstart.data.near_duplicates import (
    Pair,
    are_scenes,
    find_near_duplicates,
    scenes_sentence,
    unit_features,
)
from warmstart.data.sources import Source, list_source
from warmstart.data.splits import group_numbers
from warmstart.errors import DataError, ModelError, missing
from warmstart.evaluation.classes import per_class
from warmstart.evaluation.metrics import scores
from warmstart.evaluation.reliability import reliability
from warmstart.events import Event, Steps
from warmstart.features.batches import normalised
from warmstart.features.cache_key import BATCH
from warmstart.features.engine import Pixels
from warmstart.features.extract import Prefetch
from warmstart.features.machine import n_threads
from warmstart.modalities.preprocessing import as_picture, open_image, prepare
from warmstart.network.class_names import imagenet_names, read_names
from warmstart.network.hub_base import is_hub_folder, open_folder, open_with
from warmstart.network.hub_folder import PREFIX
from warmstart.network.onnx_file import SUFFIX, open_onnx
from warmstart.network.trained_elsewhere import (
    Array,
    ExternalClassifier,
    InputHandling,
    is_published,
    open_file,
    open_named,
)
from warmstart.network.weights import SUFFIXES
from warmstart.nouns import IMAGES, count, is_are
from warmstart.planning import rules
from warmstart.records.comparison import AuditedModel, MajorityClass, TrainGap
from warmstart.records.data import DataRecord, Example, Finding
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Scores
from warmstart.run.predictor import load
from warmstart.solve.calibration import Calibration, probabilities
from warmstart.stats.intervals import gap, proportion

# ---- What images judged on share with each other and with those that a model learnt from.


@dataclass(frozen=True, slots=True)
class Overlap:
    """Findings, the ids that leak, and the pairs that count as near copies."""

    findings: tuple[Finding, ...]
    leaked: frozenset[str]
    near_duplicates: tuple[Pair, ...]


def overlap(
    examples: Sequence[Example], near_duplicates: Iterable[Pair], learnt: Collection[str] = ()
) -> Overlap:
    """Copies, near copies and shared groups; examples of split "test" are judged on.

    `near_duplicates` are pairs of ids that look like near copies; `learnt` are content hashes of what the
    model is known to have learnt from. Findings: `leak` (judged on, and learnt from, or nearly),
    `duplicate` and `conflict` (among those judged on).

    >>> rows = [("a", "s1", "train"), ("b", "s1", "test"), ("c", "s2", "test")]
    >>> found = overlap([Example(id=i, label="x", split=p, sha256=s) for i, s, p in rows], [])
    >>> found.leaked, found.findings[0].kind
    (frozenset({'b'}), 'leak')
    """
    pairs = tuple(sorted((min(pair), max(pair)) for pair in near_duplicates))
    if are_scenes([replace(example, split="train") for example in examples], pairs):
        note = Finding(kind="near-duplicate", sentence=scenes_sentence(len(pairs), IMAGES))
        found = overlap(examples, (), learnt)
        return Overlap((*found.findings, note), found.leaked, ())
    judged = [example for example in examples if example.split == "test"]
    leaks, leaked = _leaks(judged, examples, pairs, learnt)
    return Overlap((*leaks, *_copies(judged, pairs)), leaked, pairs)


def _leaks(
    judged: Sequence[Example],
    examples: Sequence[Example],
    pairs: Sequence[Pair],
    learnt: Collection[str],
) -> tuple[list[Finding], frozenset[str]]:
    """One finding for each way to leak; an image is named for the first that it takes."""
    train = {example.id: example for example in examples if example.split != "test"}
    hashes = {example.sha256 for example in train.values()} | set(learnt)
    groups = {example.group for example in train.values() if example.group is not None}
    near = {a for pair in pairs for a, b in (pair, pair[::-1]) if b in train}
    ways: tuple[tuple[Callable[[Example], bool], str], ...] = (
        (lambda e: e.sha256 in hashes, "among the training images, byte for byte"),
        (lambda e: e.id in near, f"near copies of training images ({IMAGES.changed})"),
        (lambda e: e.group in groups, "of one group with training images"),
    )
    findings: list[Finding] = []
    leaked: set[str] = set()
    for is_so, what in ways:
        found = [example.id for example in judged if example.id not in leaked and is_so(example)]
        if found:
            sentence = f"{len(found):,} of the {len(judged):,} images judged on are {what}."
            findings.append(Finding(kind="leakage", sentence=sentence, items=tuple(found)))
        leaked.update(found)
    return findings, frozenset(leaked)


def _copies(judged: Sequence[Example], pairs: Sequence[Pair]) -> list[Finding]:
    by_id = {example.id: example for example in judged}
    first: dict[str, Example] = {}
    same = [(first[e.sha256], e) for e in judged if first.setdefault(e.sha256, e).id != e.id] + [
        (by_id[a], by_id[b]) for a, b in pairs if a in by_id and b in by_id
    ]
    mixed = {e.id for pair in same if pair[0].label != pair[1].label for e in pair}
    further = {other.id for one, other in same if one.label == other.label} - mixed
    findings = []
    if further:
        n = len(further)
        sentence = f"{count(n, 'image')} judged on {is_are(n)} a copy or near copy of another one; "
        sentence += "copies count as one where the interval is drawn."
        findings.append(
            Finding(kind="near-duplicate", sentence=sentence, items=tuple(sorted(further)))
        )
    if mixed:
        sentence = f"{count(len(mixed), 'image')} judged on show the same picture as another one "
        sentence += "under another class; not all of these labels can be right."
        findings.append(Finding(kind="conflict", sentence=sentence, items=tuple(sorted(mixed))))
    return findings


# ---- A finished model judged on labelled images: one pass, then what can be said of it.


# ---- One pass over labelled images with a finished model: what it says, and how they look.


_NOTHING = np.empty(0, np.uint8)  # instead of pixels where an image is only looked at


@dataclass(frozen=True, slots=True, eq=False)
class InferenceResult:
    """The images that could be read, and what the model says of those that it was shown.

    Shapes: glances (n, thumbnails.WIDTH); asked (m,) numbers the examples that were shown, scores
    (m, K), vectors (m, D). `kept` holds the pixels of some. `unreadable` maps ids to reasons.
    """

    examples: tuple[Example, ...]
    glances: NDArray[np.uint8]
    asked: NDArray[np.intp]
    scores: Array
    vectors: Array
    kept: dict[str, Pixels]
    unreadable: dict[str, str]


def question(
    listing: Listing, model: ExternalClassifier, shown: Collection[str], kept: Collection[str]
) -> Steps[InferenceResult]:
    """Decode every image once, and show the model those whose ids are in `shown`.

    `kept` are ids of shown images whose pixels are wanted again. Decoding runs in threads
    beside the model. Raises: DataError if no shown image can be read.
    """
    desk = _Desk(listing, model.preprocessing, frozenset(shown))
    todo = [
        Example(id=row.id, label=row.label, split=row.split, sha256="", group=row.group)
        for row in listing.rows
    ]
    answers = _Answers(model, frozenset(kept))
    yield Event(stage="features", kind="begin", of=len(todo), values={"total": len(todo)})
    prefetch, began = Prefetch(todo, desk.open, threads=n_threads()), time.perf_counter()
    examples: list[Example] = []
    unreadable: dict[str, str] = {}
    try:
        for done, (example, pixels) in enumerate(prefetch, 1):
            if isinstance(pixels, DataError):
                unreadable[example.id] = str(pixels).removeprefix(example.id).strip()
                continue
            if pixels is not _NOTHING:
                answers.add(example.id, len(examples), pixels)
            examples.append(replace(example, sha256=desk.hashes[example.id]))
            if done % BATCH == 0:
                speed = round(done / (time.perf_counter() - began), 1)
                yield Event(
                    stage="features",
                    kind="step",
                    step=done,
                    of=len(todo),
                    values={"per_second": speed},
                )
    finally:
        prefetch.close()
    answers.ask()
    if not answers.rows:
        raise DataError(f"{listing.wording.source}: none of its images can be read; replace them")
    yield Event(stage="features", kind="end", step=len(todo), of=len(todo))
    return InferenceResult(
        examples=tuple(examples),
        glances=np.stack([desk.glances[e.id] for e in examples]),
        asked=np.array(answers.rows, dtype=np.intp),
        scores=np.concatenate(answers.scores),
        vectors=np.concatenate(answers.vectors),
        kept=answers.pixels,
        unreadable=unreadable,
    )


class _Desk:
    """Opens images; hashes and glances are noted by id. Safe to use from several threads."""

    def __init__(
        self, listing: Listing, preprocessing: Preprocessing, shown: frozenset[str]
    ) -> None:
        self._load: Callable[[str], bytes] = listing.load
        self._preprocessing, self._shown = preprocessing, shown
        self.hashes: dict[str, str] = {}
        self.glances: dict[str, NDArray[np.uint8]] = {}

    def open(self, example: Example) -> Pixels:
        payload = self._load(example.id)
        image = open_image(payload, example.id, self._preprocessing)
        self.glances[example.id] = thumbnails.make_thumbnail(payload, as_picture(image))
        self.hashes[example.id] = hashlib.sha256(payload).hexdigest()
        return prepare(image, self._preprocessing) if example.id in self._shown else _NOTHING


class _Answers:
    """Gathers images into batches, and what the model says of them."""

    def __init__(self, model: ExternalClassifier, kept: frozenset[str]) -> None:
        self._model, self._kept = model, kept
        self._batch: list[Pixels] = []
        self.rows: list[int] = []
        self.scores: list[Array] = []
        self.vectors: list[Array] = []
        self.pixels: dict[str, Pixels] = {}

    def add(self, id: str, row: int, pixels: Pixels) -> None:
        self.rows.append(row)
        self._batch.append(pixels)
        if id in self._kept:
            self.pixels[id] = pixels
        if len(self._batch) == BATCH:
            self.ask()

    def ask(self) -> None:
        """Show the model what waits."""
        if self._batch:
            inputs = normalised(np.stack(self._batch), self._model.preprocessing)
            scores, vectors = self._model.answer(inputs)
            self.scores.append(scores)
            self.vectors.append(vectors)
            self._batch = []


def look_alikes(seen: InferenceResult) -> tuple[tuple[str, str], ...]:
    """Near copies among all that could be read: pairs of ids. Exact copies are no news here."""
    first: dict[str, int] = {}
    for row, example in enumerate(seen.examples):
        first.setdefault(example.sha256, row)
    rows = np.array(sorted(first.values()), dtype=np.intp)
    glances = thumbnails.unpack(seen.glances[rows])
    is_large = glances.files().short_side() >= rules.LEAST_SIDE
    rows, glances = rows[is_large], glances.of(np.flatnonzero(is_large))
    if len(rows) < 2:
        return ()
    place = {int(row): number for number, row in enumerate(seen.asked)}
    asked = [place.get(int(row)) for row in rows]
    known = [number for number in asked if number is not None]
    vectors = unit_features(seen.vectors[known]) if len(known) == len(rows) else None
    found = find_near_duplicates(glances, vectors)
    same: dict[str, list[str]] = {}
    for example in seen.examples:
        same.setdefault(example.sha256, []).append(example.id)
    hashes = [seen.examples[row].sha256 for row in rows]
    return tuple(
        (one, other)
        for twin in found
        for one in same[hashes[twin.first]]
        for other in same[hashes[twin.second]]
    )


def draw(ids: Sequence[str], most: int, rng: np.random.Generator) -> list[str]:
    """At most so many of the ids, drawn at random, in their own order.

    >>> draw(["a", "b"], 5, np.random.default_rng(0))
    ['a', 'b']
    """
    if len(ids) <= most:
        return list(ids)
    return [ids[row] for row in np.sort(rng.choice(len(ids), most, replace=False))]


TRAIN_SHOWN = 1000  # training images, at most, that the model is shown
ANOTHER_ORDER, LEAST_FOR_ORDER = 0.3, 30  # of accuracy; blocks
_ASSUMED = "assumed: the class names of the data, sorted, as torchvision's ImageFolder does"


@dataclass(frozen=True, slots=True)
class Names:
    """What the outputs are called, in their order, and who says so."""

    outputs: tuple[str, ...]
    source: str
    is_assumed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Lot:
    """Some images that the model was shown. Shapes: labels, blocks (n,), scores (n, K)."""

    examples: tuple[Example, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """What the model says of each. Shapes: (n,)."""
        said: NDArray[np.int64] = self.scores.argmax(axis=1)
        return said

    def some(self, keep: NDArray[np.bool_]) -> _Lot:
        """Some of them."""
        examples = tuple(e for e, is_kept in zip(self.examples, keep, strict=True) if is_kept)
        return _Lot(examples, self.labels[keep], self.groups[keep], self.scores[keep])

    def measured(self) -> Scores:
        """All metrics."""
        p = probabilities(self.scores, Calibration(1.0, np.zeros(self.scores.shape[1])))
        return scores(p, self.labels, self.groups)


def settle_names(
    model: ExternalClassifier, given: Path | None, classes: Sequence[str], data: str
) -> Names:
    """What the outputs are called: by a file, by the model itself, or as the data's classes.

    Raises: ModelError where nothing tells, or as many names are told as outputs are not there.
    """
    if given is not None:
        names = Names(read_names(given), f"from {given}")
    elif model.labels:
        names = Names(model.labels, f"from {model.labels_from}")
    elif model.is_imagenet:
        names = Names(imagenet_names(classes), "ImageNet's 1,000 classes")
    elif model.outputs == len(classes):
        return Names(tuple(classes), _ASSUMED, is_assumed=True)
    else:
        raise ModelError(
            f"{model.name} has {model.outputs:,} outputs, {data} has {count(len(classes), 'class')}"
            ", and nothing names the outputs; add --labels FILE, one name a line in their order."
        )
    if len(names.outputs) != model.outputs:
        raise ModelError(
            f"{model.name} has {model.outputs:,} outputs, and {len(names.outputs):,} names come "
            f"{names.source}; give --labels FILE with one name for each, in their order."
        )
    return names


def judge_model(
    listing: Listing, model: ExternalClassifier, labels: Path | None, seed: int = 0
) -> Steps[AuditedModel]:
    """Show a model labelled images, and say what it is worth on them and why to beware.

    Rows of split "test" are judged on; all others are what it may have learnt from.
    Raises: ModelError or DataError where its outputs or the images cannot be used.
    """
    classes = tuple(sorted({row.label for row in listing.rows}))
    names = settle_names(model, labels, classes, listing.wording.source)
    rng = np.random.default_rng([seed, 11])
    known = set(names.outputs)
    parts = {
        part: [r.id for r in listing.rows if r.label in known and (r.split == "test") == is_test]
        for part, is_test in (("test", True), ("train", False))
    }
    if not parts["test"]:
        raise DataError(
            f"{listing.wording.source}: the model knows none of its classes ({some(classes)}); it "
            f"knows {some(names.outputs)}. Rename the classes, or give --labels FILE."
        )
    shown = [*parts["test"], *draw(parts["train"], TRAIN_SHOWN, rng)]
    kept = draw(parts["test"], STAGES[1], rng)
    seen = yield from question(listing, model, shown, kept)
    yield Event(stage="checks", kind="begin")
    with threadpool_limits(limits=1, user_api="blas"):
        found = _judged(listing, model, names, seen, rng)
    yield Event(stage="checks", kind="end")
    return found


def _judged(
    listing: Listing,
    model: ExternalClassifier,
    names: Names,
    seen: InferenceResult,
    rng: np.random.Generator,
) -> AuditedModel:
    found = overlap(seen.examples, look_alikes(seen), model.training_hashes)
    test = _lot(seen, names, found, "test")
    leaks = np.array([example.id in found.leaked for example in test.examples])
    has_clean = bool(leaks.any() and not leaks.all())
    clean = test.some(~leaks) if has_clean else test
    strangers = [r for r in listing.rows if r.split == "test" and r.label not in names.outputs]
    present = {example.label for example in test.examples}
    n_train = sum(example.split != "test" for example in seen.examples)
    return AuditedModel(
        model=model.name,
        title=model.title,
        data=listing.title,
        n_classes=len(present),
        outputs=model.outputs,
        labels_from=names.source,
        is_assumed=names.is_assumed,
        better_order=_better_order(test) if names.is_assumed else None,
        preprocessing=model.preprocessing,
        preprocessing_from=model.preprocessing_from,
        test=test.measured(),
        without_leaks=clean.measured() if has_clean else None,
        majority=_guess(clean, names),
        leaked=int(leaks.sum()),
        leaks_by="near copies" if n_train else "bytes" if model.training_hashes else "nothing",
        trained_on=n_train or len(model.training_hashes),
        train=_train(_lot(seen, names, found, "train"), clean.measured(), n_train),
        classes=per_class(clean.predicted, clean.labels, clean.groups, names.outputs),
        calibration=reliability(clean.scores, clean.labels, clean.groups, rng),
        findings=(*_problems(listing, seen), *found.findings, *_fed_in(model, seen, test, rng)),
        unknown_classes=tuple(sorted({row.label for row in strangers})),
        unknown_images=len(strangers),
        unused_outputs=tuple(name for name in names.outputs if name not in present),
    )


def _lot(seen: InferenceResult, names: Names, found: Overlap, split: str) -> _Lot:
    number = {name: index for index, name in enumerate(names.outputs)}
    rows = [k for k, row in enumerate(seen.asked) if seen.examples[row].split == split]
    examples = tuple(seen.examples[seen.asked[k]] for k in rows)
    labels = np.array([number[example.label] for example in examples], dtype=np.int64)
    return _Lot(
        examples,
        labels,
        group_numbers(examples, found.near_duplicates),
        seen.scores[rows].astype(np.float64),
    )


def _better_order(test: _Lot) -> float | None:
    """Accuracy under the best order of the outputs, where the assumed one must be wrong.

    Of the labels the order is chosen by; what it gains on outputs that say nothing stays well
    below `ANOTHER_ORDER` from `LEAST_FOR_ORDER` blocks on.
    """
    if len(np.unique(test.groups)) < LEAST_FOR_ORDER:
        return None
    n, k = test.scores.shape
    table = np.zeros((k, k))
    np.add.at(table, (test.labels, test.predicted), 1 / n)
    best = float(table[linear_sum_assignment(table, maximize=True)].sum())
    return best if best - float(np.trace(table)) > ANOTHER_ORDER else None


def _guess(test: _Lot, names: Names) -> MajorityClass:
    sizes = np.bincount(test.labels)
    label = names.outputs[int(sizes.argmax())]
    return MajorityClass(label=label, accuracy=float(sizes.max() / sizes.sum()))


def _train(lot: _Lot, unseen: Scores, of: int) -> TrainGap | None:
    """What the model says of training images, beside what it says of others."""
    if not lot.examples:
        return None
    right = (lot.predicted == lot.labels).astype(float)
    own = proportion(right, lot.groups)
    value, low, high = gap(own, (unseen.accuracy, unseen.low, unseen.high))
    return TrainGap(
        n=len(right),
        of=of,
        accuracy=own[0],
        low=own[1],
        high=own[2],
        gap=value,
        gap_low=low,
        gap_high=high,
    )


def _problems(listing: Listing, seen: InferenceResult) -> tuple[Finding, ...]:
    """What the listing passed over, and what could not be read."""
    n = len(seen.unreadable)
    sentence = f"{count(n, 'image')} could not be read and left out of all figures."
    return (*listing.problems, *unreadable(seen.unreadable, sentence))


def _fed_in(
    model: ExternalClassifier, seen: InferenceResult, test: _Lot, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Whether another usual preprocessing is better, on the images kept, in random order."""
    rows = [row for row, example in enumerate(test.examples) if example.id in seen.kept]
    rows = [int(row) for row in rng.permutation(rows)]
    pixels = [seen.kept[test.examples[row].id] for row in rows]
    found = try_habits(model, pixels, test.labels[rows], test.groups[rows])
    return () if found is None else (found,)


# ---- Labelled images as they are given: to judge a finished model nothing has to be learnable.


def list_given(
    source: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    train: Source | None = None,
) -> Listing:
    """List labelled images, those to be judged on as split "test"; no file is opened.

    Judged on is the test part, else the hold-out, else everything; the other parts, and
    `train`, whose ids then begin with "train/", are what the model may have learnt from.
    One image, or one class, is enough.
    Raises: DataError if there is none, or a column is named that is not there.
    """
    columns = Columns(label=label, group=group)
    listing = list_source(source, columns)
    if not listing.is_table and (label or group):
        option = f"--label {label}" if label else f"--group {group}"
        raise DataError(
            f"{option} names a column, but {listing.wording.source} is no table; leave it away"
        )
    splits = {row.split for row in listing.rows}
    judged = next((split for split in ("test", "holdout") if split in splits), None)
    rows = (
        replace(row, split="test") if judged in (None, row.split) else row for row in listing.rows
    )
    listing = replace(listing, rows=tuple(rows))
    if train is None:
        return listing
    learnt = list_source(train, columns)
    taken, prefix = {row.id for row in listing.rows}, "train/"
    while any(prefix + row.id in taken for row in learnt.rows):
        prefix += "train/"
    layout = f"{listing.layout}; train: {learnt.layout}"
    return concatenate((listing, as_split(learnt, prefix, "train")), layout)


def judge(
    model: str,
    data: Any,
    *,
    arch: str | None = None,
    labels: Path | None = None,
    train: Any = None,
    label: str | None = None,
    group: str | None = None,
    feeding: InputHandling | None = None,
) -> Steps[AuditedModel]:
    """Show a finished model labelled images; nothing is trained or written.

    `model` is a file of weights (with `arch`), an ONNX file, a folder in the format of the
    Hugging Face hub, a run folder, or the name of a start. `labels` is a file that names its
    outputs in their order, `train` the images that it was trained on, to look for leaks.
    Raises: ModelError, RunFolderError or DataError where one of them cannot be used.
    """
    _check_there(model, arch)
    listing = list_given(data, label=label, group=group, train=train)
    yield Event(stage="features", kind="begin")
    opened = open_model(model, arch, feeding or InputHandling())
    return (yield from judge_model(listing, opened, labels))


def _check_there(name: str, arch: str | None) -> None:
    """Before images are read: is the file there, and of a kind that holds weights?"""
    path = Path(name)
    if path.suffix in (*SUFFIXES, SUFFIX) and not path.exists():
        raise ModelError(missing(path, name, "name a file of weights, a run folder or a start."))
    is_other = path.is_file() and path.suffix not in (*SUFFIXES, SUFFIX)
    if is_other and arch is None and not is_hub_folder(path.parent):
        known = f"{', '.join(SUFFIXES)} or {SUFFIX}"
        raise ModelError(f"{name} is no file of weights; name one that ends in {known}.")


def open_model(name: str, arch: str | None, feeding: InputHandling) -> ExternalClassifier:
    """A finished model by its name, of whatever kind it is.

    Raises: ModelError or RunFolderError if it cannot be opened, or a design is named for one
    that knows its own.
    """
    path = Path(name)
    if path.suffix in (SUFFIX, *SUFFIXES) or path.is_file():
        if path.suffix == SUFFIX:
            _check_alone(name, arch)
            return open_onnx(path, feeding, n_threads())
        if arch is not None and arch.startswith(PREFIX):
            return open_with(path, arch.removeprefix(PREFIX), feeding)
        if arch is None and is_hub_folder(path.parent):
            return open_folder(path.parent, feeding)
        return open_file(path, arch, feeding)
    _check_alone(name, arch)
    if name.startswith(PREFIX):
        return open_folder(Path(name.removeprefix(PREFIX)), feeding)
    if path.is_dir():
        return open_folder(path, feeding) if is_hub_folder(path) else _open_run(path, feeding)
    if not is_published(name):
        raise ModelError(
            f"{name} does not exist; name a file of weights, an ONNX file, a run folder or a start."
        )
    return open_named(name, feeding)


def _check_alone(name: str, arch: str | None) -> None:
    if arch is not None:
        raise ModelError(f"--arch {arch}: {name} knows its own design; leave --arch away.")


def _open_run(run: Path, feeding: InputHandling) -> ExternalClassifier:
    """A run: its calibrated output, and the images that it learnt from."""
    predictor = load(run)
    record, model = predictor.bundle.record, predictor.model
    if feeding.is_set:
        raise ModelError(f"{run} says itself how images are fed in; leave those options away.")
    if record.task != "classify":
        raise ModelError(
            f"{run} does not name one class an image, which is what audit judges; use "
            f"`warmstart evaluate {run} DATA`."
        )

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        with torch.inference_mode():
            feature_layers = model.features(inputs)
            return model.head(feature_layers).float().numpy(), feature_layers[-1].flatten(
                1
            ).float().numpy()

    n_numbers = sum(parameter.numel() for parameter in model.parameters())
    return ExternalClassifier(
        name=str(run),
        title=f"{os.path.normpath(run)} (a run), {n_numbers / 1e6:.1f} M parameters",
        answer=answer,
        outputs=len(record.classes),
        preprocessing=pictures(record.preprocessing),
        preprocessing_from="the run",
        labels=record.classes,
        labels_from="the run",
        training_hashes=_learnt(run),
    )


def _learnt(run: Path) -> frozenset[str]:
    """Content hashes of what a run learnt from; none where it keeps no record."""
    if not (run / "data.json").is_file():
        return frozenset()
    examples = read_json(run / "data.json", DataRecord).examples
    return frozenset(example.sha256 for example in examples if example.split != "test")
