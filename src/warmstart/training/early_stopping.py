"""Validation scores while a training runs, and where it should have ended (early stopping)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmstart.data.splits import folds
from warmstart.network.batch_norm import recompute_statistics
from warmstart.network.cut import UnfrozenBlocks
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.batches import BatchSource
from warmstart.training.head_families import LEAST, cross_folds
from warmstart.training.trainable import TrainableNetwork
from warmstart.training.trainer import DataParallel, Trainer, mean_loss

VALIDATIONS = 5  # at equal distances; the last is the end
SHARES = (0.75, 0.5, 0.25)  # of the way from the base model's weights to the final ones
MAX_LOSS = 27.6  # nats, the most that a row counts: a probability of 10^-12; also for NaN
PASS = 32  # images in a forward pass without gradients
RENEWED = 256  # images, at most, from which new norms take their statistics
UNFREEZING_FOLDS = 5  # one of them decides whether the next group of blocks joins


@dataclass(frozen=True, slots=True)
class TrainingEnd:
    """How far a training goes: up to a validation (1..VALIDATIONS), then interpolated.

    `share` of the way from the initial weights; `n_stages`: groups of blocks that join, None: all.
    """

    validation: int = VALIDATIONS
    share: float = 1.0
    n_stages: int | None = None

    def n_steps(self, n_steps: int) -> int:
        """Updates up to the validation, of all that a plan makes."""
        return max(self.validation * n_steps // VALIDATIONS, 1)


CANDIDATES: tuple[TrainingEnd, ...] = (
    *(TrainingEnd(validation=k) for k in range(1, VALIDATIONS + 1)),
    *(TrainingEnd(share=share) for share in SHARES),
)
END = VALIDATIONS - 1  # the candidate that trains to the end
REFIT = len(CANDIDATES)  # from here on: some of these ends, with a head refitted in closed form
REFIT_ENDS = (END, *(VALIDATIONS + SHARES.index(share) for share in (0.5, 0.25)))


@dataclass(frozen=True, slots=True)
class ChosenEnd:
    """The end that is chosen, and the scores of held-out rows there.

    Shapes: scores (n, K), each fold's from the end chosen on the others; losses (C, n), calibrated,
    of each candidate. NaN for rows that were never held out.
    """

    candidate: int
    scores: Array
    losses: Array

    @property
    def end(self) -> TrainingEnd:
        number = REFIT_ENDS[self.candidate - REFIT] if self.is_refitted else self.candidate
        return CANDIDATES[number]

    @property
    def is_refitted(self) -> bool:
        return self.candidate >= REFIT


def choose_end(
    scores: Array,
    labels: Truth,
    fold: Labels,
    groups: Labels,
    target: Target = CLASSIFICATION,
    default: int = END,
) -> ChosenEnd:
    """Choose among candidates by calibrated log-loss on held-out rows.

    The `default` one where there are too few rows, or where no other is better. Five folds of the
    rows, groups whole, choose for each other, calibration included, so that the estimate stays
    honest. A candidate with non-finite scores is never chosen.
    Shapes: scores (C, n, K) in the order of `CANDIDATES`, then those of `REFIT_ENDS` if there are
    any; labels and groups (n,), fold (n,) with -1 for rows that no fold holds out.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> good, bad = 4 * np.eye(2)[labels], rng.normal(size=(40, 2))
    >>> scores = np.stack([bad, bad, good + 0.1 * bad, bad, bad, bad, bad, bad])
    >>> choose_end(scores, labels, np.arange(40) % 4, np.arange(40)).candidate
    2
    """
    held = np.flatnonzero(fold >= 0)
    inner = cross_folds(groups[held])
    held_scores, truth = scores[:, held], labels[held]
    is_finite = np.isfinite(held_scores).all(axis=(1, 2), keepdims=True)
    held_scores = np.where(is_finite, held_scores, np.nan)
    losses = np.full(scores.shape[:2], np.nan)
    losses[:, held] = [_cross_losses(one, truth, inner, target) for one in held_scores]
    if len(held) < LEAST:
        return ChosenEnd(default, scores[default], losses)
    chosen_scores = np.full(scores.shape[1:], np.nan)
    for number in np.unique(inner):
        inside, others = inner == number, inner != number
        best = default
        if others.sum() >= LEAST:
            # Calibrated again without this fold, as the calibration influences the choice.
            candidates = [_losses(one[others], truth[others], target) for one in held_scores]
            best = _best(np.stack(candidates), default)
        chosen_scores[held[inside]] = held_scores[best, inside]
    return ChosenEnd(_best(losses[:, held], default), chosen_scores, losses)


OutputScales = tuple[float, float]  # factors of the scores of the trained and the refitted head
_LEAST = 1e-3  # scale of a trained head whose scores carry next to no information


def average_refits(
    scores: Array, labels: Truth, target: Target = CLASSIFICATION, *, is_alone: bool = False
) -> tuple[Array, tuple[OutputScales, ...]]:
    """Average the scores of each refitted head with those of the trained one, on its scale.

    Also returns the factors of the two heads. Scores come back unchanged where no head was
    refitted, and where no other was trained (`is_alone`).
    Shapes: scores (C + R, n, K), NaN for rows that were never held out; labels (n,).
    """
    if is_alone:
        return scores, ((0.0, 1.0),) * len(REFIT_ENDS)
    averaged, scales = scores.copy(), []
    for place, number in enumerate(REFIT_ENDS if len(scores) > REFIT else ()):
        both = scores[[number, REFIT + place]]
        held = np.isfinite(both).all(axis=(0, 2))
        ratio = 1.0
        if held.any():
            trained, fitted = (target.scale(z[held], labels[held]) for z in both)
            ratio = fitted / max(trained, _LEAST)
        averaged[REFIT + place] = (both[0] + ratio * both[1]) / 2
        scales.append((1.0, ratio))
    return averaged, tuple(scales)


def _cross_losses(scores: Array, labels: Truth, fold: Labels, target: Target) -> Array:
    """Log-loss of each row, calibrated on the rows of other folds. Shapes: (m, K) to (m,)."""
    losses: Array = np.full(len(labels), MAX_LOSS)
    for number in np.unique(fold) if np.isfinite(scores).all() else ():
        inside, others = fold == number, fold != number
        calibration = Calibration(1.0, np.zeros(scores.shape[1]))
        if others.sum() >= LEAST:
            calibration = target.recalibrate(scores[others], labels[others])
        losses[inside] = target.losses(scores[inside], labels[inside], calibration)
    return np.minimum(losses, MAX_LOSS)


def _losses(scores: Array, labels: Truth, target: Target) -> Array:
    """Log-loss of each row, calibrated on these rows: one temperature hardly overfits."""
    if not np.isfinite(scores).all():
        return np.full(len(labels), MAX_LOSS)
    losses = target.losses(scores, labels, target.recalibrate(scores, labels))
    return np.minimum(losses, MAX_LOSS)


def _best(losses: Array, default: int) -> int:
    """The candidate with the lowest mean loss; the default in a tie."""
    means = losses.mean(axis=1)
    return default if means[default] <= means.min() else int(means.argmin())


class ValidationScores:
    """Scores of a training's held-out rows: before it, at its validations, at its ends.

    `before`: (m, K), None where nothing is held out. A head that is not trained is not evaluated.
    """

    def __init__(
        self,
        source: BatchSource,
        held: Rows,
        trainable: TrainableNetwork,
        trainer: Trainer,
        has_trained_head: bool = True,
    ) -> None:
        self.source, self.held, self.trainable, self.trainer = source, held, trainable, trainer
        self.has_trained_head, self._is_used = has_trained_head, has_trained_head and len(held) > 0
        self.before: Array | None = None
        self._scores: dict[str, Array] = {}  # by validation number or share

    def begin(self) -> None:
        """Before the first update."""
        if self._is_used:
            self.before = self.predict(self.held)

    def validate(self, done: int, n_steps: int) -> dict[str, float]:
        """Validate where that is due after `done` of `n_steps` updates; values for the event."""
        ends = enumerate(CANDIDATES[:VALIDATIONS], start=1)
        due = [number for number, end in ends if end.n_steps(n_steps) == done]
        if not due or not self._is_used:
            return {}
        scores = self.scores_at(1.0, self.held)
        self._scores |= {f"{number}": scores for number in due}
        if not np.isfinite(scores).all():
            return {}  # the next loss raises the alarm
        values = {"val": self._metric(scores), "val_loss": round(self.loss(scores, self.held), 6)}
        if self.before is not None:
            values["head"] = self._metric(self.before)
        return values

    def loss(self, scores: Array, rows: Rows) -> float:
        """Mean loss of the scores of some rows, such as log-loss in nats. Shapes: (m, K)."""
        target = self.source.labelled.target
        return mean_loss(target, torch.from_numpy(scores), self.source.targets(rows))

    def _metric(self, scores: Array) -> float:
        labelled = self.source.labelled
        credits = labelled.target.credits(scores, labelled.labels[self.held])
        return round(float(credits.mean()), 4)

    def discard_after(self, done: int, n_steps: int) -> None:
        """Drop the scores after `done` of `n_steps` updates: those updates were undone."""
        for number, end in enumerate(CANDIDATES[:VALIDATIONS], start=1):
            if end.n_steps(n_steps) > done:
                self._scores.pop(f"{number}", None)

    def finish(self) -> None:
        """Evaluate the interpolated weights."""
        for share in SHARES if self._is_used else ():
            self._scores[f"{share}"] = self.scores_at(share, self.held)

    @property
    def are_finite(self) -> bool:
        return all(bool(np.isfinite(scores).all()) for scores in self._scores.values())

    def scores(self) -> Array:
        """Scores at each candidate end, (C, m, K); later validations repeat those of the end."""
        if not self._scores:
            return no_scores(self.trainable, self.held)
        validations = [self._scores.get(f"{k}") for k in range(1, VALIDATIONS + 1)]
        last = self.scores_at(1.0, self.held) if validations[-1] is None else validations[-1]
        filled = [last if scores is None else scores for scores in validations]
        return np.stack([*filled, *(self._scores.get(f"{share}", last) for share in SHARES)])

    def scores_at(self, share: float, rows: Rows) -> Array:
        """Scores at a share of the way from the initial weights to the averaged ones."""
        with self.trainer.averaged(share):
            return self.predict(rows)

    def predict(self, rows: Rows) -> Array:
        """Scores of some rows with the current weights, (m, K)."""
        return held_scores(self.trainable, self.source, rows, self.trainer.parallelism)

    def tensors(self) -> dict[str, Tensor]:
        scores = self._scores if self.before is None else {**self._scores, "before": self.before}
        return {f"validation.{name}": torch.from_numpy(s) for name, s in scores.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        prefix = "validation."
        names = [name for name in tensors if name.startswith(prefix)]
        self._scores = {name.removeprefix(prefix): tensors[name].numpy() for name in names}
        self.before = self._scores.pop("before", None)


class GradualUnfreezing:
    """Accepts or undoes each stage by validation loss; without validation rows, accepts all.

    `fit_rows` are the rows to train on; `n_joined` counts the stages accepted so far.
    """

    def __init__(
        self, validation: ValidationScores, rows: Rows, seed: int, is_judged: bool
    ) -> None:
        self.validation, self.fit_rows, self._held = validation, rows, rows[:0]
        if is_judged:
            labelled, rng = validation.source.labelled, np.random.default_rng([seed, 8])
            strata = labelled.target.fold_strata(labelled.labels[rows])
            fold = folds(strata, labelled.groups()[rows], UNFREEZING_FOLDS, rng)
            self.fit_rows, self._held = rows[fold > 0], rows[fold == 0]
        self.n_joined = 0
        self._best = float("inf")
        self._weights: list[list[Tensor]] = []  # and their mean, before the latest stage

    def begin(self) -> None:
        """Before the first stage."""
        if len(self._held):
            self._best = self.validation.loss(self.validation.predict(self._held), self._held)
            self._save_weights()

    def accept(self, number: int) -> bool:
        """Whether stage `number` helped; if not, its changes to the weights are undone."""
        if len(self._held):
            scores = self.validation.scores_at(1.0, self._held)
            loss = self.validation.loss(scores, self._held)
            if not loss < self._best:
                trainer = self.validation.trainer
                trainer.put(self._weights[0])
                for mean, before in zip(trainer.mean, self._weights[1], strict=True):
                    mean.copy_(before)
                return False
            self._best = loss
            self._save_weights()
        self.n_joined = number + 1
        return True

    def _save_weights(self) -> None:
        trainer = self.validation.trainer
        self._weights = [trainer.local_values(), [mean.clone() for mean in trainer.mean]]

    def tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for kind, values in enumerate(self._weights):
            if values:  # without a moving average there is no mean
                tensors |= self.validation.trainer.named(f"before_stage.{kind}", values)
        return tensors

    def facts(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint; without validation rows there is no best loss."""
        return {"joined": self.n_joined, "best": self._best if self._weights else None}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.n_joined = int(facts["joined"])
        if facts["best"] is not None:
            self._best = float(facts["best"])
            trainer = self.validation.trainer
            kinds = (0, 1) if trainer.mean else (0,)
            shards = [trainer.local_shards(f"before_stage.{kind}", tensors) for kind in kinds]
            self._weights = [[value.clone() for value in values] for values in shards]


def held_scores(
    trainable: TrainableNetwork,
    source: BatchSource,
    rows: Rows,
    parallelism: DataParallel | None = None,
) -> Array:
    """Logits of some rows, without augmentation, in eval mode. Shapes: returns (m, K) float64.

    Where several processes each hold the whole network, they split the rows and share the scores.
    """
    trainable.model.eval()
    bias = trainable.model.head.bias
    by = parallelism or DataParallel(UnfrozenBlocks(trainable.model, source.cut), bias.device.type)
    share = np.array_split(rows, by.world.size)[by.world.rank]
    chunks = [] if len(share) else [torch.empty(0, len(bias))]
    with torch.inference_mode():
        for start in range(0, len(share), PASS):
            inputs = source.plain(share[start : start + PASS], trainable.feature_layers)
            chunks.append(by.run(*(value.to(bias.device) for value in inputs)).float().cpu())
    scores: Array = torch.cat(chunks).double().numpy()
    return np.concatenate(by.world.gather(scores))


@torch.no_grad()
def renew_statistics(
    validation: ValidationScores, moving: Iterable[Tensor], rows: Rows, seed: int
) -> None:
    """Run some rows for the statistics of new BatchNorm layers, which `moving` includes."""
    trainable, parallelism = validation.trainable, validation.trainer.parallelism
    sample = np.random.default_rng([seed, 15]).permutation(rows)[:RENEWED]
    with recompute_statistics(trainable.model, [*moving]) as is_needed:
        device = trainable.model.head.bias.device
        for chunk in np.array_split(sample, -(-len(sample) // PASS)) if is_needed else ():
            inputs = validation.source.plain(chunk, trainable.feature_layers)
            parallelism.run(*(value.to(device) for value in inputs))


def spread(rows: Rows, most: int) -> Rows:
    """At most so many rows, at equal distances: neighbours often show the same class.

    >>> spread(np.arange(10), 3).tolist(), spread(np.arange(2), 3).tolist()
    ([0, 3, 6], [0, 1])
    """
    n = min(most, len(rows))
    return rows[np.arange(n) * len(rows) // max(n, 1)]


def no_scores(trainable: TrainableNetwork, held: Rows) -> Array:
    """NaN where nothing was held out, or no training succeeded: (C, m, K)."""
    return np.full((len(CANDIDATES), len(held), len(trainable.model.head.bias)), np.nan)
