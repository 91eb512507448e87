"""A tail in pieces, one behind the other: what each process of a pipeline runs and keeps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, combinations, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import PlanError
from warmstart.network import freeze
from warmstart.network.cut import UnfrozenBlocks
from warmstart.network.segments import SegmentStep
from warmstart.network.tensors import place

NEAR = 1.1  # times the least time of an update, within which cuts count as equally quick


class PipelineStage(nn.Module):
    """Some parts of a tail, first to last; the last piece ends with the head.

    It takes what the tail takes, or what the piece before gave: main (b, …), then a (b, d) for
    each tap taken so far. It gives the same, or logits (b, K). What it gives can be sent to
    another process and be answered with a gradient: dense, and with gradients on.
    """

    def __init__(self, tail: UnfrozenBlocks, numbers: range, is_last: bool) -> None:
        super().__init__()
        self._tail = (tail,)  # no child: torch would ask for tensors that other processes hold
        self.numbers, self.is_last = numbers, is_last
        scan = tail.scan
        self._below = (*_learning(tail, range(tail.cut + 1, numbers.start)),)
        self.taken = tuple(
            layer
            for layer in scan.feature_layers
            if layer in tail.cached or (layer.block < numbers.start and layer.pool != "neck")
        )

    def forward(self, main: Tensor, *taken: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the parts."""
        (tail,) = self._tail
        given = (main, *taken)
        is_asked = any(parameter.requires_grad for parameter in self._below)
        main, *feature_layers = (
            (_answered if is_asked else Tensor.detach)(value) for value in given
        )
        backbone, before = tail.model.backbone, dict(zip(self.taken, feature_layers, strict=True))
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        if self.is_last:
            features = tail.scan.onward(backbone, self.numbers.start - 1, main, before)
            logits: Tensor = tail.model.head(features)
            return logits if is_asked else _linked(logits, given)
        main, found = tail.scan.between(backbone, self.numbers, main, before)
        main = main if is_asked else _linked(main, given)
        made = (main, *(found[layer] for layer in tail.scan.feature_layers if layer in found))
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


class _Linked(torch.autograd.Function):
    """The same values; what they were made of is told that nothing below need learn."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, *given: Tensor) -> Tensor:
        """As it is."""
        ctx.like = [(value.shape, value.dtype, value.device) for value in given]
        return made.view_as(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Nothing, in the form in which it can be sent."""
        nothing = (torch.zeros(size, dtype=d, device=at) for size, d, at in ctx.like)
        return (gradients[0], *nothing)


def _linked(made: Tensor, given: Sequence[Tensor]) -> Tensor:
    found: Tensor = _Linked.apply(made, *given)  # type: ignore[no-untyped-call]
    return found


def _learning(tail: UnfrozenBlocks, numbers: range) -> Iterator[nn.Parameter]:
    """The parameters of some parts, whether they move or not."""
    for step in (tail.scan.steps.blocks[number - 1] for number in numbers):
        for name in step.modules:
            yield from tail.model.backbone.get_submodule(name).parameters()
        for name in step.attributes:
            owner, _, last = name.rpartition(".")
            value = getattr(tail.model.backbone.get_submodule(owner), last)
            if isinstance(value, nn.Parameter):
                yield value


def _sendable(value: Tensor) -> Tensor:
    dense = value.contiguous()
    if torch.is_grad_enabled() and not dense.requires_grad:
        dense = dense.detach().requires_grad_()
    return dense


@dataclass(frozen=True, slots=True)
class Cost:
    """What a part costs a pipeline: seconds of a pass forwards and back, numbers to be kept."""

    forward: float
    backward: float
    parameters: float


def balance_stages(blocks: Sequence[Cost], n: int) -> tuple[range, ...]:
    """Cut a row of parts into `n` runs, so that an update takes as little time as can be.

    All of a batch goes forwards before any of it goes back, so that an update waits for the run
    that is dearest forwards, and then for the one that is dearest backwards: their sum counts
    (Huang et al. 2019, "GPipe", §2.3). Of cuts that cost about the same, `NEAR`, it is one whose
    fullest run keeps as little as can be. Parts are counted from 0.
    Raises: PlanError where there are fewer parts than runs.

    >>> balance_stages([Cost(6, 12, 9), Cost(1, 2, 3), Cost(6, 12, 12)], 2)
    (range(0, 2), range(2, 3))
    >>> balance_stages([Cost(6, 12, 12), Cost(1, 2, 3), Cost(6, 12, 9)], 2)
    (range(0, 1), range(1, 3))
    """
    if not 1 <= n <= len(blocks):
        raise PlanError(
            f"a pipeline of {n} stages needs as many parts that are trained; there are "
            f"{len(blocks)}: start at most {len(blocks)} processes."
        )
    sums = [
        [*accumulate(amounts, initial=0.0)]
        for amounts in zip(*((p.forward, p.backward, p.parameters) for p in blocks), strict=True)
    ]
    forward, backward, kept = (sorted({b - a for a, b in combinations(s, 2)}) for s in sums)
    cut = partial(_cut, sums, n)
    least, tops = float("inf"), [*backward]
    for most in forward:  # the dearer forwards, the cheaper backwards
        while tops and cut(most, tops[-1], kept[-1]):
            least = min(least, most + tops.pop())
    limits = [(most, NEAR * least - most) for most in forward if most <= NEAR * least]

    def found(fullest: float) -> list[int] | None:
        return next(filter(None, (cut(*two, fullest) for two in limits)), None)

    fewest = kept[bisect_left(kept, True, key=lambda fullest: found(fullest) is not None)]
    ends = [*(found(fewest) or ()), len(blocks)]
    while len(ends) <= n:  # fewer runs than asked for: none gets dearer by one more
        length, begin = max((b - a, a) for a, b in pairwise(ends))
        ends = sorted([*ends, begin + length // 2])
    return tuple(range(a, b) for a, b in pairwise(ends))


def _cut(sums: Sequence[Sequence[float]], n: int, *most: float) -> list[int] | None:
    """Where runs begin that are as long as they may be; None where more than `n` are needed."""

    def fits(begin: int, end: int) -> bool:
        return all(one[end] - one[begin] <= top for one, top in zip(sums, most, strict=True))

    begins = [0]
    for end in range(1, len(sums[0])):
        if not fits(begins[-1], end):
            begins.append(end - 1)
            if len(begins) > n or not fits(end - 1, end):
                return None
    return begins


def group_modules(tail: UnfrozenBlocks) -> tuple[tuple[str, ...], ...]:
    """For each part, the modules that only its run calls, by their names in the tail.

    What they hold is read nowhere else, so that it need be there while they run alone. Tensors
    that a part reads itself, or that stand in two modules, are of no group.
    """
    steps = tail.scan.steps
    blocks = (*steps.blocks, steps.neck)
    calls = [name for block in blocks for name in block.modules]
    read = [name for block in blocks for name in block.attributes]
    homes: dict[int, set[str]] = {}
    for name in dict.fromkeys(calls):
        for tensor in tail.model.backbone.get_submodule(name).parameters():
            homes.setdefault(id(tensor), set()).add(name)
    tied = {name for names in homes.values() if len(names) > 1 for name in names}
    held = {name for names in homes.values() for name in names} - tied

    def is_own(name: str) -> bool:
        inside = f"{name}."
        seen = (*(other for other in calls if other != name), *read)
        return (
            name in held
            and calls.count(name) == 1
            and not any(other.startswith(inside) or name.startswith(f"{other}.") for other in seen)
        )

    groups = [tuple(f"model.backbone.{n}" for n in block.modules if is_own(n)) for block in blocks]
    return tuple(group for group in groups if group)


def assign_stages(
    tail: UnfrozenBlocks, owners: Mapping[str, str], pieces: Sequence[range]
) -> dict[str, int]:
    """Which piece keeps each tensor of the tail's model, by name. Pieces: part numbers, from 1.

    What belongs to no part (neck, output) is the last one's; what lies below the cut, which no
    piece runs, the first one's.
    Raises: PlanError where a tensor stands in two pieces, or one reads what another keeps:
    gradients would have to meet.
    """
    blocks = tail.scan.steps.blocks
    home = {blocks[n - 1].name: k for k, numbers in enumerate(pieces) for n in numbers}
    home |= {block.name: 0 for block in blocks[: tail.cut]}
    state = tail.model.state_dict(keep_vars=True)
    names = freeze.tensor_blocks(tail.model, owners)
    last = len(pieces) - 1
    found = {name: home.get(names.get(name, ""), last) for name in state}
    seen: dict[tuple[int, ...], str] = {}
    for name, tensor in state.items():
        clone = seen.setdefault(place(tensor), name)
        if found[clone] != found[name]:
            raise PlanError(
                f"{clone} and {name} are one tensor, which the pipeline would part; train this "
                "network without --parallel pipeline."
            )
    _check_read(found, [(k, blocks[n - 1]) for k, numbers in enumerate(pieces) for n in numbers])
    return found


def _check_read(kept: Mapping[str, int], run: Sequence[tuple[int, SegmentStep]]) -> None:
    for piece, block in run:
        for module in block.modules:
            begun = f"backbone.{module}."
            if any(name.startswith(begun) and where != piece for name, where in kept.items()):
                raise PlanError(
                    f"part {block.name} reads {module}, which another stage of the pipeline keeps; "
                    "train this network without --parallel pipeline."
                )
