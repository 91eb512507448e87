"""One kernel per tap, on one scale, and their mixtures.

A tap's features are divided by their standard deviation and by sqrt(d); the kernel
is then divided by the mean diagonal of its centred form, so that a penalty and a
mixing weight mean the same for every tap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.ridge import Array, centred

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TapKernel:
    """A tap's kernel and the per-feature scale that makes it.

    Shapes: kernel (n, n) float64, scale (d,) float64: kernel = (X scale)(X scale)'.
    """

    kernel: Array
    scale: Array


def tap_kernel(features: Features) -> TapKernel:
    """Scale a tap and take its Gram matrix.

    Shapes: features (n, d) float32. Constant features get scale 0; if all are
    constant the kernel is zero: such a tap knows nothing and harms nothing.

    >>> k = tap_kernel(np.array([[0.0, 5.0], [2.0, 5.0]], dtype=np.float32))
    >>> k.scale.tolist()
    [1.0, 0.0]
    >>> float(np.diag(centred(k.kernel)).mean())
    1.0
    """
    spread = features.std(axis=0, dtype=np.float64)
    floor = 1e-6 * max(float(spread.max(initial=0.0)), 1e-30)
    alive = spread > floor
    scale = np.where(alive, 1.0 / np.where(alive, spread, 1.0), 0.0)
    scaled = features * (scale / np.sqrt(max(alive.sum(), 1))).astype(np.float32)
    # Centring the columns first changes no centred quantity and keeps float32 sums exact enough.
    offset = scaled.mean(axis=0, dtype=np.float64).astype(np.float32)
    kernel = ((scaled - offset) @ (scaled - offset).T).astype(np.float64)
    size = float(np.diag(centred(kernel)).mean())
    if size <= 0:
        return TapKernel(np.zeros_like(kernel), np.zeros_like(scale))
    norm = np.sqrt(max(alive.sum(), 1) * size)
    return TapKernel(kernel / size, scale / norm)


def mix(kernels: Sequence[Array], weights: Sequence[float]) -> Array:
    """Weighted sum of kernels, weights scaled to sum 1. Shapes: each (n, n).

    >>> mix([np.eye(2), np.ones((2, 2))], [1.0, 1.0]).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    total = float(sum(weights))
    mixed = np.zeros_like(kernels[0])
    for kernel, weight in zip(kernels, weights, strict=True):
        if weight:
            mixed += (weight / total) * kernel
    return mixed


def depth_profiles(n_depths: int) -> Mapping[str, tuple[float, ...]]:
    """Label-free weights over depths, shallow to deep (RECIPE: about six).

    >>> list(depth_profiles(1))
    ['last']
    """
    depth = np.arange(n_depths) / max(n_depths - 1, 1)  # 0 = first tap, 1 = last
    shapes = {
        "last": np.eye(n_depths)[-1],
        "last-two": (depth >= np.sort(depth)[-2:][0]).astype(float),
        "late": 16.0**depth,
        "equal": np.ones(n_depths),
        "middle": np.exp(-0.5 * ((depth - 0.55) / 0.2) ** 2),
        "early": 16.0 ** (1 - depth),
    }
    return {
        name: tuple(float(w) for w in weights / weights.sum())
        for name, weights in shapes.items()
        if name == "last" or n_depths > 2
    }
