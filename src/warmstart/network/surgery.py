"""Surgery: the backbone keeps its tensors, a new head reads its feature layers."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import cast

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError, PlanError
from warmstart.modalities.audio import AUDIO
from warmstart.modalities.registry import modality_of
from warmstart.modalities.table import TABLE
from warmstart.modalities.text import TEXT
from warmstart.network.architectures import build
from warmstart.network.audio_encoders import build_wave
from warmstart.network.feature_layers import LayerOrder, plan_scan
from warmstart.network.image_encoders import PREFIX as VISION
from warmstart.network.image_encoders import build_vision
from warmstart.network.inputs import refit, refit_size
from warmstart.network.partition import EnsembleBranch, Network, cut
from warmstart.network.segments import SegmentStep, shallow_copy
from warmstart.network.table_network import build_table
from warmstart.network.text_encoders import build_text
from warmstart.network.weights import (
    Mapped,
    check_finite,
    check_match,
    n_parameters,
    named_tensors,
    place,
    unique_tensors,
)
from warmstart.records.inputs import Inputs, pictures
from warmstart.records.network import BlockRecord, FeatureLayer, Layout


class MultiLayerHead(nn.Module):
    """The linear head on concatenated feature layers, with its calibration:

    logits = (W · concat(features) + b) / temperature + class_bias
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        temperature: float | Tensor = 1.0,
        class_bias: Tensor | None = None,
    ) -> None:
        """weight (K, D), bias (K,), class_bias (K,); copied to float32."""
        super().__init__()
        shift = torch.zeros(len(bias)) if class_bias is None else class_bias
        values = (weight, bias, torch.as_tensor(temperature), shift)
        own = [v.detach().to(torch.float32, copy=True).contiguous() for v in values]
        self.weight, self.bias = nn.Parameter(own[0]), nn.Parameter(own[1])
        self.temperature: Tensor
        self.class_bias: Tensor
        self.register_buffer("temperature", own[2])
        self.register_buffer("class_bias", own[3])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature layers, each (B, d_t) with Σ d_t = D, to logits (B, K)."""
        scores = nn.functional.linear(torch.cat(list(features), dim=1), self.weight, self.bias)
        return scores / self.temperature + self.class_bias


class WarmModel(nn.Module):
    """Backbone and new head in one network: normalised inputs (B, C, H, W) to logits (B, K).

    State dict: `backbone.<original name>` for all tensors but the old classifier's, and `head.*`.
    """

    def __init__(self, backbone: nn.Module, scan: LayerOrder, head: MultiLayerHead) -> None:
        super().__init__()
        self.backbone, self.scan, self.head = backbone, scan, head

    def features(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The head's input: one (B, d) per feature layer."""
        return self.scan.run(self.backbone, inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(inputs))
        return logits


def assemble(
    network: Network,
    feature_layers: Sequence[FeatureLayer],
    weight: Tensor,
    bias: Tensor,
    temperature: float | Tensor = 1.0,
    class_bias: Tensor | None = None,
) -> WarmModel:
    """Join a partitioned network and a fitted head; the backbone's tensors are shared and frozen.

    `freeze.apply` unfreezes the blocks to be trained.
    Shapes: weight (K, D) with D the sum of the layers' widths, bias and class_bias (K,).
    Raises: ModelError if the head does not fit the feature layers.
    """
    scan = plan_scan(network, feature_layers)
    n_classes, width = weight.shape
    if width != sum(scan.widths) or bias.shape != (n_classes,):
        raise ModelError(
            f"a head of {tuple(weight.shape)} with bias {tuple(bias.shape)} does not fit feature "
            f"layers of widths {scan.widths}; fit the head on these layers."
        )
    backbone = network.backbone.requires_grad_(False)
    return WarmModel(backbone, scan, MultiLayerHead(weight, bias, temperature, class_bias)).eval()


def rebuild(
    arch: str,
    state: Mapping[str, Tensor],
    feature_layers: Sequence[FeatureLayer],
    n_classes: int,
    preprocessing: Inputs,
    network: nn.Module | None = None,
    added: Sequence[int] = (),
    ensemble: int | None = None,
) -> WarmModel:
    """Rebuild a warm model from its architecture and its saved tensors, strictly.

    `network` is your own module where `arch` is "module:…"; it is left unchanged.
    `added` is the hidden width of each block added behind the last one, `ensemble` the block
    above which the base model's own blocks run beside fine-tuned ones.
    Raises: ModelError if the architecture is unknown or a tensor is missing, extra, of
    another shape, or not finite.
    """
    where = "model.safetensors"
    weight = state.get("head.weight", torch.empty(0))
    if weight.ndim != 2 or len(weight) != n_classes:
        raise ModelError(f"{where}: no head.weight for {n_classes} classes; restore the run.")
    backbone = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    if network is not None:
        module = copy.deepcopy(network)
        if modality_of(preprocessing).has_pixels:
            refit_size(module, backbone, pictures(preprocessing).size)
            refit(module, backbone, pictures(preprocessing).channels)
        module.eval().requires_grad_(False)
    elif arch.startswith("module:"):
        raise ModelError(
            f"this model was made from your own {arch.partition(':')[2]}; "
            "pass an instance of it as `network`."
        )
    else:
        module = fresh(arch, backbone, preprocessing)
    rebuilt = cut(module, preprocessing)
    last, generator = rebuilt.record.blocks[-1], torch.Generator().manual_seed(0)
    rebuilt = graft(rebuilt, [make_block(last, generator, hidden) for hidden in added])
    if ensemble is not None:
        rebuilt = add_ensemble_branch(rebuilt, rebuilt.backbone, ensemble)
    blank = torch.zeros(n_classes, weight.shape[1])
    model = assemble(rebuilt, feature_layers, blank, torch.zeros(n_classes))
    own, unique = model.state_dict(), unique_tensors(model)
    check_match(unique, {n: t for n, t in state.items() if n in unique or n not in own}, where)
    check_finite(state, where)
    for name, tensor in unique.items():
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise ModelError(f"{where}: {name} is of type {state[name].dtype}; restore the run.")
    if float(state["head.temperature"]) <= 0:  # it would reverse the classes
        raise ModelError(f"{where}: head.temperature is not above 0; restore the run.")
    model.load_state_dict({**own, **state})
    return model


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """Tensors to save, each once (safetensors refuses ties), contiguous, detached.

    Memory-mapped tensors stay in their file.
    """
    return {
        name: tensor if isinstance(tensor, Mapped) else tensor.detach().cpu().contiguous()
        for name, tensor in unique_tensors(model).items()
    }


_BUILDERS: dict[str, Callable[[str, Mapping[str, Tensor]], nn.Module]] = {
    TABLE.kind: lambda _, backbone: build_table(backbone),
    AUDIO.kind: lambda arch, _: build_wave(arch),
    TEXT.kind: lambda arch, _: build_text(arch),
}


def fresh(arch: str, backbone: Mapping[str, Tensor], inputs: Inputs) -> nn.Module:
    """An architecture for such inputs, shaped as the tensors of `backbone`, weights arbitrary.

    Raises: ModelError for an unknown architecture.
    """
    module: nn.Module
    modality = modality_of(inputs)
    if modality.has_pixels:
        prep, is_vision = pictures(inputs), arch.startswith(VISION)
        module = build_vision(arch) if is_vision else build(arch, backbone, prep.size)
        refit(module, backbone, prep.channels)
    else:
        module = _BUILDERS.get(modality.kind, _BUILDERS[TEXT.kind])(arch, backbone)
    return module.eval().requires_grad_(False)


# ---- Fresh blocks: their tensors are reinitialised, as if the network had never been trained.


_STD = 0.02  # Devlin et al. 2018 (BERT); Dosovitskiy et al. 2020 (ViT): tables, tokens
_SHIFTS = ("bias", "beta", "shift", "offset")


def refresh(
    where: Network | nn.Module, names: Collection[str], generator: torch.Generator
) -> tuple[str, ...]:
    """Reinitialise the parameters of the named blocks, in place, and reset their statistics.

    In a `Network`, `names` are those of its blocks, and the neck goes with the last block; in
    any other module they are the dotted names of its submodules. Tensors of other blocks, tied
    ones too, and constant tables in buffers stay unchanged. Layers use their own
    `reset_parameters`; without one, matrices get a normal distribution (0.02, cut at two of it),
    vectors 1, or 0 where they shift, by their names. The global random state stays unchanged.
    Returns: the names of the parameters. Raises: PlanError for an unknown name.
    """
    existing: Collection[str]
    if isinstance(where, Network):
        module, existing = where.backbone, {*(block.name for block in where.blocks), "neck"}
        chosen = {*names, "neck"} if where.blocks[-1].name in names else {*names}
        own = [t for n, t in named_tensors(module).items() if where.owners.get(n) in chosen]
    else:
        module = where
        existing = children = dict(module.named_modules())
        own = [t for n in names if n in children for t in named_tensors(children[n]).values()]
    for name in names:
        if name not in existing:
            raise PlanError(f"the network has no block {name!r} to make fresh; check its name.")
    places = {place(tensor) for tensor in own}
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        # Children first: a module that resets its children itself has the last word.
        for _, child in reversed(list(module.named_modules())):
            _reinitialise(child, places)
    return tuple(
        name
        for name, tensor in named_tensors(module).items()
        if isinstance(tensor, nn.Parameter) and place(tensor) in places
    )


def _reinitialise(module: nn.Module, places: Collection[tuple[int, ...]]) -> None:
    for name, parameter in module._parameters.items():
        if parameter is None or place(parameter) not in places:
            continue
        if parameter.ndim > 1:
            values = torch.empty_like(parameter)
            nn.init.trunc_normal_(values, std=_STD, a=-2 * _STD, b=2 * _STD)
        else:
            is_shift = any(word in name for word in _SHIFTS)
            values = torch.full_like(parameter, 0.0 if is_shift else 1.0)
        parameter.copy_(values)
    reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    tensors = (*module._parameters.values(), *module._buffers.values())
    has_own = any(tensor is not None and place(tensor) in places for tensor in tensors)
    is_alone = all(place(tensor) in places for tensor in named_tensors(module).values())
    if has_own and is_alone and reset is not None:
        parameters = inspect.signature(reset).parameters.values()
        free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if all(p.default is not p.empty or p.kind in free for p in parameters):
            reset()


# ---- Blocks added behind the last one: residual bottlenecks that add nothing at first.
#
# Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", §2.1: a bottleneck
# beside the identity; `up` begins at zero, so that step 0 gives the old network's outputs.


ADDED = "added"  # of the submodule; the next ones are added_2, …


class AddedBlock(nn.Module):
    """x + up(gelu(norm(down(x)))) over the channels of a map, a sequence or a vector.

    The norm keeps no statistics: outputs never depend on the rest of the batch.
    Shapes: (B, C, H, W) in layout NCHW, else (B, …, C); the same out.
    """

    def __init__(
        self, channels: int, hidden: int, layout: Layout, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.channels, self.hidden, self.layout = channels, hidden, layout
        # On the meta device: layers would initialise from the global generator.
        if layout == "NCHW":
            self.down: nn.Module = nn.Conv2d(channels, hidden, 1, device="meta")
            self.norm: nn.Module = nn.GroupNorm(1, hidden, device="meta")
            self.up: nn.Module = nn.Conv2d(hidden, channels, 1, device="meta")
        else:
            self.down = nn.Linear(channels, hidden, device="meta")
            self.norm = nn.LayerNorm(hidden, device="meta")
            self.up = nn.Linear(hidden, channels, device="meta")
        self.act = nn.GELU()
        self.to_empty(device="cpu")
        for name, parameter in self.named_parameters():
            nn.init.constant_(parameter, float(name == "norm.weight"))
        weight: Tensor = self.down.get_parameter("weight")
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.up(self.act(self.norm(self.down(x)))))


def make_block(
    record: BlockRecord, generator: torch.Generator, hidden: int | None = None
) -> AddedBlock:
    """A block that fits behind another; a quarter of its channels hidden, but at least 8.

    Raises: ModelError where the other block's output has no axis of channels.
    """
    channels = _channels(record)
    n_hidden = max(8, channels // 4) if hidden is None else hidden
    return AddedBlock(channels, n_hidden, record.layout, generator)


def graft(network: Network, added: Sequence[AddedBlock]) -> Network:
    """A network with blocks between its last one and its neck; the old one stays unchanged.

    The new backbone is a shallow copy: it shares all tensors, and holds the new blocks as
    submodules `added`, `added_2`, …; their block names are "added", "added#2", …
    Raises: ModelError where a block does not fit the last block's output.
    """
    backbone, owners = shallow_copy(network.backbone), dict(network.owners)
    steps, records, last = list[SegmentStep](), list[BlockRecord](), network.record.blocks[-1]
    for block in added:
        if (block.channels, block.layout) != (_channels(last), last.layout):
            raise ModelError(
                f"a block for {block.channels} channels ({block.layout}) does not fit the output "
                f"{last.shape_out} ({last.layout}) of {last.name}; make it with make_block."
            )
        own = {*backbone._modules, *backbone._parameters, *backbone._buffers}
        name = _free(ADDED, "_", {*vars(backbone), *dir(type(backbone)), *own})
        block_name = _free(ADDED, "#", {step.name for step in (*network.blocks, *steps)})
        backbone.add_module(name, block.train(backbone.training))
        run = lambda backbone, x, name=name: backbone.get_submodule(name)(x)  # noqa: E731
        steps.append(SegmentStep(block_name, run, (name,), ()))
        owners |= {f"{name}.{tensor}": block_name for tensor in block.state_dict()}
        positions = math.prod(last.shape_out) // block.channels
        records.append(
            BlockRecord(
                name=block_name,
                parameters=n_parameters(block),
                shape_in=last.shape_out,
                shape_out=last.shape_out,
                macs=2 * positions * block.channels * block.hidden,
                layout=last.layout,
            )
        )
    names = [step.modules[0] for step in steps]
    every = (*(_without_added(network, step, names) for step in network.steps.blocks), *steps)
    return replace(
        network,
        backbone=backbone,
        owners=owners,
        steps=replace(network.steps, blocks=every),
        record=replace(network.record, blocks=(*network.record.blocks, *records)),
    )


def shift_layers(
    feature_layers: Iterable[FeatureLayer], n_before: int, n_added: int
) -> tuple[FeatureLayer, ...]:
    """Feature layers of a network of `n_before` blocks when `n_added` follow: the last move up."""
    return tuple(
        replace(layer, block=n_before + n_added) if layer.block == n_before else layer
        for layer in feature_layers
    )


def _channels(record: BlockRecord) -> int:
    if record.layout in ("other", "NCL", "NCDHW"):
        raise ModelError(
            f"the output of {record.name}, {record.shape_out} per image, has no axis of channels: "
            "no layers can be added behind it; tune it instead (--strategy last:1)."
        )
    return record.shape_out[0] if record.layout == "NCHW" else record.shape_out[-1]


def _free(name: str, mark: str, names: set[str]) -> str:
    """`name`, or `name` with the first number from 2 on that is not in `names`."""
    candidates = (f"{name}{mark}{number}" for number in count(2))
    return next(n for n in chain([name], candidates) if n not in names)


def _without_added(network: Network, step: SegmentStep, names: Sequence[str]) -> SegmentStep:
    """A step that runs a network in one piece without added blocks: a container would call them."""
    if "" not in step.modules:
        return step

    def run(backbone: nn.Module, x: Tensor) -> Tensor:
        original = shallow_copy(backbone)
        for name in names:
            original._modules.pop(name, None)
        return step.run(original, x)

    own = network.backbone
    attributes = (*step.attributes, *own._parameters, *own._buffers)
    return replace(step, run=run, modules=tuple(own._modules), attributes=attributes)


# ---- The base model's own upper blocks beside fine-tuned ones: both run on one frozen prefix.
#
# The backbone of the fine-tuned network holds the others as its submodule `base`, under their
# original names. A head may then read feature layers of both (`FeatureLayer.of`).


BRANCH = "base"  # of the submodule


def can_ensemble(network: Network, cut: int) -> bool:
    """Whether the blocks after `cut` can exist twice: separate modules, no tensors shared below."""
    upper = _upper(network, cut)
    is_whole = any("" in step.modules for step in network.steps.blocks)
    if is_whole or BRANCH in {*network.backbone._modules, *dir(type(network.backbone))}:
        return False
    owners = {"unused", *(step.name for step in upper)}
    names = unique_tensors(_only(network.backbone, upper))
    return all(network.owners.get(name) in owners for name in names)


def add_ensemble_branch(network: Network, other: nn.Module, cut: int) -> Network:
    """A shallow copy of `network` with copies of the blocks after `cut` of `other`, a backbone."""
    backbone = shallow_copy(network.backbone)
    branch = copy.deepcopy(_only(other, _upper(network, cut))).requires_grad_(False)
    backbone.add_module(BRANCH, branch.eval())
    owners = network.owners | {f"{BRANCH}.{name}": BRANCH for name in unique_tensors(branch)}
    return replace(network, backbone=backbone, owners=owners, ensemble=EnsembleBranch(BRANCH, cut))


def _upper(network: Network, cut: int) -> tuple[SegmentStep, ...]:
    return (*network.steps.blocks[cut:], network.steps.neck)


def _only(module: nn.Module, steps: Sequence[SegmentStep]) -> nn.Module:
    called = {name for step in steps for name in step.modules}
    read = {name for step in steps for name in step.attributes}
    return _pruned(module, called, read, "")


def _pruned(module: nn.Module, called: set[str], read: set[str], path: str) -> nn.Module:
    clone = shallow_copy(module)
    for tensors in (clone._parameters, clone._buffers):
        for name in [name for name in tensors if f"{path}{name}" not in read]:
            tensors.pop(name)
    for name, child in list(clone._modules.items()):
        own = f"{path}{name}"
        if child is None or own in called:
            continue
        is_above = any(one.startswith(f"{own}.") for one in called | read)
        pruned = _pruned(child, called, read, f"{own}.") if is_above else nn.Identity()
        clone._modules[name] = pruned
    return clone
