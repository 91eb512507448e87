"""Blocks of a partitioned network: the owner of each tensor, shapes, costs, layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from warmstart.errors import ModelError
from warmstart.network.encoder import Encoder
from warmstart.network.segments import SegmentStep, SegmentSteps, is_same
from warmstart.network.tensors import n_parameters, place, unique_tensors
from warmstart.network.text_encoders import mean_of_tokens
from warmstart.records.network import BlockRecord, Layout, NetworkRecord


def find_owners(
    backbone: nn.Module, steps: SegmentSteps, classifier: nn.Module | None
) -> dict[str, str]:
    """Assign each tensor of the original network, tied ones once, exactly one owner.

    The first block that reads it; else "neck"; "head" for the classifier's own; "unused" for
    tensors that forward never reads.
    """
    names = {place(tensor): name for name, tensor in unique_tensors(backbone).items()}
    owners = dict.fromkeys(names.values(), "unused")
    state = backbone.state_dict(keep_vars=True)
    for step in (*steps.blocks, steps.neck):
        modules = [backbone.get_submodule(name) for name in step.modules]
        tensors = [t for m in modules for t in m.state_dict(keep_vars=True).values()]
        tensors += [state.get(name) for name in step.attributes]
        for tensor in tensors:
            name = names.get(place(tensor)) if isinstance(tensor, Tensor) else None
            if name is not None and owners[name] == "unused":
                owners[name] = step.name
    for name, tensor in unique_tensors(classifier).items() if classifier else ():
        if place(tensor) not in names:
            owners[f"{steps.classifier}.{name}"] = "head"
    return owners


def measure(
    backbone: nn.Module,
    steps: SegmentSteps,
    classifier: nn.Module | None,
    owners: Mapping[str, str],
    inputs: Tensor,
    how: Literal["traced", "whole"],
) -> NetworkRecord:
    """Run the blocks once on inputs (B, C, H, W) and record shapes, layouts and costs."""
    sizes: Counter[str] = Counter()
    for name, tensor in unique_tensors(backbone).items():
        if isinstance(tensor, nn.Parameter):
            sizes[owners[name]] += tensor.numel()
    value, blocks = inputs, []
    with FlopCounterMode(display=False) as counter:
        for step in steps.blocks:
            flops, shape = counter.get_total_flops(), tuple(value.shape[1:])
            value = step.run(backbone, value)
            blocks.append(
                BlockRecord(
                    name=step.name,
                    parameters=sizes[step.name],
                    shape_in=shape,
                    shape_out=tuple(value.shape[1:]),
                    macs=(counter.get_total_flops() - flops) // (2 * len(inputs)),
                    layout=_layout(backbone, step, value, inputs),
                )
            )
    # Averaged first: a neck may work in place.
    average = None if blocks[-1].layout == "other" else pool_average(value, blocks[-1].layout)
    vector = steps.neck.run(backbone, value)
    return NetworkRecord(
        blocks=tuple(blocks),
        head_parameters=n_parameters(classifier) if classifier else 0,
        partition=how,
        neck_width=vector.shape[1],
        neck_is_average=average is not None and is_same(average, vector),
    )


def _layout(backbone: nn.Module, step: SegmentStep, value: Tensor, inputs: Tensor) -> Layout:
    if isinstance(backbone, Encoder):
        return backbone.layout
    modules = [m for name in step.modules for m in backbone.get_submodule(name).modules()]
    if value.ndim == 3 and any(isinstance(module, nn.Conv1d) for module in modules):
        return "NCL"
    if value.ndim == 5 and any(isinstance(module, nn.Conv3d) for module in modules):
        return "NCDHW"
    return find_layout(tuple(value.shape[1:]), tuple(inputs.shape[2:]))


def find_layout(shape: tuple[int, ...], size: tuple[int, ...]) -> Layout:
    """Which axes of an output (without the batch axis) are channels and which positions.

    `size` is the input's height and width: a map keeps its proportions. A tie is NCHW.

    >>> find_layout((64, 7, 7), (224, 224)), find_layout((7, 7, 64), (224, 224))
    ('NCHW', 'NHWC')
    >>> find_layout((197, 192), (224, 224)), find_layout((10,), (224, 224))
    ('NLC', 'NC')
    """
    if len(shape) == 3 and len(size) != 2:
        return "NCHW"
    if len(shape) == 3:
        is_first = _has_proportions(shape[1:], size)
        return "NHWC" if _has_proportions(shape[:2], size) and not is_first else "NCHW"
    names: dict[int, Layout] = {1: "NC", 2: "NLC"}
    return names.get(len(shape), "other")


def _has_proportions(plane: tuple[int, ...], size: tuple[int, ...]) -> bool:
    if size[0] == size[1]:
        return plane[0] == plane[1]
    return abs(plane[0] * size[1] - plane[1] * size[0]) <= max(size)


_POSITIONS = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,), "NCL": (2,), "NCDHW": (2, 3, 4)}


def pool_average(main: Tensor, layout: Layout) -> Tensor:
    """Mean over positions: (B, …) to (B, C).

    Raises: ModelError for a layout that has no such mean.

    >>> pool_average(torch.ones(2, 3, 4, 4), "NCHW").shape
    torch.Size([2, 3])
    """
    if layout == "NC":
        return main.clone()  # the next block may work in place
    if layout == "tokens":
        return mean_of_tokens(main)
    if layout not in _POSITIONS:
        raise ModelError(f"outputs of layout {layout!r} have no average; use the neck.")
    return main.mean(_POSITIONS[layout])


def pool_grid2(main: Tensor, layout: Layout, sides: tuple[int, ...]) -> Tensor:
    """Means over the four quarters of a map with `sides` H and W: (B, C, H, W) to (B, 4 C).

    Column 4 c + 2 r + s is channel c in row r and column s of the 2×2 grid; an odd middle
    row or column counts in both halves, as in adaptive average pooling.

    >>> pool_grid2(torch.arange(4.0).view(1, 1, 2, 2), "NCHW", (2, 2)).tolist()
    [[0.0, 1.0, 2.0, 3.0]]
    """
    if layout == "NHWC":
        main = main.permute(0, 3, 1, 2)
    rows, columns = ((slice(0, (side + 1) // 2), slice(side // 2, side)) for side in sides)
    quarters = [main[:, :, r, c].mean((2, 3)) for r in rows for c in columns]
    return torch.stack(quarters, dim=2).flatten(1)
