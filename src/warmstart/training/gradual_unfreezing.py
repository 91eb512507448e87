"""Gradual unfreezing: groups of blocks join a training, as long as a validation set improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from warmstart.data.splits import folds
from warmstart.solve.ridge import Rows
from warmstart.training.validation import ValidationScores

VALIDATION = 5  # one group of examples in five decides whether the next group of blocks joins


class GradualUnfreezing:
    """Accepts or undoes each stage by validation loss; without validation rows, accepts all.

    `fit_rows` are the rows to train on; `n_joined` counts the stages accepted so far.
    """

    def __init__(
        self, validation: ValidationScores, rows: Rows, seed: int, is_judged: bool
    ) -> None:
        self.validation = validation
        self.fit_rows, self._validation_rows = rows, rows[:0]
        if is_judged:
            context = validation.context
            rng = np.random.default_rng([seed, 8])
            fold = folds(
                context.target.fold_strata(context.labels[rows]),
                context.groups[rows],
                VALIDATION,
                rng,
            )
            self.fit_rows, self._validation_rows = rows[fold > 0], rows[fold == 0]
        self.n_joined = 0
        self._best = float("inf")
        self._weights: list[list[Tensor]] = []  # and their mean, before the latest stage

    def begin(self) -> None:
        """Before the first stage."""
        if len(self._validation_rows):
            scores = self.validation.predict(self._validation_rows)
            self._best = self.validation.loss(scores, self._validation_rows)
            self._save_weights()

    def accept(self, number: int) -> bool:
        """Whether stage `number` helped; if not, its changes to the weights are undone."""
        if len(self._validation_rows):
            scores = self.validation.scores_at(1.0, self._validation_rows)
            loss = self.validation.loss(scores, self._validation_rows)
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
        """For a checkpoint."""
        tensors: dict[str, Tensor] = {}
        for kind, values in enumerate(self._weights):
            tensors |= self.validation.trainer.named(f"before_stage.{kind}", values)
        return tensors

    def facts(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint; without validation rows there is no best loss."""
        return {"joined": self.n_joined, "best": self._best if self._weights else None}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Restore what `tensors` and `facts` returned."""
        self.n_joined = int(facts["joined"])
        if facts["best"] is not None:
            self._best = float(facts["best"])
            trainer = self.validation.trainer
            shards = [trainer.local_shards(f"before_stage.{kind}", tensors) for kind in (0, 1)]
            self._weights = [[value.clone() for value in values] for values in shards]
