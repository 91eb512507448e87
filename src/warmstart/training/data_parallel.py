"""A training step over several processes: its rows split by torch's own wrapper.

`DataParallel` is the base of three kinds of parallelism. `training.fsdp` shards the weights as
well, and `training.pipeline` splits the blocks of the network instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from warmstart.distributed import ProcessGroup, here
from warmstart.training.loop import BatchLoss

Inputs = tuple[Tensor, ...]
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class StepWork:
    """How a batch is computed.

    `loss` is summed over rows. `micro_batch`: examples at once. `scale` multiplies a loss before
    its backward pass, for float16. `is_gathered`: layers need the statistics of the whole batch.
    """

    loss: BatchLoss
    micro_batch: int
    scale: Callable[[Tensor], Tensor]
    device: str = "cpu"
    precision: str = "float32"
    is_gathered: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """The number format in which layers compute."""
        half = _HALF.get(self.precision)
        return torch.autocast(self.device, half) if half else nullcontext()


@dataclass(frozen=True, slots=True)
class ShardingReport:
    """Memory and idle time of sharded weights, over all updates.

    `largest`: the largest share of the parameters that one process held. `idle`: the share of all
    processes' time spent waiting, for the latest batch in `n_micro_batches` parts; None where that
    was not measured.
    """

    largest: float
    idle: float | None = None
    n_micro_batches: int = 1


class DataParallel:
    """Each process computes its share of every batch, and gradients are averaged.

    All processes hold the same weights, as each created them in the same way. A single process
    trains plainly. `plain` is the network for validation, where the one for training is compiled.
    Other kinds of parallelism override these methods.
    """

    allows_fusion = True  # whether a layer may read the tensors of another one

    def __init__(
        self,
        network: Callable[..., Tensor],
        device: str,
        plain: Callable[..., Tensor] | None = None,
    ) -> None:
        self._network, self._device = network, device
        self._plain, self._wrapped = plain or network, network

    @property
    def world(self) -> ProcessGroup:
        return here()

    @property
    def is_whole(self) -> bool:
        """Whether this process holds all that is trained, and can save it alone."""
        return True

    def begin(self) -> None:
        """Prepare for updates, once each parameter's `requires_grad` is set."""
        if here().size == 1 or not isinstance(self._network, nn.Module):
            return
        is_cuda = self._device == "cuda"
        self._wrapped = DistributedDataParallel(  # reads `requires_grad` only once
            self._network,
            device_ids=[torch.cuda.current_device()] if is_cuda else None,
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=True,
        )

    def end(self) -> None:
        """After updates: every process holds the whole network."""

    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        """Compute the gradients of a batch; returns its mean loss, without gradients if not finite.

        Every process gets the whole batch and computes the gradients of what it keeps.
        """
        total, n = 0.0, len(labels)
        for start in range(0, n, work.micro_batch):
            stop = min(start + work.micro_batch, n)
            rows, share = self._local_rows(start, stop, work.is_gathered)
            with self._delay_sync(stop == n):
                with work.autocast():
                    logits = self._wrapped(*(value[rows] for value in inputs))
                loss = work.loss(logits.float(), labels[rows]) / n
                value = float(loss.detach())
                total += value if share == 1 else float(here().reduce_sum(np.array([value]))[0])
                if not math.isfinite(total):
                    return total
                work.scale(share * loss).backward()  # type: ignore[no-untyped-call]
        return total

    def run(self, *inputs: Tensor) -> Tensor:
        """Logits (B, K) of inputs, in every process of `world`."""
        return self._plain(*inputs)

    def keeps(self, name: str) -> bool:
        """Whether this process trains the tensor of this name."""
        return True

    def broadcast(self) -> None:
        """Send changed tensors to all processes, unless all made the same change."""

    def local_shard(self, name: str, value: Tensor) -> Tensor:
        """This process's share of the named tensor, or of another one of its shape: a view.

        A value of another shape comes back unchanged.
        """
        return value

    def with_placement(self, name: str, shard: Tensor) -> Tensor:
        """The inverse: this process's share as a tensor that knows its place in the whole."""
        return shard

    def agree(self, value: bool) -> bool:
        """The first process's value, for what all processes must do alike."""
        return value  # a process may save alone

    def sharding_report(self) -> ShardingReport | None:
        """Costs of sharding; None where each process holds everything. All processes must call."""
        return None

    def _local_rows(self, start: int, stop: int, is_gathered: bool) -> tuple[slice, int]:
        """This process's rows of a micro-batch, and the factor of their loss.

        All rows where fresh blocks take statistics of the whole batch; else one in as many rows as
        there are processes, whose gradients are averaged.
        """
        world = here()
        if is_gathered or stop - start < world.size:
            return slice(start, stop), 1
        return slice(start + world.rank, stop, world.size), world.size

    def _delay_sync(self, is_last: bool) -> AbstractContextManager[Any]:
        """Accumulate gradients locally; they are sent with the last micro-batch."""
        if is_last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[Any] = self._wrapped.no_sync()
        return context


def has_batch_statistics(network: object) -> bool:
    """Whether layers take statistics of the batch, so that every process must run all rows."""
    layers = network.modules() if isinstance(network, nn.Module) else ()
    return any(m.training and getattr(m, "running_mean", None) is not None for m in layers)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, failed to allocate memory.

    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    False
    """
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in text for word in ("out of memory", "can't allocate memory", "not enough memory")
    )
