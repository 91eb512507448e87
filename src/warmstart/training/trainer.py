"""What changes during one training: weights, optimizer, moving average.

A `Trainer` makes one update at a time, so that a caller can evaluate, save, stop and resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from warmstart.distributed import here, process_errors
from warmstart.planning.schedule import Schedule
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.training.batches import Inputs
from warmstart.training.data_parallel import DataParallel, StepWork, is_out_of_memory
from warmstart.training.loop import BatchLoss, make_optimizer, seeded

LAG = 10  # the moving average spans at most a tenth of the updates made
PULL = 0.1  # of the distance at most: all of it would hide a learning rate that is far too high


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
        self._buffers = [t for t in self.moving.values() if not isinstance(t, nn.Parameter)]
        self.base, self.mean = self.local_values(), self.local_values()
        self._n_averaged = 0
        self._optimizer: torch.optim.Optimizer | None = None
        self._peaks: list[float] = []
        is_scaled = schedule.precision == "float16"
        self._scaler = torch.amp.GradScaler(schedule.device, enabled=is_scaled)

    def begin(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Begin a stage: train these parameters from now on, each group at its learning rate."""
        schedule, copies = self.schedule, [dict(group) for group in groups]
        for group in copies if schedule.l2_sp else ():
            if group.get("is_anchored", True):
                group["weight_decay"] = 0.0  # pulled to the initial weights instead of to zero
        self._optimizer = make_optimizer(schedule.optimizer, copies, schedule.weight_decay)
        self._peaks = [float(group["lr"]) for group in self._optimizer.param_groups]
        self.parallelism.begin()

    def update(self, index: int, factor: float, inputs: Inputs, labels: Tensor) -> float:
        """One step at `factor` times the learning rates; returns the mean loss before it, in nats.

        Where the loss is not finite, nothing is changed. A batch that does not fit into memory is
        computed in halves from then on. Raises: RuntimeError, MemoryError where one example does
        not fit.
        """
        optimizer = cast(torch.optim.Optimizer, self._optimizer)
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = factor * peak
        statistics = [buffer.clone() for buffer in self._buffers]
        optimizer.zero_grad(set_to_none=True)
        while True:
            try:
                with process_errors():
                    loss = self._gradients(index, inputs, labels)
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
        self._scaler.step(optimizer)
        self._scaler.update()
        with torch.no_grad():
            self._apply_l2_sp(optimizer)
            self._update_mean()
        return loss

    def _gradients(self, index: int, inputs: Inputs, labels: Tensor) -> float:
        schedule = self.schedule
        work = StepWork(
            self.loss,
            self.micro_batch,
            self._scaler.scale,
            schedule.device,
            schedule.precision,
            is_gathered=bool(self._buffers),
        )
        with seeded(schedule.seed + index):
            return self.parallelism.gradients(inputs, labels, work)

    @torch.no_grad()
    def _restore_statistics(self, statistics: Sequence[Tensor]) -> None:
        """Undo what a failed step did to the statistics of batches."""
        for buffer, before in zip(self._buffers, statistics, strict=True):
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
            "scaler": self._scaler.state_dict(),
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
        self._scaler.load_state_dict(dict(facts["scaler"]))


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy in the parameter's memory order: other orders may round differently."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
