"""A tail in pieces, one behind the other: what each process of a pipeline runs and keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import PlanError
from warmstart.network import freeze
from warmstart.network.tail import Tail
from warmstart.network.tensors import place


class Piece(nn.Module):
    """Some parts of a tail, first to last; the last piece ends with the head.

    It takes what the tail takes, or what the piece before gave: main (b, …), then a (b, d) for
    each tap taken so far. It gives the same, or logits (b, K). What it gives can be sent to
    another process and be answered with a gradient: dense, and with gradients on.
    """

    def __init__(self, tail: Tail, numbers: range, is_last: bool) -> None:
        super().__init__()
        self._tail = (tail,)  # no child: torch would ask for tensors that other processes hold
        self.numbers, self.is_last = numbers, is_last
        scan = tail.scan
        self.taken = tuple(
            tap for tap in scan.taps
            if tap in tail.stored or (tap.part < numbers.start and tap.pool != "neck")
        )  # fmt: skip

    def forward(self, main: Tensor, *taken: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the parts."""
        (tail,) = self._tail
        main, *taps = (_answered(value) for value in (main, *taken))
        trunk, before = tail.model.trunk, dict(zip(self.taken, taps, strict=True))
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        if self.is_last:
            features = tail.scan.onward(trunk, self.numbers.start - 1, main, before)
            logits: Tensor = tail.model.head(features)
            return logits
        main, found = tail.scan.between(trunk, self.numbers, main, before)
        made = (main, *(found[tap] for tap in tail.scan.taps if tap in found))
        return tuple(_sendable(value) for value in made)


class _Answered(torch.autograd.Function):
    """The same values; their gradients are dense, so that they can be sent back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """As it is."""
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """In the order of memory that is sent."""
        return gradients[0].contiguous()


def _answered(value: Tensor) -> Tensor:
    found: Tensor = _Answered.apply(value)  # type: ignore[no-untyped-call]
    return found


def _sendable(value: Tensor) -> Tensor:
    dense = value.contiguous()
    if torch.is_grad_enabled() and not dense.requires_grad:
        dense = dense.detach().requires_grad_()
    return dense


def balanced(costs: Sequence[float], n: int) -> tuple[range, ...]:
    """Cut a row of parts into `n` runs, so that the dearest of them costs as little as can be.

    Parts are counted from 0. Raises: PlanError where there are fewer parts than runs.

    >>> balanced([3, 1, 1, 1, 4], 3)
    (range(0, 1), range(1, 4), range(4, 5))
    """
    if not 1 <= n <= len(costs):
        raise PlanError(
            f"a pipeline of {n} stages needs as many parts that are trained; there are "
            f"{len(costs)}: start at most {len(costs)} processes."
        )
    # least[k][j]: cost of the dearest of k + 1 runs over the first j parts, and its last cut
    ends = range(len(costs) + 1)
    sums = [sum(costs[:end]) for end in ends]
    least = [[(sums[end], 0) for end in ends]]
    for k in range(1, n):
        row = [(float("inf"), 0)] * len(ends)
        for end in range(k + 1, len(ends)):
            row[end] = min(
                (max(least[-1][cut][0], sums[end] - sums[cut]), cut) for cut in range(k, end)
            )
        least.append(row)
    cuts = [len(costs)]
    for row in reversed(least):
        cuts.append(row[cuts[-1]][1])
    return tuple(range(a, b) for a, b in zip(cuts[:0:-1], cuts[-2::-1], strict=True))


def together(tail: Tail) -> tuple[tuple[str, ...], ...]:
    """For each part, the modules that only its run calls, by their names in the tail.

    What they hold is read nowhere else, so that it need be there while they run alone. Tensors
    that a part reads itself, or that stand in two modules, are of no group.
    """
    steps = tail.scan.steps
    parts = (*steps.parts, steps.neck)
    calls = [name for part in parts for name in part.modules]
    read = [name for part in parts for name in part.attributes]
    homes: dict[int, set[str]] = {}
    for name in dict.fromkeys(calls):
        for tensor in tail.model.trunk.get_submodule(name).parameters():
            homes.setdefault(id(tensor), set()).add(name)
    tied = {name for names in homes.values() if len(names) > 1 for name in names}
    held = {name for names in homes.values() for name in names} - tied

    def is_own(name: str) -> bool:
        inside = f"{name}."
        seen = (*(other for other in calls if other != name), *read)
        return name in held and calls.count(name) == 1 and not any(
            other.startswith(inside) or name.startswith(f"{other}.") for other in seen
        )  # fmt: skip

    groups = [tuple(f"model.trunk.{n}" for n in part.modules if is_own(n)) for part in parts]
    return tuple(group for group in groups if group)


def keepers(tail: Tail, owners: Mapping[str, str], pieces: Sequence[range]) -> dict[str, int]:
    """Which piece keeps each tensor of the tail's model, by name. Pieces: part numbers, from 1.

    What belongs to no part (neck, output) is the last one's; what lies below the cut, which no
    piece runs, the first one's.
    Raises: PlanError where a tensor stands in two pieces: gradients would have to meet.
    """
    parts = tail.scan.steps.parts
    home = {parts[n - 1].name: k for k, numbers in enumerate(pieces) for n in numbers}
    home |= {part.name: 0 for part in parts[: tail.cut]}
    state = tail.model.state_dict(keep_vars=True)
    names = freeze.tensor_parts(tail.model, owners)
    last = len(pieces) - 1
    found = {name: home.get(names.get(name, ""), last) for name in state}
    seen: dict[tuple[int, ...], str] = {}
    for name, tensor in state.items():
        twin = seen.setdefault(place(tensor), name)
        if found[twin] != found[name]:
            raise PlanError(
                f"{twin} and {name} are one tensor, which the pipeline would part; train this "
                "network without --parallel pipeline."
            )
    return found
