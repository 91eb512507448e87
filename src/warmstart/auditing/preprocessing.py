"""Does the preprocessing match the finished model's? The same model under other preprocessings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.evidence.preprocessing import LEAST, LEVEL, SWAPPED, USUAL, all_grey
from warmstart.features.batches import normalised
from warmstart.features.cache_key import BATCH
from warmstart.features.engine import Pixels
from warmstart.network.external_classifier import Array, ExternalClassifier
from warmstart.records.data import Finding
from warmstart.records.inputs import Preprocessing
from warmstart.stats.paired import mean_interval

STAGES = (64, 200)  # images for all alternatives, and for those that gain by then


@dataclass(frozen=True, slots=True)
class Alternative:
    """A preprocessing; `order` is -1 where red and blue are exchanged first, else 1."""

    prep: Preprocessing
    order: int = 1


def try_preprocessings(
    model: ExternalClassifier,
    pixels: Sequence[Pixels],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> Finding | None:
    """A finding where another usual preprocessing gives clearly higher accuracy, else None.

    Alternatives: 0..1, 0..255, -1..1, ImageNet's mean and std, red and blue exchanged. Clear is a
    gain of 2 points or more that is significant in a sign test over groups, at a level shared
    among the alternatives. Shapes: pixels (n) of (H, W, C), labels and groups (n,).
    """
    others = alternatives(model.preprocessing, np.stack(pixels[: STAGES[0]]))
    gains: dict[str, Array] = dict.fromkeys(others, np.empty(0, np.float32))
    for begin, end in zip((0, *STAGES), STAGES, strict=False):
        images, truth = pixels[begin:end], labels[begin:end]
        if not len(images) or not gains:
            break
        now = _hits(model, images, truth, Alternative(model.preprocessing))
        for name in gains:
            gain = _hits(model, images, truth, others[name]) - now
            gains[name] = np.concatenate([gains[name], gain])
        gains = {name: gain for name, gain in gains.items() if gain.mean() > 0}
    return _finding(gains, others, groups)


def alternatives(present: Preprocessing, images: NDArray[np.uint8]) -> dict[str, Alternative]:
    """The usual alternatives, by name. Shapes: images (n, H, W, C), to look for colours in.

    >>> prep = Preprocessing(size=(2, 2), resize=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> list(alternatives(prep, np.zeros((1, 2, 2, 3), np.uint8)))
    ["ImageNet's mean and spread", '0 to 1', '0 to 255']
    """
    if present.channels not in (1, 3):
        return {}
    others = {}
    for name, moments in USUAL.items():
        mean, std = (
            values if present.channels == len(values) else (sum(values) / len(values),)
            for values in moments
        )
        if not np.allclose([mean, std], [present.mean, present.std], atol=1e-3):
            others[name] = Alternative(replace(present, mean=mean, std=std))
    if present.channels == 3 and not all_grey(images):
        others[SWAPPED] = Alternative(present, order=-1)
    return others


def _hits(
    model: ExternalClassifier, pixels: Sequence[Pixels], labels: NDArray[np.int64], one: Alternative
) -> Array:
    """1 for each correct image, else 0. Shapes: pixels (n) of (H, W, C), labels (n,)."""
    predicted = []
    for first in range(0, len(pixels), BATCH):
        images = np.stack(pixels[first : first + BATCH])[..., :: one.order]
        inputs = normalised(np.ascontiguousarray(images), one.prep)
        predicted.append(model.answer(inputs)[0].argmax(axis=1))
    hits: Array = (np.concatenate(predicted) == labels).astype(np.float32)
    return hits


def _finding(
    gains: Mapping[str, Array], others: Mapping[str, Alternative], groups: NDArray[np.int64]
) -> Finding | None:
    if not gains:
        return None
    best = max(gains, key=lambda name: float(gains[name].mean()))
    gain = gains[best].astype(np.float64)
    own = np.unique(groups[: len(gain)], return_inverse=True)[1]
    sums = np.bincount(own, weights=gain)
    ups, downs = int((sums > 0).sum()), int((sums < 0).sum())
    value, low, high = mean_interval(gain, own)
    if value < LEAST:
        return None
    from scipy.stats import binomtest  # takes 0.3 s, and few audits come this far

    if binomtest(ups, ups + downs, alternative="greater").pvalue > LEVEL / len(others):
        return None
    cure = "Exchange them before the model sees them"
    if others[best].order > 0:
        mean, std = (
            ",".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))
            for values in (others[best].prep.mean, others[best].prep.std)
        )
        cure = f"Use --mean {mean} --std {std}"
    return Finding(
        kind="preprocessing",
        sentence=(
            f"The preprocessing does not seem to be the model's: with {best} its accuracy is "
            f"{100 * value:.0f} points higher (95 % CI {100 * max(low, -1.0):.0f} to "
            f"{100 * min(high, 1.0):.0f}, {len(gain)} images). {cure}."
        ),
        items=(best,),
    )
