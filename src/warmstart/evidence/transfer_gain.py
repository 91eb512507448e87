"""What do the trained weights know of this data, beyond what comes for nothing?

The same head on the same images: on the trained network, on the network with its weights
shuffled, and on plain pixels. Knowledge is the trained network's accuracy minus the better
of the two controls (RECIPE §4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from warmstart.evidence.probe_hits import best_left_out
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.summary import Evidence
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import Groups, kish, number_groups, standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import signed_points

SHUFFLE_SD = 0.03  # least spread of accuracy between shuffles that is reckoned with
NORMAL_95 = 1.645
CLEAR = 3.0  # standard errors above 0 from which more images would not change the answer


@dataclass(frozen=True, slots=True)
class Controls:
    """Kernels over the same rows: each arm offers several, the best is taken.

    Shapes: every kernel (n, n). `shuffles` holds one list of kernels per shuffled network.
    """

    trained: Sequence[Array]
    shuffles: Sequence[Sequence[Array]]
    pixels: Sequence[Array]


def transfer_gain(
    controls: Controls,
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGES,
) -> Evidence:
    """Accuracy of the trained network minus that of the better control.

    Shapes: labels (n,); groups partition the rows. Details: `error` (standard error of the
    difference, the spread between shuffles included), the three accuracies, `shuffles`.
    """
    if len(group_rows) < 2:
        return Evidence(
            name="transfer_gain",
            value=None,
            low=None,
            high=None,
            n=len(labels),
            meaning=f"Not measured: the {nouns.many} looked at all belong together.",
            details={"error": 0.0},
        )
    k, groups = target.n_outputs(labels), number_groups(group_rows)

    def hits(kernels: Sequence[Array]) -> Array:
        return best_left_out(kernels, labels, group_rows, k, target).hits(labels)

    trained, pixels = hits(controls.trained), hits(controls.pixels)
    shuffles = np.array([hits(kernels) for kernels in controls.shuffles])
    by_shuffle = shuffles.mean(axis=1)
    is_pixels = float(pixels.mean()) > float(by_shuffle.mean())
    control = pixels if is_pixels else shuffles.mean(axis=0)
    value = float(trained.mean() - control.mean())
    error = _error(trained - control, groups, [] if is_pixels else by_shuffle.tolist())
    details: dict[str, float | int | str] = {
        "trained": float(trained.mean()),
        "shuffled": float(by_shuffle.mean()),
        "pixels": float(pixels.mean()),
        "shuffles": len(shuffles),
        "error": error,
    }
    return Evidence(
        name="transfer_gain",
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=len(labels),
        meaning=_meaning(details, value, len(labels), target.words.transfer_gain, nouns),
        details=details,
    )


def is_clear(found: Evidence) -> bool:
    """True where the start plainly knows something: more images would not change that."""
    return (found.value or 0.0) - CLEAR * float(found.details["error"]) > 0


def _error(gap: Array, groups: Groups, by_shuffle: Sequence[float]) -> float:
    """Standard error, never below one row in n, and widened by the t quantile for few blocks.

    Without the least value two arms that err on the same rows would be told apart exactly.
    """
    paired = max(standard_error(gap, groups), 1.0 / len(gap))
    spread = 0.0
    if by_shuffle:
        seen = float(np.var(by_shuffle, ddof=1)) if len(by_shuffle) > 1 else 0.0
        spread = max(seen, SHUFFLE_SD**2) / len(by_shuffle)
    few = float(stdtrit(max(kish(groups) - 1, 1.0), 0.95)) / NORMAL_95
    return few * float(np.sqrt(paired**2 + spread))


def _meaning(
    details: dict[str, float | int | str], value: float, n: int, told: str, nouns: Nouns
) -> str:
    names = "trained", "shuffled", "pixels"
    shown = {name: f"{100 * float(details[name]):.0f} %" for name in names}
    return (
        f"On {nouns.count(n)} {told.format(**shown, plain=nouns.plain)}: pretraining is worth "
        f"{signed_points(value)} points here."
    )
