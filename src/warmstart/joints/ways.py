"""How several processes train together: which of the two ways, and where a pipeline is cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from warmstart.errors import PlanError
from warmstart.events import Steps
from warmstart.joints.notes import note
from warmstart.joints.outfit import Outfit
from warmstart.network.freeze import action_of
from warmstart.network.piece import Piece, balanced, keepers
from warmstart.network.tail import Tail
from warmstart.planning.piping import least_idle
from warmstart.planning.schedule import Schedule
from warmstart.records import Action
from warmstart.training.parallel import Inputs, Rows, Way
from warmstart.training.pipeline import Pipeline
from warmstart.world import here

TIMES = 3  # passes through each part, of which the quickest counts
HELD = frozenset[Action]({"frozen"})
# A part that is only passed; one through which gradients go down; one with gradients of its own.
FORWARD, DOWN, OWN = 1.0, 2.0, 3.0


def way_of(outfit: Outfit, tail: Tail, chosen: Schedule, some: Inputs) -> Way:
    """As the plan says; alone, a pipeline has one stage and is plain training.

    `some` are inputs of the tail, on which parts are timed.
    Raises: PlanError where the network has fewer parts than there are processes, or pairs are
    compared that lie in several.
    """
    world = here()
    if chosen.pairs and world.size > 1:
        raise PlanError(
            f"training.pairs compares all texts of a batch, and {world.size} processes share it; "
            "use one process, or leave pairs away."
        )
    if not chosen.is_pipeline or world.size == 1:
        seen: Any = tail.vectors if chosen.pairs else tail
        run: Any = torch.compile(seen) if chosen.compile else seen
        return Rows(run, chosen.device, plain=tail)
    device = chosen.device
    pieces = world.same(_cut(outfit, tail, tuple(value.to(device) for value in some)))
    kept = keepers(tail, outfit.owners, pieces)
    own = Piece(tail, pieces[world.rank], is_last=world.rank == world.size - 1)
    return Pipeline(tail, own, outfit.model.state_dict(keep_vars=True), kept, device)


def tell_way(way: Way) -> Steps[None]:
    """What the pipeline kept of the time and of the memory, once its training is done."""
    if not isinstance(way, Pipeline):
        return
    idle, largest = way.told()
    n = here().size
    yield note(
        "tune", "Pipeline",
        f"{n} stages, at most {100 * largest:.0f} % of the parameters in one of them; idle "
        f"{100 * idle:.0f} % of "
        f"the time (stages that cost the same: {100 * least_idle(n, way.n_parts):.0f} %)",
    )  # fmt: skip


def _cut(outfit: Outfit, tail: Tail, some: Inputs) -> tuple[range, ...]:
    """Parts of each piece, numbered from 1."""
    numbers = range(tail.cut + 1, max(tap.part for tap in tail.scan.taps) + 1)
    costs = _costs(outfit, tail, numbers, some[0])
    return tuple(
        range(numbers[run[0]], numbers[run[-1]] + 1) for run in balanced(costs, here().size)
    )


@torch.inference_mode()
def _costs(outfit: Outfit, tail: Tail, numbers: Sequence[int], main: Tensor) -> list[float]:
    """Seconds of each part in an update, but for a factor."""
    outfit.model.eval()
    found, is_below = [], False
    for number in numbers:
        step = tail.scan.steps.parts[number - 1]
        seconds, made = _timed(partial(step.run, outfit.model.trunk), main)
        moves = action_of(outfit.actions, step.name) not in HELD
        found.append(seconds * (OWN if moves else DOWN if is_below else FORWARD))
        is_below, main = is_below or moves, made
    return found


def _timed(run: Callable[[Tensor], Any], main: Tensor) -> tuple[float, Tensor]:
    least = float("inf")
    for _ in range(TIMES):
        given = main.clone()  # a part may work in place
        began = time.perf_counter()
        made = run(given)
        least = min(least, time.perf_counter() - began)
    return least, made
