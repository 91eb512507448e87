"""Pipeline parallelism: each process holds a stage of the network; micro-batches pass through.

GPipe: Huang et al. 2019, "GPipe: Efficient Training of Giant Neural Networks using Pipeline
Parallelism", §2.2, by torch.distributed.pipelining. Between updates each process holds the
tensors of its own stage alone; at the end every process holds the whole network again.
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

from warmstart.distributed import ALONE, ProcessGroup, here, process_errors
from warmstart.training.data_parallel import (
    DataParallel,
    Inputs,
    ShardingReport,
    StepWork,
    has_batch_statistics,
)

Shapes = tuple[Any, ...]


class Pipeline(DataParallel):
    """Parallelism that splits the blocks, not the rows.

    `run` is the whole network; `module` the stage of this process. `state`: all tensors of the
    network by name; `owners`: the rank of the process that keeps each of them.
    """

    def __init__(
        self,
        run: Callable[..., Tensor],
        module: nn.Module,
        state: Mapping[str, Tensor],
        owners: Mapping[str, int],
        device: str,
    ) -> None:
        super().__init__(run, device)
        self._module = module
        self._state, self._owners = dict(state), owners
        self._is_split = False
        self._layouts = {name: _Layout(tensor) for name, tensor in self._state.items()}
        self._stages: dict[Shapes, tuple[_Stage, ScheduleGPipe]] = {}
        self.busy = self.wall = 0.0  # seconds of this process in updates
        self.n_micro_batches = 1  # of the latest batch

    @property
    def world(self) -> ProcessGroup:
        """Rows are split only while every process holds the whole network."""
        return ALONE if self._is_split else here()

    @property
    def is_whole(self) -> bool:
        return not self._is_split

    def keeps(self, name: str) -> bool:
        return self._owners[name] == here().rank

    def begin(self) -> None:
        """Free the tensors of other stages."""
        self._stages = {}
        self._is_split = True
        for name, tensor in self._state.items():
            if not self.keeps(name):
                tensor.data = tensor.data.new_empty(0)

    def end(self) -> None:
        """Allocate them again and fetch their values."""
        self._is_split, self._stages = False, {}
        for name, tensor in self._state.items():
            if not self.keeps(name):
                layout = self._layouts[name]
                tensor.data = torch.empty_strided(
                    layout.size, layout.stride, dtype=tensor.dtype, device=tensor.device
                )
        self.broadcast()

    @process_errors()
    @torch.no_grad()
    def broadcast(self) -> None:
        if not self._is_split:
            for name, tensor in self._state.items():
                flat = tensor.data.as_strided((self._layouts[name].count,), (1,))
                dist.broadcast(flat, src=self._owners[name])

    @process_errors()
    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        """Forward and backward through all stages, micro-batch by micro-batch.

        Raises: ProcessError where another process has died.
        """
        n = len(labels)
        self.n_micro_batches = min(
            m for m in range(1, n + 1) if n % m == 0 and n // m <= work.micro_batch
        )
        stage, schedule = self._schedule(inputs, self.n_micro_batches, work, n)
        start, stage.busy = time.perf_counter(), 0.0
        losses: list[Tensor] = []
        schedule.step(
            *(inputs if here().is_first else ()),
            target=labels if stage.is_last else None,
            losses=losses if stage.is_last else None,
            return_outputs=False,
        )
        self.busy += stage.busy
        self.wall += time.perf_counter() - start
        total = torch.tensor(sum(float(loss.detach()) for loss in losses), dtype=torch.float64)
        dist.broadcast(total, src=here().size - 1)
        return float(total)

    @process_errors()
    def run(self, *inputs: Tensor) -> Tensor:
        """Logits in every process: by the stages, or by the whole network where each holds it."""
        if not self._is_split:
            return self._plain(*inputs)
        world, n = here(), len(inputs[0])
        is_divisible = n % world.size == 0 and not has_batch_statistics(self._network)
        stage, schedule = self._schedule(inputs, world.size if is_divisible else 1, None, n)
        outputs = schedule.eval(*(inputs if world.is_first else ()))
        shape = [list(outputs.shape)] if stage.is_last else [None]
        dist.broadcast_object_list(shape, src=world.size - 1)
        logits = (
            outputs.contiguous()
            if stage.is_last
            else torch.empty(cast(list[int], shape[0]), device=self._device)
        )
        dist.broadcast(logits, src=world.size - 1)
        return cast(Tensor, logits)

    def agree(self, value: bool) -> bool:
        return here().same(value)

    def sharding_report(self) -> ShardingReport:
        world = here()
        n_parameters = float(
            sum(
                self._layouts[name].count
                for name, tensor in self._state.items()
                if self.keeps(name) and isinstance(tensor, nn.Parameter)
            )
        )
        by_rank = [n_parameters if rank == world.rank else 0.0 for rank in range(world.size)]
        busy, wall, *sizes = world.reduce_sum(np.array([self.busy, self.wall, *by_rank]))
        return ShardingReport(
            max(sizes) / max(sum(sizes), 1.0), 1 - busy / max(wall, 1e-9), self.n_micro_batches
        )

    def _schedule(
        self, inputs: Inputs, n_micro_batches: int, work: StepWork | None, n: int
    ) -> tuple[_Stage, ScheduleGPipe]:
        """One for each shape of inputs: stages agree on shapes with the first batch."""
        key = (*(tuple(value.shape) for value in inputs), n_micro_batches, work is None)
        if key not in self._stages:
            world = here()
            buffers = [
                tensor
                for name, tensor in self._state.items()
                if self.keeps(name) and not isinstance(tensor, nn.Parameter)
            ]
            autocast = nullcontext if work is None else work.autocast
            stage = _Stage(
                _DryRunSafe(self._module, buffers, autocast),
                world.rank,
                world.size,
                torch.device(self._device),
            )

            def loss(logits: Tensor, labels: Tensor) -> Tensor:
                return cast(StepWork, work).loss(logits.float(), labels) / n

            schedule = ScheduleGPipe(
                stage, n_micro_batches, loss_fn=None if work is None else loss, scale_grads=False
            )
            self._stages[key] = (stage, schedule)
        return self._stages[key]


class _DryRunSafe(nn.Module):
    """A stage that torch runs once to infer shapes, on copies of its batch statistics.

    `autocast`: the number format in which it computes.
    """

    def __init__(
        self,
        module: nn.Module,
        buffers: Sequence[Tensor],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        super().__init__()
        self._module, self._statistics = (module,), buffers  # a tuple: not registered as a child
        self._autocast, self.is_real = autocast, False

    def forward(self, *inputs: Tensor) -> Any:
        (module,) = self._module
        if self.is_real:
            with self._autocast():
                return module(*inputs)
        values = [buffer.data for buffer in self._statistics]
        for buffer in self._statistics:
            buffer.data = buffer.data.clone()
        with self._autocast():
            outputs = module(*inputs)
        for buffer, value in zip(self._statistics, values, strict=True):
            buffer.data = value
        return outputs


class _Stage(PipelineStage):
    """torch's stage, which measures its own computing time."""

    busy = 0.0

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        module = cast(_DryRunSafe, self.submod)
        module.is_real = True
        outputs = super().forward_one_chunk(*args, **kwargs)
        module.is_real = False
        self.busy += time.perf_counter() - start
        return outputs

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        gradients = super().backward_one_chunk(*args, **kwargs)
        self.busy += time.perf_counter() - start
        return gradients


class _Layout:
    def __init__(self, tensor: Tensor) -> None:
        self.size, self.stride, self.count = tensor.shape, tensor.stride(), tensor.numel()
