"""Low-rank updates beside frozen layers, by the peft library.

    layer(x) + 2 · B(A(x))

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", §4.1: A is random, B is
zero at first, so that step 0 gives the old network's outputs. `merge` adds the updates to the
layers' own weights and removes them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import PlanError, first_line, install_command
from warmstart.network.partition import Network
from warmstart.network.segments import SegmentStep, evaluating, is_weighty
from warmstart.network.weights import named_tensors, place, unique_tensors
from warmstart.records.network import BlockRecord

_ADAPTER = "default"
_SCALE = 2  # factor of an update
# In eval mode these read the weights of their children without calling them.
_BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def inject(
    where: Network | nn.Module, names: Sequence[str], rank: int, generator: torch.Generator
) -> tuple[str, ...]:
    """Add updates of rank `rank` to the layers of the named blocks, in place.

    In a `Network`, `names` are those of its blocks; in any other module the dotted names of its
    submodules. Layers are nn.Linear and nn.Conv2d without groups, if the network calls them: the
    updates of a layer whose weights are read directly would never be used. Layers with tied weights
    are skipped. The global random state, modes and gradient flags of existing tensors stay.
    Returns: the dotted names of the layers. Raises: PlanError if peft is not installed, the rank
    is below 1, or a block has no such layer.
    """
    if rank < 1:
        raise PlanError(f"training.lora_rank {rank}: low-rank updates have a rank of 1 or more.")
    module = where.backbone if isinstance(where, Network) else where
    layers, bare = list[str](), list[str]()
    for name in names:
        if isinstance(where, Network):
            targets, is_weightless = _block_layers(where, name), False
        else:
            targets, is_weightless = _module_layers(where, name)
        layers += targets
        bare += [] if targets or is_weightless else [name]
    if bare or not layers:
        raise PlanError(
            f"block {[*bare, *names, 'of no name'][0]} has no linear or plain convolution layer "
            "for low-rank updates; tune it or leave it frozen."
        )
    _wrap(module, layers, rank)
    for name in layers:
        layer: Any = module.get_submodule(name)
        layer.train(layer.base_layer.training)
        with torch.no_grad():
            values = torch.empty(layer.lora_A[_ADAPTER].weight.shape)
            nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
            layer.lora_A[_ADAPTER].weight.copy_(values)
            layer.lora_B[_ADAPTER].weight.zero_()
    return tuple(layers)


def bare_blocks(network: Network) -> frozenset[str]:
    """Names of the blocks without a layer for low-rank updates."""
    names = (block.name for block in network.record.blocks)
    return frozenset(name for name in names if not _block_layers(network, name))


def merge(module: nn.Module) -> None:
    """Add the updates to the layers' own weights and remove them, in place.

    Tensors have their original names again. Without updates nothing happens.
    """
    for name in _adapted(module):
        layer: Any = module.get_submodule(name)
        parent, _, last = name.rpartition(".")
        with torch.no_grad():
            layer.merge()
        # At its old position among the others: tensors keep their order.
        module.get_submodule(parent)._modules[last] = layer.base_layer


def has_updates(module: nn.Module) -> bool:
    """Whether a module has unmerged low-rank updates."""
    return bool(_adapted(module))


def original_names(module: nn.Module) -> dict[str, tuple[str, bool]]:
    """Each tensor's name → its name before `inject`, and whether it belongs to an update.

    A tensor of an update maps to the weight that it is added to.
    """
    adapted = set(_adapted(module))
    return {name: _original(name, adapted) for name in module.state_dict(keep_vars=True)}


def base_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All tensors but those of updates by their original names, tied ones once."""
    origins, tensors = original_names(module), unique_tensors(module).items()
    return {origins[name][0]: tensor for name, tensor in tensors if not origins[name][1]}


def _adapted(module: nn.Module) -> list[str]:
    return [n for n, m in module.named_modules() if {"base_layer", "lora_A"} <= m._modules.keys()]


def _original(name: str, adapted: set[str]) -> tuple[str, bool]:
    pieces = name.split(".")
    for end in range(len(pieces) - 1, 0, -1):
        layer = ".".join(pieces[:end])
        if layer in adapted:
            if pieces[end] == "base_layer":
                return ".".join([layer, *pieces[end + 1 :]]), False
            return f"{layer}.weight", True
    return name, False


def _block_layers(network: Network, name: str) -> list[str]:
    """The layers of a block, without those whose weights the network's own code reads."""
    steps = {step.name: step for step in network.steps.blocks}
    if name not in steps:
        raise PlanError(f"the network has no block {name!r}; it has {', '.join(steps)}.")
    layers = _layers(network.backbone, steps[name].modules)
    own = [n for n in layers if network.owners.get(f"{n}.weight") == name]
    (record,) = (block for block in network.record.blocks if block.name == name)
    return _called(network.backbone, steps[name], record, own)


def _module_layers(module: nn.Module, name: str) -> tuple[list[str], bool]:
    """The layers of a submodule, and whether it has no weights at all."""
    submodule = dict(module.named_modules()).get(name)
    if submodule is None:
        raise PlanError(f"the network has no layers {name!r}; see its named_modules().")
    return list(_layers(module, (name,))), not is_weighty(submodule)


def _layers(module: nn.Module, paths: Sequence[str]) -> Iterator[str]:
    """Names of the layers below some modules that peft can adapt and merge exactly."""
    uses = Counter(map(place, named_tensors(module).values()))
    for name, layer in module.named_modules():
        parent = module.get_submodule(name.rpartition(".")[0])
        is_inside = any(not path or f"{name}.".startswith(f"{path}.") for path in paths)
        if is_inside and _is_plain(layer) and not isinstance(parent, _BYPASSING):
            weight = layer._parameters.get("weight")
            if weight is not None and uses[place(weight)] == 1:
                yield name


def _is_plain(layer: nn.Module) -> bool:
    """Whether peft can adapt a layer: no subclass, no dilation, zeros as padding."""
    if isinstance(layer, nn.Conv2d):
        is_dense = layer.groups == 1 and set(layer.dilation) == {1}
        has_zeros = layer.padding_mode == "zeros"
        return is_dense and has_zeros and type(layer).forward is nn.Conv2d.forward
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def _called(
    backbone: nn.Module, step: SegmentStep, block: BlockRecord, names: Sequence[str]
) -> list[str]:
    """The named layers that a block calls when it runs on noise."""
    if not names:
        return []
    called: set[str] = set()
    like = next(iter(backbone.parameters()))
    noise = torch.randn(2, *block.shape_in, generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        for name in names:
            layer = backbone.get_submodule(name)
            hook = layer.register_forward_pre_hook(lambda *_, name=name: called.add(name))
            stack.enter_context(hook)
        stack.enter_context(evaluating(backbone))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        step.run(backbone, noise.to(like.device, like.dtype))
    return [name for name in names if name in called]


def _wrap(module: nn.Module, names: Sequence[str], rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        command = install_command("lora")
        raise PlanError(
            f"low-rank updates need the peft library ({first_line(error)}); run `{command}`."
        ) from error
    config = LoraConfig(
        r=rank,
        lora_alpha=_SCALE * rank,
        lora_dropout=0.0,
        bias="none",
        target_modules="|".join(map(re.escape, names)),  # a list would match ends of names too
    )
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, module, _ADAPTER)
    vars(module).pop("peft_config", None)
    for parameter, flag in flags:
        parameter.requires_grad = flag
