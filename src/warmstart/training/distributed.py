"""How several processes train together: the kind of parallelism, and the stages of a pipeline."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from warmstart.distributed import here
from warmstart.errors import PlanError
from warmstart.events import Steps, note
from warmstart.network.cut import UnfrozenBlocks
from warmstart.network.freeze import action_of
from warmstart.network.pipeline_stage import (
    Cost,
    PipelineStage,
    assign_stages,
    balance_stages,
    group_modules,
)
from warmstart.planning.machine import DATA, FSDP, least_idle
from warmstart.planning.schedule import Schedule
from warmstart.training.data_parallel import DataParallel, Inputs
from warmstart.training.trainable import TrainableNetwork

JOINT_WRITER = "torch.distributed.checkpoint.hf_storage"  # several processes write with it
REPEATS = 3  # forward passes through each block, of which the fastest counts
DOWN, OWN = 1.0, 1.0  # forward passes that gradients cost: through a block, for its own weights


def choose_parallelism(
    trainable: TrainableNetwork, blocks: UnfrozenBlocks, schedule: Schedule, inputs: Inputs
) -> DataParallel:
    """The parallelism of the plan; a single process trains plainly.

    `inputs` are examples for the unfrozen blocks, with which blocks are timed.
    Raises: PlanError where the network has fewer blocks than there are processes, a contrastive
    loss compares pairs across processes, the number format or a weight cannot be sharded, several
    processes would share a GPU, or torch is too old.
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
    device, state = schedule.device, trainable.model.state_dict(keep_vars=True)
    if schedule.parallel == FSDP:
        from warmstart.training.fsdp import ShardedDataParallel

        return ShardedDataParallel(blocks, group_modules(blocks), state, device)
    from warmstart.training.pipeline import Pipeline

    inputs = tuple(value.to(device) for value in inputs)
    stages = world.same(_split_stages(trainable, blocks, schedule, inputs))
    owners = assign_stages(blocks, trainable.owners, stages)
    own = PipelineStage(blocks, stages[world.rank], is_last=world.rank == world.size - 1)
    return Pipeline(blocks, own, state, owners, device)


def report_sharding(parallelism: DataParallel) -> Steps[None]:
    """A note on the memory and the idle time of sharded weights, once a training is done."""
    report = parallelism.sharding_report()
    if report is None:
        return
    n, most = here().size, f"at most {100 * report.largest:.0f} % of the parameters in one of them"
    values: dict[str, float | int | str] = {"largest": round(report.largest, 4)}
    if report.idle is None:
        title, text = "Shards", f"{n} processes, {most} between two blocks"
    else:
        least = least_idle(n, report.n_micro_batches)
        values |= {"idle": round(report.idle, 4), "least_idle": round(least, 4)}
        title = "Pipeline"
        text = (
            f"{n} stages, {most}; idle {100 * report.idle:.0f} % of the time ({100 * least:.0f} % "
            "if all stages took equally long)"
        )
    event = note("fine_tune", title, text)
    yield replace(event, values={**event.values, **values})


def _split_stages(
    trainable: TrainableNetwork, blocks: UnfrozenBlocks, schedule: Schedule, inputs: Inputs
) -> tuple[range, ...]:
    """Blocks of each stage, numbered from 1. The first keeps what lies below, the last the head."""
    numbers = range(blocks.cut + 1, max(layer.block for layer in blocks.scan.feature_layers) + 1)
    size, main = schedule.micro_batch or schedule.batch_size, inputs[0]
    main = main.repeat(-(-size // len(main)), *[1] * (main.ndim - 1))[:size]
    times = _block_times(trainable, blocks, schedule, numbers, main)
    sizes = [block.parameters for block in trainable.network.record.blocks]
    total = sum(parameter.numel() for parameter in trainable.model.parameters())
    n_parameters = [float(sizes[number - 1]) for number in numbers]
    n_parameters[0] += sum(sizes[: blocks.cut])
    n_parameters[-1] += max(total - sum(n_parameters), 0.0)
    costs = [Cost(*time, n) for time, n in zip(times, n_parameters, strict=True)]
    runs = balance_stages(costs, here().size)
    return tuple(range(numbers[run[0]], numbers[run[-1]] + 1) for run in runs)


@torch.inference_mode()
def _block_times(
    trainable: TrainableNetwork,
    blocks: UnfrozenBlocks,
    schedule: Schedule,
    numbers: range,
    main: Tensor,
) -> list[tuple[float, float]]:
    trainable.model.eval()
    times, is_below = [], False
    for number in numbers:
        step = blocks.scan.steps.blocks[number - 1]
        run, seconds = partial(step.run, trainable.model.backbone), float("inf")
        for _ in range(REPEATS):
            copy = main.clone()  # a block may work in place
            _synchronize(main)
            start = time.perf_counter()
            outputs = run(copy)
            _synchronize(main)
            seconds = min(seconds, time.perf_counter() - start)
        moves = action_of(trainable.actions, step.name) != "frozen"
        backward = DOWN * is_below + OWN * moves
        recomputed = 1.0 if schedule.gradient_checkpointing and backward else 0.0
        times.append((seconds, seconds * (backward + recomputed)))
        is_below, main = is_below or moves, outputs
    return times


def _synchronize(main: Tensor) -> None:
    if main.is_cuda:
        torch.cuda.synchronize(main.device)
