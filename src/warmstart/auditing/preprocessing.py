"""Is a finished model shown its images as it learnt them? The same model under other habits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.evidence.preprocessing import LEAST, LEVEL, SWAPPED, USUAL, all_grey
from warmstart.features.batches import normalised
from warmstart.features.cache_key import BATCH
from warmstart.features.engine import Pixels
from warmstart.network.trained_elsewhere import Array, ExternalClassifier
from warmstart.records.data import Finding
from warmstart.records.inputs import Preprocessing
from warmstart.stats.paired import mean_interval

STAGES = (64, 200)  # images all habits are tried on, and those that gain by then


@dataclass(frozen=True, slots=True)
class Habit:
    """A way to feed images in. `order` is -1 where red and blue are exchanged first, else 1."""

    prep: Preprocessing
    order: int = 1


def try_habits(
    model: ExternalClassifier,
    pixels: Sequence[Pixels],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> Finding | None:
    """A finding where the model is clearly more often right under another usual habit.

    Habits: 0..1, 0..255, -1..1, ImageNet's mean and spread, red and blue exchanged. Clear is a
    gain of 2 points or more that a sign test over blocks does not explain by chance, at a level
    shared among the habits. Shapes: pixels (n) of (H, W, C), labels and blocks (n,).
    """
    habits = others(model.preprocessing, np.stack(pixels[: STAGES[0]]))
    gains: dict[str, Array] = dict.fromkeys(habits, np.empty(0, np.float32))
    tried = len(habits)
    for begin, end in zip((0, *STAGES), STAGES, strict=False):
        lot, truth = pixels[begin:end], labels[begin:end]
        if not len(lot) or not gains:
            break
        now = _hits(model, lot, truth, Habit(model.preprocessing))
        for name in gains:
            found = _hits(model, lot, truth, habits[name]) - now
            gains[name] = np.concatenate([gains[name], found])
        gains = {name: gain for name, gain in gains.items() if gain.mean() > 0}
    return _finding(gains, habits, groups, tried)


def others(present: Preprocessing, images: NDArray[np.uint8]) -> dict[str, Habit]:
    """The other habits, by name. Shapes: images (n, H, W, C), some that would be fed in.

    >>> prep = Preprocessing(size=(2, 2), resize=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> list(others(prep, np.zeros((1, 2, 2, 3), np.uint8)))
    ["ImageNet's mean and spread", '0 to 1', '0 to 255']
    """
    if present.channels not in (1, 3):
        return {}
    found = {}
    for name, moments in USUAL.items():
        mean, std = (_for(values, present.channels) for values in moments)
        if not np.allclose([mean, std], [present.mean, present.std], atol=1e-3):
            found[name] = Habit(replace(present, mean=mean, std=std))
    if present.channels == 3 and not all_grey(images):
        found[SWAPPED] = Habit(present, order=-1)
    return found


def _for(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if channels == len(values) else (sum(values) / len(values),)


def _hits(
    model: ExternalClassifier, pixels: Sequence[Pixels], labels: NDArray[np.int64], habit: Habit
) -> Array:
    """1 where the model is right, else 0. Shapes: pixels (n) of (H, W, C), labels (n,)."""
    found = []
    for start in range(0, len(pixels), BATCH):
        images = np.stack(pixels[start : start + BATCH])[..., :: habit.order]
        inputs = normalised(np.ascontiguousarray(images), habit.prep)
        found.append(model.answer(inputs)[0].argmax(axis=1))
    right: Array = (np.concatenate(found) == labels).astype(np.float32)
    return right


def _finding(
    gains: Mapping[str, Array], habits: Mapping[str, Habit], groups: NDArray[np.int64], tried: int
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

    if binomtest(ups, ups + downs, alternative="greater").pvalue > LEVEL / tried:
        return None
    is_swapped = habits[best].order < 0
    cure = "Exchange them before the model sees them"
    cure = cure if is_swapped else f"Give {_options(habits[best].prep)}"
    return Finding(
        kind="preprocessing",
        sentence=(
            f"The images do not seem to be fed in as the model learnt them: with {best} it is "
            f"right {100 * value:.0f} points more often ({100 * max(low, -1.0):.0f} to "
            f"{100 * min(high, 1.0):.0f}, {len(gain)} images). {cure}."
        ),
        items=(best,),
    )


def _options(prep: Preprocessing) -> str:
    """The options of `audit` for this mean and spread."""
    sides = []
    for values in (prep.mean, prep.std):
        few = values[:1] if len(set(values)) == 1 else values
        sides.append(",".join(f"{value:.4g}" for value in few))
    return f"--mean {sides[0]} --std {sides[1]}"
