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

from warmstart.errors import PlanError, install_command
from warmstart.network.partition import Network
from warmstart.network.segments import SegmentStep, is_weighty
from warmstart.network.tensors import all_tensors, place
from warmstart.network.trace import evaluating
from warmstart.records.network import BlockRecord

_ADAPTER = "default"
_SCALE = 2  # factor of an update
# In eval mode these read the weights of their children without calling them.
_BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def inject(
    where: Network | nn.Module, names: Sequence[str], rank: int, generator: torch.Generator
) -> tuple[str, ...]:
    """Add updates of rank `rank` to the layers of the named blocks, in place.

    In a `Network`, `names` are those of its blocks; in any other module the dotted names of
    its submodules. Layers are nn.Linear and nn.Conv2d without groups, if the network calls
    them: the updates of a layer whose weights are read directly would never be used. Layers
    with tied weights are left alone. The global random state, modes and gradient flags of
    existing tensors stay unchanged.
    Returns: the dotted names of the layers. Raises: PlanError if peft is not installed, the
    rank is below 1, or a block has no such layer.
    """
    if rank < 1:
        raise PlanError(f"training.lora_rank {rank}: low-rank updates have a rank of 1 or more.")
    module = where.backbone if isinstance(where, Network) else where
    targets = [name for layers in _targets(where, names) for name in layers]
    if not targets:
        raise _no_layer(names[0] if names else "of no name")
    _wrap(module, targets, rank)
    for name in targets:
        layer: Any = module.get_submodule(name)
        layer.train(layer.base_layer.training)
        with torch.no_grad():
            values = torch.empty(layer.lora_A[_ADAPTER].weight.shape)
            nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
            layer.lora_A[_ADAPTER].weight.copy_(values)
            layer.lora_B[_ADAPTER].weight.zero_()
    return tuple(targets)


def bare_blocks(network: Network) -> frozenset[str]:
    """Names of the blocks without a layer for low-rank updates."""
    bare = set()
    for block in network.record.blocks:
        try:
            next(_targets(network, [block.name]))
        except PlanError:
            bare.add(block.name)
    return frozenset(bare)


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

    >>> original_names(nn.Linear(2, 2))
    {'weight': ('weight', False), 'bias': ('bias', False)}
    """
    adapted = set(_adapted(module))
    return {name: _original(name, adapted) for name in module.state_dict(keep_vars=True)}


def base_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All tensors but those of updates by their original names, tied ones once."""
    origins = original_names(module)
    unique: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        original, is_update = origins[name]
        if isinstance(tensor, Tensor) and not is_update:
            unique.setdefault(place(tensor), (original, tensor))
    return dict(unique.values())


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


def _targets(where: Network | nn.Module, names: Sequence[str]) -> Iterator[list[str]]:
    """The layers of each name. Raises: PlanError where a block has none."""
    if not isinstance(where, Network):
        modules = dict(where.named_modules())
        for name in names:
            if name not in modules:
                raise PlanError(f"the network has no layers {name!r}; see its named_modules().")
            layers = list(_layers(where, (name,)))
            if not layers and is_weighty(modules[name]):
                raise _no_layer(name)
            yield layers
        return
    steps = {step.name: step for step in where.steps.blocks}
    records = {block.name: block for block in where.record.blocks}
    for name in names:
        if name not in steps:
            raise PlanError(f"the network has no block {name!r}; it has {', '.join(steps)}.")
        own = [
            n
            for n in _layers(where.backbone, steps[name].modules)
            if where.owners.get(f"{n}.weight") == name
        ]
        layers = _called(where.backbone, steps[name], records[name], own)
        if not layers:
            raise _no_layer(name)
        yield layers


def _no_layer(name: str) -> PlanError:
    return PlanError(
        f"block {name} has no linear or plain convolution layer for low-rank updates; "
        "tune it or leave it frozen."
    )


def _layers(module: nn.Module, paths: Sequence[str]) -> Iterator[str]:
    """Names of the layers below some modules that peft can adapt and merge exactly."""
    uses = Counter(map(place, all_tensors(module)))
    for name, layer in module.named_modules():
        parent = module.get_submodule(name.rpartition(".")[0])
        is_inside = any(not path or f"{name}.".startswith(f"{path}.") for path in paths)
        if is_inside and _is_plain(layer) and not isinstance(parent, _BYPASSING):
            weight = layer._parameters.get("weight")
            if weight is not None and uses[place(weight)] == 1:
                yield name


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what its class says: subclasses may pad or scale on their own.

    peft's updates of a convolution support neither dilation nor other padding than zeros.
    """
    if isinstance(layer, nn.Conv2d):
        is_usual = layer.groups == 1 and set(layer.dilation) == {1}
        is_usual = is_usual and layer.padding_mode == "zeros"
        return is_usual and type(layer).forward is nn.Conv2d.forward
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def _called(
    backbone: nn.Module, step: SegmentStep, block: BlockRecord, names: Sequence[str]
) -> list[str]:
    """The named layers that a block calls when it runs on noise.

    Other layers' weights are read by the network's own code, which an update cannot reach.
    """
    if not names:
        return []
    called: set[str] = set()
    like = next(iter(backbone.parameters()))
    noise = torch.randn(2, *block.shape_in, generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        for name in names:
            hook = backbone.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: called.add(name)
            )
            stack.enter_context(hook)
        stack.enter_context(evaluating(backbone))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        step.run(backbone, noise.to(like.device, like.dtype))
    return [name for name in names if name in called]


def _wrap(module: nn.Module, names: Sequence[str], rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        reason = (str(error).splitlines() or ["not found"])[0]
        raise PlanError(
            f"low-rank updates need the peft library ({reason}); run `{install_command('lora')}`."
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
