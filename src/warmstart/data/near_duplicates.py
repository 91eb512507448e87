"""Near copies: the same picture re-encoded, resized, mirrored, cropped or relit.

Candidates are the nearest neighbours by coarse look (mirrored too) and by network
features. Each is laid over its partner, from several starts, at 32 and then at 64 px, and
passes when the details agree: what merely looks alike (faces, cells, hands, drawings on
white) agrees in outline, not in detail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.data.dataset import Collection
from warmstart.data.splits import group_numbers
from warmstart.nouns import Nouns, is_are, nouns_of
from warmstart.records.data import DataRecord, Example, Finding, Task
from warmstart.solve.kernels import Features, Key, Read, apply_scaling, chunks, fit_scalings, some

# ---- Whether copies of one picture agree on its label, task by task.


CLOSE = 0.25  # standard deviations that numbers of one picture may lie apart


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """`agree` says whether the labels of some copies do; `chance` how often any two would.

    `apart` are the words for labels that do not, of which `many` is one.
    """

    agree: Callable[[Sequence[str]], bool]
    chance: float
    apart: str
    many: str


def label_agreement(task: Task, labels: Sequence[str]) -> LabelAgreement:
    """For the labels of a training part, as records hold them.

    >>> label_agreement("classify", ["a", "b"]).agree(["a", "b"])
    False
    >>> numbers = label_agreement("regress", ["0", "10", "20"])
    >>> numbers.agree(["10", "10.5"]), numbers.agree(["10", "19"])
    (True, False)
    """
    if task == "regress":
        return _numbers(labels)
    counts = Counter(labels)
    chance = sum(n * n for n in counts.values()) / max(len(labels), 1) ** 2
    return LabelAgreement(lambda some: len(set(some)) < 2, chance, "different labels", "labels")


def _numbers(labels: Sequence[str]) -> LabelAgreement:
    values = np.sort(np.array([float(label) for label in labels]))
    close = CLOSE * float(values.std()) if len(values) else 0.0
    near = np.searchsorted(values, values + close, "right") - np.searchsorted(
        values, values - close
    )
    chance = float(near.mean() / len(values)) if len(values) else 0.0
    return LabelAgreement(partial(_within, close), chance, "numbers far apart", "numbers")


def _within(close: float, some: Sequence[str]) -> bool:
    values = [float(label) for label in some]
    return max(values) - min(values) <= close


# ---- Near copies, found by looking at the pictures, as findings; and what --fix leaves out.


Pair = tuple[str, str]
MANY_PAIRS = 10  # below, so many labels that agree or not say nothing


def scenes_sentence(n: int, nouns: Nouns) -> str:
    """What is said of so many pairs that are no copies."""
    return (
        f"{n:,} pairs of {nouns.many} are alike in every detail that is looked at and carry labels "
        f"of their own, as {nouns.pictures} of one fixed scene do: they are taken for different "
        f"{nouns.pictures}. If several show one object, name it with --group."
    )


def with_near_duplicates(collection: Collection, near_duplicates: Iterable[Pair]) -> Collection:
    """The collection with its near copies noted: pairs of ids, and findings.

    `duplicate` (further near copies of a training image), `conflict` (near copies in
    training with different labels), `leak` (test or hold-out images that have a near copy
    in earlier parts). Copies of the same bytes are settled before; they are not named again.
    """
    record, nouns = collection.record, nouns_of(collection.record.kind)
    pairs = tuple(sorted((min(pair), max(pair)) for pair in near_duplicates))
    if are_scenes(record.examples, pairs, record.task):
        note = Finding(kind="near-duplicate", sentence=scenes_sentence(len(pairs), nouns))
        return replace(collection, record=replace(record, problems=(*record.problems, note)))
    copies = _copies(record.examples, pairs, record.task, nouns)
    found = (*copies, *_leaks(record.examples, pairs, nouns))
    settled = replace(record, near_duplicates=pairs, problems=(*record.problems, *found))
    return replace(collection, record=settled)


def are_scenes(examples: Sequence[Example], pairs: Sequence[Pair], task: Task = "classify") -> bool:
    """Whether the pairs are pictures of one scene (a fixed camera) rather than copies.

    Copies carry one label nearly always. Where the training pairs agree hardly more often
    than by chance, what they share is not what the labels are about; and under labels that
    mean nothing the pictures are as good as independent.

    >>> same = [Example(id=str(i), label="ab"[i % 2], split="train", sha256=str(i))
    ...         for i in range(12)]
    >>> are_scenes(same, [("0", str(i)) for i in range(1, 12)])
    True
    """
    labels = {e.id: e.label for e in examples if e.split == "train"}
    inside = [(a, b) for a, b in pairs if a in labels and b in labels]
    if len(inside) < MANY_PAIRS:
        return False
    alike = label_agreement(task, [*labels.values()])
    agree = sum(alike.agree([labels[a], labels[b]]) for a, b in inside) / len(inside)
    return agree < (1 + alike.chance) / 2


def _copies(
    examples: Sequence[Example], pairs: Sequence[Pair], task: Task, nouns: Nouns
) -> list[Finding]:
    """Near copies within the training part. Test labels are not looked at."""
    train = {e.id: e for e in examples if e.split == "train"}
    inside = [(a, b) for a, b in pairs if a in train and b in train]
    # Without their groups: what shares one is no copy.
    rows = [replace(train[id], group=None) for id in sorted({id for pair in inside for id in pair})]
    if not rows:
        return []
    sets: dict[int, list[Example]] = {}
    for example, block in zip(rows, group_numbers(rows, inside), strict=True):
        sets.setdefault(int(block), []).append(example)
    alike = label_agreement(task, [e.label for e in train.values()])
    parted = [(same, alike.agree([e.label for e in same])) for same in sets.values()]
    mixed = [e.id for same, agree in parted if not agree for e in same]
    clean = [same for same, agree in parted if agree]
    first = {e.sha256: e.id for e in reversed(rows)}
    further = [e.id for same in clean for e in same[1:] if first[e.sha256] == e.id]
    findings = []
    if further:
        n = len(further)
        sentence = (
            f"{nouns.count(n, 'training')} {is_are(n)} a near copy of another one "
            f"({nouns.changed}). Copies count as one example when the accuracy is estimated; "
            "otherwise it would be too high."
        )
        findings.append(Finding(kind="near-duplicate", sentence=sentence, items=tuple(further)))
    if mixed:
        sentence = (
            f"{nouns.count(len(mixed), 'training')} are near copies of each other and carry "
            f"{alike.apart}. Not all of these {alike.many} can be right."
        )
        findings.append(Finding(kind="conflict", sentence=sentence, items=tuple(mixed)))
    return findings


def _leaks(examples: Sequence[Example], pairs: Sequence[Pair], nouns: Nouns) -> list[Finding]:
    """Near copies across parts, named by the image of the later part."""
    by_id = {e.id: e for e in examples}
    findings = []
    for later, word, earlier in (
        ("test", "test", ("train", "holdout")),
        ("holdout", "hold-out", ("train",)),
    ):
        seen = {e.sha256 for e in examples if e.split in earlier}
        crossing = {
            one
            for pair in pairs
            for one, other in (pair, pair[::-1])
            if by_id[one].split == later and by_id[other].split in earlier
            if by_id[one].sha256 not in seen
        }
        if crossing:
            n = len(crossing)
            sentence = (
                f"{nouns.count(n, word)} {is_are(n)} a near copy of a training {nouns.one} "
                f"({nouns.changed}): the {word} flatters the model. --fix learns without those "
                "copies."
            )
            findings.append(
                Finding(kind="leakage", sentence=sentence, items=tuple(sorted(crossing)))
            )
    return findings


def find_exclusions(record: DataRecord) -> dict[str, str]:
    """Training and hold-out images that --fix leaves out, each with the reason.

    Copies of a test image, so that the test measures what it should; images in conflict;
    exact copies beyond the first. Near copies in training stay: they count as one example.
    """
    reasons: dict[str, str] = {}
    later = {"train": ("holdout", "test"), "holdout": ("test",), "test": ()}
    by_hash: dict[str, list[Example]] = {}
    examples = {e.id: e for e in record.examples}
    for example in record.examples:
        by_hash.setdefault(example.sha256, []).append(example)
    for problem in record.problems:
        if problem.kind == "conflict":
            why = f"the same {nouns_of(record.kind).picture} carries another label too"
            reasons |= dict.fromkeys(problem.items, why)
    for same in by_hash.values():
        for number, example in enumerate(same):
            copy = next((o for o in same if o.split in later[example.split]), None)
            if copy is not None:
                reasons[example.id] = f"copy of {copy.id} in the {copy.split} part"
            elif number and example.split == "train":
                first = next(o for o in same if o.split == "train")
                if first.id != example.id:
                    reasons.setdefault(example.id, f"exact copy of {first.id}")
    for pair in record.near_duplicates:
        for one, other in (pair, pair[::-1]):
            if examples[other].split in later[examples[one].split]:
                reasons[one] = f"near copy of {other} in the {examples[other].split} part"
    return {id: reasons[id] for id in sorted(reasons) if examples[id].split != "test"}


# ---- Laying one picture over another: mirror aside, a scale and a shift on each axis.
#
# Small pictures are compared by the correlation of their details, which forgets brightness
# and contrast; Gauss-Newton steps on the pose make up for what was cropped away. Sources:
# Baker & Matthews 2004, "Lucas-Kanade 20 Years On" (inverse compositional steps);
# Evangelidis & Psarakis 2008 (correlation as the measure).
#
# Shapes: pictures (P, S, S) float32; a pose (P, 4) float32 holds scale and shift across,
# then scale and shift down, in units in which a picture reaches from -1 to 1.


Pictures = NDArray[np.float32]
Poses = NDArray[np.float32]

# Details kept at each side length: structures between these two widths in px (Gaussians).
_BANDS = {32: (0.5, 2.5), 64: (0.7, 3.0)}
_ROUNDING = 0.1  # variance that rounding to 8 bits leaves in a blank picture
_STEP = 0.08  # longest move of a pose in one step
_SCALES = (0.85, 1.18)  # farther poses than any crop of 5 % at both ends needs
_SHIFT = 0.12
# Where to begin: as it is; 5 % cropped all round, in either picture; 5 % at one side.
_CROPS = ((0.95, 0.05), (0.95, -0.05), (1 / 0.95, 1 / 19), (1 / 0.95, -1 / 19))
INITIAL_POSES: Poses = np.array(
    [(1, 0, 1, 0), (0.9, 0, 0.9, 0), (1 / 0.9, 0, 1 / 0.9, 0)]
    + [(scale, shift, 1, 0) for scale, shift in _CROPS]
    + [(1, 0, scale, shift) for scale, shift in _CROPS],
    dtype=np.float32,
)


def details(grey: NDArray[np.uint8], side: int) -> Pictures:
    """Pictures shrunk to `side` px and freed of slow changes and of the finest noise.

    Shapes: grey (P, G, G) with G a multiple of side (32 or 64); returns (P, side, side).

    >>> bool(np.allclose(details(np.full((1, 64, 64), 9, np.uint8), 32), 0, atol=1e-4))
    True
    """
    step = grey.shape[1] // side
    small = grey.reshape(len(grey), side, step, side, step).mean((2, 4), dtype=np.float32)
    fine, coarse = (_gaussian(side, width) for width in _BANDS[side])
    kept: Pictures = fine @ small @ fine.T - coarse @ small @ coarse.T
    return kept


def _gaussian(side: int, width: float) -> NDArray[np.float32]:
    """Smoothing as a matrix; rows sum to 1 at the edges too. Shapes: (side, side)."""
    place = np.arange(side)
    weights = np.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def warp(pictures: Pictures, poses: Poses) -> tuple[Pictures, Pictures]:
    """Pictures seen from these poses, and where they hold something: 1 inside, 0 outside.

    Bilinear; beyond its edge a picture goes on as its edge. Shapes: both (P, S, S); pictures
    may have a fourth axis of channels, which the second result lacks.

    >>> row = np.arange(4, dtype=np.float32)[None, None].repeat(4, axis=1)
    >>> moved, inside = warp(row, np.array([[1, 0.5, 1, 0]], np.float32))
    >>> moved[0, 0].tolist(), inside[0, 0].tolist()
    ([1.0, 2.0, 3.0, 3.0], [1.0, 1.0, 1.0, 0.0])
    """
    side = pictures.shape[1]
    centres = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    seen = poses[:, 0::2, None] * centres + poses[:, 1::2, None]  # (P, 2, S)
    place = np.clip(((seen + 1) * side - 1) / 2, 0, side - 1)
    pick = np.maximum(0, 1 - np.abs(place[..., None] - np.arange(side, dtype=np.float32)))
    inside = (np.abs(seen) <= 1).astype(np.float32)
    across, down = pick[:, 0], pick[:, 1]
    if pictures.ndim == 4:
        moved = np.einsum("pij,pjkc,plk->pilc", down, pictures, across, optimize=True)
    else:
        moved = down @ pictures @ across.transpose(0, 2, 1)
    return moved, inside[:, 1, :, None] * inside[:, 0, None]


def correlate(first: Pictures, second: Pictures, inside: Pictures) -> NDArray[np.float32]:
    """Correlation of pairs over the pixels where `inside` is 1. Shapes: returns (P,).

    >>> a = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
    >>> round(float(correlate(100 * a, 7 - 200 * a, np.ones_like(a))[0]), 3)
    -1.0
    """
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
    """The pose of `second` that looks most like `first`, and the correlation there.

    Shapes: pictures (P, S, S) of `details`, poses (P, 4) to begin with; returns (P, 4), (P,).
    """
    slopes = _slopes(first)
    bend = slopes @ slopes.transpose(0, 2, 1)
    # A little of the mean curvature on the diagonal: flat directions stay where they are.
    bend += (
        np.eye(4, dtype=np.float32)
        * (0.01 * np.trace(bend, axis1=1, axis2=2) / 4 + 1e-3)[:, None, None]
    )
    best, found = np.full(len(first), -1, np.float32), poses.copy()
    for step in range(steps + 1):
        moved, inside = warp(second, poses)
        likeness = correlate(first, moved, inside)
        better = likeness > best
        best, found[better] = np.maximum(best, likeness), poses[better]
        if step == steps:
            break
        left, right = _centred(first, inside), _centred(moved, inside)
        gain = _dots(left, right) / np.maximum(_dots(right, right), 1e-6)
        error = np.maximum(gain, 0.1)[:, None, None] * right - left
        move = np.linalg.solve(bend, slopes @ error.reshape(len(first), -1, 1))[..., 0]
        poses = _compose(poses, np.clip(move, -_STEP, _STEP))
    return found, best


def _slopes(pictures: Pictures) -> Pictures:
    """Change of each pixel with each number of the pose, at rest. Shapes: (P, 4, S * S)."""
    side = pictures.shape[1]
    centres = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    down, across = np.gradient(pictures * np.float32(side / 2), axis=(1, 2))
    stacked = np.stack([across * centres, across, down * centres[:, None], down], axis=1)
    slopes: Pictures = stacked.reshape(len(pictures), 4, -1)
    return slopes


def _compose(poses: Poses, move: NDArray[np.float32]) -> Poses:
    """The pose after undoing a small move of the first picture, kept within reach."""
    scale = poses[:, 0::2] / (1 + move[:, 0::2])
    shift = poses[:, 1::2] - scale * move[:, 1::2]
    moved = np.empty_like(poses)
    moved[:, 0::2] = np.clip(scale, *_SCALES)
    moved[:, 1::2] = np.clip(shift, -_SHIFT, _SHIFT)
    return moved


# ---- The most similar other rows of each row: among all, or, of many rows, among those near by.
#
# All pairs of 10,000 rows cost 100 times as much as those of 1,000. Of many rows the search
# is therefore made in cells: some rows, evenly spaced, stand for a cell each; every row lies
# in the cells of the two most like it and is searched for in those of the four. An inverted
# file (Sivic & Zisserman 2003; Jegou et al. 2011, §II), with cells that are too large cut
# again. What is missed is hardly ever a near copy, which is more alike than any other row.
#
# Shapes: n rows of d numbers, of unit length.


Vectors = NDArray[np.floating]  # single precision, or of many rows half

EXACT = 4000  # rows up to which all pairs are compared
HOMES = 2  # cells that a row lies in
PROBES = 4  # cells in which its like are looked for
CELL = 2048  # rows beyond which a cell is cut again
DEEPEST = 3  # cuts one after the other; beyond, rows are all alike and any will do
_NEAREST_ROWS = 256  # compared with all others at a time


def nearest(asking: Vectors, sides: Sequence[Vectors], count: int) -> Rows:
    """The `count` most similar other rows of each, in no order.

    A row may be seen from several sides; the most similar one counts. Shapes: asking and each
    of `sides` (n, d), with n above `count`; returns (n, count).
    """
    if len(asking) <= EXACT:
        return _among_all(asking, sides, count)
    best = _Best.of(len(asking), count)
    for side in sides:
        everything = np.arange(len(asking))
        _in_cells(_Search(asking, side, best), everything, everything, depth=0)
    return best.filled()


def _among_all(asking: Vectors, sides: Sequence[Vectors], count: int) -> Rows:
    n = len(asking)
    found = np.empty((n, count), dtype=np.intp)
    for start in range(0, n, _NEAREST_ROWS):
        block = asking[start : start + _NEAREST_ROWS] @ sides[0].T
        for side in sides[1:]:
            np.maximum(block, asking[start : start + _NEAREST_ROWS] @ side.T, out=block)
        here = np.arange(len(block))
        block[here, start + here] = -np.inf
        found[start : start + _NEAREST_ROWS] = np.argpartition(-block, count - 1, axis=1)[:, :count]
    return found


@dataclass(frozen=True, slots=True)
class _Best:
    """The best found so far, the most similar first. Shapes: both (n, count)."""

    rows: Rows
    likeness: NDArray[np.float32]

    @classmethod
    def of(cls, n: int, count: int) -> _Best:
        shape = (n, count)
        return cls(np.full(shape, -1), np.full(shape, -np.inf, np.float32))

    def add(self, askers: Rows, rows: Rows, likeness: NDArray[np.float32]) -> None:
        """Keep the best of both. Shapes: askers (a,), no row twice; rows, likeness (a, m)."""
        rows = np.concatenate([self.rows[askers], rows], axis=1)
        likeness = np.concatenate([self.likeness[askers], likeness], axis=1)
        order = np.argsort(-likeness, axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
        likeness = np.take_along_axis(likeness, order, axis=1)
        for place in range(1, rows.shape[1]):  # found from another side, or in another cell
            known = (rows[:, :place] == rows[:, place : place + 1]).any(axis=1)
            likeness[known, place] = -np.inf
        order = np.argsort(-likeness, axis=1, kind="stable")[:, : self.rows.shape[1]]
        self.rows[askers] = np.take_along_axis(rows, order, axis=1)
        self.likeness[askers] = np.take_along_axis(likeness, order, axis=1)

    def filled(self) -> Rows:
        """Rows for which too few were found get any others: never themselves."""
        n, count = self.rows.shape
        others = (np.arange(n)[:, None] + np.arange(1, count + 1)) % n
        return np.where(np.isfinite(self.likeness), self.rows, others)


@dataclass(frozen=True, slots=True)
class _Search:
    """Who asks, who is asked, and what was found. Shapes: asking and asked (n, d)."""

    asking: Vectors
    asked: Vectors
    best: _Best


def _in_cells(search: _Search, askers: Rows, members: Rows, depth: int) -> None:
    """Look for the like of `askers` among `members`."""
    if len(members) <= CELL:
        _in_cell(search, askers, members)
    elif depth == DEEPEST:
        pieces = -(-len(members) // CELL)
        pairs = zip(np.array_split(askers, pieces), np.array_split(members, pieces), strict=True)
        for some, few in pairs:
            _in_cell(search, some, few)
    else:
        number = round(np.sqrt(len(members)))
        chosen = members[np.linspace(0, len(members) - 1, number).astype(int)]
        centres = _single(search.asked, chosen)
        homes = _cells(search.asked, members, centres, HOMES)
        probes = _cells(search.asking, askers, centres, PROBES)
        for inside, looking in zip(homes, probes, strict=True):
            if len(inside) and len(looking):
                _in_cells(search, looking, inside, depth + 1)


def _cells(vectors: Vectors, rows: Rows, centres: Vectors, count: int) -> list[Rows]:
    """The rows that have each centre among the `count` that are most like them."""
    numbers = np.empty((len(rows), count), dtype=np.intp)
    for start in range(0, len(rows), _NEAREST_ROWS):
        likeness = _single(vectors, rows[start : start + _NEAREST_ROWS]) @ centres.T
        numbers[start : start + _NEAREST_ROWS] = np.argpartition(-likeness, count - 1, axis=1)[
            :, :count
        ]
    order = np.argsort(numbers.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(numbers.ravel(), minlength=len(centres)))[:-1]
    return np.split(rows[order // count], ends)


def _in_cell(search: _Search, askers: Rows, members: Rows) -> None:
    count = min(search.best.rows.shape[1], len(members))
    inside = _single(search.asked, members)
    for start in range(0, len(askers), _NEAREST_ROWS):
        some = askers[start : start + _NEAREST_ROWS]
        likeness = _single(search.asking, some) @ inside.T
        likeness[some[:, None] == members] = -np.inf
        places = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        search.best.add(some, members[places], np.take_along_axis(likeness, places, axis=1))


def _single(vectors: Vectors, rows: Rows) -> NDArray[np.float32]:
    """Some rows in single precision, in which they are multiplied quickly."""
    chosen: NDArray[np.float32] = vectors[rows].astype(np.float32, copy=False)
    return chosen


Rows = NDArray[np.intp]

NEIGHBOURS = 4  # candidates a picture has by look, and as many by features
WIDEST = 256  # features compared; a network's come in no order, so that every k-th will do
# Measured on 14 real sets (bench/planted.py) with ten kinds of alteration of 60 pictures each.
PROMISING = 0.5  # correlation at 32 px from the best start: copies .54 and more, mostly .7
LIKELY = 0.8  # after registration at 32 px: copies .85 and more
MIN_SIMILARITY = (
    0.89  # after that at 64 px: copies .91 up, look-alikes .88 down (but one of .94 in 7,358)
)
# Of pictures of sounds, as of candidates that their waveforms then decide on.
MIN_SOUND_SIMILARITY = 0.85
TINT = 0.09  # difference in hue: copies .07 and less (1 of 840: .11), other paint .10 and more
IN_MEMORY = 4000  # pictures whose details are made once; those of more when they are asked for
_ROWS = 256  # pictures in memory at a time
_FEW = 64  # that are seen from every start, or pairs that are registered, at a time


class Indexed(Protocol):
    """An array, or what gives some of its rows when asked: all would not fit in memory."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.uint8]:
        """Chosen rows."""
        ...


class HasPictures(Protocol):
    """Pictures at a glance. Shapes: grey (n, 64, 64), colour (n, 16, 16, 3), both uint8."""

    @property
    def grey(self) -> Indexed:
        """Small grey pictures."""
        ...

    @property
    def colour(self) -> Indexed:
        """Smaller ones in colour."""
        ...


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two rows, first < second, that show one picture; similarity at most 1."""

    first: int
    second: int
    similarity: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Candidates and how the second is laid over the first.

    Shapes: first, second, mirrored (P,); poses (P, 4); likeness (P,).
    """

    first: Rows
    second: Rows
    mirrored: NDArray[np.bool_]
    poses: Poses
    likeness: NDArray[np.float32]

    def keep(self, which: NDArray[np.bool_] | Rows) -> _Pairs:
        return _Pairs(
            self.first[which],
            self.second[which],
            self.mirrored[which],
            self.poses[which],
            self.likeness[which],
        )


def find_near_duplicates(
    glances: HasPictures, features: Vectors | None = None, alike: float = MIN_SIMILARITY
) -> tuple[NearDuplicate, ...]:
    """Pairs of near copies, ordered by row: those of at least `alike`.

    Shapes: features (n, w), the same n rows, from `search_vectors` or `unit_features`. Pairs are not
    closed: of many copies of one picture each is found with some others; join them as connected
    components.
    """
    if len(glances.grey) < 2:
        return ()
    near = candidates(glances.grey, features)
    pairs = _promising(_Details(glances.grey), near)
    pairs = _once(pairs)
    pairs = _registered(pairs, glances.grey, 32, steps=4)
    pairs = pairs.keep(pairs.likeness >= LIKELY)
    pairs = _registered(pairs, glances.grey, 64, steps=3)
    pairs = pairs.keep(pairs.likeness >= alike)
    pairs = pairs.keep(_tint_gap(glances.colour, pairs) <= TINT)
    return tuple(
        NearDuplicate(int(min(i, j)), int(max(i, j)), round(float(likeness), 4), bool(mirrored))
        for i, j, likeness, mirrored in zip(
            pairs.first, pairs.second, pairs.likeness, pairs.mirrored, strict=True
        )
    )


def candidates(grey: Indexed, features: Vectors | None) -> Rows:
    """The nearest rows of each row by look, then by features. Shapes: returns (n, m)."""
    n = len(grey)
    look, mirrored = (np.empty((n, 64), _kept_as(n)) for _ in range(2))
    for start in range(0, n, _ROWS):
        part = grey[start : start + _ROWS]
        look[start : start + _ROWS] = _coarse(part)
        mirrored[start : start + _ROWS] = _coarse(part[:, :, ::-1])
    count = min(NEIGHBOURS, n - 1)
    found = [nearest(look, [look, mirrored], count)]
    if features is not None:
        found.append(nearest(features, [features], count))
    return np.concatenate(found, axis=1)


def search_vectors(read: Read[Key], layer: Key, n: int) -> Vectors:
    """Features of n rows as they are compared: thinned, evened out, each row of unit length.

    Read a few rows at a time; of many rows in half precision, which moves likenesses by less
    than a thousandth. Shapes: (n, w).
    """
    if not n:
        return np.empty((0, 0), np.float32)
    few = _Thin(read, layer)
    scaling = fit_scalings(few, [layer])[layer]
    found, at = np.empty((0, 0)), 0
    for chunk in few.chunks([layer]):
        rows = _unit(apply_scaling(chunk[layer], scaling))
        if not at:
            found = np.empty((n, rows.shape[1]), _kept_as(n))
        found[at : at + len(rows)] = rows
        at += len(rows)
    return found


def unit_features(features: Features) -> Vectors:
    """The same of features that are in memory. Shapes: (n, d) to (n, w)."""
    return search_vectors(lambda layer: features, "all", len(features))


@dataclass(frozen=True, slots=True)
class _Thin(Generic[Key]):
    """A source of features that gives some columns of one tap."""

    source: Read[Key]
    layer: Key

    def __call__(self, layer: Key) -> Features:
        return thin(self.source(layer))

    def some(self, rows: Rows) -> _Thin[Key]:
        return _Thin(some(self.source, rows), self.layer)

    def chunks(self, feature_layers: Sequence[Key]) -> Iterator[Mapping[Key, Features]]:
        for chunk in chunks(self.source, feature_layers):
            yield {layer: thin(chunk[layer]) for layer in feature_layers}


def _kept_as(n: int) -> type[np.floating[Any]]:
    return np.float32 if n <= EXACT else np.float16


def thin(features: Features) -> Features:
    """The features that are compared.

    >>> thin(np.zeros((2, 1280), np.float32)).shape, thin(np.zeros((2, 511), np.float32)).shape
    ((2, 256), (2, 511))
    """
    few: Features = features[:, :: max(features.shape[1] // WIDEST, 1)]
    return few


def _coarse(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8 x 8 px freed of slow changes, of unit length. Shapes: (n, 64)."""
    n = len(grey)
    small = grey.reshape(n, 8, 8, 8, 8).mean((2, 4), dtype=np.float32)
    place = np.arange(8)
    weights = np.exp(-0.5 * ((place[:, None] - place) / 2.0) ** 2)
    smooth = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return _unit((small - smooth @ small @ smooth.T).reshape(n, -1))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    unit: NDArray[np.float32] = vectors / np.maximum(length, 1e-6)
    return unit


class _Details:
    """Details at 32 px of chosen pictures."""

    def __init__(self, grey: Indexed) -> None:
        self._grey = grey
        self._made = details(grey[:], 32) if len(grey) <= IN_MEMORY else None

    def __len__(self) -> int:
        return len(self._grey)

    def of(self, rows: Rows) -> Pictures:
        """Shapes: (m,) to (m, 32, 32)."""
        return details(self._grey[rows], 32) if self._made is None else self._made[rows]


def _promising(small: _Details, near: Rows) -> _Pairs:
    """Each row laid over its candidates from every start: the best start, where it is good.

    Shapes: near (n, m).
    """
    n = len(small)
    found: list[tuple[NDArray[np.generic], ...]] = []
    for start in range(0, n, _FEW):
        rows = np.arange(start, min(start + _FEW, n))
        views = _views(small.of(rows))
        partners, place = np.unique(near[rows], return_inverse=True)
        pictures, place = small.of(partners), place.reshape(near[rows].shape)
        sides = [_unit(x.reshape(len(partners), -1)) for x in (pictures, pictures[:, :, ::-1])]
        likeness = np.concatenate(
            [views @ side[place].transpose(0, 2, 1) for side in sides], axis=1
        )  # (rows, as it is or mirrored x start, m)
        best = likeness.max(axis=1)
        row, column = np.nonzero(best >= PROMISING)
        choice = likeness.argmax(axis=1)[row, column]
        found.append((near[rows[row], column], rows[row], choice, best[row, column]))
    partner, row, choice, best = (np.concatenate(part) for part in zip(*found, strict=True))
    mirrored, poses = choice >= len(INITIAL_POSES), INITIAL_POSES[choice % len(INITIAL_POSES)]
    # The row was moved and its partner mirrored; from here on the row is mirrored, then moved.
    poses[mirrored, 1] *= -1
    return _Pairs(partner, row, mirrored, poses, best)


def _views(small: Pictures) -> NDArray[np.float32]:
    """Pictures from every start, of unit length. Shapes: (m, 32, 32) to (m, starts, 1024)."""
    m = len(small)
    seen = [warp(small, np.broadcast_to(pose, (m, 4)))[0] for pose in INITIAL_POSES]
    return np.stack([_unit(view.reshape(m, -1)) for view in seen], axis=1)


def _once(pairs: _Pairs) -> _Pairs:
    """Each pair once, the better way round, ordered by row."""
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    order = np.lexsort((-pairs.likeness, high, low))
    is_new = np.r_[True, (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)][: len(order)]
    return pairs.keep(order[is_new])


def _registered(pairs: _Pairs, grey: Indexed, side: int, steps: int) -> _Pairs:
    poses, likeness = pairs.poses.copy(), pairs.likeness.copy()
    for start in range(0, len(poses), _FEW):
        part = slice(start, start + _FEW)
        second = grey[pairs.second[part]]
        second = np.where(pairs.mirrored[part, None, None], second[:, :, ::-1], second)
        poses[part], likeness[part] = register(
            details(grey[pairs.first[part]], side), details(second, side), poses[part], steps
        )
    return _Pairs(pairs.first, pairs.second, pairs.mirrored, poses, likeness)


def _tint_gap(colour: Indexed, pairs: _Pairs) -> NDArray[np.float32]:
    """Mean difference in hue and saturation where the pictures overlap. Shapes: (P,)."""
    found = np.empty(len(pairs.first), np.float32)
    for start in range(0, len(found), _ROWS):
        part = slice(start, start + _ROWS)
        first = colour[pairs.first[part]].astype(np.float32)
        second = colour[pairs.second[part]].astype(np.float32)
        second = np.where(pairs.mirrored[part, None, None, None], second[:, :, ::-1], second)
        moved, inside = warp(second, pairs.poses[part])
        gap = np.abs(_tint(first) - _tint(moved)).sum(axis=3)
        found[part] = (gap * inside).sum((1, 2)) / inside.sum((1, 2))
    return found


def _tint(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour without brightness; dark pixels, whose hue is mostly noise, count less."""
    total = colour.sum(axis=3, keepdims=True)
    return np.asarray((colour - total / 3) / (total + 96), dtype=np.float32)
