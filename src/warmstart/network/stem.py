"""The first layer of a network: found with hooks, and adapted to another number of channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import ParametrizationList

from warmstart.errors import ModelError, first_line
from warmstart.network.segments import FAULTS, is_same

# Raised by a network, its library or the user's own code at inputs that it was not made for.
REFUSALS = (*FAULTS, AssertionError, KeyError, ZeroDivisionError, ModelError)
_COUNTS = ("in_chans", "in_channels", "num_channels")  # libraries' names of the number


@dataclass(frozen=True, slots=True)
class FirstLayer:
    """A convolution on the input, and the BatchNorm behind it if that alone reads its output."""

    name: str
    conv: nn.Conv2d
    norm: tuple[str, _BatchNorm] | None


class _Call(NamedTuple):
    name: str
    layer: nn.Module
    inputs: Tensor | None
    output: Any


def find_stems(module: nn.Module, inputs: Tensor) -> tuple[FirstLayer, ...]:
    """The convolutions on the input (B, C, H, W) itself: one, or parallel branches.

    Raises: ModelError if the first layer cannot be given other channels.

    >>> find_stems(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), torch.zeros(1, 3, 2, 2))[0].name
    '0'
    """
    calls = _record_calls(module, inputs)
    if not calls:
        raise ModelError(f"{type(module).__name__} has no layer whose channels could be changed.")
    entry = calls[0].inputs
    first = [call for call in calls if entry is not None and call.inputs is entry] or calls[:1]
    convolutions = [_check_stem(type(module).__name__, call, inputs) for call in first]
    stems = []
    for call, conv in zip(first, convolutions, strict=True):
        readers = [c for c in calls if c.inputs is call.output]
        layer = readers[0].layer if len(readers) == 1 else None
        is_norm = isinstance(layer, _BatchNorm) and layer.running_mean is not None
        norm = (readers[0].name, cast(_BatchNorm, layer)) if is_norm else None
        stems.append(FirstLayer(call.name, conv, norm))
    return tuple(stems)


def _record_calls(module: nn.Module, inputs: Tensor) -> list[_Call]:
    """Calls of the layers that hold parameters themselves, in order."""
    calls: list[_Call] = []

    def record(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            values = [*args, *kwargs.values()]
            tensor = next((value for value in values if isinstance(value, Tensor)), None)
            calls.append(_Call(name, layer, tensor, output))

        return hook

    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d) or _is_leaf(layer):
                hook = layer.register_forward_hook(record(name), with_kwargs=True)
                hooks.enter_context(hook)
        try:
            with torch.no_grad():
                module(inputs.clone())
        except REFUSALS as error:
            raise ModelError(
                f"{type(module).__name__} does not take inputs of {inputs.shape[1]} channels "
                f"({first_line(error)}); pass the preprocessing that it was trained with."
            ) from error
    return calls


def _is_leaf(layer: nn.Module) -> bool:
    has_own = next(layer.parameters(recurse=False), None) is not None
    is_piece = isinstance(layer, ParametrizationList)  # of the layer around it
    return has_own and not is_piece and not any(list(c.parameters()) for c in layer.children())


def _check_stem(network: str, call: _Call, inputs: Tensor) -> nn.Conv2d:
    layer, channels, kind = call.layer, inputs.shape[1], type(call.layer).__name__
    if not isinstance(layer, nn.Conv2d):
        fault = f"is a {kind}; the number of channels can be changed at a convolution only"
    elif layer.in_channels != channels:
        fault = f"takes {layer.in_channels} channels made of the input's {channels}"
    elif layer.groups != 1:
        fault = f"is a convolution in {layer.groups} groups"
    elif not _is_plain(layer, inputs):
        fault = f"is a {kind}, which transforms its kernels before it uses them"
    else:
        return layer
    raise ModelError(
        f"{network}: its first layer ({call.name or 'itself'}) {fault}; choose a base model whose "
        "first layer is a plain Conv2d."
    )


def _is_plain(conv: nn.Conv2d, inputs: Tensor) -> bool:
    """Whether the output is linear in the kernel: no standardised or derived weights."""
    if not isinstance(conv._parameters.get("weight"), nn.Parameter):
        return False
    clone = copy.deepcopy(conv)
    with torch.no_grad():
        clone.weight.mul_(2)
        values = inputs.to(conv.weight.dtype)
        bias = 0 if conv.bias is None else conv.bias[:, None, None]
        return is_same(clone(values) - bias, 2 * (conv(values) - bias))


def set_kernel(module: nn.Module, stem: str, kernel: Tensor) -> None:
    """Put a kernel (O, N, h, w), of any number of channels N, into the convolution `stem`."""
    conv = module.get_submodule(stem)
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{stem} is a {type(conv).__name__}")
    old, new = conv.in_channels, kernel.shape[1]
    conv.weight = nn.Parameter(kernel, requires_grad=conv.weight.requires_grad)
    conv.in_channels = new
    for name, parent in module.named_modules():
        is_around = not name or stem.startswith(f"{name}.")
        for attribute in _COUNTS if is_around else ():
            if getattr(parent, attribute, None) == old:
                setattr(parent, attribute, new)


def refit(module: nn.Module, state: Mapping[str, Tensor], channels: int) -> None:
    """Shape a fresh network's first layer as in `state`, made for `channels`; values are arbitrary.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    >>> refit(net, {"0.weight": torch.zeros(4, 1, 3, 3), "0.bias": torch.zeros(4)}, 1)
    >>> net[0].weight.shape, net[0].bias.shape
    (torch.Size([4, 1, 3, 3]), torch.Size([4]))
    """
    for name, conv in list(module.named_modules()):
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if not isinstance(conv, nn.Conv2d) or weight is None or weight.shape[1] != channels:
            continue
        is_stem = conv.groups == 1 and conv.weight.shape[2:] == weight.shape[2:]
        if is_stem and conv.in_channels != channels:
            set_kernel(module, name, torch.zeros_like(weight))
        if is_stem and bias is not None and conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
