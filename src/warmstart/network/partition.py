"""A network is cut once into blocks: logits = classifier(neck(block_B(… block_1(x)))).

Blocks share the network's own modules and tensors. A network as an ordered list of layers: Huang
et al. 2019, "GPipe", §2.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from warmstart.errors import ModelError
from warmstart.network.architectures import find_family
from warmstart.network.encoder import Encoder
from warmstart.network.segments import (
    FAULTS,
    Recorder,
    SegmentStep,
    SegmentSteps,
    Trace,
    evaluating,
    find_classifier,
    inline_sizes,
    is_same,
    probe,
    segment,
    shallow_copy,
    traces,
    whole_network_steps,
)
from warmstart.network.text_encoders import mean_of_tokens
from warmstart.network.weights import n_parameters, place, unique_tensors
from warmstart.records.inputs import Inputs
from warmstart.records.network import BlockRecord, Layout, NetworkRecord


@dataclass(frozen=True, slots=True)
class EnsembleBranch:
    """The base model's own blocks above block `cut`, a submodule of a fine-tuned backbone."""

    name: str
    cut: int


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A partitioned network. `backbone` is the original without its classifier, tensors shared."""

    backbone: nn.Module
    classifier: nn.Module | None  # a Linear or 1×1 Conv2d; None: the neck gives the outputs
    owners: dict[str, str]  # each tensor, once: a block's name, "neck", "head" or "unused"
    steps: SegmentSteps
    record: NetworkRecord
    ensemble: EnsembleBranch | None = None

    @property
    def blocks(self) -> tuple[SegmentStep, ...]:
        return self.steps.blocks

    @property
    def answers_from_neck(self) -> bool:
        """Whether `outputs` is defined: there is a classifier, and it reads the neck alone."""
        return self.classifier is not None

    def features(self, inputs: Tensor) -> Tensor:
        """The classifier's input: inputs (B, C, H, W) to (B, F)."""
        return run_all((*self.steps.blocks, self.steps.neck), self.backbone, inputs)

    def logits(self, inputs: Tensor) -> Tensor:
        """The original network's outputs: inputs (B, C, H, W) to (B, K)."""
        return self.outputs(self.features(inputs))

    def outputs(self, vector: Tensor) -> Tensor:
        """The original outputs from the classifier's input: (B, F) to (B, K)."""
        if self.classifier is None:
            return vector
        if isinstance(self.classifier, nn.Conv2d):
            vector = vector[:, :, None, None]
        return self.steps.finish.run(self.backbone, self.classifier(vector))


def run_all(steps: Sequence[SegmentStep], backbone: nn.Module, value: Tensor) -> Tensor:
    """Run steps one after another on the modules of `backbone`."""
    for step in steps:
        value = step.run(backbone, value)
    return value


def cut(module: nn.Module, preprocessing: Inputs) -> Network:
    """Partition a network into blocks; one block ("whole") where its forward cannot be traced.

    The composition gives the network's own outputs; the module stays unchanged.
    Raises: ModelError if the network does not take inputs of that size.

    >>> from warmstart.network.load import load
    >>> base = load("lite0")
    >>> network = cut(base.module, base.record.preprocessing)
    >>> len(network.blocks), network.blocks[1].name
    (18, 'blocks.0.0')
    """
    with evaluating(module):
        inputs = probe(preprocessing)
        if isinstance(module, Encoder):
            steps = module.steps(module.window_of(preprocessing))
            return _network(module, steps, inputs[:1], "traced")
        outputs, classifier = find_classifier(module, inputs)
        for trace in traces(module, classifier, inputs[:2]):
            if (traced := _cut_traced(module, trace, inputs, outputs, classifier)) is not None:
                return traced
        if classifier is not None:
            with contextlib.suppress(*FAULTS, ModelError):  # it may need its classifier to run
                network = _network(module, whole_network_steps(classifier), inputs[:2], "whole")
                if is_same(network.logits(inputs.clone()), outputs):
                    return network
        return _network(module, whole_network_steps(None), inputs[:2], "whole")


def _cut_traced(
    module: nn.Module, trace: Trace, inputs: Tensor, outputs: Tensor, classifier: str | None
) -> Network | None:
    """Cut along a trace, if the result gives the network's outputs for two batch sizes."""
    traced = without(module, None)
    for name, constant in trace.constants.items():
        traced.register_buffer(name, constant, persistent=False)
    three, two = Recorder(traced, trace.graph), Recorder(traced, trace.graph)
    try:
        outputs_three = three.run(inputs.clone())  # a network may work in place
        two.run(inputs[:2].clone())
        inline_sizes(trace.graph, two, three)
        steps = segment(traced, trace.graph, two.outlines, classifier)
        if steps is None:
            return None
        network = _network(traced, steps, inputs[:2], "traced")
        is_faithful = is_same(outputs_three, outputs) and all(
            is_same(network.logits(inputs[:n].clone()), outputs[:n]) for n in (2, 3)
        )
    except FAULTS:
        return None  # a step that runs only inside the original: try the next trace
    return network if is_faithful else None


def _network(
    module: nn.Module, steps: SegmentSteps, inputs: Tensor, how: Literal["traced", "whole"]
) -> Network:
    """Assemble a network; shapes and costs are measured on `inputs` (B, C, H, W)."""
    backbone = without(module, steps.classifier)
    classifier = module.get_submodule(steps.classifier) if steps.classifier else None
    owners = find_owners(backbone, steps, classifier)
    record = measure(backbone, steps, classifier, owners, inputs.clone(), how)
    record = replace(record, family=find_family(module))
    return Network(backbone, classifier, owners, steps, record)


def without(module: nn.Module, name: str | None) -> nn.Module:
    """A copy of the network with `nn.Identity` in place of submodule `name`; the rest is shared."""
    clone = shallow_copy(module)
    if name is not None:
        child, _, rest = name.partition(".")
        clone._modules[child] = (
            without(module.get_submodule(child), rest) if rest else nn.Identity()
        )
    return clone


# ---- The owner of each tensor; shapes, costs and layouts of blocks.


def find_owners(
    backbone: nn.Module, steps: SegmentSteps, classifier: nn.Module | None
) -> dict[str, str]:
    """The owner of each tensor, tied ones once: the first block that reads it, or the neck.

    Otherwise "head" for the classifier's own tensors, "unused" for those that forward never reads.
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
    """The layout of an output of this shape, without the batch axis.

    `size` is the input's height and width: a map keeps its proportions. A tie is NCHW.
    """
    if len(shape) != 3:
        names: dict[int, Layout] = {1: "NC", 2: "NLC"}
        return names.get(len(shape), "other")
    is_last = len(size) == 2 and _has_proportions(shape[:2], size)
    return "NHWC" if is_last and not _has_proportions(shape[1:], size) else "NCHW"


def _has_proportions(plane: tuple[int, ...], size: tuple[int, ...]) -> bool:
    if size[0] == size[1]:
        return plane[0] == plane[1]
    return abs(plane[0] * size[1] - plane[1] * size[0]) <= max(size)


_POSITIONS = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,), "NCL": (2,), "NCDHW": (2, 3, 4)}


def pool_average(main: Tensor, layout: Layout) -> Tensor:
    """Mean over positions: (B, …) to (B, C).

    Raises: ModelError for a layout that has no such mean.
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

    Column 4 c + 2 r + s is channel c in row r and column s of the 2×2 grid; an odd middle row or
    column counts in both halves.
    """
    if layout == "NHWC":
        main = main.permute(0, 3, 1, 2)
    rows, columns = ((slice(0, (side + 1) // 2), slice(side // 2, side)) for side in sides)
    quarters = [main[:, :, r, c].mean((2, 3)) for r in rows for c in columns]
    return torch.stack(quarters, dim=2).flatten(1)
