"""One training's moving state: weights, optimizer, their average, what they are drawn back to.

A `Trainer` makes one update at a time, so that a caller can look, keep, stop and go on: its
state after a step says all that the next step depends on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from warmstart.distributed import gone, here, is_about_others
from warmstart.training.data_parallel import DataParallel, Inputs, StepWork, Parallelism, is_out_of_memory
from warmstart.training.loop import BatchLoss, class_loss, make_optimizer, seeded

Groups = Sequence[Mapping[str, Any]]
LAG = 10  # an average reaches back over a tenth of the updates made, at most
PULL = 0.1  # of the way back at most: all of it would hide that a rate is far too high


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRule:
    """How updates are made.

    `average`: decay of the moving average of the weights, 0: none; after n updates it is at most
    n / (n + `lag`), so that a lag of 1 begins with the plain mean, and a longer one with the last
    weights. `l2_sp`: pull towards the weights at the beginning, times the rate. `micro_batch`:
    examples worked through at once.
    """

    optimizer: str
    weight_decay: float
    ema_decay: float = 0.0
    lag: int = LAG
    l2_sp: float = 0.0
    micro_batch: int = 32
    device: str = "cpu"
    precision: str = "float32"
    seed: int = 0


class Trainer:
    """Trains a network in place.

    `network` maps a batch's inputs to logits (B, K); `moving` names every tensor that training
    may change, in a fixed order: parameters, and buffers such as statistics. `loss` is that of
    the task, summed over rows. `way`: how several processes share the work; each names in
    `moving` what it keeps. `renew` is called where weights are put that no batch was passed
    with, such as averaged ones: it brings up to them what follows from batches.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        moving: Mapping[str, Tensor],
        course: UpdateRule,
        loss: BatchLoss = class_loss,
        way: Parallelism | None = None,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self.course, self.loss, self._renew = course, loss, renew
        self.way: Parallelism = way or DataParallel(network, course.device)
        self.moving = dict(moving)
        self.micro_batch = course.micro_batch
        self._buffers = [t for t in self.moving.values() if not isinstance(t, nn.Parameter)]
        self.base, self.mean = self.own(), self.own()
        self._n_averaged = 0
        self._optimizer: torch.optim.Optimizer | None = None
        self._peaks: list[float] = []
        self._scaler = torch.amp.GradScaler(course.device, enabled=course.precision == "float16")

    def begin(self, groups: Groups) -> None:
        """Begin a stage: these parameters move from now on, each group at its own rate."""
        course = self.course
        own = [dict(group) for group in groups]
        for group in own if course.l2_sp else ():
            if group.get("is_anchored", True):
                group["weight_decay"] = 0.0  # drawn to the start instead of to nothing
        self._optimizer = make_optimizer(course.optimizer, own, course.weight_decay)
        self._peaks = [float(group["lr"]) for group in self._optimizer.param_groups]
        self.way.begin()

    def update(self, index: int, factor: float, inputs: Inputs, labels: Tensor) -> float:
        """One step at `factor` times the rates; the mean loss before it, in nats.

        Where that is not a number, nothing was changed. A batch that the memory does not hold
        is worked through in halves from then on (`micro_batch`); the step is the same but for
        rounding, and for what layers do to a batch as a whole: dropout draws anew for each
        piece, BatchNorm of a fresh part sees the pieces one by one.
        Raises: RuntimeError, MemoryError of torch's where even one example does not fit.
        """
        optimizer = cast(torch.optim.Optimizer, self._optimizer)
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = factor * peak
        statistics = [buffer.clone() for buffer in self._buffers]
        while True:
            try:
                loss = self._gradients(optimizer, index, inputs, labels)
                break
            except (RuntimeError, MemoryError) as error:
                most = min(self.micro_batch, len(labels))
                if is_about_others(error):
                    raise gone(error) from error
                if not is_out_of_memory(error) or most <= 1 or here().size > 1:
                    raise
                self.micro_batch = most // 2
            self._undo(statistics)
            self._release()
        if not math.isfinite(loss):
            self._undo(statistics)
            return loss
        self._scaler.step(optimizer)
        self._scaler.update()
        with torch.no_grad():
            self._draw_back(optimizer)
            self._absorb()
        return loss

    def _gradients(
        self, optimizer: torch.optim.Optimizer, index: int, inputs: Inputs, labels: Tensor
    ) -> float:
        """Those of a batch; its mean loss. None are left where that is not a number."""
        optimizer.zero_grad(set_to_none=True)
        course = self.course
        work = StepWork(
            self.loss,
            self.micro_batch,
            self._scaler.scale,
            course.device,
            course.precision,
            is_gathered=bool(self._buffers),
        )
        with seeded(course.seed + index):
            loss = self.way.gradients(inputs, labels, work)
        if not math.isfinite(loss):
            optimizer.zero_grad(set_to_none=True)
        return loss

    @torch.no_grad()
    def _undo(self, statistics: Sequence[Tensor]) -> None:
        """Put back what a pass that came to nothing did to the statistics of batches."""
        for buffer, before in zip(self._buffers, statistics, strict=True):
            buffer.copy_(before)

    def _draw_back(self, optimizer: torch.optim.Optimizer) -> None:
        """L2-SP: Li, Grandvalet & Davoine 2018, §3, decoupled from the gradient as in AdamW."""
        if not self.course.l2_sp:
            return
        home = {id(t): s for t, s in zip(self.moving.values(), self.base, strict=True)}
        for group in optimizer.param_groups:
            if group.get("is_anchored", True):
                share = min(float(group["lr"]) * self.course.l2_sp, PULL)
                if params := [p for p in group["params"] if p.grad is not None]:
                    torch._foreach_lerp_(params, [home[id(p)] for p in params], share)

    def _absorb(self) -> None:
        """Take the weights into their moving average; its first steps count for less."""
        if not self.course.ema_decay:
            return
        self._n_averaged += 1
        n = self._n_averaged
        share = 1 - min(self.course.ema_decay, n / (self.course.lag + n))
        floats = [(m, t) for m, t in self._pairs() if m.is_floating_point()]
        if floats:
            torch._foreach_lerp_([m for m, _ in floats], [t.detach() for _, t in floats], share)
        for mean, tensor in self._pairs():
            if not mean.is_floating_point():
                mean.copy_(tensor)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.mean, self.moving.values(), strict=True)

    def _release(self) -> None:
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
        if self.course.device == "cuda":
            torch.cuda.empty_cache()

    # ---- weights that are looked at -------------------------------------------------------

    @contextmanager
    def shown(self, share: float = 1.0) -> Iterator[None]:
        """The averaged weights, or a share of the way to them from the start, for a while.

        Weight interpolation: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
        """
        own = self.own()
        try:
            self.settle(share)
            yield
        finally:
            self.put(own)

    @torch.no_grad()
    def settle(self, share: float = 1.0) -> None:
        """Leave the network with the weights that `shown` shows."""
        ends = [end.clone() for end in self.mean] if self.course.ema_decay else self.own()
        if share < 1:
            for end, begin in zip(ends, self.base, strict=True):
                if end.is_floating_point():
                    end.copy_(torch.lerp(begin, end, share))
        self.put(ends)
        self._renew()

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Copy values into what this process keeps of the moving tensors, where it stands."""
        for tensor, value in zip(self._views(), values, strict=True):
            tensor.copy_(value)
        self.way.spread()

    def own(self) -> list[Tensor]:
        """What this process keeps of the moving tensors, as it is now."""
        return [tensor.clone() for tensor in self._views()]

    def _views(self) -> list[Tensor]:
        values = {name: tensor.detach() for name, tensor in self.moving.items()}
        if not self.way.is_whole:  # what this process holds is what it keeps
            return [*values.values()]
        return [self.way.block(name, value) for name, value in values.items()]

    # ---- what a checkpoint holds ------------------------------------------------------------

    def named(self, kind: str, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """One tensor for each that moves, as a checkpoint calls them."""
        pairs = zip(self.moving, values, strict=True)
        return {f"{kind}.{name}": self.way.placed(name, value) for name, value in pairs}

    def kept(self, kind: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """What this process keeps of such tensors. Raises: KeyError where one is missing."""
        return [self.way.block(name, tensors[f"{kind}.{name}"]) for name in self.moving]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on, the start's own apart."""
        found = self.named("now", self._views())
        if self.course.ema_decay:
            found |= self.named("mean", self.mean)
        if self._optimizer is not None:
            for name, parameter in self.moving.items():
                for key, value in self._optimizer.state.get(parameter, {}).items():
                    if value is not None:
                        placed = self.way.placed(name, torch.as_tensor(value))
                        found[f"optimizer/{name}/{key}"] = placed
        return found

    def facts(self) -> dict[str, Any]:
        """The same for plain numbers."""
        return {
            "n_averaged": self._n_averaged,
            "micro_batch": self.micro_batch,
            "scaler": self._scaler.state_dict(),
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Be as after the step that these were taken at; `begin` has been called as then.

        Raises: KeyError where a tensor is missing.
        """
        self.put(self.kept("now", tensors))
        if self.course.ema_decay:
            for mean, value in zip(self.mean, self.kept("mean", tensors), strict=True):
                mean.copy_(value)
        optimizer = cast(torch.optim.Optimizer, self._optimizer)
        for name, parameter in self.moving.items():
            begun = f"optimizer/{name}/"
            keys = [key.removeprefix(begun) for key in tensors if key.startswith(begun)]
            if keys:
                optimizer.state[parameter] = {
                    key: _like(self.way.block(name, tensors[begun + key]), parameter)
                    for key in keys
                }
        self._n_averaged = int(facts["n_averaged"])
        self.micro_batch = int(facts["micro_batch"])
        self._scaler.load_state_dict(dict(facts["scaler"]))


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """In the order of memory that the parameter has: other orders may round otherwise."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
