"""Updates: the gradients of a batch, a step of the optimizer, L2-SP, the moving average (EMA).

A `Trainer` makes one update at a time, so that a caller can evaluate, save, stop and resume. The
weights are sharded in `training.sharding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize
from torch.nn.parallel import DistributedDataParallel

from warmstart.distributed import ALONE, ProcessGroup, here, process_errors
from warmstart.errors import PlanError, TrainingError
from warmstart.events import Event
from warmstart.network.cut import UnfrozenBlocks, group_modules
from warmstart.planning.facts import DATA, FSDP
from warmstart.planning.schedule import Schedule
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target
from warmstart.training.batches import Inputs
from warmstart.training.trainable import TrainableNetwork

Batch = tuple[Any, Tensor]  # inputs as the network takes them, labels (B,)
BatchLoss = Callable[[Tensor, Tensor], Tensor]  # outputs (B, K) and truth -> sum over rows
MOMENTUM = 0.9
LAG = 10  # the moving average spans at most a tenth of the updates made
PULL = 0.1  # of the distance at most: all of it would hide a learning rate that is far too high
JOINT_WRITER = "torch.distributed.checkpoint.hf_storage"  # several processes write with it
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Step:
    """One update: the loss before it, in nats, and the factor of its learning rates."""

    index: int
    loss: float
    factor: float


class Trainer:
    """Trains a network in place, as `schedule` says.

    `network` maps a batch's inputs to logits (B, K); `moving` names, in a fixed order, every tensor
    that training may change and this process keeps. `loss` is summed over rows. `renew` is called
    after weights are loaded that no batch was run with, such as averaged ones. After n updates the
    decay of the moving average is at most n / (n + lag): with a lag of 1, for contrastive training,
    it begins with the plain mean.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        moving: Mapping[str, Tensor],
        schedule: Schedule,
        loss: BatchLoss = CLASSIFICATION.summed_loss,
        parallelism: DataParallel | None = None,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self.schedule, self.loss, self._renew = schedule, loss, renew
        self.parallelism = parallelism or DataParallel(network, schedule.device)
        self.moving = dict(moving)
        self.micro_batch = schedule.micro_batch or schedule.batch_size
        self.buffers = [t for t in self.moving.values() if not isinstance(t, nn.Parameter)]
        self.base = self.local_values()
        self.mean = self.local_values() if schedule.ema_decay else []
        self._n_averaged = 0
        self._optimizer: torch.optim.Optimizer | None = None
        self._peaks: list[float] = []
        is_scaled = schedule.precision == "float16"
        self.scaler = torch.amp.GradScaler(schedule.device, enabled=is_scaled)

    def begin(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Begin a stage: train these parameters from now on, each group at its learning rate."""
        schedule, copies = self.schedule, [dict(group) for group in groups]
        for group in copies if schedule.l2_sp else ():
            if group.get("is_anchored", True):
                group["weight_decay"] = 0.0  # pulled to the initial weights instead of to zero
        self._optimizer = make_optimizer(schedule.optimizer, copies, schedule.weight_decay)
        self._peaks = [float(group["lr"]) for group in self._optimizer.param_groups]
        self.parallelism.begin()

    def train(
        self, batches: Iterable[Batch], lr_factor: Callable[[int], float], begin: int = 0
    ) -> Iterator[Step]:
        """Yield one `Step` after each update, the first of which has number `begin`."""
        for index, (inputs, labels) in enumerate(batches, begin):
            factor = lr_factor(index)
            yield Step(index, self.update(index, factor, inputs, labels), factor)

    def autocast(self) -> AbstractContextManager[Any]:
        """The number format in which layers compute."""
        half = _HALF.get(self.schedule.precision)
        return torch.autocast(self.schedule.device, half) if half else nullcontext()

    def update(self, index: int, factor: float, inputs: Any, labels: Tensor) -> float:
        """One step at `factor` times the learning rates; returns the mean loss before it, in nats.

        Dropout draws from torch's global generator: it is seeded with the schedule's seed plus
        `index` for each step and restored afterwards, so that single steps can be repeated.
        Where the loss is not finite, nothing is changed. A batch that does not fit into memory is
        computed in halves from then on. Raises: RuntimeError, MemoryError where one example does
        not fit.
        """
        optimizer = cast(torch.optim.Optimizer, self._optimizer)
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = factor * peak
        statistics = [buffer.clone() for buffer in self.buffers]
        optimizer.zero_grad(set_to_none=True)
        while True:
            try:
                with process_errors(), seeded(self.schedule.seed + index):
                    loss = self.parallelism.gradients(inputs, labels, self)
                break
            except (RuntimeError, MemoryError) as error:
                size = min(self.micro_batch, len(labels))
                if not is_out_of_memory(error) or size <= 1 or here().size > 1:
                    raise
                self.micro_batch = size // 2
            self._restore_statistics(statistics)
            optimizer.zero_grad(set_to_none=True)
            if self.schedule.device == "cuda":
                torch.cuda.empty_cache()
        if not math.isfinite(loss):
            optimizer.zero_grad(set_to_none=True)
            self._restore_statistics(statistics)
            return loss
        self.scaler.step(optimizer)
        self.scaler.update()
        with torch.no_grad():
            self._apply_l2_sp(optimizer)
            self._update_mean()
        return loss

    @torch.no_grad()
    def _restore_statistics(self, statistics: Sequence[Tensor]) -> None:
        """Undo what a failed step did to the statistics of batches."""
        for buffer, before in zip(self.buffers, statistics, strict=True):
            buffer.copy_(before)

    def _apply_l2_sp(self, optimizer: torch.optim.Optimizer) -> None:
        """L2-SP: Li, Grandvalet & Davoine 2018, §3, decoupled from the gradient as in AdamW."""
        if not self.schedule.l2_sp:
            return
        anchors = {id(t): s for t, s in zip(self.moving.values(), self.base, strict=True)}
        for group in optimizer.param_groups:
            if group.get("is_anchored", True):
                share = min(float(group["lr"]) * self.schedule.l2_sp, PULL)
                if params := [p for p in group["params"] if p.grad is not None]:
                    torch._foreach_lerp_(params, [anchors[id(p)] for p in params], share)

    def _update_mean(self) -> None:
        """Update the moving average of the weights; its first steps count for less."""
        if not self.schedule.ema_decay:
            return
        self._n_averaged += 1
        n, lag = self._n_averaged, 1 if self.schedule.contrastive else LAG
        share = 1 - min(self.schedule.ema_decay, n / (lag + n))
        pairs = [*zip(self.mean, self.moving.values(), strict=True)]
        floats = [(m, t) for m, t in pairs if m.is_floating_point()]
        if floats:
            torch._foreach_lerp_([m for m, _ in floats], [t.detach() for _, t in floats], share)
        for mean, tensor in pairs:
            if not mean.is_floating_point():
                mean.copy_(tensor)

    @contextmanager
    def averaged(self, share: float = 1.0) -> Iterator[None]:
        """Load the averaged weights for a while, or a share of the way from the initial ones.

        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
        """
        values = self.local_values()
        try:
            self.load_average(share)
            yield
        finally:
            self.put(values)

    @torch.no_grad()
    def load_average(self, share: float = 1.0) -> None:
        """Leave the network with the weights that `averaged` loads."""
        averages = self.mean if self.schedule.ema_decay else self._local_tensors()
        ends = [average.clone() for average in averages]
        if share < 1:
            for end, begin in zip(ends, self.base, strict=True):
                if end.is_floating_point():
                    end.copy_(torch.lerp(begin, end, share))
        self.put(ends)
        self._renew()

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Copy values into the trained tensors that this process keeps."""
        for tensor, value in zip(self._local_tensors(), values, strict=True):
            tensor.copy_(value)
        self.parallelism.broadcast()

    def local_values(self) -> list[Tensor]:
        """Copies of the trained tensors that this process keeps."""
        return [tensor.clone() for tensor in self._local_tensors()]

    def _local_tensors(self) -> list[Tensor]:
        values = {name: tensor.detach() for name, tensor in self.moving.items()}
        if not self.parallelism.is_whole:  # what this process holds is what it keeps
            return [*values.values()]
        return [self.parallelism.local_shard(name, value) for name, value in values.items()]

    def named(self, kind: str, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """One tensor for each trained one, under its name in a checkpoint."""
        pairs = zip(self.moving, values, strict=True)
        place = self.parallelism.with_placement
        return {f"{kind}.{name}": place(name, value) for name, value in pairs}

    def local_shards(self, kind: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """This process's share of such tensors. Raises: KeyError where one is missing."""
        return [self.parallelism.local_shard(n, tensors[f"{kind}.{n}"]) for n in self.moving]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on, except the initial weights."""
        tensors = self.named("now", self._local_tensors())
        if self.schedule.ema_decay:
            tensors |= self.named("mean", self.mean)
        if self._optimizer is not None:
            place = self.parallelism.with_placement
            for name, parameter in self.moving.items():
                for key, value in self._optimizer.state.get(parameter, {}).items():
                    if value is not None:
                        state = place(name, torch.as_tensor(value))
                        tensors[f"optimizer/{name}/{key}"] = state
        return tensors

    def facts(self) -> dict[str, Any]:
        """All plain numbers that the next step depends on."""
        return {
            "n_averaged": self._n_averaged,
            "micro_batch": self.micro_batch,
            "scaler": self.scaler.state_dict(),
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Restore a state, after `begin` as for that state. Raises: KeyError if one is missing."""
        self.put(self.local_shards("now", tensors))
        if self.schedule.ema_decay:
            for mean, value in zip(self.mean, self.local_shards("mean", tensors), strict=True):
                mean.copy_(value)
        optimizer = cast(torch.optim.Optimizer, self._optimizer)
        for name, parameter in self.moving.items():
            prefix, shard = f"optimizer/{name}/", self.parallelism.local_shard
            state = {
                key.removeprefix(prefix): _like(shard(name, tensors[key]), parameter)
                for key in tensors
                if key.startswith(prefix)
            }
            if state:
                optimizer.state[parameter] = state
        self._n_averaged = int(facts["n_averaged"])
        self.micro_batch = int(facts["micro_batch"])
        self.scaler.load_state_dict(dict(facts["scaler"]))


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy in the parameter's memory order: other orders may round differently."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def make_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9, over groups with their own learning rates.

    `weight_decay` is the default of groups that set none.
    Raises: PlanError for another name.
    """
    copies = [dict(group) for group in groups]
    if name == "adamw":
        return torch.optim.AdamW(copies, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(copies, lr=0.0, momentum=MOMENTUM, weight_decay=weight_decay)
    raise PlanError(f"training.optimizer {name!r} does not exist; choose adamw or sgd.")


def warm_cosine(n_steps: int, warm_up: float, *, falls: bool = True) -> Callable[[int], float]:
    """Linear warm-up over the first share of the steps, then cosine decay, if it `falls`.

    Loshchilov & Hutter 2017, "SGDR", §3, without restarts. The last step's factor is above zero.

    >>> schedule = warm_cosine(10, 0.2)
    >>> [round(schedule(step), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rising = math.ceil(warm_up * n_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if not falls:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(n_steps - rising, 1)))

    return factor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for a while, those of GPUs included; restore them after."""
    has_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count() if has_gpu else 0)):
        torch.manual_seed(seed)
        yield


def divergence_error(
    peak: float, what: str = "the network's outputs are not finite"
) -> TrainingError:
    """The error for training that diverged at learning rates of at most `peak`."""
    return TrainingError(
        f"training diverged: {what}; use a learning rate below {peak:g} (--lr), or --strategy "
        "head, which cannot diverge."
    )


# ---- How the gradients of a batch are computed: here, rows are split between processes.


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

    def gradients(self, inputs: Inputs, labels: Tensor, trainer: Trainer) -> float:
        """Compute the gradients of a batch; returns its mean loss, if not finite without them."""
        world, total, n = here(), 0.0, len(labels)
        for start in range(0, n, trainer.micro_batch):
            stop = min(start + trainer.micro_batch, n)
            rows, share = slice(start, stop), 1
            # Layers with statistics of the batch need all of it.
            if not trainer.buffers and stop - start >= world.size:
                rows, share = slice(start + world.rank, stop, world.size), world.size
            # Gradients are accumulated locally and sent with the last micro-batch.
            is_delayed = stop < n and isinstance(self._wrapped, DistributedDataParallel)
            with cast(Any, self._wrapped).no_sync() if is_delayed else nullcontext():
                with trainer.autocast():
                    logits = self._wrapped(*(value[rows] for value in inputs))
                loss = trainer.loss(logits.float(), labels[rows]) / n
                value = float(loss.detach())
                total += value if share == 1 else float(world.reduce_sum(np.array([value]))[0])
                if not math.isfinite(total):
                    return total
                trainer.scaler.scale(share * loss).backward()  # type: ignore[no-untyped-call]
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
        from warmstart.training.sharding import ShardedDataParallel

        state = trainable.model.state_dict(keep_vars=True)
        return ShardedDataParallel(blocks, group_modules(blocks), state, device)
    from warmstart.training.sharding import make_pipeline

    return make_pipeline(trainable, blocks, schedule, inputs[0].to(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, failed to allocate memory."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in text for word in ("out of memory", "can't allocate memory", "not enough memory")
    )


# ---- Losses.


def pair_loss(vectors: Tensor, truth: Tensor) -> Tensor:
    """Squared distance of cosines from 1 within classes and 0 between them, times the rows.

    SetFit's loss (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts", §3) over all
    pairs of a batch; both kinds have equal weight. Shapes: vectors (B, C), truth (B,).
    """
    unit, same = normalize(vectors), truth[:, None] == truth[None]
    errors = (unit @ unit.T - same.to(unit.dtype)) ** 2
    alike = same & ~torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    total = 0 * unit.sum()
    for pairs in (alike, ~same):
        if bool(pairs.any()):
            total = total + errors[pairs].mean()
    return len(truth) * total


def contrastive_loss(vectors: Tensor, truth: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss over cosines, summed over rows.

    Khosla et al. 2020, arXiv 2004.11362, §3.2.2. A row without another one of its class
    contributes nothing. Shapes: vectors (B, C), truth (B,).
    """
    unit = normalize(vectors)
    diagonal = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    alike = (truth[:, None] == truth[None]) & ~diagonal
    similarity = unit @ unit.T / temperature
    log_shares = log_softmax(similarity.masked_fill(diagonal, torch.finfo(unit.dtype).min), dim=1)
    n_alike = alike.sum(dim=1)
    return -(log_shares.masked_fill(~alike, 0.0).sum(dim=1) / n_alike.clamp(min=1)).sum()


def make_pair_loss(temperature: float) -> BatchLoss:
    """The contrastive loss at a temperature; at 0, cosines are pulled to 1 and 0."""
    if temperature:
        return partial(contrastive_loss, temperature=temperature)
    return pair_loss


def mean_loss(target: Target, outputs: Tensor, truth: Tensor) -> float:
    """The mean over rows. Shapes: outputs (m, K) float64, truth as the target takes it."""
    return float(target.summed_loss(outputs, truth) / len(outputs))
