"""A finished model judged on labelled images: one pass, then what can be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from warmstart.data.collection import Listing, count, some, unreadable
from warmstart.data.overlap import Overlap, overlap
from warmstart.data.split import blocks
from warmstart.errors import DataError, StartError
from warmstart.evaluation.classes import per_class
from warmstart.evaluation.metrics import scores
from warmstart.evaluation.reliability import reliability
from warmstart.events import Event, Steps
from warmstart.joints.habits import STAGES, try_habits
from warmstart.joints.witness import Seen, draw, look_alikes, question
from warmstart.network.names import imagenet_names, read_names
from warmstart.network.outside import Outside
from warmstart.records import Example, Finding, Guess, Judged, Scores, TrainGap
from warmstart.solve.temperature import Calibration, probabilities
from warmstart.stats.gap import gap
from warmstart.stats.intervals import proportion

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
    blocks: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """What the model says of each. Shapes: (n,)."""
        said: NDArray[np.int64] = self.scores.argmax(axis=1)
        return said

    def some(self, keep: NDArray[np.bool_]) -> _Lot:
        """Some of them."""
        examples = tuple(e for e, is_kept in zip(self.examples, keep, strict=True) if is_kept)
        return _Lot(examples, self.labels[keep], self.blocks[keep], self.scores[keep])

    def measured(self) -> Scores:
        """All metrics."""
        p = probabilities(self.scores, Calibration(1.0, np.zeros(self.scores.shape[1])))
        return scores(p, self.labels, self.blocks)


def settle_names(model: Outside, given: Path | None, classes: Sequence[str], data: str) -> Names:
    """What the outputs are called: by a file, by the model itself, or as the data's classes.

    Raises: StartError where nothing tells, or as many names are told as outputs are not there.
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
        raise StartError(
            f"{model.name} has {model.outputs:,} outputs, {data} has {count(len(classes), 'class')}"
            ", and nothing names the outputs; add --labels FILE, one name a line in their order."
        )
    if len(names.outputs) != model.outputs:
        raise StartError(
            f"{model.name} has {model.outputs:,} outputs, and {len(names.outputs):,} names come "
            f"{names.source}; give --labels FILE with one name for each, in their order."
        )
    return names


def judge(listing: Listing, model: Outside, labels: Path | None, seed: int = 0) -> Steps[Judged]:
    """Show a model labelled images, and say what it is worth on them and why to beware.

    Rows of split "test" are judged on; all others are what it may have learnt from.
    Raises: StartError or DataError where its outputs or the images cannot be used.
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
    yield Event(stage="check", kind="begin")
    with threadpool_limits(limits=1, user_api="blas"):
        found = _judged(listing, model, names, seen, rng)
    yield Event(stage="check", kind="end")
    return found


def _judged(
    listing: Listing, model: Outside, names: Names, seen: Seen, rng: np.random.Generator
) -> Judged:
    found = overlap(seen.examples, look_alikes(seen), model.learnt)
    test = _lot(seen, names, found, "test")
    leaks = np.array([example.id in found.leaked for example in test.examples])
    has_clean = bool(leaks.any() and not leaks.all())
    clean = test.some(~leaks) if has_clean else test
    strangers = [r for r in listing.rows if r.split == "test" and r.label not in names.outputs]
    present = {example.label for example in test.examples}
    n_train = sum(example.split != "test" for example in seen.examples)
    return Judged(
        model=model.name, title=model.title, data=listing.title, n_classes=len(present),
        outputs=model.outputs, labels_from=names.source, is_assumed=names.is_assumed,
        better_order=_better_order(test) if names.is_assumed else None,
        preprocessing=model.preprocessing, fed_as=model.fed_as,
        test=test.measured(), without_leaks=clean.measured() if has_clean else None,
        guess=_guess(clean, names), leaked=int(leaks.sum()),
        leaks_by="near copies" if n_train else "bytes" if model.learnt else "nothing",
        trained_on=n_train or len(model.learnt),
        train=_train(_lot(seen, names, found, "train"), clean.measured(), n_train),
        classes=per_class(clean.predicted, clean.labels, clean.blocks, names.outputs),
        calibration=reliability(clean.scores, clean.labels, clean.blocks, rng),
        findings=(*_problems(listing, seen), *found.findings, *_fed_in(model, seen, test, rng)),
        unknown_classes=tuple(sorted({row.label for row in strangers})),
        unknown_images=len(strangers),
        unused_outputs=tuple(name for name in names.outputs if name not in present),
    )  # fmt: skip


def _lot(seen: Seen, names: Names, found: Overlap, split: str) -> _Lot:
    number = {name: index for index, name in enumerate(names.outputs)}
    rows = [k for k, row in enumerate(seen.asked) if seen.examples[row].split == split]
    examples = tuple(seen.examples[seen.asked[k]] for k in rows)
    labels = np.array([number[example.label] for example in examples], dtype=np.int64)
    return _Lot(
        examples, labels, blocks(examples, found.twins), seen.scores[rows].astype(np.float64)
    )


def _better_order(test: _Lot) -> float | None:
    """Accuracy under the best order of the outputs, where the assumed one must be wrong.

    Of the labels the order is chosen by; what it gains on outputs that say nothing stays well
    below `ANOTHER_ORDER` from `LEAST_FOR_ORDER` blocks on.
    """
    if len(np.unique(test.blocks)) < LEAST_FOR_ORDER:
        return None
    n, k = test.scores.shape
    table = np.zeros((k, k))
    np.add.at(table, (test.labels, test.predicted), 1 / n)
    best = float(table[linear_sum_assignment(table, maximize=True)].sum())
    return best if best - float(np.trace(table)) > ANOTHER_ORDER else None


def _guess(test: _Lot, names: Names) -> Guess:
    sizes = np.bincount(test.labels)
    label = names.outputs[int(sizes.argmax())]
    return Guess(label=label, accuracy=float(sizes.max() / sizes.sum()))


def _train(lot: _Lot, unseen: Scores, of: int) -> TrainGap | None:
    """What the model says of training images, beside what it says of others."""
    if not lot.examples:
        return None
    right = (lot.predicted == lot.labels).astype(float)
    own = proportion(right, lot.blocks)
    value, low, high = gap(own, (unseen.accuracy, unseen.low, unseen.high))
    return TrainGap(
        n=len(right), of=of, accuracy=own[0], low=own[1], high=own[2],
        gap=value, gap_low=low, gap_high=high,
    )  # fmt: skip


def _problems(listing: Listing, seen: Seen) -> tuple[Finding, ...]:
    """What the listing passed over, and what could not be read."""
    n = len(seen.unreadable)
    sentence = f"{count(n, 'image')} could not be read and left out of all figures."
    return (*listing.problems, *unreadable(seen.unreadable, sentence))


def _fed_in(
    model: Outside, seen: Seen, test: _Lot, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Whether another usual preprocessing is better, on the images kept, in random order."""
    rows = [row for row, example in enumerate(test.examples) if example.id in seen.kept]
    rows = [int(row) for row in rng.permutation(rows)]
    pixels = [seen.kept[test.examples[row].id] for row in rows]
    found = try_habits(model, pixels, test.labels[rows], test.blocks[rows])
    return () if found is None else (found,)
