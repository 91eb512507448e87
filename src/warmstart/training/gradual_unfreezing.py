"""Parts that join a training one group after the other, while rows set apart say it helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from warmstart.data.splits import folds
from warmstart.solve.ridge import Rows
from warmstart.training.validation import ValidationScores

VALIDATION = 5  # one block in five judges whether the next group of parts joins


class GradualUnfreezing:
    """Judges each stage on rows set apart; without such rows every stage stands.

    `fit` are the rows that are learnt from.
    """

    def __init__(self, looks: ValidationScores, rows: Rows, seed: int, is_judged: bool) -> None:
        self.validation = looks
        self.fit, self._judged_on = rows, rows[:0]
        if is_judged:
            context = looks.context
            rng = np.random.default_rng([seed, 8])
            part = folds(
                context.target.folding(context.labels[rows]), context.groups[rows], VALIDATION, rng
            )
            self.fit, self._judged_on = rows[part > 0], rows[part == 0]
        self.joined = 0
        self._best = float("inf")
        self._kept: list[list[Tensor]] = []  # weights, and their mean, before the latest stage

    def begin(self) -> None:
        """Before the first stage."""
        if len(self._judged_on):
            self._best = self.validation.loss(self.validation.say(self._judged_on), self._judged_on)
            self._keep()

    def joins(self, number: int) -> bool:
        """Whether stage `number` helped; if not, the weights are again what they were before."""
        if len(self._judged_on):
            loss = self.validation.loss(self.validation.shown(1.0, self._judged_on), self._judged_on)
            if not loss < self._best:
                trainer = self.validation.trainer
                trainer.put(self._kept[0])
                for own, old in zip(trainer.mean, self._kept[1], strict=True):
                    own.copy_(old)
                return False
            self._best = loss
            self._keep()
        self.joined = number + 1
        return True

    def _keep(self) -> None:
        trainer = self.validation.trainer
        self._kept = [trainer.own(), [mean.clone() for mean in trainer.mean]]

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        found: dict[str, Tensor] = {}
        for kind, values in enumerate(self._kept):
            found |= self.validation.trainer.named(f"kept.{kind}", values)
        return found

    def facts(self) -> dict[str, Any]:
        """The same for plain numbers; without rows set apart there is no best loss."""
        return {"joined": self.joined, "best": self._best if self._kept else None}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """As when these were taken."""
        self.joined = int(facts["joined"])
        if facts["best"] is not None:
            self._best = float(facts["best"])
            kept = [self.validation.trainer.kept(f"kept.{k}", tensors) for k in (0, 1)]
            self._kept = [[value.clone() for value in values] for values in kept]
