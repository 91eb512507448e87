"""Validation scores while a training goes on, and which epoch is kept (early stopping)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from warmstart.network.batch_norm_statistics import recompute_statistics
from warmstart.network.cut import UnfrozenBlocks
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.data_parallel import DataParallel
from warmstart.training.data_parallel import Parallelism
from warmstart.training.loop import mean_loss
from warmstart.training.selection import LEAST, cross_folds
from warmstart.training.shared import TrainingContext
from warmstart.training.trainable import TrainableNetwork
from warmstart.training.trainer import Trainer

# ---- Where a training might have ended: looks on the way, and shares of the way from the start.
#
# Which end is taken is chosen on rows held out. The estimate stays honest because the choice for
# each part of them is made on the other parts alone, as for its calibration; the choice for the
# final training is made on all of them.


VALIDATIONS = 5  # at equal distances; the last is the end
SHARES = (0.75, 0.5, 0.25)  # of the way from the start's weights to the end's
MAX_LOSS = 27.6  # nats, the most that a row's loss counts: one in 10^12; of what is no number, too


@dataclass(frozen=True, slots=True)
class TrainingEnd:
    """How far a training goes: up to a look (1..LOOKS), then a share of the way from its start.

    `n_stages`: groups of parts that join, None where all do.
    """

    validation: int = VALIDATIONS
    share: float = 1.0
    n_stages: int | None = None

    def n_steps(self, n_steps: int) -> int:
        """Updates up to the look, of all that a plan makes.

        >>> [TrainingEnd(validation=k).n_steps(7) for k in (1, 3, 5)]
        [1, 4, 7]
        """
        return max(self.validation * n_steps // VALIDATIONS, 1)


CANDIDATES: tuple[TrainingEnd, ...] = (
    *(TrainingEnd(validation=k) for k in range(1, VALIDATIONS + 1)),
    *(TrainingEnd(share=share) for share in SHARES),
)
END = VALIDATIONS - 1  # the candidate that is all of the way
REFIT = len(CANDIDATES)  # from here on: some of these ends, then an output in closed form
REFIT_ENDS = (END, *(VALIDATIONS + SHARES.index(share) for share in (0.5, 0.25)))


@dataclass(frozen=True, slots=True)
class ChosenEnd:
    """The end that is taken, and what held-out rows then say.

    Shapes: scores (n, K), each part's from the end chosen on the others; losses (C, n),
    calibrated log-loss of each candidate. Both NaN for rows that were never held out.
    """

    candidate: int
    scores: Array
    losses: Array

    @property
    def end(self) -> TrainingEnd:
        """The candidate as a route."""
        number = REFIT_ENDS[self.candidate - REFIT] if self.is_refitted else self.candidate
        return CANDIDATES[number]

    @property
    def is_refitted(self) -> bool:
        """Whether the output is fitted anew in closed form at the end."""
        return self.candidate >= REFIT


def choose(
    scores: Array,
    labels: Truth,
    fold: Labels,
    groups: Labels,
    plain: Calibration,
    target: Target = CLASSIFICATION,
    usual: int = END,
) -> ChosenEnd:
    """Choose among candidates by calibrated log-loss on held-out rows; few rows choose nothing.

    Then it is the `usual` one, as where no other is better. Five parts of them, blocks whole,
    choose for each other. A candidate with scores that are no numbers is never chosen.
    Shapes: scores (C, n, K) in the order of `CANDIDATES`, then those of `REFIT_ENDS`, where
    there are such; labels and blocks (n,), fold (n,) with -1 for rows that no fold holds out.
    `plain` calibrates where too few rows are there.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> good, bad = 4 * np.eye(2)[labels], rng.normal(size=(40, 2))
    >>> scores = np.stack([bad, bad, good + 0.1 * bad, bad, bad, bad, bad, bad])
    >>> fold, plain = np.arange(40) % 4, Calibration(1.0, np.zeros(2))
    >>> choose(scores, labels, fold, np.arange(40), plain).candidate
    2
    """
    held = np.flatnonzero(fold >= 0)
    part = cross_folds(groups[held])
    said, truth = scores[:, held], labels[held]
    said = np.where(
        np.isfinite(said).all(axis=(1, 2), keepdims=True), said, np.nan
    )  # or not at all
    losses = np.full(scores.shape[:2], np.nan)
    losses[:, held] = [_apart(one, truth, part, plain, target) for one in said]
    if len(held) < LEAST:
        return ChosenEnd(usual, scores[usual], losses)
    found = np.full(scores.shape[1:], np.nan)
    for number in np.unique(part):
        inside, others = part == number, part != number
        best = usual
        if others.sum() >= LEAST:
            # Calibrated anew, without this part: what calibrates has a say in the choice.
            tried = [_calibrated(one[others], truth[others], target) for one in said]
            best = _best(np.stack(tried), usual)
        found[held[inside]] = said[best, inside]
    return ChosenEnd(_best(losses[:, held], usual), found, losses)


def _apart(scores: Array, labels: Truth, part: Labels, plain: Calibration, target: Target) -> Array:
    """Log-loss of each row, calibrated on the rows of other parts. Shapes: (m, K) to (m,)."""
    found = np.full(len(labels), MAX_LOSS)
    for number in np.unique(part) if np.isfinite(scores).all() else ():
        inside, others = part == number, part != number
        calibration = plain
        if others.sum() >= LEAST:
            calibration = target.recalibrate(scores[others], labels[others])
        found[inside] = target.losses(scores[inside], labels[inside], calibration)
    clipped: Array = np.minimum(found, MAX_LOSS)
    return clipped


def _calibrated(scores: Array, labels: Truth, target: Target) -> Array:
    """Log-loss of each row, calibrated on these rows: one number fits no noise that matters."""
    if not np.isfinite(scores).all():
        return np.full(len(labels), MAX_LOSS)
    losses = target.losses(scores, labels, target.recalibrate(scores, labels))
    return np.minimum(losses, MAX_LOSS)


def _best(losses: Array, usual: int) -> int:
    """The candidate with the lowest mean loss; the usual one, where it is as good."""
    means = losses.mean(axis=1)
    return usual if means[usual] <= means.min() else int(means.argmin())


PASS = 32  # images in a pass that only looks
RENEWED = 256  # images, at most, from which new norms take their statistics
_BEFORE = "look.before"


class ValidationScores:
    """Scores of the rows that a training holds out: before it, on the way, at its ends.

    `before` is what the plain head says, (m, K); None where nothing is held out. `says`: whether
    the output is trained with the layers; what one says that is left behind is not looked at.
    """

    def __init__(
        self,
        context: TrainingContext,
        held: Rows,
        trainable: TrainableNetwork,
        trainer: Trainer,
        says: bool = True,
    ) -> None:
        self.context, self.held, self.trainable, self.trainer = context, held, trainable, trainer
        self.says, self._watched = says, held if says else held[:0]
        self.before: Array | None = None
        self._found: dict[str, Array] = {}

    def begin(self) -> None:
        """Before the first update."""
        if len(self._watched):
            self.before = self.say(self.held)

    def extracted(self, done: int, n_steps: int) -> dict[str, float]:
        """Look, where that is due after `done` of `n_steps` updates; what there is to tell."""
        due = [k for k in range(1, VALIDATIONS + 1) if TrainingEnd(validation=k).n_steps(n_steps) == done]
        if not due or not len(self._watched):
            return {}
        scores = self.shown(1.0, self.held)
        self._found |= {f"{k}": scores for k in due}
        if not np.isfinite(scores).all():
            return {}  # what the next loss will tell
        told = {"val": self._score(scores), "val_loss": round(self.loss(scores, self.held), 6)}
        if self.before is not None:
            told["head"] = self._score(self.before)
        return told

    def loss(self, scores: Array, rows: Rows) -> float:
        """Mean loss of what is said of some rows, such as log-loss in nats. Shapes: (m, K)."""
        return mean_loss(self.context.target, torch.from_numpy(scores), self.context.targets(rows))

    def _score(self, scores: Array) -> float:
        """Accuracy on the rows held out, or what else the task is scored by."""
        credits = self.context.target.credits(scores, self.context.labels[self.held])
        return round(float(credits.mean()), 4)

    def forget(self, done: int, n_steps: int) -> None:
        """Drop what was seen after `done` of `n_steps` updates: weights are as they were then."""
        for k in range(1, VALIDATIONS + 1):
            if TrainingEnd(validation=k).n_steps(n_steps) > done:
                self._found.pop(f"{k}", None)

    def finish(self) -> None:
        """Look at the shares of the way."""
        for share in SHARES if len(self._watched) else ():
            self._found[f"{share}"] = self.shown(share, self.held)

    @property
    def are_finite(self) -> bool:
        """Whether all scores are numbers."""
        return all(bool(np.isfinite(scores).all()) for scores in self._found.values())

    def scores(self) -> Array:
        """What each candidate end says of the rows held out: (C, m, K).

        Where training ended early, later looks say what the last one did.
        """
        if not self._found:
            return no_scores(self.trainable, self.held)
        looked = [self._found.get(f"{k}") for k in range(1, VALIDATIONS + 1)]
        last = self.shown(1.0, self.held) if looked[-1] is None else looked[-1]
        found = [last if scores is None else scores for scores in looked]
        return np.stack([*found, *(self._found.get(f"{share}", last) for share in SHARES)])

    def shown(self, share: float, rows: Rows) -> Array:
        """Scores at a share of the way from the start's weights to the averaged ones."""
        with self.trainer.shown(share):
            return self.say(rows)

    def say(self, rows: Rows) -> Array:
        """Scores of some rows with the weights as they stand, (m, K)."""
        return held_scores(self.trainable, self.context, rows, self.trainer.way)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        found = {f"look.{name}": torch.from_numpy(s) for name, s in self._found.items()}
        return found if self.before is None else {**found, _BEFORE: torch.from_numpy(self.before)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """As when `tensors` was asked."""
        names = [name for name in tensors if name.startswith("look.")]
        kept = {name.removeprefix("look."): tensors[name].numpy() for name in names}
        self.before = kept.pop("before", None)
        self._found = kept


def held_scores(
    trainable: TrainableNetwork, context: TrainingContext, rows: Rows, way: Parallelism | None = None
) -> Array:
    """Logits of some rows, as they are, in eval mode. Shapes: returns (m, K) float64.

    Several processes pass a share each where all of them hold the whole network, and all have
    all of them.
    """
    trainable.model.eval()
    bias = trainable.model.head.bias
    by = way or DataParallel(UnfrozenBlocks(trainable.model, context.source.cut), bias.device.type)
    own = np.array_split(rows, by.world.size)[by.world.rank]
    found = [] if len(own) else [torch.empty(0, len(bias))]
    with torch.inference_mode():
        for start in range(0, len(own), PASS):
            inputs = context.plain(own[start : start + PASS], trainable.feature_layers)
            found.append(by.run(*(value.to(bias.device) for value in inputs)).float().cpu())
    scores: Array = torch.cat(found).double().numpy()
    return np.concatenate(by.world.gathered(scores))


@torch.no_grad()
def renew_statistics(
    looks: ValidationScores, moving: Iterable[Tensor], rows: Rows, seed: int
) -> None:
    """Pass some rows, as they are and mixed, for what new BatchNorm layers remember of them.

    `moving`: what training changes, in whatever process that is kept: they all pass the rows.
    """
    trainable, way = looks.trainable, looks.trainer.way
    chosen = np.random.default_rng([seed, 15]).permutation(rows)[:RENEWED]
    with recompute_statistics(trainable.model, [*moving]) as is_wanted:
        device = trainable.model.head.bias.device
        for some in np.array_split(chosen, -(-len(chosen) // PASS)) if is_wanted else ():
            way.run(
                *(value.to(device) for value in looks.context.plain(some, trainable.feature_layers))
            )


def spread(rows: Rows, most: int) -> Rows:
    """At most so many rows, at equal distances: neighbours often show the same class.

    >>> spread(np.arange(10), 3).tolist(), spread(np.arange(2), 3).tolist()
    ([0, 3, 6], [0, 1])
    """
    n = min(most, len(rows))
    return rows[np.arange(n) * len(rows) // max(n, 1)]


def no_scores(trainable: TrainableNetwork, held: Rows) -> Array:
    """Where nothing was held out, or nothing came of it: (C, m, K) of NaN."""
    return np.full((len(CANDIDATES), len(held), len(trainable.model.head.bias)), np.nan)
