"""What held-out rows say while a training goes on, and at each of its candidate ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from warmstart.network.batch_norm_statistics import relearning
from warmstart.network.cut import Tail
from warmstart.solve.ridge import Array, Rows
from warmstart.training.candidates import CANDIDATES, LOOKS, SHARES, Route
from warmstart.training.data_parallel import Rows as RowWay
from warmstart.training.data_parallel import Way
from warmstart.training.loop import mean_loss
from warmstart.training.outfit import Outfit
from warmstart.training.shared import Room
from warmstart.training.trainer import Trainer

PASS = 32  # images in a pass that only looks
RENEWED = 256  # images, at most, from which new norms take their statistics
_BEFORE = "look.before"


class Looks:
    """Scores of the rows that a training holds out: before it, on the way, at its ends.

    `before` is what the plain head says, (m, K); None where nothing is held out. `says`: whether
    the output is trained with the layers; what one says that is left behind is not looked at.
    """

    def __init__(
        self, room: Room, held: Rows, outfit: Outfit, trainer: Trainer, says: bool = True
    ) -> None:
        self.room, self.held, self.outfit, self.trainer = room, held, outfit, trainer
        self.says, self._watched = says, held if says else held[:0]
        self.before: Array | None = None
        self._found: dict[str, Array] = {}

    def begin(self) -> None:
        """Before the first update."""
        if len(self._watched):
            self.before = self.say(self.held)

    def look(self, done: int, n_steps: int) -> dict[str, float]:
        """Look, where that is due after `done` of `n_steps` updates; what there is to tell."""
        due = [k for k in range(1, LOOKS + 1) if Route(look=k).n_steps(n_steps) == done]
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
        return mean_loss(self.room.target, torch.from_numpy(scores), self.room.targets(rows))

    def _score(self, scores: Array) -> float:
        """Accuracy on the rows held out, or what else the task is scored by."""
        credits = self.room.target.credits(scores, self.room.labels[self.held])
        return round(float(credits.mean()), 4)

    def forget(self, done: int, n_steps: int) -> None:
        """Drop what was seen after `done` of `n_steps` updates: weights are as they were then."""
        for k in range(1, LOOKS + 1):
            if Route(look=k).n_steps(n_steps) > done:
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
            return no_scores(self.outfit, self.held)
        looked = [self._found.get(f"{k}") for k in range(1, LOOKS + 1)]
        last = self.shown(1.0, self.held) if looked[-1] is None else looked[-1]
        found = [last if scores is None else scores for scores in looked]
        return np.stack([*found, *(self._found.get(f"{share}", last) for share in SHARES)])

    def shown(self, share: float, rows: Rows) -> Array:
        """Scores at a share of the way from the start's weights to the averaged ones."""
        with self.trainer.shown(share):
            return self.say(rows)

    def say(self, rows: Rows) -> Array:
        """Scores of some rows with the weights as they stand, (m, K)."""
        return held_scores(self.outfit, self.room, rows, self.trainer.way)

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


def held_scores(outfit: Outfit, room: Room, rows: Rows, way: Way | None = None) -> Array:
    """Logits of some rows, as they are, in eval mode. Shapes: returns (m, K) float64.

    Several processes pass a share each where all of them hold the whole network, and all have
    all of them.
    """
    outfit.model.eval()
    bias = outfit.model.head.bias
    by = way or RowWay(Tail(outfit.model, room.source.cut), bias.device.type)
    own = np.array_split(rows, by.world.size)[by.world.rank]
    found = [] if len(own) else [torch.empty(0, len(bias))]
    with torch.inference_mode():
        for start in range(0, len(own), PASS):
            inputs = room.plain(own[start : start + PASS], outfit.taps)
            found.append(by.run(*(value.to(bias.device) for value in inputs)).float().cpu())
    scores: Array = torch.cat(found).double().numpy()
    return np.concatenate(by.world.gathered(scores))


@torch.no_grad()
def renew_statistics(looks: Looks, moving: Iterable[Tensor], rows: Rows, seed: int) -> None:
    """Pass some rows, as they are and mixed, for what new BatchNorm layers remember of them.

    `moving`: what training changes, in whatever process that is kept: they all pass the rows.
    """
    outfit, way = looks.outfit, looks.trainer.way
    chosen = np.random.default_rng([seed, 15]).permutation(rows)[:RENEWED]
    with relearning(outfit.model, [*moving]) as is_wanted:
        device = outfit.model.head.bias.device
        for some in np.array_split(chosen, -(-len(chosen) // PASS)) if is_wanted else ():
            way.run(*(value.to(device) for value in looks.room.plain(some, outfit.taps)))


def spread(rows: Rows, most: int) -> Rows:
    """At most so many rows, at equal distances: neighbours often show the same class.

    >>> spread(np.arange(10), 3).tolist(), spread(np.arange(2), 3).tolist()
    ([0, 3, 6], [0, 1])
    """
    n = min(most, len(rows))
    return rows[np.arange(n) * len(rows) // max(n, 1)]


def no_scores(outfit: Outfit, held: Rows) -> Array:
    """Where nothing was held out, or nothing came of it: (C, m, K) of NaN."""
    return np.full((len(CANDIDATES), len(held), len(outfit.model.head.bias)), np.nan)
