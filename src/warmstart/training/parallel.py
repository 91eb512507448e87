"""A step of training over several processes, by torch's own wrapper; and where memory ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from warmstart.world import here


def parallel(network: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    """The network, for several processes in torch's wrapper that averages their gradients.

    All of them hold the same weights: each made them in the same way.
    """
    if here().size == 1 or not isinstance(network, nn.Module):
        return network
    return DistributedDataParallel(
        network, device_ids=[torch.cuda.current_device()] if device == "cuda" else None,
        broadcast_buffers=False, init_sync=False, find_unused_parameters=True,
    )  # fmt: skip


def waiting(network: Callable[..., Tensor], is_last: bool) -> AbstractContextManager[Any]:
    """Gradients of pieces of a batch add up here first, and go to others with the last one."""
    if is_last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    found: AbstractContextManager[Any] = network.no_sync()
    return found


def over_all(loss: float, share: int) -> float:
    """The loss of a piece over all processes, of which each worked through one in `share` rows."""
    return loss if share == 1 else float(here().summed(np.array([loss]))[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, could not have the memory it asked for.

    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    False
    """
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in text for word in ("out of memory", "can't allocate memory", "not enough memory")
    )
