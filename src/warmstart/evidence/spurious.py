"""Does the file give the class away: its size, shape, format, colours or weight?

Images of one class often come from one source, with sizes and files of its own. A model
then learns the source: how sharp, how squashed, how compressed an image is. Each figure
by itself predicts the class of every file from the other files with the like figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.records.data import Finding
from warmstart.records.inputs import Kind
from warmstart.solve.calibration import Labels

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
class Cue:
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


def kinds_of(glances: HasFiles, kind: Kind) -> dict[str, list[Cue]]:
    """The figures by kind; of a kind only the most telling one is reported."""
    return _kinds_of_clips(glances) if kind == "audio" else _kinds(glances)


def _kinds(glances: HasFiles) -> dict[str, list[Cue]]:
    """Of pictures."""
    width, height = glances.width.astype(float), glances.height.astype(float)
    pixels, formats = width * height, np.unique(glances.format, return_inverse=True)
    weight = glances.n_bytes / pixels
    step = float(height.max()) + 1
    return {
        "size": [
            Cue(
                width * step + height,
                lambda v: f"{v // step:.0f} x {v % step:.0f} px",
                is_exact=True,
            ),
            Cue(width, lambda v: f"{v:,.0f} px wide"),
            Cue(height, lambda v: f"{v:,.0f} px high"),
            Cue(width / height, lambda v: f"{v:.2f} times as wide as high"),
            Cue(pixels, lambda v: f"{v / 1e6:.2g} megapixels"),
        ],
        "colour": [
            Cue(
                glances.is_colour.astype(float),
                lambda v: "in colour" if v else "grey",
                is_exact=True,
            )
        ],
        "file format": [
            Cue(formats[1].astype(float), lambda v: str(formats[0][int(v)]), is_exact=True)
        ],
        "file size": [Cue(weight, lambda v: f"{v:.2g} bytes a pixel", STRONG_BYTES)],
    }


def _kinds_of_clips(glances: HasFiles) -> dict[str, list[Cue]]:
    """The same of sounds, whose width is their length in ms, whose height their sample rate."""
    formats = np.unique(glances.format, return_inverse=True)
    seconds = glances.width / 1000
    return {
        "length": [Cue(seconds, lambda v: f"{v:.2g} s")],
        "sample rate": [Cue(glances.height.astype(float), lambda v: f"{v:,.0f} Hz", is_exact=True)],
        "file format": [
            Cue(formats[1].astype(float), lambda v: str(formats[0][int(v)]), is_exact=True)
        ],
        "file size": [Cue(glances.n_bytes / seconds, lambda v: f"{v:,.0f} bytes a second")],
    }


def codes_of(cue: Cue) -> Codes:
    """Equal values, or eighths of the range by rank where amounts differ in many ways."""
    distinct, codes = np.unique(cue.values, return_inverse=True)
    if cue.is_exact or len(distinct) <= _BINS:
        return codes
    edges = np.quantile(cue.values, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.searchsorted(np.unique(edges), cue.values, side="right")


def chance(
    cue: Cue, labels: Labels, n_classes: int, gain: float, rng: np.random.Generator
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
    name: str, cue: Cue, labels: Labels, classes: Sequence[str], which: Codes, advice: str
) -> Finding:
    items = tuple(usual_in(classes[number], cue, labels == number) for number in which)
    more = f"; {len(items) - 1} more classes likewise" if len(items) > 1 else ""
    return Finding(
        kind="size-cue",
        sentence=advice.format(name=name, items=f"{items[0]}{more}"),
        items=items,
    )


def usual_in(name: str, cue: Cue, inside: NDArray[np.bool_], outside: str = "other classes") -> str:
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
                    kind="size-cue",
                    sentence=(
                        f"The {name} of {_one(kind)} gives a label away ({told[0]}{more}). "
                        + _advice(kind, "with and without each label")
                    ),
                    items=tuple(told),
                )
            )
    return tuple(found)


def _told(
    tried: Sequence[Cue], inside: NDArray[np.bool_], name: str, rng: np.random.Generator
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
                kind="size-cue",
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
