"""A step of training over several processes: its rows shared by torch's own wrapper.

`DataParallel` is one of three ways. `training.fsdp` shares the weights as well, and
`training.pipeline` the parts of the network instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

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
    """What a batch is worked through with.

    `loss` is summed over rows. `micro_batch`: examples at once. `scale` of a loss before its
    backward pass, for float16. `is_gathered`: layers gather the statistics of the whole batch.
    """

    loss: BatchLoss
    micro_batch: int
    scale: Callable[[Tensor], Tensor]
    device: str = "cpu"
    precision: str = "float32"
    is_gathered: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """The number format that layers work in."""
        half = _HALF.get(self.precision)
        return torch.autocast(self.device, half) if half else nullcontext()


@dataclass(frozen=True, slots=True)
class ShardingReport:
    """What sharing the weights came to, over all updates.

    `largest`: the share of the parameters that one process held at most. `idle`: the share of
    all processes' time in which they waited, for the latest batch in `n_micro_batches` parts; None where
    that was not measured.
    """

    largest: float
    idle: float | None = None
    n_micro_batches: int = 1


class Way(Protocol):
    """How several processes train one network."""

    @property
    def world(self) -> ProcessGroup:
        """Between which processes rows are shared at this moment."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether this process holds all that is trained, and can tell of it by itself."""
        ...

    @property
    def is_near(self) -> bool:
        """Whether a layer may read the tensors of another one."""
        ...

    def begin(self) -> None:
        """Parameters have been told whether they move; updates follow."""
        ...

    def end(self) -> None:
        """No more updates for now: every process holds the whole network."""
        ...

    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        """Those of a batch; its mean loss, or one that is not a number, with no gradients then.

        Every process is given the whole batch, and finds the gradients of what it keeps.
        """
        ...

    def run(self, *inputs: Tensor) -> Tensor:
        """Logits (B, K) of inputs, in every process of `world`."""
        ...

    def keeps(self, name: str) -> bool:
        """Whether this process trains the tensor of this name."""
        ...

    def spread(self) -> None:
        """What each process keeps was changed: where all hold the whole, all hear of it."""
        ...

    def block(self, name: str, value: Tensor) -> Tensor:
        """What this process keeps of the tensor of this name, or of another one like it: a view.

        What is not of the whole tensor's shape is given back as it is.
        """
        ...

    def placed(self, name: str, value: Tensor) -> Tensor:
        """The same backwards: what this process keeps, telling where in the whole it stands."""
        ...

    def agreed(self, value: bool) -> bool:
        """What all processes have to do alike, as the first one says."""
        ...

    def told(self) -> ShardingReport | None:
        """What sharing came to; None where each holds everything. Every process has to ask."""
        ...


class DataParallel:
    """Each process works through its share of every batch, and gradients are averaged.

    All of them hold the same weights: each made them in the same way. Alone, it is plain
    training. `plain` is the network for looks, where the one for training was compiled.
    """

    is_near = True

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
        """All processes."""
        return here()

    @property
    def is_whole(self) -> bool:
        """Each of them does."""
        return True

    def begin(self) -> None:
        """Wrap the network anew: the wrapper asks once which parameters move."""
        if here().size == 1 or not isinstance(self._network, nn.Module):
            return
        is_cuda = self._device == "cuda"
        self._wrapped = DistributedDataParallel(
            self._network,
            device_ids=[torch.cuda.current_device()] if is_cuda else None,
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=True,
        )

    def end(self) -> None:
        """All of them hold the whole network anyway."""

    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        """In pieces, whose gradients add up."""
        total, n = 0.0, len(labels)
        for start in range(0, n, work.micro_batch):
            stop = min(start + work.micro_batch, n)
            piece, share = self._piece(start, stop, work.is_gathered)
            with self._waiting(stop == n):
                with work.autocast():
                    logits = self._wrapped(*(value[piece] for value in inputs))
                loss = work.loss(logits.float(), labels[piece]) / n
                total += _over_all(float(loss.detach()), share)
                if not math.isfinite(total):
                    return total
                work.scale(share * loss).backward()  # type: ignore[no-untyped-call]
        return total

    def run(self, *inputs: Tensor) -> Tensor:
        """By the network itself."""
        return self._plain(*inputs)

    def keeps(self, name: str) -> bool:
        """All of them do."""
        return True

    def spread(self) -> None:
        """They all changed it alike."""

    def block(self, name: str, value: Tensor) -> Tensor:
        """All of it."""
        return value

    def placed(self, name: str, value: Tensor) -> Tensor:
        """All of it."""
        return value

    def agreed(self, value: bool) -> bool:
        """Nothing that they do alone is heard by the others."""
        return value

    def told(self) -> ShardingReport | None:
        """Each holds everything."""
        return None

    def _piece(self, start: int, stop: int, is_gathered: bool) -> tuple[slice, int]:
        """The rows of a piece that this process works through, and how often their loss counts.

        All of them where the batch as a whole is seen, by statistics of fresh parts; else one
        in so many as there are processes, whose gradients are averaged.
        """
        world = here()
        if is_gathered or stop - start < world.size:
            return slice(start, stop), 1
        return slice(start + world.rank, stop, world.size), world.size

    def _waiting(self, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients of pieces add up here first, and go to others with the last one."""
        if is_last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        found: AbstractContextManager[Any] = self._wrapped.no_sync()
        return found


def _over_all(loss: float, share: int) -> float:
    """The loss of a piece over all processes, of which each worked through one in `share` rows."""
    return loss if share == 1 else float(here().summed(np.array([loss]))[0])


def gathers(network: object) -> bool:
    """Whether layers take the statistics of a batch as it passes, so that all of it has to."""
    layers = network.modules() if isinstance(network, nn.Module) else ()
    return any(m.training and getattr(m, "running_mean", None) is not None for m in layers)


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
