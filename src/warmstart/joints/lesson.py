"""One training of an outfitted network on some rows: all parts at once, or joining from the top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from warmstart.data.split import folds
from warmstart.errors import TrainingError
from warmstart.events import Event, Steps
from warmstart.features.engine import normalised
from warmstart.joints.live import Pixels
from warmstart.joints.outfit import Outfit
from warmstart.network import freeze, ledger, lowrank
from warmstart.planning.schedule import Schedule, stage_actions
from warmstart.records import Action, Preprocessing
from warmstart.solve.ridge import Array, Rows
from warmstart.training.loop import Batch, diverged, make_optimizer, train, warm_cosine
from warmstart.training.views import Views, draw_batches, vary

PASS = 32  # images in a pass that only looks
VALIDATION = 5  # one block in five judges whether the next group of parts joins


@dataclass(frozen=True, slots=True)
class Room:
    """What all trainings of a run share. Shapes: pixels (n, H, W, C), labels and blocks (n,)."""

    pixels: Pixels
    labels: NDArray[np.int64]
    blocks: NDArray[np.int64]
    prep: Preprocessing
    before: Mapping[str, str]  # digests of the start's tensors
    n_lessons: int

    def inputs(self, rows: Rows) -> Tensor:
        """Normalised images (b, C, H, W) in channels_last order."""
        return normalised(np.ascontiguousarray(self.pixels[rows]), self.prep)

    def targets(self, rows: Rows) -> Tensor:
        """Class numbers (b,)."""
        return torch.from_numpy(self.labels[rows])


@dataclass(frozen=True, slots=True)
class Taught:
    """A trained network, and how many groups of parts had joined."""

    outfit: Outfit
    n_stages: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """One training: an outfit, the rows it learns from, and its place among all trainings.

    `n_stages`: groups of parts that join; None: validation on some of the rows finds out.
    """

    outfit: Outfit
    schedule: Schedule
    room: Room
    rows: Rows
    number: int
    n_stages: int | None = None

    def learn(self) -> Steps[Taught]:
        """Train the outfit in place; prove that what is frozen stayed as it was.

        Raises: TrainingError where the loss is not a number, or a frozen tensor changed.
        """
        outfit = self.outfit
        stages = stage_actions(self.schedule, outfit.actions)
        fit, judged_on = self.rows, self.rows[:0]
        if len(stages) > 1 and self.n_stages is None:
            fit, judged_on = self._set_apart()
        outfit.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rng = np.random.default_rng([self.schedule.seed, self.number])
        best, kept, joined = self._loss(judged_on), self._copied(judged_on), 0
        for number, actions in enumerate(stages[: self.n_stages]):
            share = self.schedule.n_steps * np.arange(number, number + 2) // len(stages)
            yield from self._stage(actions, fit, range(*share.tolist()), rng)
            loss = self._loss(judged_on)
            if len(judged_on) and not loss < best:
                outfit.model.load_state_dict(kept, strict=False)
                break
            best, kept, joined = loss, self._copied(judged_on), number + 1
        self._prove()
        lowrank.merge(outfit.network.trunk)
        scores_of(outfit, self.room, self.rows[:PASS])  # the last step may have ruined it
        return Taught(outfit, joined)

    def _set_apart(self) -> tuple[Rows, Rows]:
        """Rows to learn from, and whole blocks to judge on."""
        rng = np.random.default_rng([self.schedule.seed, 8])
        labels, blocks = self.room.labels[self.rows], self.room.blocks[self.rows]
        part = folds(labels, blocks, VALIDATION, rng)
        return self.rows[part > 0], self.rows[part == 0]

    def _stage(
        self, actions: Mapping[str, Action], rows: Rows, steps: range, rng: np.random.Generator
    ) -> Steps[None]:
        model, owners, schedule = self.outfit.model, self.outfit.owners, self.schedule
        groups = freeze.groups(model, actions, owners, self.outfit.rates)
        optimizer = make_optimizer(schedule.optimizer, groups, schedule.weight_decay)
        model.train()
        total, before = schedule.n_steps, schedule.n_steps * self.number
        with freeze.hold(model, actions, owners):
            for step in train(
                model, self._batches(rows, len(steps), rng), optimizer,
                warm_cosine(len(steps), schedule.warm_up), schedule.seed + steps.start,
            ):  # fmt: skip
                yield Event(
                    stage="tune", kind="step", step=before + steps.start + step.index + 1,
                    of=total * self.room.n_lessons,
                    values={"loss": step.loss, "factor": step.factor, "lesson": self.number + 1},
                )  # fmt: skip
        model.eval()

    def _batches(self, rows: Rows, n_steps: int, rng: np.random.Generator) -> Iterator[Batch]:
        views = Views(self.schedule.crop, self.schedule.flip)
        for drawn in draw_batches(len(rows), self.schedule.batch, n_steps, rng):
            chosen = rows[drawn]
            yield vary(self.room.inputs(chosen), views, rng), self.room.targets(chosen)

    def _loss(self, rows: Rows) -> float:
        """Mean log-loss on rows that were set apart; infinite without any, or where it is none."""
        if not len(rows):
            return float("inf")
        scores = torch.from_numpy(scores_of(self.outfit, self.room, rows))
        return float(cross_entropy(scores, self.room.targets(rows)))

    def _copied(self, judged_on: Rows) -> dict[str, Tensor]:
        """All that training may have changed, as it is now; nothing where nothing is judged."""
        if not len(judged_on):
            return {}
        model, actions = self.outfit.model, self.outfit.actions
        parts = freeze.tensor_parts(model, self.outfit.owners)
        moving = {n for n, part in parts.items() if freeze.action_of(actions, part) != "frozen"}
        state = model.state_dict()
        return {name: state[name].detach().clone() for name in moving}

    def _prove(self) -> None:
        outfit = self.outfit
        moved = ledger.violations(self.room.before, outfit.network, outfit.actions)
        if moved:
            raise TrainingError(
                f"{len(moved)} frozen tensors changed while training (first: {moved[0]}); nothing "
                "was shipped. This is a fault of warmstart or of the network: please report it."
            )


def scores_of(outfit: Outfit, room: Room, rows: Rows) -> Array:
    """Logits of some rows, as they are, in eval mode. Shapes: returns (m, K) float64.

    Raises: TrainingError where they are not numbers: the weights are lost.
    """
    outfit.model.eval()
    with torch.inference_mode():
        found = [
            outfit.model(room.inputs(rows[start : start + PASS]))
            for start in range(0, len(rows), PASS)
        ]
    scores: Array = torch.cat(found).double().numpy()
    if not np.isfinite(scores).all():
        raise diverged(max(outfit.rates.values()))
    return scores
