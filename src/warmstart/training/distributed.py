"""How several processes train together: in which way, and where the network is cut for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
    balance_stages,
    assign_stages,
    group_modules,
)
from warmstart.planning.machine import DATA, FSDP, PIPELINE, least_idle
from warmstart.planning.schedule import Schedule
from warmstart.records.plan import Action
from warmstart.training.data_parallel import DataParallel, Inputs, Parallelism
from warmstart.training.trainable import TrainableNetwork

TOGETHER = "torch.distributed.checkpoint.hf_storage"  # what several processes write with
TIMES = 3  # passes through each part, of which the quickest counts
HELD = frozenset[Action]({"frozen"})
DOWN, OWN = 1.0, 1.0  # passes that gradients take: down through a part, and for its own weights


def choose_parallelism(
    trainable: TrainableNetwork, tail: UnfrozenBlocks, chosen: Schedule, some: Inputs
) -> Parallelism:
    """As the plan says; alone, it is plain training.

    `some` are inputs of the tail, on which parts are timed.
    Raises: PlanError where the network has fewer parts than there are processes, pairs are
    compared that lie in several, the number format or a weight cannot be shared, several
    processes would share a GPU, or torch is too old.
    """
    world = here()
    if chosen.contrastive and world.size > 1:
        raise PlanError(
            f"training.contrastive compares all texts of a batch, and {world.size} processes share it; "
            "use one process, or leave pairs away."
        )
    if chosen.parallel == DATA or world.size == 1:
        seen: Any = tail.vectors if chosen.contrastive else tail
        run: Any = torch.compile(seen) if chosen.compile else seen
        return DataParallel(run, chosen.device, plain=tail)
    if find_spec(TOGETHER) is None:
        raise PlanError(
            f"--parallel {chosen.parallel} writes checkpoints together, which torch does from 2.8 "
            f"on; here is {torch.__version__}. Update torch, or use --parallel data."
        )
    if chosen.precision == "float16":
        raise PlanError(
            "training.precision float16 scales the loss by gradients that no process sees as a "
            "whole where weights are shared; use bfloat16 or float32, or --parallel data."
        )
    n_gpus = torch.cuda.device_count()
    if chosen.device == "cuda" and n_gpus < world.local:
        raise PlanError(
            f"--parallel {chosen.parallel} takes a GPU for each process, and {world.local} "
            f"processes share {n_gpus}; start at most {n_gpus} a machine, or use --device cpu."
        )
    return _SHARING[chosen.parallel](trainable, tail, chosen, some)


def _pipeline(
    trainable: TrainableNetwork, tail: UnfrozenBlocks, chosen: Schedule, some: Inputs
) -> Parallelism:
    from warmstart.training.pipeline import Pipeline

    world, device = here(), chosen.device
    pieces = world.same(_cut(trainable, tail, chosen, tuple(value.to(device) for value in some)))
    kept = assign_stages(tail, trainable.owners, pieces)
    own = PipelineStage(tail, pieces[world.rank], is_last=world.rank == world.size - 1)
    return Pipeline(tail, own, trainable.model.state_dict(keep_vars=True), kept, device)


def _sharded(
    trainable: TrainableNetwork, tail: UnfrozenBlocks, chosen: Schedule, some: Inputs
) -> Parallelism:
    from warmstart.training.fsdp import ShardedDataParallel

    return ShardedDataParallel(
        tail, group_modules(tail), trainable.model.state_dict(keep_vars=True), chosen.device
    )


_SHARING: dict[str, Callable[[TrainableNetwork, UnfrozenBlocks, Schedule, Inputs], Parallelism]] = {
    FSDP: _sharded,
    PIPELINE: _pipeline,
}


def report_sharding(way: Parallelism) -> Steps[None]:
    """What sharing the weights kept of the time and of the memory, once a training is done."""
    told = way.told()
    if told is None:
        return
    n, most = here().size, f"at most {100 * told.largest:.0f} % of the parameters in one of them"
    values: dict[str, float | int | str] = {"largest": round(told.largest, 4)}
    if told.idle is None:
        title, text = "Shares", f"{n} processes, {most} between the passes of two parts"
    else:
        least = least_idle(n, told.n_micro_batches)
        values |= {"idle": round(told.idle, 4), "least_idle": round(least, 4)}
        title = "Pipeline"
        text = (
            f"{n} stages, {most}; idle {100 * told.idle:.0f} % of the time (stages that cost the "
            f"same: {100 * least:.0f} %)"
        )
    said = note("fine_tune", title, text)
    yield replace(said, values={**said.values, **values})


def _cut(
    trainable: TrainableNetwork, tail: UnfrozenBlocks, chosen: Schedule, some: Inputs
) -> tuple[range, ...]:
    """Parts of each piece, numbered from 1. The first keeps what lies below, the last the head."""
    numbers = range(tail.cut + 1, max(layer.block for layer in tail.scan.feature_layers) + 1)
    size = chosen.micro_batch or chosen.batch_size
    main = some[0].repeat(-(-size // len(some[0])), *[1] * (some[0].ndim - 1))[:size]
    costs = _costs(trainable, tail, chosen, numbers, main)
    sizes = [block.parameters for block in trainable.network.record.blocks]
    whole = sum(parameter.numel() for parameter in trainable.model.parameters())
    kept = [float(sizes[number - 1]) for number in numbers]
    kept[0] += sum(sizes[: tail.cut])
    kept[-1] += max(whole - sum(kept), 0.0)
    blocks = [Cost(*cost, n) for cost, n in zip(costs, kept, strict=True)]
    return tuple(
        range(numbers[run[0]], numbers[run[-1]] + 1) for run in balance_stages(blocks, here().size)
    )


@torch.inference_mode()
def _costs(
    trainable: TrainableNetwork,
    tail: UnfrozenBlocks,
    chosen: Schedule,
    numbers: Sequence[int],
    main: Tensor,
) -> list[tuple[float, float]]:
    """Seconds of each part in an update, forwards and backwards."""
    trainable.model.eval()
    found, is_below = [], False
    for number in numbers:
        step = tail.scan.steps.blocks[number - 1]
        seconds, made = _timed(partial(step.run, trainable.model.backbone), main)
        moves = action_of(trainable.actions, step.name) not in HELD
        passed = DOWN * is_below + OWN * moves
        again = 1.0 if chosen.gradient_checkpointing and passed else 0.0
        found.append((seconds, seconds * (passed + again)))
        is_below, main = is_below or moves, made
    return found


def _timed(run: Callable[[Tensor], Any], main: Tensor) -> tuple[float, Tensor]:
    least = float("inf")
    for _ in range(TIMES):
        given = main.clone()  # a part may work in place
        _settle(main)
        began = time.perf_counter()
        made = run(given)
        _settle(main)
        least = min(least, time.perf_counter() - began)
    return least, made


def _settle(main: Tensor) -> None:
    """Wait for what a GPU was told to do."""
    if main.is_cuda:
        torch.cuda.synchronize(main.device)
