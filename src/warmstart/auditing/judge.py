"""`warmstart audit MODEL DATA`: evaluate a finished model on labelled images."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits
from torch import Tensor

from warmstart.data import thumbnails
from warmstart.data.dataset import Columns, Listing, as_split, concatenate, unreadable
from warmstart.data.near_duplicates import (
    Pair,
    are_scenes,
    find_near_duplicates,
    scenes_sentence,
    unit_features,
)
from warmstart.data.read import Source, list_source
from warmstart.data.splits import group_numbers
from warmstart.errors import DataError, ModelError
from warmstart.evaluation.reliability import reliability
from warmstart.events import Event, Steps
from warmstart.evidence.preprocessing import LEAST, LEVEL, SWAPPED, USUAL, all_grey
from warmstart.features.batches import normalised
from warmstart.features.cache_key import BATCH
from warmstart.features.engine import Pixels
from warmstart.features.extraction import Prefetch
from warmstart.features.machine import n_threads
from warmstart.formatting import first_few
from warmstart.modalities.image import IMAGE, as_picture, prepare
from warmstart.modalities.registry import modality_of
from warmstart.network.external_classifier import (
    Array,
    ExternalClassifier,
    InputHandling,
    check_path,
    imagenet_names,
    is_hub_folder,
    open_classifier,
    read_names,
)
from warmstart.network.weights import n_parameters
from warmstart.nouns import count, is_are
from warmstart.planning import rules
from warmstart.records.comparison import AuditedModel, MajorityClass, TrainGap
from warmstart.records.data import DataRecord, Example
from warmstart.records.findings import Finding
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Scores
from warmstart.run.predictor import load
from warmstart.solve.calibration import Calibration, probabilities
from warmstart.stats.intervals import accuracy_interval, gap
from warmstart.stats.metrics import scores
from warmstart.stats.paired import mean_interval
from warmstart.tasks.classify import per_class
from warmstart.tasks.registry import TASKS

# ---- Overlap of the test images with each other and with the model's training images.


@dataclass(frozen=True, slots=True)
class Overlap:
    """Findings, the ids of leaked test images, and the near-duplicate pairs."""

    findings: tuple[Finding, ...]
    leaked: frozenset[str]
    near_duplicates: tuple[Pair, ...]


def overlap(
    examples: Sequence[Example], near_duplicates: Iterable[Pair], hashes: Collection[str] = ()
) -> Overlap:
    """Find data leakage into the examples of split "test", and duplicates among them.

    `near_duplicates` are pairs of ids; `hashes` are content hashes of known training images.
    Findings: `leakage` (of each test image only the first kind), `near-duplicate`, `conflict`.

    >>> rows = [("a", "s1", "train"), ("b", "s1", "test"), ("c", "s2", "test")]
    >>> result = overlap([Example(id=i, label="x", split=p, sha256=s) for i, s, p in rows], [])
    >>> result.leaked, result.findings[0].kind
    (frozenset({'b'}), 'leakage')
    """
    pairs = tuple(sorted((min(pair), max(pair)) for pair in near_duplicates))
    if are_scenes([replace(example, split="train") for example in examples], pairs):
        note = Finding(kind="near-duplicate", sentence=scenes_sentence(len(pairs), IMAGE.nouns))
        exact = overlap(examples, (), hashes)
        return Overlap((*exact.findings, note), exact.leaked, ())
    test = [example for example in examples if example.split == "test"]
    train = {example.id: example for example in examples if example.split != "test"}
    train_hashes = {example.sha256 for example in train.values()} | set(hashes)
    groups = {example.group for example in train.values() if example.group is not None}
    near = {a for pair in pairs for a, b in (pair, pair[::-1]) if b in train}
    near_duplicate = f"near-duplicates of training images ({IMAGE.nouns.changed})"
    leaks = {
        "byte-identical to training images": [e.id for e in test if e.sha256 in train_hashes],
        near_duplicate: [e.id for e in test if e.id in near],
        "in one group with training images": [e.id for e in test if e.group in groups],
    }
    findings: list[Finding] = []
    leaked: set[str] = set()
    for what, candidates in leaks.items():
        if ids := [id for id in candidates if id not in leaked]:
            sentence = f"{len(ids):,} of the {len(test):,} test images {is_are(len(ids))} {what}."
            findings.append(Finding(kind="leakage", sentence=sentence, items=tuple(ids)))
        leaked.update(ids)
    return Overlap((*findings, *_duplicates(test, pairs)), frozenset(leaked), pairs)


def _duplicates(test: Sequence[Example], pairs: Sequence[Pair]) -> Iterator[Finding]:
    by_id = {example.id: example for example in test}
    first: dict[str, Example] = {}
    same = [(first[e.sha256], e) for e in test if first.setdefault(e.sha256, e).id != e.id]
    same += [(by_id[a], by_id[b]) for a, b in pairs if a in by_id and b in by_id]
    conflicts = {e.id for pair in same if pair[0].label != pair[1].label for e in pair}
    duplicates = {other.id for one, other in same if one.label == other.label} - conflicts
    if duplicates:
        n = len(duplicates)
        sentence = f"{count(n, 'test image')} {is_are(n)} a duplicate or near-duplicate of another "
        sentence += "one; duplicates count as one in the confidence interval."
        yield Finding(kind="near-duplicate", sentence=sentence, items=tuple(sorted(duplicates)))
    if conflicts:
        sentence = f"{count(len(conflicts), 'test image')} show the same picture as another one "
        sentence += "under another class; not all of these labels can be right."
        yield Finding(kind="conflict", sentence=sentence, items=tuple(sorted(conflicts)))


# ---- One forward pass over the images.


_NO_PIXELS = np.empty(0, np.uint8)  # of an image that gets no forward pass


@dataclass(frozen=True, slots=True, eq=False)
class InferenceResult:
    """The readable images, and the model's outputs for some of them.

    Shapes: thumbnails (n, thumbnails.WIDTH); rows (m,) of the examples with outputs, scores (m, K),
    vectors (m, D). `pixels` of a few by id. `unreadable` maps ids to reasons.
    """

    examples: tuple[Example, ...]
    thumbnails: NDArray[np.uint8]
    rows: NDArray[np.intp]
    scores: Array
    vectors: Array
    pixels: dict[str, Pixels]
    unreadable: dict[str, str]


def _run_model(
    listing: Listing, model: ExternalClassifier, ids: Collection[str], keep: Collection[str]
) -> Steps[InferenceResult]:
    """Decode every image once and run the model on `ids`; the pixels of `keep` are returned.

    Raises: DataError if none of these can be read.
    """
    todo = [
        Example(id=row.id, label=row.label, split=row.split, sha256="", group=row.group)
        for row in listing.rows
    ]
    ids, keep = frozenset(ids), frozenset(keep)
    hashes: dict[str, str] = {}
    small: dict[str, NDArray[np.uint8]] = {}

    def decode(example: Example) -> Pixels:  # in several threads
        payload = listing.load(example.id)
        image = modality_of(model.preprocessing).open(payload, example.id, model.preprocessing)
        small[example.id] = thumbnails.make_thumbnail(payload, as_picture(image))
        hashes[example.id] = hashlib.sha256(payload).hexdigest()
        return prepare(image, model.preprocessing) if example.id in ids else _NO_PIXELS

    yield Event(stage="features", kind="begin", of=len(todo), values={"total": len(todo)})
    prefetch, start = Prefetch(todo, decode, threads=n_threads()), time.perf_counter()
    examples: list[Example] = []
    unreadable: dict[str, str] = {}
    rows: list[int] = []
    batch: list[Pixels] = []
    outputs: list[tuple[Array, Array]] = []
    pixels_by_id: dict[str, Pixels] = {}

    def run_batch() -> None:
        if batch:
            outputs.append(model.answer(normalised(np.stack(batch), model.preprocessing)))
            batch.clear()

    try:
        for done, (example, pixels) in enumerate(prefetch, 1):
            if isinstance(pixels, DataError):
                unreadable[example.id] = str(pixels).removeprefix(example.id).strip()
                continue
            if pixels is not _NO_PIXELS:
                rows.append(len(examples))
                batch.append(pixels)
                if example.id in keep:
                    pixels_by_id[example.id] = pixels
                if len(batch) == BATCH:
                    run_batch()
            examples.append(replace(example, sha256=hashes[example.id]))
            if done % BATCH == 0:
                speed: dict[str, float | int | str] = {}
                speed["per_second"] = round(done / (time.perf_counter() - start), 1)
                yield Event(stage="features", kind="step", step=done, of=len(todo), values=speed)
    finally:
        prefetch.close()
    run_batch()
    if not rows:
        raise DataError(f"{listing.wording.source}: none of its images can be read; replace them")
    yield Event(stage="features", kind="end", step=len(todo), of=len(todo))
    return InferenceResult(
        examples=tuple(examples),
        thumbnails=np.stack([small[example.id] for example in examples]),
        rows=np.array(rows, dtype=np.intp),
        scores=np.concatenate([scores for scores, _ in outputs]),
        vectors=np.concatenate([vectors for _, vectors in outputs]),
        pixels=pixels_by_id,
        unreadable=unreadable,
    )


def _near_duplicates(result: InferenceResult) -> tuple[Pair, ...]:
    """Pairs of ids of near-duplicates among the readable images, without byte-identical ones."""
    first: dict[str, int] = {}
    same: dict[str, list[str]] = {}
    for row, example in enumerate(result.examples):
        first.setdefault(example.sha256, row)
        same.setdefault(example.sha256, []).append(example.id)
    rows = np.array(list(first.values()), dtype=np.intp)
    small = thumbnails.unpack(result.thumbnails[rows])
    is_large = small.files().short_side() >= rules.LEAST_SIDE
    rows, small = rows[is_large], small.of(np.flatnonzero(is_large))
    if len(rows) < 2:
        return ()
    output_of = {int(row): number for number, row in enumerate(result.rows)}
    numbers = [output_of[int(row)] for row in rows if int(row) in output_of]
    vectors = unit_features(result.vectors[numbers]) if len(numbers) == len(rows) else None
    hashes = [result.examples[row].sha256 for row in rows]
    return tuple(
        (one, other)
        for pair in find_near_duplicates(small, vectors)
        for one in same[hashes[pair.first]]
        for other in same[hashes[pair.second]]
    )


def _sample(ids: Sequence[str], most: int, rng: np.random.Generator) -> list[str]:
    """At most so many of the ids, sampled at random, in their own order."""
    if len(ids) <= most:
        return list(ids)
    return [ids[row] for row in np.sort(rng.choice(len(ids), most, replace=False))]


# ---- The audit.


MOST_TRAIN = 1000  # training images that the model is run on
ANOTHER_ORDER, LEAST_FOR_ORDER = 0.3, 30  # of accuracy; groups
_ASSUMED = "assumed: the class names of the data, sorted, as torchvision's ImageFolder does"


class Names(NamedTuple):
    """Names of the outputs, in their order, and where they come from."""

    outputs: tuple[str, ...]
    source: str
    is_assumed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _ScoredExamples:
    """Examples with outputs. Shapes: labels, groups (n,), scores (n, K)."""

    examples: tuple[Example, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        predictions: NDArray[np.int64] = self.scores.argmax(axis=1)
        return predictions

    def filter(self, mask: NDArray[np.bool_]) -> _ScoredExamples:
        examples = tuple(itertools.compress(self.examples, mask))
        return _ScoredExamples(examples, self.labels[mask], self.groups[mask], self.scores[mask])

    def metrics(self) -> Scores:
        p = probabilities(self.scores, Calibration(1.0, np.zeros(self.scores.shape[1])))
        return scores(p, self.labels, self.groups)


def _name_outputs(
    model: ExternalClassifier, file: Path | None, classes: Sequence[str], data: str
) -> Names:
    """Name the outputs: from a file, from the model itself, or as the data's classes.

    Raises: ModelError where nothing names them, or the number of names is not that of outputs.
    """
    if file is not None:
        names = Names(read_names(file), f"from {file}")
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


def _judge_model(
    listing: Listing, model: ExternalClassifier, labels: Path | None
) -> Steps[AuditedModel]:
    """Run a model on labelled images, measure it, and check for leakage and other problems.

    Rows of split "test" are the test set; all others may have been trained on.
    Raises: ModelError or DataError where its outputs or the images cannot be used.
    """
    classes = tuple(sorted({row.label for row in listing.rows}))
    names = _name_outputs(model, labels, classes, listing.wording.source)
    rng = np.random.default_rng([0, 11])
    rows = [row for row in listing.rows if row.label in set(names.outputs)]
    test_ids = [row.id for row in rows if row.split == "test"]
    if not test_ids:
        raise DataError(
            f"{listing.wording.source}: the model knows none of its classes "
            f"({first_few(classes)}); it knows {first_few(names.outputs)}. "
            "Rename the classes, or give --labels FILE."
        )
    train_ids = _sample([row.id for row in rows if row.split != "test"], MOST_TRAIN, rng)
    keep = _sample(test_ids, STAGES[1], rng)
    result = yield from _run_model(listing, model, [*test_ids, *train_ids], keep)
    yield Event(stage="checks", kind="begin")
    with threadpool_limits(limits=1, user_api="blas"):
        audited = _measure(listing, model, names, result, rng)
    yield Event(stage="checks", kind="end")
    return audited


def _measure(
    listing: Listing,
    model: ExternalClassifier,
    names: Names,
    result: InferenceResult,
    rng: np.random.Generator,
) -> AuditedModel:
    overlaps = overlap(result.examples, _near_duplicates(result), model.training_hashes)
    test = _select(result, names, overlaps, "test")
    leaks = np.array([example.id in overlaps.leaked for example in test.examples])
    has_clean = bool(leaks.any() and not leaks.all())
    clean = test.filter(~leaks) if has_clean else test
    clean_scores = clean.metrics()
    unknown = [r for r in listing.rows if r.split == "test" and r.label not in names.outputs]
    present = {example.label for example in test.examples}
    n_train = sum(example.split != "test" for example in result.examples)
    sizes = np.bincount(clean.labels)
    majority = int(sizes.argmax())
    n_unreadable = IMAGE.nouns.count(len(result.unreadable))
    left_out = f"{n_unreadable} could not be read and left out of all figures."
    calibration = reliability(clean.scores, clean.labels, clean.groups, rng)
    rows = [row for row, example in enumerate(test.examples) if example.id in result.pixels]
    rows = [int(row) for row in rng.permutation(rows)]
    pixels = [result.pixels[test.examples[row].id] for row in rows]
    preprocessing = _try_preprocessings(model, pixels, test.labels[rows], test.groups[rows])
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
        test=test.metrics(),
        without_leaks=clean_scores if has_clean else None,
        majority=MajorityClass(
            label=names.outputs[majority], accuracy=float(sizes[majority] / sizes.sum())
        ),
        leaked=int(leaks.sum()),
        leaks_by="near copies" if n_train else "bytes" if model.training_hashes else "nothing",
        trained_on=n_train or len(model.training_hashes),
        train=_train_gap(_select(result, names, overlaps, "train"), clean_scores, n_train),
        classes=per_class(clean.predicted, clean.labels, clean.groups, names.outputs),
        calibration=calibration,
        findings=(
            *listing.problems,
            *unreadable(result.unreadable, left_out),
            *overlaps.findings,
            *([preprocessing] if preprocessing else []),
        ),
        unknown_classes=tuple(sorted({row.label for row in unknown})),
        unknown_images=len(unknown),
        unused_outputs=tuple(name for name in names.outputs if name not in present),
    )


def _select(
    result: InferenceResult, names: Names, overlaps: Overlap, split: str
) -> _ScoredExamples:
    number = {name: index for index, name in enumerate(names.outputs)}
    rows = [k for k, row in enumerate(result.rows) if result.examples[row].split == split]
    examples = tuple(result.examples[result.rows[k]] for k in rows)
    labels = np.array([number[example.label] for example in examples], dtype=np.int64)
    groups = group_numbers(examples, overlaps.near_duplicates)
    return _ScoredExamples(examples, labels, groups, result.scores[rows].astype(np.float64))


def _better_order(test: _ScoredExamples) -> float | None:
    """Accuracy under the best order of the outputs, where the assumed one must be wrong.

    On uninformative outputs the gain stays below `ANOTHER_ORDER` from `LEAST_FOR_ORDER` groups on.
    """
    if len(np.unique(test.groups)) < LEAST_FOR_ORDER:
        return None
    n, k = test.scores.shape
    table = np.zeros((k, k))
    np.add.at(table, (test.labels, test.predicted), 1 / n)
    best = float(table[linear_sum_assignment(table, maximize=True)].sum())
    return best if best - float(np.trace(table)) > ANOTHER_ORDER else None


def _train_gap(train: _ScoredExamples, test: Scores, of: int) -> TrainGap | None:
    """Accuracy on training images, and its gap to the test accuracy."""
    if not train.examples:
        return None
    correct = (train.predicted == train.labels).astype(float)
    accuracy, low, high = accuracy_interval(correct, train.groups)
    difference = gap((accuracy, low, high), (test.accuracy, test.low, test.high))
    return TrainGap(
        n=len(correct),
        of=of,
        accuracy=accuracy,
        low=low,
        high=high,
        gap=difference[0],
        gap_low=difference[1],
        gap_high=difference[2],
    )


def list_images(
    source: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    train: Source | None = None,
) -> Listing:
    """List labelled images, the test set as split "test"; no file is opened.

    The test set is the test split, else the hold-out, else everything; the other splits, and
    `train`, whose ids get the prefix "train/", may have been trained on.
    Raises: DataError if there is no image, or a named column is missing.
    """
    columns = Columns(label=label, group=group)
    listing = list_source(source, columns)
    if not listing.is_table and (label or group):
        option = f"--label {label}" if label else f"--group {group}"
        raise DataError(
            f"{option} names a column, but {listing.wording.source} is not a table; remove it"
        )
    rows = listing.rows
    splits = {row.split for row in rows}
    test = next((split for split in ("test", "holdout") if split in splits), None)
    rows = tuple(replace(row, split="test") if test in (None, row.split) else row for row in rows)
    listing = replace(listing, rows=rows)
    if train is None:
        return listing
    training = list_source(train, columns)
    ids, prefix = {row.id for row in listing.rows}, "train/"
    while any(prefix + row.id in ids for row in training.rows):
        prefix += "train/"
    layout = f"{listing.layout}; train: {training.layout}"
    return concatenate((listing, as_split(training, prefix, "train")), layout)


def judge(
    model: str,
    data: Any,
    *,
    arch: str | None = None,
    labels: Path | None = None,
    train: Any = None,
    label: str | None = None,
    group: str | None = None,
    handling: InputHandling | None = None,
) -> Steps[AuditedModel]:
    """Evaluate a finished model on labelled images; nothing is trained or written.

    `model` is a file of weights (with `arch`), an ONNX file, a folder in the format of the
    Hugging Face hub, a run folder, or the name of a base model. `labels` is a file that names its
    outputs in their order, `train` the images that it was trained on, to check for data leakage.
    Raises: ModelError, RunFolderError or DataError where one of them cannot be used.
    """
    check_path(model, arch)
    listing = list_images(data, label=label, group=group, train=train)
    yield Event(stage="features", kind="begin")
    path, handling = Path(model), handling or InputHandling()
    if arch is None and path.is_dir() and not is_hub_folder(path):
        classifier = _open_run(path, handling)
    else:
        classifier = open_classifier(model, arch, handling, n_threads())
    return (yield from _judge_model(listing, classifier, labels))


def _open_run(run: Path, handling: InputHandling) -> ExternalClassifier:
    """A run: its calibrated outputs, and the hashes of its training images."""
    predictor = load(run)
    record, model = predictor.bundle.record, predictor.model
    if handling.is_set:
        raise ModelError(f"{run} records its own preprocessing; remove those options.")
    if not TASKS[record.task].has_classes:
        raise ModelError(
            f"{run} does not predict one class per image, which audit needs; use "
            f"`warmstart evaluate {run} DATA`."
        )

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        with torch.inference_mode():
            features = model.features(inputs)
            last = features[-1].flatten(1)
            return model.head(features).float().numpy(), last.float().numpy()

    hashes = frozenset[str]()
    if (run / "data.json").is_file():
        examples = read_json(run / "data.json", DataRecord).examples
        hashes = frozenset(example.sha256 for example in examples if example.split != "test")
    return ExternalClassifier(
        name=str(run),
        title=f"{os.path.normpath(run)} (a run), {n_parameters(model) / 1e6:.1f} M parameters",
        answer=answer,
        outputs=len(record.classes),
        preprocessing=pictures(record.preprocessing),
        preprocessing_from="the run",
        labels=record.classes,
        labels_from="the run",
        training_hashes=hashes,
    )


# ---- Does the preprocessing match the model's? The model under other preprocessings.


STAGES = (64, 200)  # images for all alternatives, and for those that gain by then


class Alternative(NamedTuple):
    """A preprocessing; `order` is -1 where red and blue are exchanged first, else 1."""

    prep: Preprocessing
    order: int = 1


def _try_preprocessings(
    model: ExternalClassifier,
    pixels: Sequence[Pixels],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> Finding | None:
    """A finding where another usual preprocessing gives clearly higher accuracy, else None.

    Alternatives: 0..1, 0..255, -1..1, ImageNet's mean and std, red and blue exchanged. Clear is a
    gain of 2 points or more that is significant in a sign test over groups, at a level shared
    among the alternatives. Shapes: pixels (n) of (H, W, C), labels and groups (n,).
    """
    others = _alternatives(model.preprocessing, np.stack(pixels[: STAGES[0]]))
    gains: dict[str, Array] = dict.fromkeys(others, np.empty(0, np.float32))
    for begin, end in zip((0, *STAGES), STAGES, strict=False):
        images, truth = pixels[begin:end], labels[begin:end]
        if not len(images) or not gains:
            break
        now = _hits(model, images, truth, Alternative(model.preprocessing))
        for name in gains:
            gain = _hits(model, images, truth, others[name]) - now
            gains[name] = np.concatenate([gains[name], gain])
        gains = {name: gain for name, gain in gains.items() if gain.mean() > 0}
    return _finding(gains, others, groups)


def _alternatives(present: Preprocessing, images: NDArray[np.uint8]) -> dict[str, Alternative]:
    """The usual alternatives, by name. Shapes: images (n, H, W, C), which may be grey.

    >>> prep = Preprocessing(size=(2, 2), resize=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> list(_alternatives(prep, np.zeros((1, 2, 2, 3), np.uint8)))
    ["ImageNet's mean and spread", '0 to 1', '0 to 255']
    """
    if present.channels not in (1, 3):
        return {}
    others = {}
    for name, moments in USUAL.items():
        mean, std = (
            values if present.channels == len(values) else (sum(values) / len(values),)
            for values in moments
        )
        if not np.allclose([mean, std], [present.mean, present.std], atol=1e-3):
            others[name] = Alternative(replace(present, mean=mean, std=std))
    if present.channels == 3 and not all_grey(images):
        others[SWAPPED] = Alternative(present, order=-1)
    return others


def _hits(
    model: ExternalClassifier, pixels: Sequence[Pixels], labels: NDArray[np.int64], how: Alternative
) -> Array:
    """1 for each correct image, else 0. Shapes: pixels (n) of (H, W, C), labels (n,)."""
    predicted = []
    for start in range(0, len(pixels), BATCH):
        images = np.stack(pixels[start : start + BATCH])[..., :: how.order]
        inputs = normalised(np.ascontiguousarray(images), how.prep)
        predicted.append(model.answer(inputs)[0].argmax(axis=1))
    hits: Array = (np.concatenate(predicted) == labels).astype(np.float32)
    return hits


def _finding(
    gains: Mapping[str, Array], others: Mapping[str, Alternative], groups: NDArray[np.int64]
) -> Finding | None:
    if not gains:
        return None
    best = max(gains, key=lambda name: float(gains[name].mean()))
    gain = gains[best].astype(np.float64)
    groups = np.unique(groups[: len(gain)], return_inverse=True)[1]
    sums = np.bincount(groups, weights=gain)
    ups, downs = int((sums > 0).sum()), int((sums < 0).sum())
    value, low, high = mean_interval(gain, groups)
    if value < LEAST:
        return None
    from scipy.stats import binomtest  # takes 0.3 s, and few audits come this far

    if binomtest(ups, ups + downs, alternative="greater").pvalue > LEVEL / len(others):
        return None
    cure = "Exchange them before the model sees them"
    if others[best].order > 0:
        prep = others[best].prep
        cure = f"Use --mean {_numbers(prep.mean)} --std {_numbers(prep.std)}"
    points = f"{100 * max(low, -1.0):z.0f} to {100 * min(high, 1.0):.0f}"
    sentence = (
        f"The preprocessing does not seem to be the model's: with {best} its accuracy is "
        f"{100 * value:.0f} points higher (95 % CI {points}, {len(gain)} images). {cure}."
    )
    return Finding(kind="preprocessing", sentence=sentence, items=(best,))


def _numbers(values: Sequence[float]) -> str:
    distinct = values[:1] if len(set(values)) == 1 else values
    return ",".join(f"{value:.4g}" for value in distinct)
