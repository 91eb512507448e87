"""Does the file give the class away: its size, shape, format, colours or weight?

Images of one class often come from one source, with sizes and files of its own. A model
then learns the source: how sharp, how squashed, how compressed an image is. Each figure
by itself predicts the class of every file from the other files with the like figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.evidence.probe_hits import best_left_out
from warmstart.records.data import Finding
from warmstart.records.inputs import Kind
from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

# ---- Does the edge of a picture give its class away?
#
# A frame, a caption bar or a scanner's margin that goes with the class is learnt in place of
# the subject. Two signs are looked for: an edge that has one colour throughout a class and
# not elsewhere, and borders that alone tell the classes apart nearly as well as the network
# does from whole pictures. Grass or sky at the edge of honest photographs does neither.


SIDES = ("top", "right", "bottom", "left")
SAME = 16  # levels of 255 within which two colours count as one
# Share of a class whose edge looks alike, minus the share of the others that have it too.
# On 14 clean sets at most .24 along a side; one colour a class in a 4 px frame gives 1.
STEADY = 0.5
TELLING = 0.9  # of what the network gains over guessing; clean sets: at most .6
BORDER_LEAST = 20  # rows below which the borders' accuracy says little


def shortcut(
    border: NDArray[np.uint8],
    labels: Labels,
    classes: Sequence[str],
    group_rows: Sequence[Rows],
    network_accuracy: float,
) -> Finding | None:
    """A finding over borders that name the class, else None.

    Shapes: border (n, 2, 4, 16, 4) of `Thumbnails`; labels (n,) in 0..K-1, K = len(classes);
    groups partition the rows. `network_accuracy` is that of whole pictures, left out.
    """
    edges = steady_edges(border, labels, len(classes))
    if edges:
        return Finding(
            kind="spurious-correlation",
            sentence=_edge_sentence(edges, classes),
            items=tuple(f"{classes[c]}: {', '.join(sides)}" for c, sides in edges.items()),
        )
    accuracy = border_accuracy(border, labels, group_rows, len(classes))
    guess = float(np.bincount(labels).max() / len(labels))
    noise = 3.3 * np.sqrt(guess * (1 - guess) / len(group_rows))
    if accuracy < guess + max(TELLING * (network_accuracy - guess), noise):
        return None
    return Finding(
        kind="spurious-correlation",
        sentence=(
            "From the outermost 4 % of each image alone the class is told right "
            f"{100 * accuracy:.0f} % of the time; the network gets {100 * network_accuracy:.0f} % "
            "from whole images. A model may learn the borders instead of the subject: look at "
            "how the images of each class were made, or crop the borders away."
        ),
        items=tuple(classes),
    )


def edges_of_sets(border: NDArray[np.uint8], truth: Array, names: Sequence[str]) -> Finding | None:
    """A finding over edges that go with a label, else None: each label by itself.

    What borders alone can tell is measured of classes only. Shapes: border as above, truth
    (n, K) of 0 and 1, K = len(names).
    """
    has = truth > 0
    which = [k for k in range(len(names)) if 0 < has[:, k].sum() < len(has)]
    found = {k: steady_edges(border, has[:, k].astype(np.int64), 2).get(1) for k in which}
    edges = {k: sides for k, sides in found.items() if sides}
    if not edges:
        return None
    return Finding(
        kind="spurious-correlation",
        sentence=_edge_sentence(edges, names, ("label", "others")),
        items=tuple(f"{names[k]}: {', '.join(sides)}" for k, sides in edges.items()),
    )


def steady_edges(
    border: NDArray[np.uint8], labels: Labels, n_classes: int
) -> dict[int, tuple[str, ...]]:
    """Classes with sides of one look throughout, which other classes do not share.

    Shapes: border (n, 2, 4, 16, 4), labels (n,). Returns class numbers with names of sides.
    """
    colour = border[:, 0, ..., :3].astype(np.float32)  # the outermost layer: (n, 4, 16, 3)
    found = {}
    for number in range(n_classes):
        inside = labels == number
        usual = np.median(colour[inside], axis=0)
        alike = (np.abs(colour - usual).max(axis=-1) <= SAME).mean(axis=-1) > 0.5  # (n, 4)
        sides = [
            name
            for side, name in enumerate(SIDES)
            if _is_steady(alike[:, side], inside, 4 * n_classes)
        ]
        if sides:
            found[number] = tuple(sides)
    return found


def _is_steady(alike: NDArray[np.bool_], inside: NDArray[np.bool_], looks: int) -> bool:
    """A large difference in shares that chance does not explain, `looks` having been taken."""
    if alike[inside].mean() - alike[~inside].mean() < STEADY:
        return False
    from scipy.stats import hypergeom  # takes 0.3 s, and few classes come this far

    n, here = len(alike), int(inside.sum())
    chance = hypergeom.sf(alike[inside].sum() - 1, n, int(alike.sum()), here)
    return bool(chance * looks <= CERTAIN)


def border_accuracy(
    border: NDArray[np.uint8], labels: Labels, group_rows: Sequence[Rows], n_classes: int
) -> float:
    """Accuracy of a left-out kernel ridge that sees the borders alone; 0 where all are equal."""
    flat = border.reshape(len(border), -1).astype(np.float64) / 255
    squares = (flat**2).sum(axis=1)
    domain_gap = np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0.0)
    width = float(domain_gap.mean())
    if width < 1e-9 or len(border) < BORDER_LEAST:
        return 0.0
    kernel: Array = np.exp(-domain_gap / width)
    return float(best_left_out([kernel], labels, group_rows, n_classes).hits(labels).mean())


def _edge_sentence(
    edges: Mapping[int, tuple[str, ...]],
    names: Sequence[str],
    words: tuple[str, str] = ("class", "the other classes"),
) -> str:
    """`words`: what is given away, and who lacks the edge."""
    shown = ", ".join([names[number] for number in edges][:5]) + (", …" if len(edges) > 5 else "")
    sides = [side for side in SIDES if any(side in found for found in edges.values())]
    where = "all four sides" if len(sides) == len(SIDES) else " and ".join(sides)
    given, others = words
    these = "classes" if given == "class" else "labels"
    return (
        f"The edge of the image gives the {given} away: images of {shown} have an edge of their "
        f"own colour ({where}), which {others} lack. A model would learn that edge "
        "instead of the subject, and fail on images without it: crop it away, or find out how "
        f"the images of these {these} were made."
    )


# ---- Does one column of a table give the label away?


ALONE = 0.97  # share of rows whose label one column tells, from which it is named
BEYOND = 0.15  # more than by guessing the largest class
COLUMN_LEAST = 20  # rows below which that says little
FOLDS = 4
MANY = 100  # columns from which on those that cannot tell are passed over without a tree
SLACK = 0.07  # less than `ALONE` that bins may tell of a column of which a tree tells that much


def telling(
    columns: Mapping[str, Array], labels: Rows, folds: Sequence[Rows], seed: int
) -> Finding | None:
    """A finding over columns each of which alone tells the label nearly always, else None.

    Judged on rows held out, by a small tree of as many leaves as the classes take twice.
    Shapes: columns (n, d) each, labels (n,); `folds` are the rows of each fold.
    """
    n = len(labels)
    guess = float(np.bincount(labels).max() / max(n, 1))
    if n < COLUMN_LEAST or len(folds) < 2:
        return None
    if len(columns) > MANY:
        columns = {name: v for name, v in columns.items() if _may_tell(v, labels)}
    found = {name: _accuracy(values, labels, folds, seed) for name, values in columns.items()}
    told = {name: a for name, a in found.items() if a >= ALONE and a - guess >= BEYOND}
    return _column_finding(told, "tells the label of {:.0f} % of the rows", "label")


def telling_of_sets(
    columns: Mapping[str, Array],
    truth: Array,
    names: Sequence[str],
    folds: Sequence[Rows],
    seed: int,
) -> Finding | None:
    """The same of several labels, each by itself; the first that a column tells is named.

    Shapes: truth (n, K) of 0 and 1, K = len(names).
    """
    for k, name in enumerate(names):
        found = telling(columns, truth[:, k].astype(np.int64), folds, seed)
        if found is not None:
            whose = f'tells whether "{name}" holds of'
            return replace(found, sentence=found.sentence.replace("tells the label of", whose))
    return None


def telling_of_numbers(
    columns: Mapping[str, Array], truth: Array, folds: Sequence[Rows], seed: int
) -> Finding | None:
    """The same of a number: columns each of which alone explains nearly all of its variance.

    Shapes: truth (n,).
    """
    if len(truth) < COLUMN_LEAST or len(folds) < 2:
        return None
    if len(columns) > MANY:
        columns = {name: v for name, v in columns.items() if _may_explain(v, truth)}
    found = {name: _explained(values, truth, folds, seed) for name, values in columns.items()}
    told = {name: share for name, share in found.items() if share >= ALONE}
    return _column_finding(told, "explains {:.0f} % of the numbers' variance", "number")


def _column_finding(told: Mapping[str, float], does: str, what: str) -> Finding | None:
    """The column that tells most, in words; None where none does. `does` has a place for it."""
    if not told:
        return None
    best = max(told, key=lambda name: told[name])
    also = "" if len(told) == 1 else f", and so do {len(told) - 1:,} more"
    return Finding(
        kind="spurious-correlation",
        sentence=(
            f'The column "{best}" alone {does.format(100 * told[best])}{also}. If it is known '
            f"only once the {what} is, leave it out: --set column.{best}=left-out."
        ),
        items=tuple(told),
    )


def _bins(values: Array, n_bins: int) -> Rows:
    """The number of each row's bin: equal values share one. Shapes: (n, d) to (n,)."""
    if values.shape[1] > 1:
        places: Rows = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
        return places
    column = values[:, 0]
    edges = np.sort(column)[np.linspace(0, len(column) - 1, n_bins + 1).astype(int)[1:-1]]
    return np.searchsorted(np.unique(edges), column, side="right")


def _may_tell(values: Array, labels: Rows) -> bool:
    """Whether a tree could be right often enough: the largest class of each of many bins is."""
    n_classes = int(labels.max()) + 1
    bins = _bins(values, max(min(32 * n_classes, len(labels) // 4), 2))
    counts = np.bincount(bins * n_classes + labels, minlength=n_classes * (int(bins.max()) + 1))
    right = int(counts.reshape(-1, n_classes).max(axis=1).sum())
    return right >= (ALONE - SLACK) * len(labels)


def _may_explain(values: Array, truth: Array) -> bool:
    """Whether a tree could explain enough: the means of many bins do."""
    bins = _bins(values, max(min(256, len(truth) // 4), 2))
    counts = np.maximum(np.bincount(bins), 1)
    means = np.bincount(bins, truth) / counts
    rest = float(((truth - means[bins]) ** 2).mean())
    return rest <= (1 - ALONE + 3 * SLACK) * max(float(truth.var()), 1e-12)


def _explained(values: Array, truth: Array, folds: Sequence[Rows], seed: int) -> float:
    from sklearn.tree import DecisionTreeRegressor

    said = np.zeros(len(truth))
    for part in folds:
        rest = np.setdiff1d(np.arange(len(truth)), part)
        tree = DecisionTreeRegressor(min_samples_leaf=2, random_state=seed)
        said[part] = tree.fit(values[rest], truth[rest]).predict(values[part])
    return 1 - float(((said - truth) ** 2).mean()) / max(float(truth.var()), 1e-12)


def _accuracy(values: Array, labels: Rows, folds: Sequence[Rows], seed: int) -> float:
    from sklearn.tree import DecisionTreeClassifier

    hits = np.zeros(len(labels))
    for part in folds:
        rest = np.setdiff1d(np.arange(len(labels)), part)
        tree = DecisionTreeClassifier(
            max_leaf_nodes=2 * (int(labels.max()) + 1), min_samples_leaf=2, random_state=seed
        )
        hits[part] = tree.fit(values[rest], labels[rest]).predict(values[part]) == labels[part]
    return float(hits.mean())


Values = NDArray[np.float64]
Codes = NDArray[np.int64]

# Recall minus false alarms of the best-told class. On 14 clean sets sizes reach .51, but for
# cat_breeds (.66), whose abyssinians do come from a source of their own.
STRONG = 0.6
STRONG_BYTES = 0.8  # plain subjects compress better than busy ones, whatever their source
CERTAIN = 0.001
LEAST = 5  # files of a class below which nothing is said of it
PERMUTATIONS = 999
_BINS = 8
_ROWS = 2000  # files told apart at a time: of each the counts of all classes are looked at


class HasFiles(Protocol):
    """Figures of n files. Shapes: all (n,)."""

    @property
    def width(self) -> NDArray[np.int64]:
        """In px, upright."""
        ...

    @property
    def height(self) -> NDArray[np.int64]:
        """In px, upright."""
        ...

    @property
    def n_bytes(self) -> NDArray[np.int64]:
        """Of the file."""
        ...

    @property
    def is_colour(self) -> NDArray[np.bool_]:
        """False where colours are shades of grey."""
        ...

    @property
    def format(self) -> NDArray[np.str_]:
        """Names of file formats."""
        ...


@dataclass(frozen=True, slots=True)
class FileProperty:
    """One figure of each file. Shapes: values (n,); `say` puts a typical value in words."""

    values: Values
    say: Callable[[float], str]
    strong: float = STRONG
    is_exact: bool = False  # values are names, not amounts


def cues(
    glances: HasFiles,
    labels: Labels,
    classes: Sequence[str],
    rng: np.random.Generator,
    kind: Kind = "image",
) -> tuple[Finding, ...]:
    """One finding for each kind of figure (size, colour, format, bytes) that tells classes.

    Of clips of sound: length, sample rate, format, bytes a second.
    Shapes: labels (n,) in 0..K-1, K = len(classes).
    """
    found = []
    for name, tried in kinds_of(glances, kind).items():
        told = [(cue, informedness(codes_of(cue), labels, len(classes))) for cue in tried]
        cue, gain = max(told, key=lambda pair: float(pair[1].max(initial=0.0)))
        which = np.flatnonzero((gain >= cue.strong) & (np.bincount(labels) >= LEAST))
        if len(which) and chance(cue, labels, len(classes), gain.max(), rng) <= CERTAIN:
            found.append(_finding(name, cue, labels, classes, which, _ADVICE[kind == "audio"]))
    return tuple(found)


def informedness(codes: Codes, labels: Labels, n_classes: int) -> Values:
    """Recall minus false-alarm rate of each class, told by the other files of equal code.

    The class with the largest share of its own files in a code is named (Youden 1950 for
    the measure). Shapes: codes (n,) in 0.., labels (n,); returns (K,).

    >>> informedness(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 2).tolist()
    [1.0, 1.0]
    """
    n, sizes = len(labels), np.bincount(labels, minlength=n_classes)
    table = np.zeros((int(codes.max()) + 1, n_classes))
    np.add.at(table, (codes, labels), 1)
    named = np.empty(n, dtype=np.int64)
    for start in range(0, n, _ROWS):
        part = slice(start, start + _ROWS)
        others, rest = table[codes[part]], np.tile(sizes, (len(labels[part]), 1))
        row = np.arange(len(others))
        others[row, labels[part]] -= 1
        rest[row, labels[part]] -= 1
        share = others / np.maximum(rest, 1)
        named[part] = np.where(others.sum(axis=1) > 0, share.argmax(axis=1), -1)
    right = np.bincount(labels[named == labels], minlength=n_classes)
    called = np.bincount(named[named >= 0], minlength=n_classes)
    gain: Values = right / np.maximum(sizes, 1) - (called - right) / np.maximum(n - sizes, 1)
    return gain


def kinds_of(glances: HasFiles, kind: Kind) -> dict[str, list[FileProperty]]:
    """The figures by kind; of a kind only the most telling one is reported."""
    return _kinds_of_clips(glances) if kind == "audio" else _kinds(glances)


def _kinds(glances: HasFiles) -> dict[str, list[FileProperty]]:
    """Of pictures."""
    width, height = glances.width.astype(float), glances.height.astype(float)
    pixels, formats = width * height, np.unique(glances.format, return_inverse=True)
    weight = glances.n_bytes / pixels
    step = float(height.max()) + 1
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
        "colour": [
            FileProperty(
                glances.is_colour.astype(float),
                lambda v: "in colour" if v else "grey",
                is_exact=True,
            )
        ],
        "file format": [
            FileProperty(formats[1].astype(float), lambda v: str(formats[0][int(v)]), is_exact=True)
        ],
        "file size": [FileProperty(weight, lambda v: f"{v:.2g} bytes a pixel", STRONG_BYTES)],
    }


def _kinds_of_clips(glances: HasFiles) -> dict[str, list[FileProperty]]:
    """The same of sounds, whose width is their length in ms, whose height their sample rate."""
    formats = np.unique(glances.format, return_inverse=True)
    seconds = glances.width / 1000
    return {
        "length": [FileProperty(seconds, lambda v: f"{v:.2g} s")],
        "sample rate": [
            FileProperty(glances.height.astype(float), lambda v: f"{v:,.0f} Hz", is_exact=True)
        ],
        "file format": [
            FileProperty(formats[1].astype(float), lambda v: str(formats[0][int(v)]), is_exact=True)
        ],
        "file size": [
            FileProperty(glances.n_bytes / seconds, lambda v: f"{v:,.0f} bytes a second")
        ],
    }


def codes_of(cue: FileProperty) -> Codes:
    """Equal values, or eighths of the range by rank where amounts differ in many ways."""
    distinct, codes = np.unique(cue.values, return_inverse=True)
    if cue.is_exact or len(distinct) <= _BINS:
        return codes
    edges = np.quantile(cue.values, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.searchsorted(np.unique(edges), cue.values, side="right")


def chance(
    cue: FileProperty, labels: Labels, n_classes: int, gain: float, rng: np.random.Generator
) -> float:
    """How often shuffled labels are told as well by any class: a permutation p-value."""
    codes = codes_of(cue)
    as_good = sum(
        float(informedness(codes, rng.permutation(labels), n_classes).max()) >= gain
        for _ in range(PERMUTATIONS)
    )
    return (1 + as_good) / (PERMUTATIONS + 1)


# What a finding says of images, and of clips of sound.
_ADVICE = (
    "The {name} of an image gives its class away ({items}). A model may learn where an image comes "
    "from instead of what it shows. Save all images alike (one size, one format, one program), or "
    "give every class images from every source.",
    "The {name} of a clip gives its class away ({items}). A model may learn how a clip was "
    "recorded and cut instead of what sounds in it. Cut and save all clips alike (one length, one "
    "rate, one format), or give every class clips from every source.",
)


def _finding(
    name: str, cue: FileProperty, labels: Labels, classes: Sequence[str], which: Codes, advice: str
) -> Finding:
    items = tuple(usual_in(classes[number], cue, labels == number) for number in which)
    more = f"; {len(items) - 1} more classes likewise" if len(items) > 1 else ""
    return Finding(
        kind="metadata-leakage",
        sentence=advice.format(name=name, items=f"{items[0]}{more}"),
        items=items,
    )


def usual_in(
    name: str, cue: FileProperty, inside: NDArray[np.bool_], outside: str = "other classes"
) -> str:
    """What is usual in the class, and elsewhere."""
    here, elsewhere = cue.values[inside], cue.values[~inside]
    if not cue.is_exact:
        usual, other = (cue.say(float(np.median(values))) for values in (here, elsewhere))
        return f"{name}: usually {usual}, {outside} {other}"
    distinct, counts = np.unique(here, return_counts=True)
    usual = distinct[counts.argmax()]
    share, other_share = (100 * float((values == usual).mean()) for values in (here, elsewhere))
    return f"{name}: {share:.0f} % are {cue.say(float(usual))}, {other_share:.0f} % elsewhere"


# ---- Does the file give one of several labels away, or a number? `cues.py` asks it of classes.


HALF = 0.5  # share of the numbers' variance that one figure explains, from which it is named
# What a finding says of images, and of clips of sound.
_OTHER_TASKS_ADVICE = (
    "A model may learn where an image comes from instead of what it shows. Save all images alike "
    "(one size, one format, one program), or take images {which} from every source.",
    "A model may learn how a clip was recorded and cut instead of what sounds in it. Cut and save "
    "all clips alike (one length, one rate, one format), or take clips {which} from every source.",
)


def cues_of_sets(
    glances: HasFiles,
    truth: Values,
    names: Sequence[str],
    rng: np.random.Generator,
    kind: Kind = "image",
) -> tuple[Finding, ...]:
    """One finding for each kind of figure that tells whether an example has a label.

    Each label by itself: those with it are one class, those without it another.
    Shapes: truth (n, K) of 0 and 1, K = len(names).
    """
    has, found = truth > 0, []
    which = [k for k in range(len(names)) if LEAST <= has[:, k].sum() <= len(has) - LEAST]
    for name, tried in kinds_of(glances, kind).items():
        told = [item for k in which for item in _told(tried, has[:, k], names[k], rng)]
        if told:
            more = f"; {len(told) - 1} more labels likewise" if len(told) > 1 else ""
            found.append(
                Finding(
                    kind="metadata-leakage",
                    sentence=(
                        f"The {name} of {_one(kind)} gives a label away ({told[0]}{more}). "
                        + _advice(kind, "with and without each label")
                    ),
                    items=tuple(told),
                )
            )
    return tuple(found)


def _told(
    tried: Sequence[FileProperty], inside: NDArray[np.bool_], name: str, rng: np.random.Generator
) -> list[str]:
    """What the most telling figure says of one label; nothing where it says little."""
    labels = inside.astype(np.int64)
    gains = [float(informedness(codes_of(cue), labels, 2)[1]) for cue in tried]
    best = int(np.argmax(gains))
    cue, gain = tried[best], gains[best]
    if gain < cue.strong or chance(cue, labels, 2, gain, rng) > CERTAIN:
        return []
    return [usual_in(name, cue, inside, "without it")]


def cues_of_numbers(
    glances: HasFiles, truth: Values, rng: np.random.Generator, kind: Kind = "image"
) -> tuple[Finding, ...]:
    """One finding for each kind of figure that tells the number. Shapes: truth (n,)."""
    found = []
    for name, tried in kinds_of(glances, kind).items():
        gains = [explained(codes_of(cue), truth) for cue in tried]
        best = int(np.argmax(gains))
        cue, gain = tried[best], gains[best]
        if gain < HALF or _luck(codes_of(cue), truth, gain, rng) > CERTAIN:
            continue
        high = truth > np.median(truth)
        item = usual_in("the larger half of the numbers", cue, high, "the smaller half")
        found.append(
            Finding(
                kind="metadata-leakage",
                sentence=(
                    f"The {name} of {_one(kind)} gives its number away: alone it explains "
                    f"{100 * gain:.0f} % of the variance ({item}). "
                    + _advice(kind, "of all numbers")
                ),
                items=(item,),
            )
        )
    return tuple(found)


def explained(codes: Codes, truth: Values) -> float:
    """Share of the variance that the mean of the other files of equal code explains.

    Shapes: codes (n,) in 0.., truth (n,). A file alone with its code is told nothing.

    >>> explained(np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 9.0, 9.0]))
    1.0
    """
    sums, sizes = np.bincount(codes, weights=truth), np.bincount(codes)
    others = sizes[codes] - 1
    mean = np.where(others > 0, (sums[codes] - truth) / np.maximum(others, 1), truth.mean())
    total = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - mean) ** 2).sum()) / max(total, 1e-12)


def _luck(codes: Codes, truth: Values, gain: float, rng: np.random.Generator) -> float:
    """How often shuffled numbers are told as well: a permutation p-value."""
    as_good = sum(explained(codes, rng.permutation(truth)) >= gain for _ in range(PERMUTATIONS))
    return (1 + as_good) / (PERMUTATIONS + 1)


def _one(kind: Kind) -> str:
    return "a clip" if kind == "audio" else "an image"


def _advice(kind: Kind, which: str) -> str:
    return _OTHER_TASKS_ADVICE[kind == "audio"].format(which=which)
