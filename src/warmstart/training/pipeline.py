"""A network in pieces, one a process; parts of a batch pass through them one after the other.

GPipe: Huang et al. 2019, "GPipe: Efficient Training of Giant Neural Networks using Pipeline
Parallelism", §2.2, by torch.distributed.pipelining. Between updates each process holds the
tensors of its own piece alone; at the end all of them hold the whole network again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

from warmstart.distributed import ALONE, ProcessGroup, exchanging, here
from warmstart.training.data_parallel import Inputs, ShardingReport, StepWork, gathers

Shapes = tuple[Any, ...]


class Pipeline:
    """A way of training: parts are shared, not rows; see `parallel.Way`.

    `run` is the whole network; `piece` that of this process, the `rank`-th. `state`: all tensors
    of the network by name, `keepers` which process keeps each of them.
    """

    is_near = True

    def __init__(
        self,
        run: Callable[..., Tensor],
        piece: nn.Module,
        state: Mapping[str, Tensor],
        keepers: Mapping[str, int],
        device: str,
    ) -> None:
        self._run, self._piece = run, piece
        self._state, self._keepers = dict(state), keepers
        self._device = torch.device(device)
        self._is_parted = False
        self._shapes = {name: _Shape(tensor) for name, tensor in self._state.items()}
        self._stages: dict[Shapes, tuple[_Stage, ScheduleGPipe]] = {}
        self.busy = self.wall = 0.0  # seconds of this process in updates
        self.n_micro_batches = 1  # of the latest batch

    @property
    def world(self) -> ProcessGroup:
        """Rows are shared only while everybody holds the whole network."""
        return ALONE if self._is_parted else here()

    @property
    def is_whole(self) -> bool:
        """Not between updates."""
        return not self._is_parted

    def keeps(self, name: str) -> bool:
        """Whether the tensor is one of this process's piece."""
        return self._keepers[name] == here().rank

    def begin(self) -> None:
        """Let go of what others keep."""
        self._stages = {}
        self._is_parted = True
        for name, tensor in self._state.items():
            if not self.keeps(name):
                tensor.data = tensor.data.new_empty(0)

    def end(self) -> None:
        """Take it back, as it is by now."""
        self._is_parted, self._stages = False, {}
        for name, tensor in self._state.items():
            if not self.keeps(name):
                tensor.data = self._shapes[name].empty(tensor)
        self.spread()

    @exchanging()
    @torch.no_grad()
    def spread(self) -> None:
        """Each tensor from its keeper to all, where all of them hold it."""
        if not self._is_parted:
            for name, tensor in self._state.items():
                flat = self._shapes[name].flat(tensor.data)
                dist.broadcast(flat, src=self._keepers[name])

    @exchanging()
    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        """Forward through all pieces and back, micro-batch by micro-batch.

        Raises: ProcessError where another process is gone.
        """
        n = len(labels)
        self.n_micro_batches = min(
            m for m in range(1, n + 1) if n % m == 0 and n // m <= work.micro_batch
        )
        stage, schedule = self._schedule(inputs, self.n_micro_batches, work, n)
        began, stage.busy = time.perf_counter(), 0.0
        losses: list[Tensor] = []
        schedule.step(
            *self._given(inputs),
            target=labels if stage.is_last else None,
            losses=losses if stage.is_last else None,
            return_outputs=False,
        )
        self.busy += stage.busy
        self.wall += time.perf_counter() - began
        total = torch.tensor(sum(float(loss.detach()) for loss in losses), dtype=torch.float64)
        dist.broadcast(total, src=here().size - 1)
        return float(total)

    @exchanging()
    def run(self, *inputs: Tensor) -> Tensor:
        """Logits in every process: by the pieces, or by the whole network where all hold it."""
        if not self._is_parted:
            return self._run(*inputs)
        world, n = here(), len(inputs[0])
        n_micro_batches = world.size if n % world.size == 0 and not gathers(self._run) else 1
        stage, schedule = self._schedule(inputs, n_micro_batches, None, n)
        made = schedule.eval(*self._given(inputs))
        shape = [list(made.shape)] if stage.is_last else [None]
        dist.broadcast_object_list(shape, src=world.size - 1)
        logits = (
            made.contiguous()
            if stage.is_last
            else torch.empty(cast(list[int], shape[0]), device=self._device)
        )
        dist.broadcast(logits, src=world.size - 1)
        return cast(Tensor, logits)

    def block(self, name: str, value: Tensor) -> Tensor:
        """All of it: tensors are kept whole."""
        return value

    def placed(self, name: str, value: Tensor) -> Tensor:
        """All of it."""
        return value

    def agreed(self, value: bool) -> bool:
        """As the first process says."""
        return here().same(value)

    def told(self) -> ShardingReport:
        """What they held, and how long they waited."""
        world = here()
        busy, wall, *held = world.summed(
            np.array(
                [
                    self.busy,
                    self.wall,
                    *(self._held() if rank == world.rank else 0.0 for rank in range(world.size)),
                ]
            )
        )
        return ShardingReport(
            max(held) / max(sum(held), 1.0), 1 - busy / max(wall, 1e-9), self.n_micro_batches
        )

    def _held(self) -> float:
        """Parameters of the own piece."""
        return float(
            sum(
                self._shapes[name].count
                for name, tensor in self._state.items()
                if self.keeps(name) and isinstance(tensor, nn.Parameter)
            )
        )

    def _given(self, inputs: Inputs) -> Inputs:
        return inputs if here().is_first else ()

    def _schedule(
        self, inputs: Inputs, n_micro_batches: int, work: StepWork | None, n: int
    ) -> tuple[_Stage, ScheduleGPipe]:
        """Made once for inputs of a shape: stages agree on what they send with the first batch."""
        key = (*(tuple(value.shape) for value in inputs), n_micro_batches, work is None)
        if key not in self._stages:
            world = here()
            buffers = [
                tensor
                for name, tensor in self._state.items()
                if self.keeps(name) and not isinstance(tensor, nn.Parameter)
            ]
            form = nullcontext if work is None else work.autocast
            stage = _Stage(
                _TriedSplit(self._piece, buffers, form), world.rank, world.size, self._device
            )

            def loss(logits: Tensor, labels: Tensor) -> Tensor:
                return cast(StepWork, work).loss(logits.float(), labels) / n

            schedule = ScheduleGPipe(
                stage, n_micro_batches, loss_fn=None if work is None else loss, scale_grads=False
            )
            self._stages[key] = (stage, schedule)
        return self._stages[key]


class _TriedSplit(nn.Module):
    """A piece, which torch runs once to see what shapes it gives, before anything is learnt.

    `form`: the number format that it works in.
    What that pass does to statistics, it does to copies of them.
    """

    def __init__(
        self,
        piece: nn.Module,
        buffers: Sequence[Tensor],
        form: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        super().__init__()
        self._piece, self._statistics = (piece,), buffers  # no child, as the tail is none of it
        self._form, self.is_real = form, False

    def forward(self, *inputs: Tensor) -> Any:
        """As the piece does."""
        (piece,) = self._piece
        if self.is_real:
            with self._form():
                return piece(*inputs)
        own = [buffer.data for buffer in self._statistics]
        for buffer in self._statistics:
            buffer.data = buffer.data.clone()
        with self._form():
            made = piece(*inputs)
        for buffer, value in zip(self._statistics, own, strict=True):
            buffer.data = value
        return made


class _Stage(PipelineStage):
    """torch's, with a clock over what it computes itself."""

    busy = 0.0

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """One micro-batch through the piece."""
        began = time.perf_counter()
        tried = cast(_TriedSplit, self.submod)
        tried.is_real = True
        made = super().forward_one_chunk(*args, **kwargs)
        tried.is_real = False
        self.busy += time.perf_counter() - began
        return made

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """And back."""
        began = time.perf_counter()
        made = super().backward_one_chunk(*args, **kwargs)
        self.busy += time.perf_counter() - began
        return made


class _Shape:
    """What a tensor looked like before it was let go."""

    def __init__(self, tensor: Tensor) -> None:
        self.size, self.stride, self.count = tensor.shape, tensor.stride(), tensor.numel()

    def empty(self, like: Tensor) -> Tensor:
        """Its memory anew, in the same order."""
        return torch.empty_strided(self.size, self.stride, dtype=like.dtype, device=like.device)

    def flat(self, tensor: Tensor) -> Tensor:
        """Its values in the order of memory, for sending: a view."""
        return tensor.as_strided((self.count,), (1,))
