"""The tensors of a network, each once, and the hashes of their bytes.

A tensor is identified by its name in `module.state_dict()`. Tied tensors (one storage under
several names) count once, under the first of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from warmstart.network.weights import Mapped, release
from warmstart.records.network import InputChange

M = TypeVar("M", bound=nn.Module)
# What a normalisation layer gathers from the data it sees; no parameters.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied ones under each, in the module's order."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def unique_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied ones once, in the module's order.

    >>> a = nn.Linear(2, 2, bias=False); b = nn.Linear(2, 2, bias=False); b.weight = a.weight
    >>> list(unique_tensors(nn.Sequential(a, b)))
    ['0.weight']
    """
    unique: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    for name, tensor in named_tensors(module).items():
        unique.setdefault(place(tensor), (name, tensor))
    return dict(unique.values())


def n_parameters(module: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def place(tensor: Tensor) -> tuple[int, ...]:
    """Location of a tensor's bytes: equal for tied tensors, different for all others."""
    if tensor.numel() == 0:  # all empty storages share the address 0
        return (0, id(tensor))
    return (tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tensor.numel())


def digest(tensor: Tensor) -> str:
    """sha256 of dtype, shape and bytes of one tensor, in hex.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(1, 2))
    False
    """
    return _updated(hashlib.sha256(), "", tensor).hexdigest()


def digests(module: nn.Module) -> dict[str, str]:
    """sha256 of each tensor by name; `write_ledger` compares with them later."""
    return {name: digest(tensor) for name, tensor in unique_tensors(module).items()}


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of all tensors, sorted by name.

    >>> tensor_digest({"b": torch.ones(1), "a": torch.zeros(1)})[:8]
    'e8d37cbf'
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        _updated(total, name, tensors[name])
    return total.hexdigest()


def input_change(
    name: str, before: Tensor | None, after: Tensor | None, because: str
) -> InputChange:
    """The record of a tensor that surgery at the input reshaped, added or dropped."""
    return InputChange(
        tensor=name,
        fate="new" if before is None else "dropped" if after is None else "reshaped",
        shape_before=None if before is None else tuple(before.shape),
        shape_after=None if after is None else tuple(after.shape),
        before=None if before is None else digest(before),
        because=because,
    )


def _updated(total: hashlib._Hash, name: str, tensor: Tensor) -> hashlib._Hash:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    total.update(flat.numpy().data)
    release(tensor)
    return total


def in_channels_last(module: M) -> M:
    """Set 2-D kernels to channels_last order, but for mapped ones, and those beside 3-D kernels."""
    if any(tensor.ndim == 5 for tensor in module.parameters()):
        return module
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4 and not isinstance(tensor, Mapped):
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return module
