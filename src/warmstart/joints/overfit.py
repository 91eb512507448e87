"""Whether held-out rows got worse towards the end of the trainings, and what was done."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from warmstart.records import GuardNote
from warmstart.training.candidates import END, LOOKS, Chosen, Route
from warmstart.training.guards import overfit


def watch_overfit(chosen: Chosen, blocks: NDArray[np.int64], n_steps: int) -> GuardNote | None:
    """A note where the loss of held-out rows rose look by look, by more than chance.

    Shapes: blocks (n,).
    """
    steps = [Route(look=look).n_steps(n_steps) for look in range(1, LOOKS + 1)]
    held = np.isfinite(chosen.losses[END])
    looks = [losses[held] for losses in chosen.losses[:LOOKS]]
    if not held.any():
        return None
    alarm, _ = overfit(looks, blocks[held], steps)
    if alarm is None:
        return None
    route = chosen.route
    kept = f"what was learnt up to {route.look} fifths of the steps is kept"
    if route.share < 1:
        kept = f"weights {route.share:.0%} of the way from the start's are kept"
    return GuardNote(kind="overfit", step=alarm.step, action=kept)
