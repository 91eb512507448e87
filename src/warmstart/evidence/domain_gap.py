"""How far is this data from the pretraining data, without having that data?

BatchNorm layers store the mean and variance of every channel over the pretraining data. The
divergence of two normal distributions per channel,

    (m_t - m_s)^2 / (2 s_s^2) + (r - 1 - ln r) / 2,    r = s_t^2 / s_s^2,

compares them with this data: the median over the channels of a block, averaged over the early
and middle blocks. Supports a verdict, never decides one. Sources: Li et al. 2018, "Adaptive
Batch Normalization", §3; Schneider et al. 2020, §3 (moments as domain shift).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.evidence.probe_hits import not_measured
from warmstart.network.batch_norm import NormStatistics
from warmstart.records.summary import Evidence

Values = NDArray[np.float64]
BOOTS = 50

# Distances of 14 image sets by base model (bench/results/distances.json). With EfficientNet-Lite0
# photographs of things and animals lie at 0.01 to 0.04, rubbish on a white board at 0.08,
# hands, cells, sketches and skin at 0.11 to 0.36.
_LITE0 = (0.011, 0.019, 0.020, 0.022, 0.032, 0.034, 0.035, 0.035, 0.081)
REFERENCES = {"lite0": (*_LITE0, 0.110, 0.176, 0.241, 0.315, 0.361)}


def domain_gap(
    layers: Sequence[NormStatistics], n_blocks: int, rng: np.random.Generator, base: str = ""
) -> Evidence:
    """Measure the gap on `layers` of the early and middle blocks; no value without BatchNorm.

    `base` names the base model, for the percentile among its reference sets. The bias of few
    images is subtracted: a bootstrap's mean distance exceeds that of the images themselves by
    about as much as theirs exceeds the truth.
    """
    if not layers:
        reason = "Not available: this network keeps no statistics of its pretraining data."
        return not_measured("domain_gap", 0, reason)
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
    comparison = " (0: the same)."
    reference = REFERENCES.get(base, ())
    if reference:
        percentile = round(100 * bisect(sorted(reference), value) / len(reference))
        details["percentile"] = percentile
        comparison = f", farther than for {percentile} % of 14 reference sets."
    return Evidence(
        name="domain_gap",
        value=value,
        low=max(value - spread, 0.0),
        high=value + spread,
        n=n,
        meaning=(
            f"The network's inner statistics are {value:.2f} away from those of its pretraining "
            f"data{comparison}"
        ),
        details=details,
    )


def divergences(layer: NormStatistics, rows: NDArray[np.intp]) -> Values:
    """Divergence of each channel over the images `rows`. Shapes: returns (C,)."""
    mean = layer.mean[rows].mean(axis=0)
    variance = np.maximum(layer.square[rows].mean(axis=0) - mean**2, 0.0)
    source = layer.source_var + 1e-12
    ratio = (variance + 1e-6 * source) / source
    divergence: Values = 0.5 * (mean - layer.source_mean) ** 2 / source
    divergence += 0.5 * (ratio - 1 - np.log(ratio))
    return divergence


def mean_divergence(layers: Sequence[NormStatistics], rows: NDArray[np.intp]) -> float:
    """Median over the channels of a block, mean over the blocks, from the images `rows`."""
    by_block: dict[int, list[Values]] = {}
    for layer in layers:
        by_block.setdefault(layer.block, []).append(divergences(layer, rows))
    return float(np.mean([np.median(np.concatenate(block)) for block in by_block.values()]))
