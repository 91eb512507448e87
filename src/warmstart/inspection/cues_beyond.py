"""Does the file give one of several labels away, or a number? `cues.py` asks it of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.inspection.cues import (
    CERTAIN,
    LEAST,
    PERMUTATIONS,
    Codes,
    Cue,
    HasFiles,
    Values,
    chance,
    codes_of,
    informedness,
    kinds_of,
    usual_in,
)
from warmstart.records import Finding, Kind

HALF = 0.5  # share of the numbers' variance that one figure explains, from which it is named
# What a finding says of images, and of clips of sound.
_ADVICE = (
    "A model may learn where an image comes from instead of what it shows. Save all images alike "
    "(one size, one format, one program), or take images {which} from every source.",
    "A model may learn how a clip was recorded and cut instead of what sounds in it. Cut and save "
    "all clips alike (one length, one rate, one format), or take clips {which} from every source.",
)


def cues_of_sets(
    glances: HasFiles, truth: Values, names: Sequence[str], rng: np.random.Generator,
    kind: Kind = "image",
) -> tuple[Finding, ...]:  # fmt: skip
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
            )  # fmt: skip
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
        )  # fmt: skip
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
    return _ADVICE[kind == "audio"].format(which=which)
