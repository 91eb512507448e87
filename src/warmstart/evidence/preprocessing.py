"""Are the images fed in as the start learnt them? The same head under other habits.

A network that is shown other brightness, contrast or channel order than it was trained on
still gives features, only worse ones, and nothing else tells. The usual alternatives are
tried on a few images; a warning needs a gain that chance does not explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtri

from warmstart.evidence.probe_hits import best_left_out
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.data import Finding
from warmstart.records.summary import Evidence
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups, standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import CLASS_WORDS, Words, points

Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and spread per channel, of 0..1

USUAL: dict[str, Moments] = {
    "mean 0.5, spread 0.5": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's mean and spread": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
}
SWAPPED = "blue and red exchanged"
CLEARLY_NEARER = 0.7  # of the present distance: then the old statistics speak for it
AS_NEAR = 1.5  # of the present distance: up to there they do not speak against it
LEVEL = 0.05  # of a false warning, shared among the habits tried
CONFIDENT_IF_NEARER = 1.0  # where the old statistics say the same
LEAST = 0.02  # a gain worth a warning


def worth_trying(
    present: float, others: Mapping[str, float]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Habits about as near to the old data's statistics as the present one, and nearer ones.

    Of the first layers, where each habit puts them at the distance given. On 14 sets fed in
    rightly no other habit comes nearer than 0.76; fed in with ImageNet's or without a mean the
    right one is at 0.66 or nearer on 12, at 1.0 on hands and 1.3 on skin.

    >>> worth_trying(0.9, {"0 to 1": 0.1, "0 to 255": 800.0, "other": 1.0})
    (('other',), ('0 to 1',))
    """
    nearer = tuple(name for name, d in others.items() if d < CLEARLY_NEARER * present)
    near = tuple(n for n, d in others.items() if n not in nearer and d < AS_NEAR * present)
    return near, nearer


def preprocessing(
    present: Sequence[Array],
    others: Mapping[str, Sequence[Array]],
    labels: Truth,
    group_rows: Sequence[Rows],
    nearer: Sequence[str] = (),
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGES,
) -> Evidence:
    """Accuracy that the best other habit gains over the present one, by paired differences.

    Shapes: kernels (n, n), several a habit (the best is taken); labels (n,). `nearer` names
    the habits under which the first layers come nearer to the old data's statistics.
    """
    k, groups = target.n_outputs(labels), number_groups(group_rows)
    n = len(labels)
    now = best_left_out(present, labels, group_rows, k, target).hits(labels)
    gains = {
        name: best_left_out(x, labels, group_rows, k, target).hits(labels) - now
        for name, x in others.items()
    }
    if not gains or len(group_rows) < 2:
        is_alone = f"No other usual way to feed the {nouns.many} in comes nearer to the old data."
        bound = f"Not measured: the {nouns.many} looked at all belong together."
        return Evidence(
            name="preprocessing",
            value=None,
            low=None,
            high=None,
            n=n,
            meaning=bound if gains else is_alone,
        )
    best = max(gains, key=lambda name: float(gains[name].mean()))
    value, error = float(gains[best].mean()), standard_error(gains[best], groups)
    details: dict[str, float | int | str] = {
        f"gain.{name}": float(g.mean()) for name, g in gains.items()
    }
    return Evidence(
        name="preprocessing",
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=n,
        meaning=(
            f"With {best}, the same linear probe would "
            + (f"gain {points(value)} points." if value > 0 else f"lose {points(-value)} points.")
        ),
        details={**details, "best": best, "error": error, "nearer": int(best in nearer)},
    )


def is_open(found: Evidence) -> bool:
    """True where more images are worth it: a gain that may or may not be chance."""
    if found.value is None:
        return False
    return found.value > 0 and found.value > 0.5 * float(found.details["error"])


def warning(found: Evidence, words: Words = CLASS_WORDS, nouns: Nouns = IMAGES) -> Finding | None:
    """The finding, where another habit is clearly better."""
    if found.value is None or found.value < LEAST:
        return None
    tried = sum(name.startswith("gain.") for name in found.details)
    sure = CONFIDENT_IF_NEARER if found.details["nearer"] else float(-ndtri(LEVEL / tried))
    if found.value - sure * float(found.details["error"]) <= 0:
        return None
    best = str(found.details["best"])
    return Finding(
        kind="preprocessing",
        sentence=(
            f"The {nouns.many} do not seem to be fed in as the base model learnt them: with "
            f"{best} the same linear probe {words.ahead.format(f'{100 * found.value:.0f}')} "
            f"({nouns.count(found.n)}). Give the base model's own preprocessing."
        ),
        items=(best,),
    )


def all_grey(images: np.ndarray) -> bool:
    """True where exchanging channels would change nothing. Shapes: images (n, H, W, C)."""
    return images.shape[-1] == 1 or bool((images[..., 0] == images[..., -1]).all())
