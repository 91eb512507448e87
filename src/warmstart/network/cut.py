"""A network in two pieces: a frozen prefix of blocks, run once, and the unfrozen blocks above.

    logits = unfrozen(prefix(x)),   prefix(x) = (a_cut, the feature layers up to there)

The frozen prefix is a pure function of an image, so its outputs can be cached. Both pieces run
on the network's own modules.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, combinations, pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from warmstart.errors import PlanError
from warmstart.network import freeze
from warmstart.network.feature_layers import plan_scan, quick_linear
from warmstart.network.partition import Network
from warmstart.network.segments import Run, SegmentStep
from warmstart.network.surgery import WarmModel
from warmstart.network.text_encoders import group_by_length
from warmstart.network.weights import place
from warmstart.records.network import FeatureLayer


def cached_layers(feature_layers: Sequence[FeatureLayer], cut: int) -> tuple[FeatureLayer, ...]:
    """The feature layers that a cached prefix holds; necks follow all blocks."""
    return tuple(layer for layer in feature_layers if layer.block <= cut and layer.pool != "neck")


class FrozenPrefix(nn.Module):
    """Blocks 1..cut: inputs (B, C, H, W) to block `cut`'s output and the feature layers, (B, d).

    Raises: PlanError where the network has no such block.
    """

    def __init__(self, network: Network, cut: int, feature_layers: Sequence[FeatureLayer]) -> None:
        super().__init__()
        if not 1 <= cut <= len(network.blocks):
            raise PlanError(
                f"the plan has training.split_at {cut}; the network has blocks 1 to "
                f"{len(network.blocks)}."
            )
        self.backbone = network.backbone
        self.cut = cut
        self.feature_layers = tuple(feature_layers)
        last = FeatureLayer(block=len(network.blocks), pool="neck")
        self.scan = plan_scan(network, self.feature_layers or (last,))
        self.eval()

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        main, features = self.scan.between(self.backbone, range(1, self.cut + 1), inputs, {})
        return (main, *(features[layer].float() for layer in self.feature_layers))


class UnfrozenBlocks(nn.Module):
    """The blocks above a cut: (output of block `cut`, feature layers below) to logits (B, K).

    With `cut` 0 it is the whole model, on normalised inputs (B, C, H, W). With `recompute`,
    activations inside a block are recomputed in the backward pass (Chen et al. 2016, "Training Deep
    Nets with Sublinear Memory Cost"), except in blocks that gather batch statistics, which would
    count each batch twice.
    """

    def __init__(self, model: WarmModel, cut: int, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self.cut = cut
        self.cached = cached_layers(model.scan.feature_layers, cut)
        self.scan = model.scan
        if recompute:
            blocks = tuple(replace(step, run=_checkpoint(step)) for step in self.scan.steps.blocks)
            self.scan = replace(self.scan, steps=replace(self.scan.steps, blocks=blocks))

    def forward(self, main: Tensor, *cached: Tensor) -> Tensor:
        """Logits; `cached`: the feature layers `self.cached`, each (B, d)."""
        return cast(Tensor, self.model.head(self.features(main, *cached)))

    def features(self, main: Tensor, *cached: Tensor) -> tuple[Tensor, ...]:
        """The head's input: each feature layer, (B, d); the last one is the deepest."""
        below = dict(zip(self.cached, cached, strict=True))
        return self.scan.onward(self.model.backbone, self.cut, main, below)

    def vectors(self, main: Tensor, *cached: Tensor) -> Tensor:
        """The deepest feature layer, (B, d); texts of similar length are batched together."""
        groups = group_by_length(self.model.backbone, main)
        vectors = [
            self.features(main[rows, :length], *(value[rows] for value in cached))[-1]
            for rows, length in groups
        ]
        order = torch.cat([rows for rows, _ in groups]).argsort()
        return torch.cat(vectors)[order]


def _checkpoint(step: SegmentStep) -> Run:
    def block(backbone: nn.Module, value: Tensor) -> Tensor:
        with quick_linear(value):  # entered again on recomputation
            return step.run(backbone, value.clone())  # a block may work in place on its input

    def run(backbone: nn.Module, value: Tensor) -> Tensor:
        modules = (m for name in step.modules for m in backbone.get_submodule(name).modules())
        buffers = (name for module in modules if module.training for name in module._buffers)
        has_statistics = any(name.startswith("running_") for name in buffers)  # of each batch
        if not torch.is_grad_enabled() or has_statistics:
            return step.run(backbone, value)
        return cast(Tensor, checkpoint(block, backbone, value, use_reentrant=False))

    return run


# ---- Pipeline parallelism: the unfrozen blocks in stages, one process each.


NEAR = 1.1  # times the least time of an update, within which partitions count as equally fast


class PipelineStage(nn.Module):
    """Consecutive unfrozen blocks; the last stage ends with the head.

    Its inputs are those of the unfrozen blocks, or the outputs of the stage before: main
    (b, …), then a (b, d) for each feature layer so far. Its outputs are the same, or logits
    (b, K). They can be sent to another process and get a gradient back: dense, and with
    gradients on.
    """

    def __init__(self, unfrozen: UnfrozenBlocks, numbers: range, is_last: bool) -> None:
        super().__init__()
        self._unfrozen = (unfrozen,)  # no child: it holds tensors of other processes
        self.numbers, self.is_last = numbers, is_last
        scan = unfrozen.scan
        self._below = _parameters(unfrozen, range(unfrozen.cut + 1, numbers.start))
        self.layers_below = tuple(
            layer
            for layer in scan.feature_layers
            if layer in unfrozen.cached or (layer.block < numbers.start and layer.pool != "neck")
        )

    def forward(self, main: Tensor, *below: Tensor) -> Tensor | tuple[Tensor, ...]:
        (unfrozen,) = self._unfrozen
        inputs = (main, *below)
        needs_grad = any(parameter.requires_grad for parameter in self._below)
        main, *layers = (_dense_grad(value) if needs_grad else value.detach() for value in inputs)
        features = dict(zip(self.layers_below, layers, strict=True))
        backbone, scan = unfrozen.model.backbone, unfrozen.scan
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        if self.is_last:
            vectors = scan.onward(backbone, self.numbers.start - 1, main, features)
            logits: Tensor = unfrozen.model.head(vectors)
            return logits if needs_grad else _zero_grad(logits, inputs)
        main, features = scan.between(backbone, self.numbers, main, features)
        main = main if needs_grad else _zero_grad(main, inputs)
        outputs = (main, *(features[layer] for layer in scan.feature_layers if layer in features))
        return tuple(_sendable(value) for value in outputs)


def _dense_grad(value: Tensor) -> Tensor:
    """The same values; their gradient is dense, so that it can be sent back."""
    if not value.requires_grad:
        return value
    same = value.view_as(value)
    same.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
    return same


class _ZeroGrad(torch.autograd.Function):
    """Identity; the inputs get zero gradients, as nothing below is trained."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *inputs: Tensor) -> Tensor:
        ctx.like = [(value.shape, value.dtype, value.device) for value in inputs]
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        zeros = (torch.zeros(size, dtype=d, device=device) for size, d, device in ctx.like)
        return (gradients[0], *zeros)


def _zero_grad(output: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    same: Tensor = _ZeroGrad.apply(output, *inputs)  # type: ignore[no-untyped-call]
    return same


def _parameters(unfrozen: UnfrozenBlocks, numbers: range) -> tuple[nn.Parameter, ...]:
    backbone, parameters = unfrozen.model.backbone, list[nn.Parameter]()
    by_name = dict(backbone.named_parameters(remove_duplicate=False))
    for step in (unfrozen.scan.steps.blocks[number - 1] for number in numbers):
        for name in step.modules:
            parameters += backbone.get_submodule(name).parameters()
        parameters += (by_name[name] for name in step.attributes if name in by_name)
    return tuple(parameters)


def _sendable(value: Tensor) -> Tensor:
    dense = value.contiguous()
    if torch.is_grad_enabled() and not dense.requires_grad:
        dense = dense.detach().requires_grad_()
    return dense


class Cost(NamedTuple):
    """Cost of a block in a pipeline: seconds forward and backward, parameters in memory."""

    forward: float
    backward: float
    parameters: float


def balance_stages(blocks: Sequence[Cost], n: int) -> tuple[range, ...]:
    """Cut a sequence of blocks into `n` stages, so that an update is as fast as possible.

    A whole batch goes forward before any of it goes backward: the slowest stage forward and the
    slowest backward add up (Huang et al. 2019, "GPipe", §2.3). Of partitions that cost about the
    same, `NEAR`, the largest stage has the fewest parameters. Blocks are counted from 0.
    Raises: PlanError where there are fewer blocks than stages.

    >>> balance_stages([Cost(6, 12, 9), Cost(1, 2, 3), Cost(6, 12, 12)], 2)
    (range(0, 2), range(2, 3))
    >>> balance_stages([Cost(6, 12, 12), Cost(1, 2, 3), Cost(6, 12, 9)], 2)
    (range(0, 1), range(1, 3))
    """
    if not 1 <= n <= len(blocks):
        raise PlanError(
            f"a pipeline of {n} stages needs as many trained blocks; there are "
            f"{len(blocks)}: start at most {len(blocks)} processes."
        )
    sums = [[*accumulate(amounts, initial=0.0)] for amounts in zip(*blocks, strict=True)]
    forward, backward, sizes = (sorted({b - a for a, b in combinations(s, 2)}) for s in sums)
    cut = partial(_cut, sums, n)
    least, limits_back = float("inf"), [*backward]
    for most in forward:  # the slower forward, the faster backward
        while limits_back and cut(most, limits_back[-1], sizes[-1]):
            least = min(least, most + limits_back.pop())
    limits = [(most, NEAR * least - most) for most in forward if most <= NEAR * least]

    def cut_within(size: float) -> list[int] | None:
        return next(filter(None, (cut(*two, size) for two in limits)), None)

    smallest = sizes[bisect_left(sizes, True, key=lambda size: cut_within(size) is not None)]
    ends = [*(cut_within(smallest) or ()), len(blocks)]
    while len(ends) <= n:  # fewer stages than requested: one more slows none down
        length, begin = max((b - a, a) for a, b in pairwise(ends))
        ends = sorted([*ends, begin + length // 2])
    return tuple(range(a, b) for a, b in pairwise(ends))


def _cut(sums: Sequence[Sequence[float]], n: int, *most: float) -> list[int] | None:
    """First blocks of stages as long as the limits allow; None where these need more than `n`."""

    def fits(begin: int, end: int) -> bool:
        return all(one[end] - one[begin] <= limit for one, limit in zip(sums, most, strict=True))

    begins = [0]
    for end in range(1, len(sums[0])):
        if not fits(begins[-1], end):
            begins.append(end - 1)
            if len(begins) > n or not fits(end - 1, end):
                return None
    return begins


def group_modules(unfrozen: UnfrozenBlocks) -> tuple[tuple[str, ...], ...]:
    """For each block, the names of the modules that it alone calls.

    Their tensors are read nowhere else, so that they need be in memory only while the block runs.
    Tensors that a block reads directly, or that two modules share, belong to no group.
    """
    steps = unfrozen.scan.steps
    blocks = (*steps.blocks, steps.neck)
    calls = [name for block in blocks for name in block.modules]
    read = [name for block in blocks for name in block.attributes]
    users: dict[int, set[str]] = {}
    for name in dict.fromkeys(calls):
        for tensor in unfrozen.model.backbone.get_submodule(name).parameters():
            users.setdefault(id(tensor), set()).add(name)
    tied = {name for names in users.values() if len(names) > 1 for name in names}
    untied = {name for names in users.values() for name in names} - tied

    def is_own(name: str) -> bool:
        inside = f"{name}."
        others = (*(other for other in calls if other != name), *read)
        return (
            name in untied
            and calls.count(name) == 1
            and not any(o.startswith(inside) or name.startswith(f"{o}.") for o in others)
        )

    groups = [tuple(f"model.backbone.{n}" for n in block.modules if is_own(n)) for block in blocks]
    return tuple(group for group in groups if group)


def assign_stages(
    unfrozen: UnfrozenBlocks, owners: Mapping[str, str], stages: Sequence[range]
) -> dict[str, int]:
    """Index of the stage that holds each tensor, by name. `stages`: block numbers, from 1.

    Tensors of no block (neck, output) belong to the last stage; those below the cut, which no
    stage runs, to the first.
    Raises: PlanError where a tensor is in two stages, or one reads another's tensor:
    gradients would have to meet.
    """
    blocks = unfrozen.scan.steps.blocks
    by_block = {blocks[n - 1].name: k for k, numbers in enumerate(stages) for n in numbers}
    by_block |= {block.name: 0 for block in blocks[: unfrozen.cut]}
    state = unfrozen.model.state_dict(keep_vars=True)
    names = freeze.tensor_blocks(unfrozen.model, owners)
    last = len(stages) - 1
    assigned = {name: by_block.get(names.get(name, ""), last) for name in state}
    cure = "train this network without --parallel pipeline"
    first_names: dict[tuple[int, ...], str] = {}
    for name, tensor in state.items():
        tied = first_names.setdefault(place(tensor), name)
        if assigned[tied] != assigned[name]:
            fault = f"{tied} and {name} are one tensor, which the pipeline would divide"
            raise PlanError(f"{fault}; {cure}.")
    for block in blocks[unfrozen.cut :]:
        stage = by_block[block.name]
        for module in block.modules:
            inside = f"backbone.{module}."
            if any(name.startswith(inside) and at != stage for name, at in assigned.items()):
                fault = (
                    f"block {block.name} reads {module}, which another stage of the pipeline holds"
                )
                raise PlanError(f"{fault}; {cure}.")
    return assigned
