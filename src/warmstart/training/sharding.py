"""Parallelism with sharded weights: fully sharded data parallelism (FSDP2), and a pipeline.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", by torch's
`fully_shard` (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). GPipe: Huang
et al. 2019, "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", §2.2,
by torch.distributed.pipelining.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import DTensor, Shard

from warmstart.distributed import here, process_errors
from warmstart.errors import PlanError
from warmstart.events import Event, note
from warmstart.network.cut import Cost, UnfrozenBlocks, assign_stages, balance_stages
from warmstart.network.cut import PipelineStage as StageModule
from warmstart.network.freeze import behaviour_of
from warmstart.planning.facts import least_idle
from warmstart.planning.schedule import Schedule
from warmstart.training.batches import Inputs
from warmstart.training.trainable import TrainableNetwork
from warmstart.training.trainer import DataParallel, Trainer


def sharding_note(title: str, share: str, largest: float, text: str, **values: float) -> Event:
    """A note on sharded weights. `largest`: the largest share of them that one process held."""
    most = f"at most {100 * largest:.0f} % of the parameters in one of them"
    event = note("fine_tune", title, f"{here().size} {share}, {most}{text}")
    rounded = {name: round(value, 4) for name, value in values.items()}
    return replace(event, values={**event.values, "largest": round(largest, 4), **rounded})


def has_batch_statistics(network: object) -> bool:
    """Whether layers take statistics of the batch, so that every process must run all rows."""
    layers = network.modules() if isinstance(network, nn.Module) else ()
    return any(m.training and getattr(m, "running_mean", None) is not None for m in layers)


class ShardedDataParallel(DataParallel):
    """Data parallelism that shards weights, gradients and optimizer moments as well.

    `groups` names modules that run, and are gathered, together. FSDP2 changes the type of weights
    for good, so between `begin` and `end` it gets a clone, whose shards the network's parameters
    view.
    Raises: PlanError for a weight that is a single number, which cannot be sharded.
    """

    allows_fusion = False  # the other layer may not be gathered at that moment
    is_sharded = True

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[Sequence[str]],
        state: Mapping[str, Tensor],
        device: str,
    ) -> None:
        super().__init__(network, device)
        self._module, self._groups = network, groups
        self._parameters = {n: t for n, t in state.items() if isinstance(t, nn.Parameter)}
        single = [name for name, tensor in self._parameters.items() if not tensor.ndim]
        if single:
            raise PlanError(
                f"{single[0]} is a single number, which fsdp cannot shard; use --parallel data."
            )
        self._sizes = {name: tensor.shape for name, tensor in self._parameters.items()}
        self._tensors = [*network.parameters(), *network.buffers()]
        self._template = copy.deepcopy(network, {id(t): t for t in self._tensors})
        self._mesh: DeviceMesh = init_device_mesh(device, (here().size,))
        self._clone: nn.Module | None = None
        self._pairs: list[tuple[Tensor, nn.Parameter, tuple[int, ...]]] = []
        self._largest = 0.0

    def begin(self) -> None:
        shared = {id(tensor): tensor for tensor in self._tensors}
        for tensor in self._tensors:
            if isinstance(tensor, nn.Parameter):  # torch may replace it
                contiguous = tensor.data.contiguous()
                shared[id(tensor)] = nn.Parameter(contiguous, tensor.requires_grad)
        clone = copy.deepcopy(self._template, shared)
        for names in self._groups:
            members = [clone.get_submodule(name) for name in names]
            fully_shard(members, mesh=self._mesh, reshard_after_forward=True)
        fully_shard(clone, mesh=self._mesh, reshard_after_forward=True)
        shards, n_local, n_total = dict(clone.named_parameters()), 0, 0
        for name, tensor in self._module.named_parameters():
            shard, stride = shards[name], tensor.stride()
            local = cast(DTensor, shard).to_local()
            n_local, n_total = n_local + local.numel(), n_total + tensor.numel()
            tensor.data = local.detach()
            self._pairs.append((tensor, shard, stride))
        self._largest = n_local / max(n_total, 1)
        self._clone = self._wrapped = clone
        self.is_whole = False

    @process_errors()
    @torch.no_grad()
    def end(self) -> None:
        for tensor, shard, stride in self._pairs:
            whole = cast(DTensor, shard.data).full_tensor()
            tensor.data = whole.new_empty_strided(whole.shape, stride).copy_(whole)
        self._clone, self._pairs, self._wrapped = None, [], self._module
        self.is_whole = True

    @process_errors()
    def gradients(self, inputs: Inputs, labels: Tensor, trainer: Trainer) -> float:
        self._sync_modes()
        for _, shard, _ in self._pairs:
            shard.grad = None
        loss = super().gradients(inputs, labels, trainer)
        for tensor, shard, _ in self._pairs:
            if shard.grad is not None:
                tensor.grad = cast(DTensor, shard.grad).to_local()
        return loss

    @process_errors()
    def run(self, *inputs: Tensor) -> Tensor:
        if self._clone is None:
            return super().run(*inputs)
        self._sync_modes()
        world, n = here(), len(inputs[0])
        is_split = n >= world.size and not has_batch_statistics(self._module)
        share = slice(world.rank, None, world.size) if is_split else slice(None)
        # Weights gathered in inference mode could not be trained any more.
        with torch.inference_mode(mode=False), torch.no_grad():
            local: Tensor = self._clone(*(value[share].clone() for value in inputs))
        if not is_split:
            return local
        logits = local.new_empty(n, *local.shape[1:])
        for rank, rows in enumerate(world.gather(local.cpu())):
            logits[rank :: world.size] = rows.to(local.device)
        return logits

    def local_shard(self, name: str, value: Tensor) -> Tensor:
        if value.shape != self._sizes.get(name):
            return value
        world, n = here(), len(value)
        chunk = -(-n // world.size)
        return value[min(world.rank * chunk, n) : min((world.rank + 1) * chunk, n)]

    def with_placement(self, name: str, shard: Tensor) -> Tensor:
        size = self._sizes.get(name)
        if size is None or shard.ndim != len(size):
            return shard
        return self._as_dtensor(shard, size)

    @process_errors()
    @torch.no_grad()
    def broadcast(self) -> None:
        if self.is_whole:
            for name, tensor in self._parameters.items():
                local = self.local_shard(name, tensor.data)
                tensor.data.copy_(self._as_dtensor(local, tensor.shape).full_tensor())

    def sharding_note(self) -> Event:
        largest = max(here().gather(self._largest))
        return sharding_note("Shards", "processes", largest, " between two blocks")

    def _sync_modes(self) -> None:
        """Copy train or eval mode, and the momentum of norms, from the network to the clone."""
        pairs = zip(self._module.modules(), cast(nn.Module, self._clone).modules(), strict=True)
        for module, clone in pairs:
            clone.training = module.training
            if "momentum" in vars(module):  # changed while statistics are recomputed
                vars(clone)["momentum"] = vars(module)["momentum"]

    def _as_dtensor(self, local: Tensor, size: torch.Size) -> DTensor:
        stride = torch.empty(size, device="meta").stride()
        return DTensor.from_local(
            local.contiguous(), self._mesh, [Shard(0)], run_check=False, shape=size, stride=stride
        )


# ---- Pipeline parallelism: each process holds a stage of the network; micro-batches pass through.

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
    def gradients(self, inputs: Inputs, labels: Tensor, trainer: Trainer) -> float:
        n = len(labels)
        self.n_micro_batches = min(
            m for m in range(1, n + 1) if n % m == 0 and n // m <= trainer.micro_batch
        )
        stage, schedule = self._schedule(inputs, self.n_micro_batches, trainer, n)
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
        self, inputs: Inputs, n_micro_batches: int, trainer: Trainer | None, n: int
    ) -> tuple[_Stage, ScheduleGPipe]:
        """One for each shape of inputs: stages agree on shapes with the first batch."""
        key = (*(tuple(value.shape) for value in inputs), n_micro_batches, trainer is None)
        if key not in self._stages:
            world = here()
            buffers = [
                tensor
                for name, tensor in self._state.items()
                if self.keeps(name) and not isinstance(tensor, nn.Parameter)
            ]
            autocast = nullcontext if trainer is None else trainer.autocast
            module, device = (
                _DryRunSafe(self._module, buffers, autocast),
                torch.device(self._device),
            )
            stage = _Stage(module, world.rank, world.size, device)

            def loss(logits: Tensor, labels: Tensor) -> Tensor:
                return cast(Trainer, trainer).loss(logits.float(), labels) / n

            schedule = ScheduleGPipe(
                stage, n_micro_batches, loss_fn=None if trainer is None else loss, scale_grads=False
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
