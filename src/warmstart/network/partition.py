"""A network is cut once into an ordered list of blocks, a neck and its classifier.

    logits = classifier(neck(block_B(… block_1(x))))

Blocks share the network's own modules and tensors; nothing is copied or changed. A network as an
ordered list of layers that can be handled one by one: Huang et al. 2019, "GPipe", §2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.architectures import find_family
from warmstart.network.encoder import Encoder
from warmstart.network.measure import find_owners, measure
from warmstart.network.segments import (
    SegmentStep,
    SegmentSteps,
    find_classifier,
    is_same,
    probe,
    segment,
    whole_network_steps,
)
from warmstart.network.trace import (
    Recorder,
    Trace,
    attempts,
    evaluating,
    inline_sizes,
    shallow_copy,
)
from warmstart.records.inputs import Inputs
from warmstart.records.network import NetworkRecord

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class EnsembleBranch:
    """The base model's own blocks above block `cut`, a submodule of a fine-tuned backbone."""

    name: str
    cut: int


class Block(nn.Module):
    """One block of a partitioned network: state to state; `main` is the feature layers' tensor.

    Its children are the network's own modules, so `train()`, `eval()` and `parameters()`
    reach the originals.
    """

    def __init__(self, network: nn.Module, step: SegmentStep, tensors: Sequence[str]) -> None:
        super().__init__()
        self.name = step.name
        self.tensors = tuple(tensors)  # names in the network's state dict; each has one owner
        self._run = step.run
        self._network = (network,)  # in a tuple: the network is no child of its block
        self.own = nn.ModuleList(network.get_submodule(name) for name in step.modules)
        read = []
        for name in step.attributes:
            owner, _, last = name.rpartition(".")
            read.append(cast(Tensor, getattr(network.get_submodule(owner), last)))
        self.read = nn.ParameterList(t for t in read if isinstance(t, nn.Parameter))

    def forward(self, state: State) -> State:
        """Map main (B, …) to the next main (B, …); other values pass through."""
        return {**state, "main": self._run(self._network[0], state["main"])}


def make_blocks(
    backbone: nn.Module, steps: Sequence[SegmentStep], owners: Mapping[str, str]
) -> tuple[Block, ...]:
    """One block per step, with the names of the tensors that it owns."""
    return tuple(
        Block(backbone, step, [name for name, owner in owners.items() if owner == step.name])
        for step in steps
    )


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A partitioned network. `backbone` is the original without its classifier, tensors shared."""

    backbone: nn.Module
    blocks: tuple[Block, ...]
    neck: Block  # from the last state to the classifier's (B, F) input
    classifier: nn.Module | None  # a Linear or 1×1 Conv2d; None: the neck gives the outputs
    owners: dict[str, str]  # each tensor, once: a block's name, "neck", "head" or "unused"
    steps: SegmentSteps
    record: NetworkRecord
    ensemble: EnsembleBranch | None = None

    def features(self, inputs: Tensor) -> Tensor:
        """The classifier's input: inputs (B, C, H, W) to (B, F)."""
        return run_all((*self.steps.blocks, self.steps.neck), self.backbone, inputs)

    def logits(self, inputs: Tensor) -> Tensor:
        """The original network's outputs: inputs (B, C, H, W) to (B, K)."""
        return self.outputs(self.features(inputs))

    @property
    def answers_from_neck(self) -> bool:
        """Whether `outputs` is defined: there is a classifier, and it reads the neck alone."""
        return self.classifier is not None

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

    The composition is compared with the network's own outputs before it is returned. The
    module's modes, gradient flags and tensors stay unchanged.
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
        for trace in attempts(module, classifier, inputs[:2]):
            if (traced := _cut_traced(module, trace, inputs, outputs, classifier)) is not None:
                return traced
        if classifier is not None:
            try:
                network = _network(module, whole_network_steps(classifier), inputs[:2], "whole")
                if is_same(network.logits(inputs.clone()), outputs):
                    return network
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, ModelError):
                pass  # it cannot run without its classifier: its outputs are the features
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
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None  # a step that runs only inside the original: try the next trace
    return network if is_faithful else None


def _network(
    module: nn.Module, steps: SegmentSteps, inputs: Tensor, how: Literal["traced", "whole"]
) -> Network:
    """Assemble a network; shapes and costs are measured on `inputs` (B, C, H, W)."""
    backbone = without(module, steps.classifier)
    classifier = module.get_submodule(steps.classifier) if steps.classifier else None
    owners = find_owners(backbone, steps, classifier)
    *blocks, neck = make_blocks(backbone, (*steps.blocks, steps.neck), owners)
    record = measure(backbone, steps, classifier, owners, inputs.clone(), how)
    return Network(
        backbone=backbone,
        blocks=tuple(blocks),
        neck=neck,
        classifier=classifier,
        owners=owners,
        steps=steps,
        record=replace(record, family=find_family(module)),
    )


def without(module: nn.Module, name: str | None) -> nn.Module:
    """A copy of the network with `nn.Identity` in place of submodule `name`; the rest is shared.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    >>> without(net, "1")[1], net[1].out_features
    (Identity(), 4)
    """
    clone = shallow_copy(module)
    if name is not None:
        child, _, rest = name.partition(".")
        clone._modules[child] = (
            without(module.get_submodule(child), rest) if rest else nn.Identity()
        )
    return clone
