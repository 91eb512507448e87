"""Pipeline parallelism: each process holds a stage of the network; micro-batches pass through.

GPipe: Huang et al. 2019, "GPipe: Efficient Training of Giant Neural Networks using Pipeline
Parallelism", §2.2, by torch.distributed.pipelining.
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

from warmstart.distributed import here, process_errors
from warmstart.events import Event
from warmstart.network.cut import Cost, UnfrozenBlocks, assign_stages, balance_stages
from warmstart.network.cut import PipelineStage as StageModule
from warmstart.network.freeze import behaviour_of
from warmstart.planning.machine import least_idle
from warmstart.planning.schedule import Schedule
from warmstart.training.batches import Inputs
from warmstart.training.data_parallel import (
    DataParallel,
    StepWork,
    has_batch_statistics,
    sharding_note,
)
from warmstart.training.trainable import TrainableNetwork

REPEATS = 3  # forward passes through each block, of which the fastest counts
DOWN, WEIGHTS = 1.0, 1.0  # forward passes that gradients cost: through a block, for its weights


class Pipeline(DataParallel):
    """Parallelism that splits the blocks, not the rows.

    `run` is the whole network; `module` the stage of this process; `state` all tensors of the
    network by name, `owners` the rank that keeps each.
    """

    is_sharded = True

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
        self._layouts = {
            name: (tensor.shape, tensor.stride()) for name, tensor in self._state.items()
        }
        self._stages: dict[tuple[Any, ...], tuple[_Stage, ScheduleGPipe]] = {}
        self.busy = self.wall = 0.0  # seconds of this process in updates
        self.n_micro_batches = 1  # of the latest batch

    def keeps(self, name: str) -> bool:
        return self._owners[name] == here().rank

    def begin(self) -> None:
        """Free the tensors of other stages."""
        self.is_whole, self._stages = False, {}
        for name, tensor in self._state.items():
            if not self.keeps(name):
                tensor.data = tensor.data.new_empty(0)

    def end(self) -> None:
        self.is_whole, self._stages = True, {}
        for name, tensor in self._state.items():
            if not self.keeps(name):
                size, stride = self._layouts[name]
                tensor.data = tensor.data.new_empty_strided(size, stride)
        self.broadcast()

    @process_errors()
    @torch.no_grad()
    def broadcast(self) -> None:
        if self.is_whole:
            for name, tensor in self._state.items():
                flat = tensor.data.as_strided((tensor.numel(),), (1,))
                dist.broadcast(flat, src=self._owners[name])

    @process_errors()
    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
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
        if self.is_whole:
            return self._plain(*inputs)
        world, n = here(), len(inputs[0])
        is_divisible = n % world.size == 0 and not has_batch_statistics(self._network)
        stage, schedule = self._schedule(inputs, world.size if is_divisible else 1, None, n)
        outputs = schedule.eval(*(inputs if world.is_first else ()))
        shape = [list(outputs.shape)] if stage.is_last else [None]
        dist.broadcast_object_list(shape, src=world.size - 1)
        if not stage.is_last:
            outputs = torch.empty(cast(list[int], shape[0]), device=self._device)
        logits = outputs.contiguous()
        dist.broadcast(logits, src=world.size - 1)
        return cast(Tensor, logits)

    def sharding_note(self) -> Event:
        world = here()
        by_rank = np.zeros(world.size)
        for name, tensor in self._state.items():
            if self.keeps(name) and isinstance(tensor, nn.Parameter):
                by_rank[world.rank] += self._layouts[name][0].numel()
        busy, wall, *sizes = world.reduce_sum(np.array([self.busy, self.wall, *by_rank]))
        largest, idle = max(sizes) / max(sum(sizes), 1.0), 1 - busy / max(wall, 1e-9)
        least = least_idle(world.size, self.n_micro_batches)
        text = (
            f"; idle {100 * idle:.0f} % of the time ({100 * least:.0f} % if all stages took "
            "equally long)"
        )
        return sharding_note("Pipeline", "stages", largest, text, idle=idle, least_idle=least)

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
            module, device = (
                _DryRunSafe(self._module, buffers, autocast),
                torch.device(self._device),
            )
            stage = _Stage(module, world.rank, world.size, device)

            def loss(logits: Tensor, labels: Tensor) -> Tensor:
                return cast(StepWork, work).loss(logits.float(), labels) / n

            schedule = ScheduleGPipe(
                stage, n_micro_batches, loss_fn=None if work is None else loss, scale_grads=False
            )
            self._stages[key] = (stage, schedule)
        return self._stages[key]


def make_pipeline(
    trainable: TrainableNetwork, blocks: UnfrozenBlocks, schedule: Schedule, main: Tensor
) -> Pipeline:
    """A pipeline whose stages take equally long on `main`. Raises: PlanError for too few blocks."""
    world, state = here(), trainable.model.state_dict(keep_vars=True)
    stages = world.same(_split_stages(trainable, blocks, schedule, main))
    owners = assign_stages(blocks, trainable.owners, stages)
    stage = StageModule(blocks, stages[world.rank], is_last=world.rank == world.size - 1)
    return Pipeline(blocks, stage, state, owners, schedule.device)


@torch.inference_mode()
def _split_stages(
    trainable: TrainableNetwork, blocks: UnfrozenBlocks, schedule: Schedule, main: Tensor
) -> tuple[range, ...]:
    """Blocks of each stage, numbered from 1. The first keeps what lies below, the last the head."""
    numbers = range(blocks.cut + 1, max(layer.block for layer in blocks.scan.feature_layers) + 1)
    size = schedule.micro_batch or schedule.batch_size
    main = main.repeat(-(-size // len(main)), *[1] * (main.ndim - 1))[:size]
    sizes = [block.parameters for block in trainable.network.record.blocks]
    total = sum(parameter.numel() for parameter in trainable.model.parameters())
    n_parameters = [float(sizes[number - 1]) for number in numbers]
    n_parameters[0] += sum(sizes[: blocks.cut])
    n_parameters[-1] += max(total - sum(n_parameters), 0.0)
    trainable.model.eval()
    costs, is_below = [], False
    for number, n in zip(numbers, n_parameters, strict=True):
        step = blocks.scan.steps.blocks[number - 1]
        seconds = float("inf")
        for _ in range(REPEATS):
            copy = main.clone()  # a block may work in place
            _synchronize(main)
            start = time.perf_counter()
            outputs = step.run(trainable.model.backbone, copy)
            _synchronize(main)
            seconds = min(seconds, time.perf_counter() - start)
        moves = behaviour_of(trainable.actions, step.name).is_trained
        backward = DOWN * is_below + WEIGHTS * moves
        recomputed = 1.0 if schedule.gradient_checkpointing and backward else 0.0
        costs.append(Cost(seconds, seconds * (backward + recomputed), n))
        is_below, main = is_below or moves, outputs
    runs = balance_stages(costs, here().size)
    return tuple(range(numbers[run[0]], numbers[run[-1]] + 1) for run in runs)


def _synchronize(main: Tensor) -> None:
    if main.is_cuda:
        torch.cuda.synchronize(main.device)


class _DryRunSafe(nn.Module):
    """A stage that torch runs once to infer shapes, on copies of its batch statistics."""

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
        copied = () if self.is_real else self._statistics
        values = [buffer.data for buffer in copied]
        for buffer in copied:
            buffer.data = buffer.data.clone()
        with self._autocast():
            outputs = module(*inputs)
        for buffer, value in zip(copied, values, strict=True):
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
