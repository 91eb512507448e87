"""The linear probe: chosen inside every fold, estimated outside it, refitted on all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.events import Event, Steps
from warmstart.network.feature_layers import layer_width
from warmstart.planning.rules import LayerWeights
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.head_families import (
    STACK,
    SUFFIX,
    ClassMean,
    Family,
    KernelRidge,
    Logistic,
    Prior,
    PriorRidge,
    ReadFeatures,
    SelectionProblem,
    SketchedRidge,
    Stacked,
    Trial,
    choose_head,
    choose_penalty,
    cross_calibrated,
)


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
    slopes = calibration.slopes
    if slopes is None:
        return replace(head, calibration=calibration)
    return replace(
        head,
        calibration=Calibration(calibration.scale, calibration.bias),
        weight=(slopes[:, None] * head.weight).astype(np.float32),
        bias=(slopes * head.bias).astype(np.float32),
    )


def calibrate_head(
    head: HeadFit,
    scores: Array,
    labels: Truth,
    fold: Rows,
    groups: Rows,
    target: Target = CLASSIFICATION,
) -> HeadFit:
    """Calibrate a trained head on held-out rows (scores (n, K), NaN for others), by other folds."""
    plain = Calibration(head.scale, np.zeros(len(head.bias)))
    probabilities, calibration = cross_calibrated(
        scores / head.scale, labels, fold, groups, plain, target
    )
    return with_calibration(replace(head, probabilities=probabilities, fold=fold), calibration)


def weights_by_layer(head: HeadFit, record: NetworkRecord) -> dict[FeatureLayer, Array]:
    """Columns of a head's weights. Shapes: (K, d_t) each."""
    ends = np.cumsum([layer_width(record, layer) for layer in head.feature_layers])[:-1]
    columns = np.split(head.weight.astype(np.float64), ends, axis=1)
    return dict(zip(head.feature_layers, columns, strict=True))


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

    `kernels`: one (n, n) per name, or none for many rows, where heads are solved in primal form.
    `LAYERS+prior` continues `prior`; `stack` combines ridges.
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
    groups, sets = problem.groups(), list(problem.training_sets())
    trials: dict[str, list[Trial]] = {}
    for number, (name, family) in enumerate(candidates.items()):
        # One trial per training set: of many heads and rows, all would fill the memory.
        trials[name] = [
            choose_penalty(penalties, groups[keep])
            for penalties, (keep, _) in zip(family.trials(problem), sets, strict=True)
        ]
        yield Event(stage="head", kind="step", step=number + 1, of=len(candidates))
    chosen = [
        choose_head({name: [by_set[number]] for name, by_set in trials.items()}, groups[keep])
        for number, (keep, _) in enumerate(sets)
    ]
    probabilities = np.full((len(groups), problem.n_classes), np.nan)
    fold = np.full(len(groups), -1, dtype=np.int64)
    for number, (_, held) in enumerate(sets[:-1]):
        trial = chosen[number][1]
        probabilities[held] = problem.target.answers(trial.outside, trial.calibration)
        fold[held] = number
    name, trial = chosen[-1 if choose_in is None else choose_in]
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
