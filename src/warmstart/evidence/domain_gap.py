"""How far this data is from what the start was trained on, without the old data.

BatchNorm layers remember the mean and variance of every channel over the old data. Per
channel the divergence of two normal distributions,

    (m_t - m_s)^2 / (2 s_s^2) + (r - 1 - ln r) / 2,    r = s_t^2 / s_s^2,

compares them with this data; its median over the channels of a part, averaged over the
early and middle parts. Supports a verdict, never decides one. Sources: Li et al. 2018,
"Adaptive Batch Normalization", §3; Schneider et al. 2020, §3 (moments as domain shift).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.records.summary import Evidence

Values = NDArray[np.float64]
BOOTS = 50

# Distances of 14 image sets by start (bench/results/distances.json). With EfficientNet-Lite0
# photographs of things and animals lie at 0.01 to 0.04, rubbish on a white board at 0.08,
# hands, cells, sketches and skin at 0.11 to 0.36.
REFERENCES: dict[str, tuple[float, ...]] = {
    "lite0": (
        0.011,
        0.019,
        0.020,
        0.022,
        0.032,
        0.034,
        0.035,
        0.035,
        0.081,
        0.110,
        0.176,
        0.241,
        0.315,
        0.361,
    ),
}


class NormLayer(Protocol):
    """What one BatchNorm layer remembers, and what it sees here.

    Shapes: source_mean, source_var (C,); mean and square (n, C): per image, over positions.
    """

    @property
    def block(self) -> int:
        """The part of the network that it lies in, from 1."""
        ...

    @property
    def source_mean(self) -> Values:
        """Means over the old data."""
        ...

    @property
    def source_var(self) -> Values:
        """Variances over the old data."""
        ...

    @property
    def mean(self) -> Values:
        """Means of each image here."""
        ...

    @property
    def square(self) -> Values:
        """Mean squares of each image here."""
        ...


def domain_gap(
    layers: Sequence[NormLayer], n_blocks: int, rng: np.random.Generator, base: str = ""
) -> Evidence:
    """The evidence; `layers` of the early and middle parts only, empty without BatchNorm.

    `start` names the reference sets that it is placed among, where there are some.

    The bias that few images bring (a bootstrap's mean distance is larger than that of the
    images themselves by about as much as theirs is larger than the truth) is taken off.
    """
    if not layers:
        return Evidence(
            name="domain_gap",
            value=None,
            low=None,
            high=None,
            n=0,
            meaning="Not available: this network keeps no statistics of its old data.",
        )
    n = len(layers[0].mean)
    plain = mean_divergence(layers, np.arange(n))
    boots = [mean_divergence(layers, rng.integers(n, size=n)) for _ in range(BOOTS)]
    bias = float(np.mean(boots)) - plain
    value = max(plain - bias, 0.0)
    spread = 1.96 * float(np.std(boots))
    details: dict[str, float | int | str] = {
        "layers": len(layers),
        "blocks": n_blocks,
        "bias": bias,
    }
    place = _place(value, REFERENCES.get(base, ()))
    if place is not None:
        details["percentile"] = place
    return Evidence(
        name="domain_gap",
        value=value,
        low=max(value - spread, 0.0),
        high=value + spread,
        n=n,
        meaning=_meaning(value, place),
        details=details,
    )


def divergences(layer: NormLayer, rows: NDArray[np.intp]) -> Values:
    """Per channel, over the images `rows`. Shapes: returns (C,)."""
    mean = layer.mean[rows].mean(axis=0)
    variance = np.maximum(layer.square[rows].mean(axis=0) - mean**2, 0.0)
    source = layer.source_var + 1e-12
    ratio = (variance + 1e-6 * source) / source
    found: Values = 0.5 * (mean - layer.source_mean) ** 2 / source
    found += 0.5 * (ratio - 1 - np.log(ratio))
    return found


def mean_divergence(layers: Sequence[NormLayer], rows: NDArray[np.intp]) -> float:
    """Median over the channels of a part, mean over the parts, from the images `rows`."""
    by_block: dict[int, list[Values]] = {}
    for layer in layers:
        by_block.setdefault(layer.block, []).append(divergences(layer, rows))
    return float(np.mean([np.median(np.concatenate(found)) for found in by_block.values()]))


def _place(value: float, reference: Sequence[float]) -> int | None:
    return round(100 * bisect(sorted(reference), value) / len(reference)) if reference else None


def _meaning(value: float, place: int | None) -> str:
    text = (
        f"The network's inner statistics are {value:.2f} away from those of the data that it was "
        "pretrained on"
    )
    if place is None:
        return text + " (0: the same)."
    return text + f", farther than for {place} % of 14 reference sets."
