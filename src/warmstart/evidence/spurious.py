"""Spurious correlations: do borders, table columns or file metadata predict the label?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from warmstart.data.thumbnails import FileFigures
from warmstart.evidence.probe import best_left_out
from warmstart.records.findings import Finding
from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

if TYPE_CHECKING:
    from sklearn.tree import BaseDecisionTree

# ---- Do the borders of a picture predict its class?
#
# A frame, a caption bar or a scanner's margin is learnt in place of the subject. Two signs: an edge
# of one colour throughout a class and not elsewhere, and borders that alone classify nearly as well
# as whole pictures. Grass or sky at the edge of ordinary photographs does neither.

SIDES = ("top", "right", "bottom", "left")
SAME = 16  # levels of 255 within which two colours count as one
# Share of a class with the same edge, minus the share of the others that have it too.
# On 14 clean sets at most .24 along a side; one colour a class in a 4 px frame gives 1.
UNIFORM = 0.5
BORDER_SHARE = 0.9  # of what the network gains over guessing; clean sets: at most .6
BORDER_LEAST = 20  # rows that the borders' accuracy needs


def border_finding(
    border: NDArray[np.uint8],
    labels: Labels,
    classes: Sequence[str],
    group_rows: Sequence[Rows],
    network_accuracy: float,
) -> Finding | None:
    """A finding about borders that predict the class, else None.

    Shapes: border (n, 2, 4, 16, 4) of `Thumbnails`; labels (n,) in 0..K-1, K = len(classes);
    groups partition the rows. `network_accuracy` is the out-of-fold accuracy on whole pictures.
    """
    edges = uniform_edges(border, labels, len(classes))
    if edges:
        return _edge_finding(edges, classes)
    accuracy = border_accuracy(border, labels, group_rows, len(classes))
    guess = float(np.bincount(labels).max() / len(labels))
    noise = 3.3 * np.sqrt(guess * (1 - guess) / len(group_rows))
    if accuracy < guess + max(BORDER_SHARE * (network_accuracy - guess), noise):
        return None
    return Finding(
        kind="spurious-correlation",
        sentence=(
            "Spurious correlation: the outermost 4 % of an image alone predict its class with "
            f"{100 * accuracy:.0f} % accuracy; whole images give {100 * network_accuracy:.0f} %. "
            "A model may learn the borders instead of the subject: check how the images of each "
            "class were made, or crop the borders."
        ),
        items=tuple(classes),
    )


def border_finding_multilabel(
    border: NDArray[np.uint8], truth: Array, names: Sequence[str]
) -> Finding | None:
    """A finding about edges that correlate with one of several labels, else None.

    The borders' accuracy is measured for single classes only. Shapes: border as above, truth
    (n, K) of 0 and 1, K = len(names).
    """
    has = truth > 0
    edges: dict[int, tuple[str, ...]] = {}
    for k in range(len(names)):
        if 0 < has[:, k].sum() < len(has):
            sides = uniform_edges(border, has[:, k].astype(np.int64), 2).get(1)
            if sides:
                edges[k] = sides
    return _edge_finding(edges, names, "label", "others") if edges else None


def uniform_edges(
    border: NDArray[np.uint8], labels: Labels, n_classes: int
) -> dict[int, tuple[str, ...]]:
    """Class numbers, each with the sides that look the same throughout that class only.

    Shapes: border (n, 2, 4, 16, 4), labels (n,).
    """
    colour = border[:, 0, ..., :3].astype(np.float32)  # the outermost layer: (n, 4, 16, 3)
    edges = {}
    for number in range(n_classes):
        inside = labels == number
        middle = np.median(colour[inside], axis=0)
        alike = (np.abs(colour - middle).max(axis=-1) <= SAME).mean(axis=-1) > 0.5  # (n, 4)
        columns = zip(SIDES, alike.T, strict=True)
        sides = tuple(name for name, rows in columns if _is_uniform(rows, inside, 4 * n_classes))
        if sides:
            edges[number] = sides
    return edges


def _is_uniform(alike: NDArray[np.bool_], inside: NDArray[np.bool_], n_tests: int) -> bool:
    """A large difference in shares, significant after `n_tests` tests."""
    if alike[inside].mean() - alike[~inside].mean() < UNIFORM:
        return False
    from scipy.stats import hypergeom  # takes 0.3 s, and few classes come this far

    p = hypergeom.sf(alike[inside].sum() - 1, len(alike), int(alike.sum()), int(inside.sum()))
    return bool(p * n_tests <= CERTAIN)


def border_accuracy(
    border: NDArray[np.uint8], labels: Labels, group_rows: Sequence[Rows], n_classes: int
) -> float:
    """Left-out accuracy of kernel ridge on the borders alone; 0 where all are equal."""
    flat = border.reshape(len(border), -1).astype(np.float64) / 255
    squares = (flat**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0.0)
    width = float(distances.mean())
    if width < 1e-9 or len(border) < BORDER_LEAST:
        return 0.0
    kernel: Array = np.exp(-distances / width)
    return float(best_left_out([kernel], labels, group_rows, n_classes).hits(labels).mean())


def _edge_finding(
    edges: Mapping[int, tuple[str, ...]],
    names: Sequence[str],
    noun: str = "class",
    others: str = "the other classes",
) -> Finding:
    examples = ", ".join([names[k] for k in edges][:5]) + (", …" if len(edges) > 5 else "")
    sides = [side for side in SIDES if any(side in edge for edge in edges.values())]
    where = "all four sides" if len(sides) == len(SIDES) else " and ".join(sides)
    return Finding(
        kind="spurious-correlation",
        sentence=(
            f"Spurious correlation: the edge of an image predicts its {noun}. Images of {examples} "
            f"have an edge of one colour ({where}) that {others} lack. A model would learn that "
            "edge instead of the subject and fail on images without it: crop it, or find out how "
            f"the images of these {'classes' if noun == 'class' else 'labels'} were made."
        ),
        items=tuple(f"{names[k]}: {', '.join(edge)}" for k, edge in edges.items()),
    )


# ---- Does one column of a table predict the label?


ALONE = 0.97  # accuracy, or explained variance, of one column from which it is reported
BEYOND = 0.15  # above the share of the largest class
COLUMN_LEAST = 20  # rows that the check needs
FOLDS = 4
MANY = 100  # columns beyond which bins rule out the unpredictive ones before any tree is fitted
SLACK = 0.07  # by which bins may fall short of `ALONE` where a tree reaches it


def leaking_columns(
    columns: Mapping[str, Array], labels: Rows, folds: Sequence[Rows], seed: int
) -> Finding | None:
    """A finding about columns each of which alone nearly always predicts the label, else None.

    By the cross-validated accuracy of a small tree with two leaves per class.
    Shapes: columns (n, d) each, labels (n,); `folds` are the rows of each fold.
    """
    n = len(labels)
    guess = float(np.bincount(labels).max() / max(n, 1))
    if n < COLUMN_LEAST or len(folds) < 2:
        return None
    if len(columns) > MANY:
        columns = {name: v for name, v in columns.items() if _may_predict(v, labels)}
    scores = {name: _accuracy(values, labels, folds, seed) for name, values in columns.items()}
    leaks = {name: a for name, a in scores.items() if a >= ALONE and a - guess >= BEYOND}
    return _column_finding(leaks, "predicts the label of {:.0f} % of the rows", "label")


def leaking_columns_multilabel(
    columns: Mapping[str, Array],
    truth: Array,
    names: Sequence[str],
    folds: Sequence[Rows],
    seed: int,
) -> Finding | None:
    """A finding about the first label that a column predicts. Shapes: truth (n, K) of 0 and 1."""
    for k, name in enumerate(names):
        finding = leaking_columns(columns, truth[:, k].astype(np.int64), folds, seed)
        if finding is not None:
            sentence = finding.sentence.replace("the label of", f'whether "{name}" applies to')
            return replace(finding, sentence=sentence)
    return None


def leaking_columns_regression(
    columns: Mapping[str, Array], truth: Array, folds: Sequence[Rows], seed: int
) -> Finding | None:
    """A finding about columns each of which explains nearly all variance. Shapes: truth (n,)."""
    if len(truth) < COLUMN_LEAST or len(folds) < 2:
        return None
    if len(columns) > MANY:
        columns = {name: v for name, v in columns.items() if _may_explain(v, truth)}
    scores = {name: _tree_r2(values, truth, folds, seed) for name, values in columns.items()}
    leaks = {name: share for name, share in scores.items() if share >= ALONE}
    return _column_finding(leaks, "explains {:.0f} % of the numbers' variance", "number")


def _column_finding(leaks: Mapping[str, float], verb: str, noun: str) -> Finding | None:
    if not leaks:
        return None
    best = max(leaks, key=lambda name: leaks[name])
    also = "" if len(leaks) == 1 else f", and so do {len(leaks) - 1:,} more"
    return Finding(
        kind="spurious-correlation",
        sentence=(
            f'The column "{best}" alone {verb.format(100 * leaks[best])}{also}. If it is known '
            f"only once the {noun} is, leave it out: --set column.{best}=left-out."
        ),
        items=tuple(leaks),
    )


def _bins(values: Array, n_bins: int) -> Rows:
    """The number of each row's bin: equal values share one. Shapes: (n, d) to (n,)."""
    if values.shape[1] > 1:
        numbers: Rows = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
        return numbers
    column = values[:, 0]
    edges = np.sort(column)[np.linspace(0, len(column) - 1, n_bins + 1).astype(int)[1:-1]]
    return np.searchsorted(np.unique(edges), column, side="right")


def _may_predict(values: Array, labels: Rows) -> bool:
    """Whether a tree could be accurate enough: the majority class of each bin is."""
    n_classes = int(labels.max()) + 1
    bins = _bins(values, max(min(32 * n_classes, len(labels) // 4), 2))
    counts = np.bincount(bins * n_classes + labels, minlength=n_classes * (int(bins.max()) + 1))
    right = int(counts.reshape(-1, n_classes).max(axis=1).sum())
    return right >= (ALONE - SLACK) * len(labels)


def _may_explain(values: Array, truth: Array) -> bool:
    """Whether a tree could explain enough: the bins' means do."""
    bins = _bins(values, max(min(256, len(truth) // 4), 2))
    counts = np.maximum(np.bincount(bins), 1)
    means = np.bincount(bins, truth) / counts
    rest = float(((truth - means[bins]) ** 2).mean())
    return rest <= (1 - ALONE + 3 * SLACK) * max(float(truth.var()), 1e-12)


def _tree_r2(values: Array, truth: Array, folds: Sequence[Rows], seed: int) -> float:
    from sklearn.tree import DecisionTreeRegressor

    tree = DecisionTreeRegressor(min_samples_leaf=2, random_state=seed)
    predictions = _held_out(tree, values, truth, folds)
    return 1 - float(((predictions - truth) ** 2).mean()) / max(float(truth.var()), 1e-12)


def _accuracy(values: Array, labels: Rows, folds: Sequence[Rows], seed: int) -> float:
    from sklearn.tree import DecisionTreeClassifier

    n_leaves = 2 * (int(labels.max()) + 1)
    tree = DecisionTreeClassifier(max_leaf_nodes=n_leaves, min_samples_leaf=2, random_state=seed)
    return float((_held_out(tree, values, labels, folds) == labels).mean())


def _held_out(
    tree: BaseDecisionTree, values: Array, truth: NDArray[Any], folds: Sequence[Rows]
) -> Array:
    predictions = np.zeros(len(truth))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(truth)), fold)
        predictions[fold] = tree.fit(values[rest], truth[rest]).predict(values[fold])
    return predictions


# ---- Metadata leakage: do size, shape, format, colours or bytes of a file predict its label?
#
# Images of one class often come from one source, and a model then learns the source. Each property
# by itself predicts the label of every file from the other files with a similar value.

Values = NDArray[np.float64]
Codes = NDArray[np.int64]

# Recall minus false-alarm rate of the best predicted class. On 14 clean sets sizes reach .51, but
# for cat_breeds (.66), whose abyssinians do come from a source of their own.
STRONG = 0.6
STRONG_BYTES = 0.8  # plain subjects compress better than busy ones, whatever their source
CERTAIN = 0.001
LEAST = 5  # files of a class that the check needs
PERMUTATIONS = 999
_BINS = 8
_ROWS = 2000  # files at a time, which bounds the memory for (files, classes) counts


@dataclass(frozen=True, slots=True)
class FileProperty:
    """One property of each file. Shapes: values (n,); `say` puts one value in words."""

    values: Values
    say: Callable[[float], str]
    strong: float = STRONG
    is_exact: bool = False  # values are names, not amounts

    def codes(self) -> Codes:
        """A code for each distinct value, or for each eighth by rank of many distinct amounts."""
        distinct, codes = np.unique(self.values, return_inverse=True)
        if self.is_exact or len(distinct) <= _BINS:
            return codes
        edges = np.quantile(self.values, np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.searchsorted(np.unique(edges), self.values, side="right")

    def typical(self, name: str, inside: NDArray[np.bool_], outside: str = "other classes") -> str:
        """The typical value in the class and elsewhere, as a sentence."""
        here, elsewhere = self.values[inside], self.values[~inside]
        if not self.is_exact:
            middle, other = (self.say(float(np.median(values))) for values in (here, elsewhere))
            return f"{name}: usually {middle}, {outside} {other}"
        distinct, counts = np.unique(here, return_counts=True)
        mode = distinct[counts.argmax()]
        share, other_share = (100 * float((values == mode).mean()) for values in (here, elsewhere))
        return f"{name}: {share:.0f} % are {self.say(float(mode))}, {other_share:.0f} % elsewhere"


def metadata_leaks(
    files: FileFigures,
    labels: Labels,
    classes: Sequence[str],
    rng: np.random.Generator,
    is_sound: bool = False,
) -> tuple[Finding, ...]:
    """One finding per kind of property (size, colour, format, bytes) that predicts classes.

    For sound clips: length, sample rate, format, bytes per second.
    Shapes: labels (n,) in 0..K-1, K = len(classes).
    """
    findings, k = [], len(classes)
    for name, properties in _properties(files, is_sound).items():
        gains = [(one, informedness(one.codes(), labels, k)) for one in properties]
        best, gain = max(gains, key=lambda pair: float(pair[1].max(initial=0.0)))
        which = np.flatnonzero((gain >= best.strong) & (np.bincount(labels) >= LEAST))
        if len(which) and _is_certain(_best_class(best, k), labels, gain.max(), rng):
            items = [best.typical(classes[int(c)], labels == c) for c in which]
            findings.append(_metadata_finding(name, is_sound, "its class", items, "of every class"))
    return tuple(findings)


def _best_class(one: FileProperty, n_classes: int) -> Callable[[Labels], float]:
    codes = one.codes()
    return lambda labels: float(informedness(codes, labels, n_classes).max())


def _is_certain(
    statistic: Callable[[NDArray[Any]], float],
    truth: NDArray[Any],
    value: float,
    rng: np.random.Generator,
) -> bool:
    """Whether hardly any permutation of the truth reaches `value`."""
    n_reached = sum(statistic(rng.permutation(truth)) >= value for _ in range(PERMUTATIONS))
    return (1 + n_reached) / (PERMUTATIONS + 1) <= CERTAIN


def _metadata_finding(
    name: str,
    is_sound: bool,
    predicts: str,
    items: Sequence[str],
    which: str,
    noun: str = "classes",
) -> Finding:
    what, advice = _MEDIA[is_sound]
    more = f"; {len(items) - 1} more {noun} likewise" if len(items) > 1 else ""
    return Finding(
        kind="metadata-leakage",
        sentence=(
            f"Metadata leakage: the {name} of {what} predicts {predicts} ({items[0]}{more}). "
            + advice.format(which=which)
        ),
        items=tuple(items),
    )


def informedness(codes: Codes, labels: Labels, n_classes: int) -> Values:
    """Recall minus false-alarm rate of each class, predicted from the other files of equal code.

    The prediction is the class with the largest share of its own files in a code (Youden 1950
    for the measure). Shapes: codes (n,) in 0.., labels (n,); returns (K,).

    >>> informedness(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 2).tolist()
    [1.0, 1.0]
    """
    n, sizes = len(labels), np.bincount(labels, minlength=n_classes)
    table = np.zeros((int(codes.max()) + 1, n_classes))
    np.add.at(table, (codes, labels), 1)
    predicted = np.empty(n, dtype=np.int64)
    for first in range(0, n, _ROWS):
        chunk = slice(first, first + _ROWS)
        others, rest = table[codes[chunk]], np.tile(sizes, (len(labels[chunk]), 1))
        row = np.arange(len(others))
        others[row, labels[chunk]] -= 1
        rest[row, labels[chunk]] -= 1
        share = others / np.maximum(rest, 1)
        predicted[chunk] = np.where(others.sum(axis=1) > 0, share.argmax(axis=1), -1)
    right = np.bincount(labels[predicted == labels], minlength=n_classes)
    called = np.bincount(predicted[predicted >= 0], minlength=n_classes)
    gain: Values = right / np.maximum(sizes, 1) - (called - right) / np.maximum(n - sizes, 1)
    return gain


def _properties(files: FileFigures, is_sound: bool) -> dict[str, list[FileProperty]]:
    """The properties by kind. `width` of a clip is its length in ms, `height` its sample rate."""
    formats, codes = np.unique(files.format, return_inverse=True)
    file_format = [FileProperty(codes.astype(float), lambda v: str(formats[int(v)]), is_exact=True)]
    width, height = files.width.astype(float), files.height.astype(float)
    if is_sound:
        seconds = files.width / 1000
        per_second = files.n_bytes / seconds
        return {
            "length": [FileProperty(seconds, lambda v: f"{v:.2g} s")],
            "sample rate": [FileProperty(height, lambda v: f"{v:,.0f} Hz", is_exact=True)],
            "file format": file_format,
            "file size": [FileProperty(per_second, lambda v: f"{v:,.0f} bytes a second")],
        }
    pixels = width * height
    step = float(height.max()) + 1
    colour = files.is_colour.astype(float)
    return {
        "size": [
            FileProperty(
                width * step + height,
                lambda v: f"{v // step:.0f} x {v % step:.0f} px",
                is_exact=True,
            ),
            FileProperty(width, lambda v: f"{v:,.0f} px wide"),
            FileProperty(height, lambda v: f"{v:,.0f} px high"),
            FileProperty(width / height, lambda v: f"{v:.2f} times as wide as high"),
            FileProperty(pixels, lambda v: f"{v / 1e6:.2g} megapixels"),
        ],
        "colour": [FileProperty(colour, lambda v: "in colour" if v else "grey", is_exact=True)],
        "file format": file_format,
        "file size": [
            FileProperty(files.n_bytes / pixels, lambda v: f"{v:.2g} bytes a pixel", STRONG_BYTES)
        ],
    }


# How findings name an image or a sound clip, and what they advise.
_MEDIA = (
    (
        "an image",
        "A model may learn where an image comes from instead of what it shows. Save all images the "
        "same way (one size, one format, one program), or take images {which} from every source.",
    ),
    (
        "a clip",
        "A model may learn how a clip was recorded and cut instead of what it sounds like. Cut and "
        "save all clips the same way (one length, one rate, one format), or take clips {which} "
        "from every source.",
    ),
)


HALF = 0.5  # share of the numbers' variance explained by one property, from which it is reported


def metadata_leaks_multilabel(
    files: FileFigures,
    truth: Values,
    names: Sequence[str],
    rng: np.random.Generator,
    is_sound: bool = False,
) -> tuple[Finding, ...]:
    """One finding per kind of property that predicts whether an example has a label.

    Each label by itself: with it and without it are two classes.
    Shapes: truth (n, K) of 0 and 1, K = len(names).
    """
    has, findings = truth > 0, []
    which = [k for k in range(len(names)) if LEAST <= has[:, k].sum() <= len(has) - LEAST]
    for name, properties in _properties(files, is_sound).items():
        items = []
        for k in which:
            labels = has[:, k].astype(np.int64)
            gains = [float(informedness(one.codes(), labels, 2)[1]) for one in properties]
            best, gain = properties[int(np.argmax(gains))], max(gains)
            if gain >= best.strong and _is_certain(_best_class(best, 2), labels, gain, rng):
                items.append(best.typical(names[k], has[:, k], "without it"))
        if items:
            images = "with and without each label"
            findings.append(_metadata_finding(name, is_sound, "a label", items, images, "labels"))
    return tuple(findings)


def metadata_leaks_regression(
    files: FileFigures, truth: Values, rng: np.random.Generator, is_sound: bool = False
) -> tuple[Finding, ...]:
    """One finding per kind of property that predicts the number. Shapes: truth (n,)."""
    findings = []
    for name, properties in _properties(files, is_sound).items():
        gains = [explained_variance(one.codes(), truth) for one in properties]
        best, gain = properties[int(np.argmax(gains))], max(gains)
        statistic = partial(explained_variance, best.codes())
        if gain >= HALF and _is_certain(statistic, truth, gain, rng):
            high = truth > np.median(truth)
            item = best.typical("the larger half of the numbers", high, "the smaller half")
            predicts = f"its number, explaining {100 * gain:.0f} % of the variance"
            findings.append(_metadata_finding(name, is_sound, predicts, [item], "of all numbers"))
    return tuple(findings)


def explained_variance(codes: Codes, truth: Values) -> float:
    """Share of the variance that the mean of the other files of equal code explains.

    Shapes: codes (n,) in 0.., truth (n,). A file alone with its code gets the overall mean.

    >>> explained_variance(np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 9.0, 9.0]))
    1.0
    """
    sums, sizes = np.bincount(codes, weights=truth), np.bincount(codes)
    others = sizes[codes] - 1
    mean = np.where(others > 0, (sums[codes] - truth) / np.maximum(others, 1), truth.mean())
    total = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - mean) ** 2).sum()) / max(total, 1e-12)
