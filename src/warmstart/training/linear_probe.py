"""The linear probe: chosen inside every fold, estimated outside it, refitted on all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.events import Event, Steps
from warmstart.records.network import FeatureLayer
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array
from warmstart.training.head_families import (
    ClassMean,
    Family,
    KernelRidge,
    LayerWeights,
    Logistic,
    ReadFeatures,
)
from warmstart.training.prior import SUFFIX, Prior, PriorRidge
from warmstart.training.selection import SelectionProblem, Trial, choose_head, choose_penalty
from warmstart.training.sketched_ridge import SketchedRidge
from warmstart.training.stacked_ridge import STACK, Stacked


@dataclass(frozen=True, slots=True)
class HeadFit:
    """A fitted head, and its out-of-fold predictions.

    logits = scale * (weight . concat(features) + bias) + class_bias. Shapes: weight (K, D) with D
    the sum of the widths of `feature_layers` in order, bias (K,); probabilities (n, K), calibrated
    and out of fold, fold (n,): NaN and -1 for rows that no fold holds out.
    """

    name: str
    penalty: float
    feature_layers: tuple[FeatureLayer, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    calibration: Calibration
    probabilities: Array
    fold: NDArray[np.int64]

    @property
    def scale(self) -> float:
        """The calibration's factor of the scores; 1 if it is 0 (all predictions are equal)."""
        return self.calibration.scale or 1.0


def zero_head(
    feature_layers: tuple[FeatureLayer, ...], width: int, n_classes: int, n: int
) -> HeadFit:
    """A head of zeros on `width` features, fitted on nothing.

    >>> zero_head((FeatureLayer(block=1, pool="avg"),), 4, 3, 10).weight.shape
    (3, 4)
    """
    return HeadFit(
        name="blank",
        penalty=0.0,
        feature_layers=feature_layers,
        weight=np.zeros((n_classes, width), np.float32),
        bias=np.zeros(n_classes, np.float32),
        calibration=Calibration(1.0, np.zeros(n_classes)),
        probabilities=np.full((n, n_classes), np.nan),
        fold=np.full(n, -1),
    )


def with_calibration(head: HeadFit, calibration: Calibration) -> HeadFit:
    """The head with another calibration; slopes per output are folded into the weights.

    >>> head = replace(zero_head((), 1, 1, 2), bias=np.ones(1, np.float32))
    >>> with_calibration(head, Calibration(1.0, np.zeros(1), np.array([2.0]))).bias.tolist()
    [2.0]
    """
    if calibration.slopes is None:
        return replace(head, calibration=calibration)
    slopes = calibration.slopes
    return replace(
        head,
        calibration=Calibration(calibration.scale, calibration.bias),
        weight=(slopes[:, None] * head.weight).astype(np.float32),
        bias=(slopes * head.bias).astype(np.float32),
    )


def families(
    candidates: Sequence[str],
    probe_layers: Mapping[str, LayerWeights],
    kernels: Mapping[str, Array],
    read: ReadFeatures,
    penalties: Sequence[float],
    seed: int,
    prior: Prior | None = None,
) -> dict[str, Family]:
    """The families of the plan's candidate names, in their order.

    `kernels` holds one (n, n) kernel per name, or nothing where there are many rows: then heads
    are solved in primal form. `LAYERS+prior` continues the older head `prior`; `stack` combines
    the candidates before it.
    """
    families: dict[str, Family] = {}
    ridges: dict[str, KernelRidge] = {}
    for name in candidates:
        if name == "class-mean":
            families[name] = ClassMean(kernels["last"], probe_layers["last"], read)
        elif name == "logistic":
            families[name] = Logistic(kernels["last"], probe_layers["last"], read)
        elif name == STACK:
            families[name] = Stacked(ridges)
        elif name.endswith(SUFFIX) and prior is not None:
            base = name.removesuffix(SUFFIX)
            families[name] = PriorRidge(kernels[base], probe_layers[base], read, penalties, prior)
        elif name in kernels:
            ridges[name] = KernelRidge(kernels[name], probe_layers[name], read, penalties)
            families[name] = ridges[name]
        else:
            families[name] = SketchedRidge(probe_layers[name], read, penalties, seed)
    return families


def fit_head(
    candidates: Mapping[str, Family], problem: SelectionProblem, choose_in: int | None = None
) -> Steps[HeadFit]:
    """Evaluate every candidate (simplest first), choose, estimate and refit.

    The head that ships is chosen from the trials on all rows, or from those of training set
    `choose_in`: nothing is chosen on a user's hold-out set.
    """
    yield Event(stage="head", kind="begin", of=len(candidates))
    groups = problem.groups()
    trials: dict[str, list[Trial]] = {}
    for number, (name, family) in enumerate(candidates.items()):
        # One trial per training set: of many heads and rows, all would fill the memory.
        trials[name] = [
            choose_penalty(each, groups[keep])
            for each, (keep, _) in zip(family.trials(problem), problem.training_sets(), strict=True)
        ]
        yield Event(stage="head", kind="step", step=number + 1, of=len(candidates))
    probabilities, fold = _out_of_fold(trials, problem)
    which = len(problem.folds) if choose_in is None else choose_in
    keep = list(problem.training_sets())[which][0]
    name, trial = choose_head({n: [t[which]] for n, t in trials.items()}, groups[keep])
    fit = candidates[name].refit(problem, trial.penalty)
    calibration = problem.target.calibrate_final(fit.scores, problem.labels)
    yield Event(stage="head", kind="end", values={"head": name, "penalty": trial.penalty})
    fitted = HeadFit(
        name=name,
        penalty=trial.penalty,
        feature_layers=tuple(fit.weights),
        weight=np.concatenate(list(fit.weights.values())).T.astype(np.float32),
        bias=fit.bias.astype(np.float32),
        calibration=calibration,
        probabilities=probabilities,
        fold=fold,
    )
    return with_calibration(fitted, calibration)


def _out_of_fold(
    trials: Mapping[str, Sequence[Trial]], problem: SelectionProblem
) -> tuple[Array, NDArray[np.int64]]:
    """Shapes: probabilities (n, K), fold (n,); NaN and -1 for rows that are never held out."""
    n = len(problem.labels)
    probabilities = np.full((n, problem.n_classes), np.nan)
    fold_of, groups = np.full(n, -1, dtype=np.int64), problem.groups()
    for number, (keep, fold) in enumerate(problem.training_sets()):
        if not len(fold):
            continue
        _, trial = choose_head({n: [t[number]] for n, t in trials.items()}, groups[keep])
        probabilities[fold] = problem.target.answers(trial.outside, trial.calibration)
        fold_of[fold] = number
    return probabilities, fold_of
