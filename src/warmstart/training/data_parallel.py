"""Parallelism of training steps; here, rows are split by torch's DistributedDataParallel.

`training.fsdp` shards the weights as well; `training.pipeline` splits the blocks instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from warmstart.distributed import ALONE, ProcessGroup, here
from warmstart.errors import PlanError
from warmstart.events import Event, note
from warmstart.network.cut import UnfrozenBlocks, group_modules
from warmstart.planning.machine import DATA, FSDP
from warmstart.planning.schedule import Schedule
from warmstart.training.batches import Inputs
from warmstart.training.loop import BatchLoss
from warmstart.training.trainable import TrainableNetwork

JOINT_WRITER = "torch.distributed.checkpoint.hf_storage"  # several processes write with it
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class StepWork:
    """How a batch is computed. `loss` is summed over rows.

    `scale` multiplies a loss before its backward pass, for float16. `is_gathered`: layers need the
    statistics of the whole batch.
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


class DataParallel:
    """Each process computes its share of every batch, and gradients are averaged.

    All processes hold the same weights, as each created them in the same way. A single process
    trains plainly. `plain` is the network for validation, where the one for training is compiled.
    """

    allows_fusion = True  # whether a layer may read the tensors of another one
    is_sharded = False  # whether processes keep different tensors during updates

    def __init__(
        self,
        network: Callable[..., Tensor],
        device: str,
        plain: Callable[..., Tensor] | None = None,
    ) -> None:
        self._network, self._device = network, device
        self._plain, self._wrapped = plain or network, network
        self.is_whole = True  # this process holds all that is trained, and can save it alone

    @property
    def world(self) -> ProcessGroup:
        """The processes that split rows; with sharded weights `run` does so between updates."""
        return here() if self.is_whole else ALONE

    def begin(self) -> None:
        """Prepare for updates, once each parameter's `requires_grad` is set."""
        if here().size == 1 or not isinstance(self._network, nn.Module):
            return
        self._wrapped = DistributedDataParallel(  # reads `requires_grad` only once
            self._network,
            device_ids=[torch.cuda.current_device()] if self._device == "cuda" else None,
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=True,
        )

    def end(self) -> None:
        """After updates: every process holds the whole network."""

    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        """Compute the gradients of a batch; returns its mean loss, if not finite without them."""
        world, total, n = here(), 0.0, len(labels)
        for start in range(0, n, work.micro_batch):
            stop = min(start + work.micro_batch, n)
            rows, share = slice(start, stop), 1
            if not work.is_gathered and stop - start >= world.size:
                rows, share = slice(start + world.rank, stop, world.size), world.size
            # Gradients are accumulated locally and sent with the last micro-batch.
            is_delayed = stop < n and isinstance(self._wrapped, DistributedDataParallel)
            with cast(Any, self._wrapped).no_sync() if is_delayed else nullcontext():
                with work.autocast():
                    logits = self._wrapped(*(value[rows] for value in inputs))
                loss = work.loss(logits.float(), labels[rows]) / n
                value = float(loss.detach())
                total += value if share == 1 else float(world.reduce_sum(np.array([value]))[0])
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
        """This process's share of the named tensor, or of another one of its shape: a view."""
        return value

    def with_placement(self, name: str, shard: Tensor) -> Tensor:
        """The inverse: this process's share as a tensor that knows its place in the whole."""
        return shard

    def agree(self, value: bool) -> bool:
        """The first process's value, where all processes must do the same."""
        return here().same(value) if self.is_sharded else value

    def sharding_note(self) -> Event | None:
        """The costs of sharding; None where each process holds all. All processes must call it."""
        return None


def choose_parallelism(
    trainable: TrainableNetwork, blocks: UnfrozenBlocks, schedule: Schedule, inputs: Inputs
) -> DataParallel:
    """The parallelism of the plan; a single process trains plainly.

    `inputs` are examples for the unfrozen blocks, with which blocks are timed.
    Raises: PlanError where processes cannot share this training.
    """
    world = here()
    if schedule.contrastive and world.size > 1:
        raise PlanError(
            "training.contrastive compares all texts of a batch, and "
            f"{world.size} processes share it; use one process, or remove training.contrastive."
        )
    if schedule.parallel == DATA or world.size == 1:
        network: Any = blocks.vectors if schedule.contrastive else blocks
        run: Any = torch.compile(network) if schedule.compile else network
        return DataParallel(run, schedule.device, plain=blocks)
    if find_spec(JOINT_WRITER) is None:
        raise PlanError(
            f"--parallel {schedule.parallel} writes joint checkpoints, which needs torch 2.8 or "
            f"newer; here is {torch.__version__}. Update torch, or use --parallel data."
        )
    if schedule.precision == "float16":
        raise PlanError(
            "training.precision float16 scales the loss by gradients that no process sees as a "
            "whole where weights are sharded; use bfloat16 or float32, or --parallel data."
        )
    n_gpus = torch.cuda.device_count()
    if schedule.device == "cuda" and n_gpus < world.local:
        raise PlanError(
            f"--parallel {schedule.parallel} needs a GPU for each process, and {world.local} "
            f"processes share {n_gpus}; start at most {n_gpus} per machine, or use --device cpu."
        )
    device = schedule.device
    if schedule.parallel == FSDP:
        from warmstart.training.fsdp import ShardedDataParallel

        state = trainable.model.state_dict(keep_vars=True)
        return ShardedDataParallel(blocks, group_modules(blocks), state, device)
    from warmstart.training.pipeline import make_pipeline

    return make_pipeline(trainable, blocks, schedule, inputs[0].to(device))


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, failed to allocate memory."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in text for word in ("out of memory", "can't allocate memory", "not enough memory")
    )
