"""Does the edge of a picture give its class away?

A frame, a caption bar or a scanner's margin that goes with the class is learnt in place of
the subject. Two signs are looked for: an edge that has one colour throughout a class and
not elsewhere, and borders that alone tell the classes apart nearly as well as the network
does from whole pictures. Grass or sky at the edge of honest photographs does neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.evidence.probe_hits import best_left_out
from warmstart.records.data import Finding
from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

SIDES = ("top", "right", "bottom", "left")
SAME = 16  # levels of 255 within which two colours count as one
# Share of a class whose edge looks alike, minus the share of the others that have it too.
# On 14 clean sets at most .24 along a side; one colour a class in a 4 px frame gives 1.
STEADY = 0.5
CERTAIN = 0.001
TELLING = 0.9  # of what the network gains over guessing; clean sets: at most .6
LEAST = 20  # rows below which the borders' accuracy says little


def shortcut(
    border: NDArray[np.uint8],
    labels: Labels,
    classes: Sequence[str],
    groups: Sequence[Rows],
    network_accuracy: float,
) -> Finding | None:
    """A finding over borders that name the class, else None.

    Shapes: border (n, 2, 4, 16, 4) of `Glances`; labels (n,) in 0..K-1, K = len(classes);
    groups partition the rows. `network_accuracy` is that of whole pictures, left out.
    """
    edges = steady_edges(border, labels, len(classes))
    if edges:
        return Finding(
            kind="shortcut",
            sentence=_edge_sentence(edges, classes),
            items=tuple(f"{classes[c]}: {', '.join(sides)}" for c, sides in edges.items()),
        )
    accuracy = border_accuracy(border, labels, groups, len(classes))
    guess = float(np.bincount(labels).max() / len(labels))
    noise = 3.3 * np.sqrt(guess * (1 - guess) / len(groups))
    if accuracy < guess + max(TELLING * (network_accuracy - guess), noise):
        return None
    return Finding(
        kind="shortcut",
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
        kind="shortcut",
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
    border: NDArray[np.uint8], labels: Labels, groups: Sequence[Rows], n_classes: int
) -> float:
    """Accuracy of a left-out kernel ridge that sees the borders alone; 0 where all are equal."""
    flat = border.reshape(len(border), -1).astype(np.float64) / 255
    squares = (flat**2).sum(axis=1)
    distance = np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0.0)
    width = float(distance.mean())
    if width < 1e-9 or len(border) < LEAST:
        return 0.0
    kernel: Array = np.exp(-distance / width)
    return float(best_left_out([kernel], labels, groups, n_classes).hits(labels).mean())


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
