"""Learning curves: a power law of the odds through accuracies at several sizes.

accuracy / (1 - accuracy) = scale * n^rate, a line through log-odds over log n. Extrapolated from n
to 2n on five image sets (60, 100 and 200 examples) it was 0.7 points too low on average, where
ceiling - drop * n^-rate missed by 3.0 (Cortes et al. 1993, "Learning Curves: Asymptotic Values and
Rate of Convergence"; comparison of forms: Viering & Loog 2022, §5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmstart.stats.intervals import Values

# Spread of the truth around the forecast of a doubling, times sqrt(n), beyond that of the draws:
# on the same five sets 0.036 to 0.041 at 60 examples, 0.017 to 0.020 at 200.
FORECAST_SD = 0.28


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """odds(n) = scale * n^exponent with an exponent of at least 0: more examples never harm."""

    scale: float
    exponent: float

    def at(self, n: float) -> float:
        """Accuracy at n examples.

        >>> PowerLaw(0.5, 1.0).at(6)
        0.75
        """
        odds = self.scale * float(n**self.exponent)
        return odds / (1 + odds)


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain from more examples: accuracy(to) - accuracy(at), with its 95 % interval."""

    value: float
    low: float
    high: float
    law: PowerLaw


def fit_power_law(sizes: Values, accuracies: Values) -> PowerLaw:
    """Least squares on log-odds. Shapes: sizes (S,), accuracies (S,), S >= 2.

    >>> n = np.array([10.0, 20.0, 40.0])
    >>> law = fit_power_law(n, 0.3 * n / (1 + 0.3 * n))
    >>> round(law.scale, 3), round(law.exponent, 3)
    (0.3, 1.0)
    """
    # An accuracy of 1 among n rows shows no more than 1 - 1 / (2n).
    safe = np.clip(accuracies, 0.5 / sizes, 1 - 0.5 / sizes)
    x, y = np.log(sizes), np.log(safe / (1 - safe))
    centred = x - x.mean()
    exponent = max(float(centred @ y / (centred @ centred)), 0.0)
    return PowerLaw(float(np.exp(y.mean() - exponent * x.mean())), exponent)


def expected_gain(
    sizes: Values, draws: Values, at: float, to: float, rng: np.random.Generator, boots: int = 200
) -> Gain:
    """The gain from `at` to `to` examples, its spread bootstrapped from the draws.

    Shapes: sizes (S,), draws (D, S): accuracies, one curve a draw over nested subsets.
    """
    law = fit_power_law(sizes, draws.mean(axis=0))
    value = law.at(to) - law.at(at)
    picks = rng.integers(len(draws), size=(boots, len(draws)))
    laws = [fit_power_law(sizes, curve) for curve in draws[picks].mean(axis=1)]
    spread = float(np.std([law.at(to) - law.at(at) for law in laws]))
    half = 1.96 * float(np.hypot(spread, FORECAST_SD / np.sqrt(sizes.max())))
    return Gain(value, max(value - half, 0.0), value + half, law)
