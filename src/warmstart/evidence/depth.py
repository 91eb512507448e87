"""Where in the network the useful features lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from warmstart.evidence.probe_hits import best_left_out
from warmstart.records.network import Tap
from warmstart.records.summary import Evidence
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_blocks
from warmstart.stats.paired import mean_interval
from warmstart.tasks.classify import CLASSES
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import signed_points


def depth(
    taps: Mapping[Tap, Features],
    kernels: Sequence[Array],
    labels: Truth,
    groups: Sequence[Rows],
    target: Target = CLASSES,
) -> Evidence:
    """Leave-one-out accuracy by part, and what listening to all depths gains over the last.

    Shapes: taps (n, d_t), one vector per part in order; kernels (n, n): the last tap's and
    the equal mixture's; labels (n,). Both mixtures are fixed before any label is seen, so
    their paired difference is not flattered by choice.
    """
    shapes = {tap.name: {tap: 1.0} for tap in taps}
    single = mixed_kernels(taps.items(), shapes)
    k = target.n_outputs(labels)

    def hits(kernel: Array) -> Array:
        return best_left_out([kernel], labels, groups, k, target).hits(labels)

    by_part = {tap.part: hits(single[tap.name]) for tap in taps}
    last, equal = (hits(kernel) for kernel in kernels)
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
            f"The best single layer is {best} of {max(by_part)}; a quick linear probe on all "
            f"layers instead of the last changes the {target.words.score} by "
            f"{signed_points(gain)} points."
        ),
        details=details,
    )
