"""Where in the network the useful features lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from warmstart.records import Evidence, Tap
from warmstart.solve import ridge
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.solve.temperature import Labels, fit_temperature, log_losses
from warmstart.stats.intervals import number_blocks
from warmstart.stats.paired import mean_interval

PENALTIES = (0.1, 1.0)


def depth(
    taps: Mapping[Tap, Features],
    kernels: Sequence[Array],
    labels: Labels,
    groups: Sequence[Rows],
) -> Evidence:
    """Leave-one-out accuracy by part, and what listening to all depths gains over the last.

    Shapes: taps (n, d_t), one vector per part in order; kernels (n, n): the last tap's and
    the equal mixture's; labels (n,). Both mixtures are fixed before any label is seen, so
    their paired difference is not flattered by choice.
    """
    shapes = {tap.name: {tap: 1.0} for tap in taps}
    single = mixed_kernels(taps.items(), shapes)
    by_part = {tap.part: _correct(single[tap.name], labels, groups) for tap in taps}
    last, equal = (_correct(kernel, labels, groups) for kernel in kernels)
    gain, low, high = mean_interval(equal - last, number_blocks(groups))
    details: dict[str, float | int | str] = {
        f"part.{part}": float(right.mean()) for part, right in by_part.items()
    }
    best = max(by_part, key=lambda part: float(by_part[part].mean()))
    details["best_part"] = best
    return Evidence(
        name="depth",
        value=gain,
        low=max(low, -1.0),
        high=min(high, 1.0),
        n=len(labels),
        meaning=(
            f"The most telling single layer is {best} of {max(by_part)}; listening to all "
            f"layers instead of the last changes the accuracy by {100 * gain:+.0f} points."
        ),
        details=details,
    )


def _correct(kernel: Array, labels: Labels, groups: Sequence[Rows]) -> Array:
    """Leave-block-out hits at the penalty of least log-loss. Shapes: (n,) of 0 and 1."""
    targets = np.eye(int(labels.max()) + 1)[labels]
    best, least = np.zeros(len(labels)), np.inf
    for penalty in PENALTIES:
        scores = ridge.left_out(ridge.fit(kernel, targets, penalty), groups)
        loss = float(log_losses(scores, labels, fit_temperature(scores, labels)).mean())
        if loss < least:
            best, least = (scores.argmax(axis=1) == labels).astype(float), loss
    return best
