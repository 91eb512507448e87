"""Near-duplicates: the same picture re-encoded, resized, mirrored, cropped or relit.

Candidates are the nearest neighbours by coarse thumbnails (mirrored too) and by network
features. Each is registered on its partner, from several initial poses, at 32 and then at
64 px, and accepted if the details agree: pictures that merely look alike (faces, cells, hands,
drawings on white) agree in outline, not in detail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.data.dataset import Collection
from warmstart.data.splits import group_numbers
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Nouns, is_are
from warmstart.records.data import DataRecord, Example, Task
from warmstart.records.findings import Finding
from warmstart.solve.kernels import Features, Key, Read, apply_scaling, chunks, fit_scalings, some
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS

# ---- Near-duplicates as findings; and what --fix leaves out.

Pair = tuple[str, str]
MIN_PAIRS = 10  # with fewer, the agreement of labels says nothing


def scenes_sentence(n: int, nouns: Nouns) -> str:
    """The finding on n pairs that are not copies."""
    return (
        f"{n:,} pairs of {nouns.many} agree in every detail but not in their labels, as "
        f"{nouns.pictures} of one fixed scene do: they count as different {nouns.pictures}. "
        "If several show one object, name it with --group."
    )


def with_near_duplicates(collection: Collection, near_duplicates: Iterable[Pair]) -> Collection:
    """The collection with its near-duplicates: pairs of ids, and findings.

    "near-duplicate" (further copies of a training image), "conflict" (copies in the training
    set with different labels), "leakage" (test or hold-out images with a copy in earlier
    splits). Copies of the same bytes are handled before and not named again.
    """
    record, nouns = collection.record, MODALITIES[collection.record.kind].nouns
    pairs = tuple(sorted((min(pair), max(pair)) for pair in near_duplicates))
    if are_scenes(record.examples, pairs, record.task):
        note = Finding(kind="near-duplicate", sentence=scenes_sentence(len(pairs), nouns))
        return replace(collection, record=replace(record, problems=(*record.problems, note)))
    copies = _copies(record.examples, pairs, record.task, nouns)
    findings = (*copies, *_leaks(record.examples, pairs, nouns))
    record = replace(record, near_duplicates=pairs, problems=(*record.problems, *findings))
    return replace(collection, record=record)


def are_scenes(
    examples: Sequence[Example], pairs: Sequence[Pair], task: Task = CLASSIFICATION.task
) -> bool:
    """Whether the pairs are pictures of one scene (a fixed camera) rather than copies.

    Copies nearly always have the same label. If the training pairs agree hardly more often
    than by chance, what they share is not what the labels are about; and under random labels
    the pictures are as good as independent.
    """
    labels = {e.id: e.label for e in examples if e.split == "train"}
    training = [(a, b) for a, b in pairs if a in labels and b in labels]
    if len(training) < MIN_PAIRS:
        return False
    rule = TASKS[task].agreement([*labels.values()])
    agreement = sum(rule.agree([labels[a], labels[b]]) for a, b in training) / len(training)
    return agreement < (1 + rule.chance) / 2


def _copies(
    examples: Sequence[Example], pairs: Sequence[Pair], task: Task, nouns: Nouns
) -> list[Finding]:
    """Near-duplicates within the training set. Test labels are not used."""
    train = {e.id: e for e in examples if e.split == "train"}
    inside = [(a, b) for a, b in pairs if a in train and b in train]
    # Without their groups: examples that share one need not be copies.
    rows = [replace(train[id], group=None) for id in sorted({id for pair in inside for id in pair})]
    if not rows:
        return []
    sets: dict[int, list[Example]] = {}
    for example, number in zip(rows, group_numbers(rows, inside), strict=True):
        sets.setdefault(int(number), []).append(example)
    rule = TASKS[task].agreement([e.label for e in train.values()])
    agreement = [(copies, rule.agree([e.label for e in copies])) for copies in sets.values()]
    mixed = [e.id for copies, agree in agreement if not agree for e in copies]
    first = {e.sha256: e.id for e in reversed(rows)}
    further = [
        e.id for copies, agree in agreement if agree for e in copies[1:] if first[e.sha256] == e.id
    ]
    findings = []
    if further:
        n = len(further)
        sentence = (
            f"{nouns.count(n, 'training')} {is_are(n)} a near-duplicate of another one "
            f"({nouns.changed}). Copies count as one example when the accuracy is estimated; "
            "otherwise it would be too high."
        )
        findings.append(Finding(kind="near-duplicate", sentence=sentence, items=tuple(further)))
    if mixed:
        sentence = (
            f"{nouns.count(len(mixed), 'training')} are near-duplicates of each other and carry "
            f"{rule.apart}. Not all of these {rule.many} can be right."
        )
        findings.append(Finding(kind="conflict", sentence=sentence, items=tuple(mixed)))
    return findings


def _leaks(examples: Sequence[Example], pairs: Sequence[Pair], nouns: Nouns) -> list[Finding]:
    """Near-duplicates across splits, named by the image of the later split."""
    by_id = {e.id: e for e in examples}
    findings = []
    for later, word, earlier in (
        ("test", "test", ("train", "holdout")),
        ("holdout", "hold-out", ("train",)),
    ):
        hashes = {e.sha256 for e in examples if e.split in earlier}
        crossing = {
            one
            for pair in pairs
            for one, other in (pair, pair[::-1])
            if by_id[one].split == later and by_id[other].split in earlier
            if by_id[one].sha256 not in hashes
        }
        if crossing:
            n = len(crossing)
            sentence = (
                f"{nouns.count(n, word)} {is_are(n)} a near-duplicate of a training {nouns.one} "
                f"({nouns.changed}): the {word} flatters the model. --fix learns without those "
                "copies."
            )
            findings.append(
                Finding(kind="leakage", sentence=sentence, items=tuple(sorted(crossing)))
            )
    return findings


def find_exclusions(record: DataRecord) -> dict[str, str]:
    """Training and hold-out images that --fix leaves out, each with the reason.

    Copies of a test image, so that the test is honest; images in conflict; exact copies
    beyond the first. Near-duplicates in the training set stay: they count as one example.
    """
    reasons: dict[str, str] = {}
    later = {"train": ("holdout", "test"), "holdout": ("test",), "test": ()}
    by_hash: dict[str, list[Example]] = {}
    examples = {e.id: e for e in record.examples}
    for example in record.examples:
        by_hash.setdefault(example.sha256, []).append(example)
    for problem in record.problems:
        if problem.kind == "conflict":
            why = f"the same {MODALITIES[record.kind].nouns.picture} has another label too"
            reasons |= dict.fromkeys(problem.items, why)
    for same in by_hash.values():
        for number, example in enumerate(same):
            copy = next((o for o in same if o.split in later[example.split]), None)
            if copy is not None:
                reasons[example.id] = f"copy of {copy.id} in the {copy.split} set"
            elif number and example.split == "train":
                first = next(o for o in same if o.split == "train")
                if first.id != example.id:
                    reasons.setdefault(example.id, f"exact copy of {first.id}")
    for pair in record.near_duplicates:
        for one, other in (pair, pair[::-1]):
            if examples[other].split in later[examples[one].split]:
                reasons[one] = f"near-duplicate of {other} in the {examples[other].split} set"
    return {id: reasons[id] for id in sorted(reasons) if examples[id].split != "test"}


# ---- Image registration: a scale and a shift on each axis, mirroring apart.
#
# Small pictures are compared by the correlation of their details, which ignores brightness
# and contrast; Gauss-Newton steps on the pose make up for cropping. Sources:
# Baker & Matthews 2004, "Lucas-Kanade 20 Years On" (inverse compositional steps);
# Evangelidis & Psarakis 2008 (correlation as the measure).
#
# Shapes: pictures (P, S, S) float32; a pose (P, 4) float32 holds scale and shift across,
# then scale and shift down, in units in which a picture reaches from -1 to 1.

Pictures = NDArray[np.float32]
Poses = NDArray[np.float32]

# Details at each side length: structures between these two widths in px (Gaussians).
_BANDS = {32: (0.5, 2.5), 64: (0.7, 3.0)}
_ROUNDING = 0.1  # variance that rounding to 8 bits leaves in a blank picture
_STEP = 0.08  # longest move of a pose in one step
_SCALES = (0.85, 1.18)  # beyond any crop of 5 % at both ends
_SHIFT = 0.12
# Initial poses: identity; 5 % cropped all round, in either picture; 5 % at one side.
_CROPS = ((0.95, 0.05), (0.95, -0.05), (1 / 0.95, 1 / 19), (1 / 0.95, -1 / 19))
INITIAL_POSES: Poses = np.array(
    [(1, 0, 1, 0), (0.9, 0, 0.9, 0), (1 / 0.9, 0, 1 / 0.9, 0)]
    + [(scale, shift, 1, 0) for scale, shift in _CROPS]
    + [(1, 0, scale, shift) for scale, shift in _CROPS],
    dtype=np.float32,
)


def details(grey: NDArray[np.uint8], side: int) -> Pictures:
    """Pictures (P, G, G) shrunk to `side` px and band-passed. Shapes: returns (P, side, side)."""
    step = grey.shape[1] // side
    small = grey.reshape(len(grey), side, step, side, step).mean((2, 4), dtype=np.float32)
    fine, coarse = (_gaussian(side, width) for width in _BANDS[side])
    band: Pictures = fine @ small @ fine.T - coarse @ small @ coarse.T
    return band


def _gaussian(side: int, width: float) -> NDArray[np.float32]:
    """Smoothing as a matrix; rows sum to 1 at the edges too. Shapes: (side, side)."""
    pixel = np.arange(side)
    weights = np.exp(-0.5 * ((pixel[:, None] - pixel) / width) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def warp(pictures: Pictures, poses: Poses) -> tuple[Pictures, Pictures]:
    """Pictures (P, S, S[, C]) moved to these poses, bilinearly, and a mask (P, S, S): 1 inside."""
    side = pictures.shape[1]
    centres = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    points = poses[:, 0::2, None] * centres + poses[:, 1::2, None]  # (P, 2, S)
    pixels = np.clip(((points + 1) * side - 1) / 2, 0, side - 1)
    weights = np.maximum(0, 1 - np.abs(pixels[..., None] - np.arange(side, dtype=np.float32)))
    inside = (np.abs(points) <= 1).astype(np.float32)
    across, down = weights[:, 0], weights[:, 1]
    if pictures.ndim == 4:
        moved = np.einsum("pij,pjkc,plk->pilc", down, pictures, across, optimize=True)
    else:
        moved = down @ pictures @ across.transpose(0, 2, 1)
    return moved, inside[:, 1, :, None] * inside[:, 0, None]


def correlate(first: Pictures, second: Pictures, inside: Pictures) -> NDArray[np.float32]:
    """Correlation of pairs over the pixels where `inside` is 1. Shapes: returns (P,)."""
    left, right = _centred(first, inside), _centred(second, inside)
    both, one, other = _dots(left, right), _dots(left, left), _dots(right, right)
    floor = _ROUNDING * _dots(inside, inside)
    return np.asarray(both / np.sqrt((one + floor) * (other + floor)), dtype=np.float32)


def _centred(pictures: Pictures, inside: Pictures) -> Pictures:
    """Mean 0 over the inside, 0 outside."""
    mean = _dots(pictures, inside) / np.maximum(_dots(inside, inside), 1)
    return np.asarray((pictures - mean[:, None, None]) * inside, dtype=np.float32)


def _dots(left: Pictures, right: Pictures) -> NDArray[np.float32]:
    """Inner product of each pair. Shapes: (P, S, S) twice; returns (P,)."""
    return np.asarray(np.einsum("pij,pij->p", left, right), dtype=np.float32)


def register(
    first: Pictures, second: Pictures, poses: Poses, steps: int
) -> tuple[Poses, NDArray[np.float32]]:
    """The pose in which `second` correlates best with `first`, and that correlation."""
    jacobian = _jacobian(first)
    hessian = jacobian @ jacobian.transpose(0, 2, 1)
    # A little of the mean curvature on the diagonal keeps flat directions in place.
    damping = 0.01 * np.trace(hessian, axis1=1, axis2=2) / 4 + 1e-3
    hessian += np.eye(4, dtype=np.float32) * damping[:, None, None]
    best, best_poses = np.full(len(first), -1, np.float32), poses.copy()
    for step in range(steps + 1):
        moved, inside = warp(second, poses)
        similarity = correlate(first, moved, inside)
        better = similarity > best
        best, best_poses[better] = np.maximum(best, similarity), poses[better]
        if step == steps:
            break
        left, right = _centred(first, inside), _centred(moved, inside)
        gain = _dots(left, right) / np.maximum(_dots(right, right), 1e-6)
        error = np.maximum(gain, 0.1)[:, None, None] * right - left
        move = np.linalg.solve(hessian, jacobian @ error.reshape(len(first), -1, 1))[..., 0]
        poses = _compose(poses, np.clip(move, -_STEP, _STEP))
    return best_poses, best


def _jacobian(pictures: Pictures) -> Pictures:
    """Change of each pixel with each pose parameter, at identity. Shapes: (P, 4, S * S)."""
    side = pictures.shape[1]
    centres = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    down, across = np.gradient(pictures * np.float32(side / 2), axis=(1, 2))
    stacked = np.stack([across * centres, across, down * centres[:, None], down], axis=1)
    jacobian: Pictures = stacked.reshape(len(pictures), 4, -1)
    return jacobian


def _compose(poses: Poses, move: NDArray[np.float32]) -> Poses:
    """The pose after undoing a small move of the first picture, within bounds."""
    scale = poses[:, 0::2] / (1 + move[:, 0::2])
    shift = poses[:, 1::2] - scale * move[:, 1::2]
    moved = np.empty_like(poses)
    moved[:, 0::2] = np.clip(scale, *_SCALES)
    moved[:, 1::2] = np.clip(shift, -_SHIFT, _SHIFT)
    return moved


# ---- Nearest neighbours: among all rows, or, of many rows, in the cells of an index.
#
# All pairs of 10,000 rows cost 100 times as much as those of 1,000. Many rows are therefore
# searched in cells: some rows, evenly spaced, are the centre of a cell each; every row is stored
# in the two cells nearest to it and searched for in the nearest four. An inverted file (Sivic
# & Zisserman 2003; Jegou et al. 2011, §II), with cells that are too large split again. What
# is missed is hardly ever a near-duplicate, which is more similar than any other row.
#
# Shapes: n rows of d numbers, of unit length.

Vectors = NDArray[np.floating]  # single precision; half for many rows

EXACT = 4000  # rows up to which all pairs are compared
STORED_CELLS = 2  # cells that a row is stored in
PROBES = 4  # cells in which its neighbours are searched
CELL = 2048  # rows beyond which a cell is split again
MAX_DEPTH = 3  # of splits; rows that need more are all alike and any will do
_NEAREST_ROWS = 256  # compared with all others at a time


def nearest(queries: Vectors, variants: Sequence[Vectors], count: int) -> Rows:
    """The `count` most similar other rows of each, in no order; the best variant counts."""
    if len(queries) <= EXACT:
        return _among_all(queries, variants, count)
    n = len(queries)
    best = np.full((n, count), -1), np.full((n, count), -np.inf, np.float32)
    for vectors in variants:
        _CellSearch(queries, vectors, *best).search(np.arange(n), np.arange(n))
    rows, similarity = best
    others = (np.arange(n)[:, None] + np.arange(1, count + 1)) % n  # never the row itself
    return np.where(np.isfinite(similarity), rows, others)


def _among_all(queries: Vectors, variants: Sequence[Vectors], count: int) -> Rows:
    n = len(queries)
    neighbours = np.empty((n, count), dtype=np.intp)
    for start in range(0, n, _NEAREST_ROWS):
        chunk = slice(start, start + _NEAREST_ROWS)
        similarity = queries[chunk] @ variants[0].T
        for vectors in variants[1:]:
            np.maximum(similarity, queries[chunk] @ vectors.T, out=similarity)
        index = np.arange(len(similarity))
        similarity[index, start + index] = -np.inf
        neighbours[chunk] = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return neighbours


@dataclass(frozen=True, slots=True)
class _CellSearch:
    """Queries and stored rows, both (n, d); the best neighbours so far, both (n, count)."""

    queries: Vectors
    stored: Vectors
    rows: Rows
    similarity: NDArray[np.float32]

    def search(self, queries: Rows, members: Rows, depth: int = 0) -> None:
        """Search for the neighbours of `queries` among `members`."""
        if len(members) <= CELL:
            self._search_cell(queries, members)
        elif depth == MAX_DEPTH:
            n = -(-len(members) // CELL)
            for few, some in zip(
                np.array_split(queries, n), np.array_split(members, n), strict=True
            ):
                self._search_cell(few, some)
        else:
            n = round(np.sqrt(len(members)))
            centre_rows = members[np.linspace(0, len(members) - 1, n).astype(int)]
            centres = _single(self.stored, centre_rows)
            cells = _assign(self.stored, members, centres, STORED_CELLS)
            probes = _assign(self.queries, queries, centres, PROBES)
            for inside, probing in zip(cells, probes, strict=True):
                if len(inside) and len(probing):
                    self.search(probing, inside, depth + 1)

    def _search_cell(self, queries: Rows, members: Rows) -> None:
        count = min(self.rows.shape[1], len(members))
        inside = _single(self.stored, members)
        for start in range(0, len(queries), _NEAREST_ROWS):
            rows = queries[start : start + _NEAREST_ROWS]
            similarity = _single(self.queries, rows) @ inside.T
            similarity[rows[:, None] == members] = -np.inf
            top = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
            self._add(rows, members[top], np.take_along_axis(similarity, top, axis=1))

    def _add(self, queries: Rows, rows: Rows, similarity: NDArray[np.float32]) -> None:
        """Merge with further neighbours. Shapes: queries (a,), distinct; the others (a, m)."""
        rows = np.concatenate([self.rows[queries], rows], axis=1)
        similarity = np.concatenate([self.similarity[queries], similarity], axis=1)
        order = np.argsort(-similarity, axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
        similarity = np.take_along_axis(similarity, order, axis=1)
        for index in range(1, rows.shape[1]):  # a row of another variant, or in another cell
            is_repeated = (rows[:, :index] == rows[:, index : index + 1]).any(axis=1)
            similarity[is_repeated, index] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, : self.rows.shape[1]]
        self.rows[queries] = np.take_along_axis(rows, order, axis=1)
        self.similarity[queries] = np.take_along_axis(similarity, order, axis=1)


def _assign(vectors: Vectors, rows: Rows, centres: Vectors, count: int) -> list[Rows]:
    """For each centre, the rows that have it among their `count` nearest centres."""
    numbers = np.empty((len(rows), count), dtype=np.intp)
    for start in range(0, len(rows), _NEAREST_ROWS):
        chunk = slice(start, start + _NEAREST_ROWS)
        similarity = _single(vectors, rows[chunk]) @ centres.T
        numbers[chunk] = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    order = np.argsort(numbers.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(numbers.ravel(), minlength=len(centres)))[:-1]
    return np.split(rows[order // count], ends)


def _single(vectors: Vectors, rows: Rows) -> NDArray[np.float32]:
    """Some rows in single precision, which multiplies fastest."""
    single: NDArray[np.float32] = vectors[rows].astype(np.float32, copy=False)
    return single


Rows = NDArray[np.intp]

NEIGHBOURS = 4  # candidates of a picture by thumbnail, and as many by features
MAX_WIDTH = 256  # features compared; those of a network have no order, so every k-th will do
# Measured on 14 real sets (bench/planted.py) with ten kinds of alteration of 60 pictures each.
PROMISING = 0.5  # correlation at 32 px in the best initial pose: copies .54 up, mostly .7
LIKELY = 0.8  # after registration at 32 px: copies .85 and more
MIN_SIMILARITY = (
    0.89  # after that at 64 px: copies .91 up, look-alikes .88 down (but one of .94 in 7,358)
)
# For spectrograms, only as candidates: their waveforms decide.
MIN_SOUND_SIMILARITY = 0.85
TINT = 0.09  # difference in hue: copies .07 and less (1 of 840: .11), other paint .10 and more
IN_MEMORY = 4000  # pictures whose details are made once; those of more on demand
_ROWS = 256  # pictures in memory at a time
_FEW = 64  # pictures moved to every initial pose, or pairs registered, at a time


class Indexed(Protocol):
    """An array, or what loads rows on demand if all would not fit in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.uint8]: ...


class HasPictures(Protocol):
    """Thumbnails. Shapes: grey (n, 64, 64), colour (n, 16, 16, 3), both uint8."""

    @property
    def grey(self) -> Indexed: ...

    @property
    def colour(self) -> Indexed: ...


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two rows, first < second, that show one picture; similarity at most 1."""

    first: int
    second: int
    similarity: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Candidates and the pose of the second on the first, all of one length."""

    first: Rows
    second: Rows
    mirrored: NDArray[np.bool_]
    poses: Poses
    similarity: NDArray[np.float32]

    def at(self, index: NDArray[np.bool_] | Rows) -> _Pairs:
        return _Pairs(*(getattr(self, field.name)[index] for field in fields(self)))


def same_fingerprint(
    examples: Sequence[Example], fingerprints: Mapping[str, str]
) -> tuple[Pair, ...]:
    """Pairs of ids: each example, its exact copies apart, and the first of its fingerprint.

    So n copies make n - 1 pairs.
    """
    first: dict[str, Example] = {}
    pairs = []
    for example in examples:
        if example.id in fingerprints:
            original = first.setdefault(fingerprints[example.id], example)
            if original.sha256 != example.sha256:
                pairs.append((original.id, example.id))
    return tuple(pairs)


def find_near_duplicates(
    thumbnails: HasPictures, features: Vectors | None = None, min_similarity: float = MIN_SIMILARITY
) -> tuple[NearDuplicate, ...]:
    """Pairs of near-duplicates of at least `min_similarity`, ordered by row.

    Shapes: features (n, w), the same n rows, from `search_vectors` or `unit_features`. Pairs are
    not closed: of many copies of one picture each is paired with some others; join them as
    connected components.
    """
    grey = thumbnails.grey
    if len(grey) < 2:
        return ()
    pairs = _promising(grey, candidates(grey, features))
    # Each pair once, in the better order, sorted by row.
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    order = np.lexsort((-pairs.similarity, high, low))
    is_new = np.r_[True, (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)][: len(order)]
    pairs = _register(pairs.at(order[is_new]), grey, 32, steps=4)
    pairs = _register(pairs.at(pairs.similarity >= LIKELY), grey, 64, steps=3)
    pairs = pairs.at(pairs.similarity >= min_similarity)
    pairs = pairs.at(_tint_gap(thumbnails.colour, pairs) <= TINT)
    return tuple(
        NearDuplicate(int(min(i, j)), int(max(i, j)), round(float(similarity), 4), bool(mirrored))
        for i, j, similarity, mirrored in zip(
            pairs.first, pairs.second, pairs.similarity, pairs.mirrored, strict=True
        )
    )


def candidates(grey: Indexed, features: Vectors | None) -> Rows:
    """The nearest rows of each by thumbnail, then by features. Shapes: returns (n, m)."""
    n = len(grey)
    vectors, mirrored = (np.empty((n, 64), _precision(n)) for _ in range(2))
    for start in range(0, n, _ROWS):
        chunk = grey[start : start + _ROWS]
        vectors[start : start + _ROWS] = _coarse(chunk)
        mirrored[start : start + _ROWS] = _coarse(chunk[:, :, ::-1])
    count = min(NEIGHBOURS, n - 1)
    neighbours = [nearest(vectors, [vectors, mirrored], count)]
    if features is not None:
        neighbours.append(nearest(features, [features], count))
    return np.concatenate(neighbours, axis=1)


def search_vectors(read: Read[Key], layer: Key, n: int) -> Vectors:
    """Features of n rows for the search: thinned, scaled, each row of unit length.

    Read a few rows at a time; many rows in half precision, which changes similarities by less
    than a thousandth. Shapes: (n, w).
    """
    if not n:
        return np.empty((0, 0), np.float32)
    thinned = _Thin(read, layer)
    scaling = fit_scalings(thinned, [layer])[layer]
    vectors, at = np.empty((0, 0)), 0
    for chunk in thinned.chunks([layer]):
        rows = _unit(apply_scaling(chunk[layer], scaling))
        if not at:
            vectors = np.empty((n, rows.shape[1]), _precision(n))
        vectors[at : at + len(rows)] = rows
        at += len(rows)
    return vectors


def unit_features(features: Features) -> Vectors:
    """`search_vectors` of features in memory. Shapes: (n, d) to (n, w)."""
    return search_vectors(lambda layer: features, "all", len(features))


@dataclass(frozen=True, slots=True)
class _Thin(Generic[Key]):
    """A source of features that returns some columns of one feature layer."""

    source: Read[Key]
    layer: Key

    def __call__(self, layer: Key) -> Features:
        return thin(self.source(layer))

    def some(self, rows: Rows) -> _Thin[Key]:
        return _Thin(some(self.source, rows), self.layer)

    def chunks(self, feature_layers: Sequence[Key]) -> Iterator[Mapping[Key, Features]]:
        for chunk in chunks(self.source, feature_layers):
            yield {layer: thin(chunk[layer]) for layer in feature_layers}


def _precision(n: int) -> type[np.floating[Any]]:
    return np.float32 if n <= EXACT else np.float16


def thin(features: Features) -> Features:
    """Every k-th feature, so that at most twice `MAX_WIDTH` are compared."""
    thinned: Features = features[:, :: max(features.shape[1] // MAX_WIDTH, 1)]
    return thinned


def _coarse(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8 x 8 px without slow changes, of unit length. Shapes: (n, 64)."""
    n = len(grey)
    small = grey.reshape(n, 8, 8, 8, 8).mean((2, 4), dtype=np.float32)
    smooth = _gaussian(8, 2.0)
    return _unit((small - smooth @ small @ smooth.T).reshape(n, -1))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    unit: NDArray[np.float32] = vectors / np.maximum(length, 1e-6)
    return unit


def _promising(grey: Indexed, near: Rows) -> _Pairs:
    """Each row with its candidates (n, m) in the best initial pose, if that correlates."""
    n = len(grey)
    small = details(grey[:], 32) if n <= IN_MEMORY else None
    chunks: list[tuple[NDArray[np.generic], ...]] = []
    for start in range(0, n, _FEW):
        rows = np.arange(start, min(start + _FEW, n))
        moved = _moved(details(grey[rows], 32) if small is None else small[rows])
        partners, index = np.unique(near[rows], return_inverse=True)
        pictures = details(grey[partners], 32) if small is None else small[partners]
        index = index.reshape(near[rows].shape)
        sides = [_unit(x.reshape(len(partners), -1)) for x in (pictures, pictures[:, :, ::-1])]
        similarity = np.concatenate(
            [moved @ side[index].transpose(0, 2, 1) for side in sides], axis=1
        )  # (rows, original or mirrored x pose, m)
        best = similarity.max(axis=1)
        row, column = np.nonzero(best >= PROMISING)
        choice = similarity.argmax(axis=1)[row, column]
        chunks.append((near[rows[row], column], rows[row], choice, best[row, column]))
    partner, row, choice, best = (np.concatenate(array) for array in zip(*chunks, strict=True))
    mirrored, poses = choice >= len(INITIAL_POSES), INITIAL_POSES[choice % len(INITIAL_POSES)]
    # The row was moved and its partner mirrored; from here on the row is mirrored, then moved.
    poses[mirrored, 1] *= -1
    return _Pairs(partner, row, mirrored, poses, best)


def _moved(small: Pictures) -> NDArray[np.float32]:
    """Pictures in every initial pose, of unit length. Shapes: (m, 32, 32) to (m, 11, 1024)."""
    m = len(small)
    moved = [warp(small, np.broadcast_to(pose, (m, 4)))[0] for pose in INITIAL_POSES]
    return np.stack([_unit(pictures.reshape(m, -1)) for pictures in moved], axis=1)


def _register(pairs: _Pairs, grey: Indexed, side: int, steps: int) -> _Pairs:
    poses, similarity = pairs.poses.copy(), pairs.similarity.copy()
    for start in range(0, len(poses), _FEW):
        chunk = slice(start, start + _FEW)
        second = grey[pairs.second[chunk]]
        second = np.where(pairs.mirrored[chunk, None, None], second[:, :, ::-1], second)
        poses[chunk], similarity[chunk] = register(
            details(grey[pairs.first[chunk]], side), details(second, side), poses[chunk], steps
        )
    return replace(pairs, poses=poses, similarity=similarity)


def _tint_gap(colour: Indexed, pairs: _Pairs) -> NDArray[np.float32]:
    """Mean difference in hue and saturation where the pictures overlap. Shapes: (P,)."""
    gaps = np.empty(len(pairs.first), np.float32)
    for start in range(0, len(gaps), _ROWS):
        chunk = slice(start, start + _ROWS)
        first = colour[pairs.first[chunk]].astype(np.float32)
        second = colour[pairs.second[chunk]].astype(np.float32)
        second = np.where(pairs.mirrored[chunk, None, None, None], second[:, :, ::-1], second)
        moved, inside = warp(second, pairs.poses[chunk])
        gap = np.abs(_tint(first) - _tint(moved)).sum(axis=3)
        gaps[chunk] = (gap * inside).sum((1, 2)) / inside.sum((1, 2))
    return gaps


def _tint(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour without brightness; dark pixels, whose hue is mostly noise, count less."""
    total = colour.sum(axis=3, keepdims=True)
    return np.asarray((colour - total / 3) / (total + 96), dtype=np.float32)
