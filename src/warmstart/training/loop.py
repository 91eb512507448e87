"""The training loop, a generator: one `Step` after each update; the caller watches and stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from warmstart.errors import PlanError, TrainingError

Batch = tuple[Any, Tensor]  # inputs as the network takes them, labels (B,)
Schedule = Callable[[int], float]  # step -> factor of every rate
Loss = Callable[[Any, Any], Tensor]  # what the network gives, the labels -> one number
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """One update: its loss before it, in nats, and the factor its rates were scaled by."""

    index: int
    loss: float
    factor: float


def warm_cosine(n_steps: int, warm_up: float, *, falls: bool = True) -> Schedule:
    """Rise in a straight line over the first share of the steps, then fall along a cosine.

    Loshchilov & Hutter 2017, "SGDR", §3, without restarts. The last step still moves. Where it
    never `falls`, it stays at 1.

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


def make_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9, over groups that carry their own rates.

    Groups that carry no `weight_decay` of their own get this one.
    Raises: PlanError for another name.
    """
    own = [dict(group) for group in groups]
    if name == "adamw":
        return torch.optim.AdamW(own, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(own, lr=0.0, momentum=MOMENTUM, weight_decay=weight_decay)
    raise PlanError(f"training.optimizer {name!r} is not known; it has adamw and sgd.")


def train(
    network: Callable[[Any], Any],
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    seed: int,
    loss: Loss = cross_entropy,
) -> Iterator[Step]:
    """Yield one `Step` after each update. `network` gives logits (B, K), or what `loss` takes.

    Dropout and its like draw from torch's global generator: it is seeded for each step by
    `seed` and the step, and put back after, so that steps can be repeated one by one.
    Raises: TrainingError where the loss is not a number.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    for index, (inputs, labels) in enumerate(batches):
        factor = schedule(index)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = factor * peak
        with seeded(seed + index):
            found = loss(network(inputs), labels)
            value = float(found.detach())
            if not math.isfinite(value):
                raise diverged(max(peaks), f"the loss is {value} at step {index + 1}")
            optimizer.zero_grad(set_to_none=True)
            found.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield Step(index, value, factor)


def diverged(peak: float, what: str = "the network's answers are not numbers") -> TrainingError:
    """The error for training that went out of bounds at rates of at most `peak`."""
    return TrainingError(
        f"training diverged: {what}; use a lower rate than {peak:g} (--lr), or --strategy head, "
        "which cannot diverge."
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators at a seed for a while; put back after."""
    with torch.random.fork_rng(devices=_devices()):
        torch.manual_seed(seed)
        yield


def _devices() -> range:
    """The GPUs whose generators seeding would touch."""
    has_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if has_gpu else 0)


class ScaledHead(nn.Module):
    """A linear head on taps brought to one scale: logits = W ((taps - offset) * scale) + b.

    Scaled as in closed form, rows have about unit length, so that one learning rate fits
    taps of any width and size. Shapes: offset, scale (D,), weight (K, D), bias (K,).
    """

    def __init__(self, weight: Tensor, bias: Tensor, offset: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().clone())
        self.bias = nn.Parameter(bias.float().clone())
        self.offset: Tensor
        self.scale: Tensor
        self.register_buffer("offset", offset.float())
        self.register_buffer("scale", scale.float())

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Taps, each (B, d_t) with their widths adding up to D, to logits (B, K)."""
        joined = (torch.cat(list(features), dim=1) - self.offset) * self.scale
        return nn.functional.linear(joined, self.weight, self.bias)

    def plain(self) -> tuple[Tensor, Tensor]:
        """The same head on unscaled taps, in float64: weight (K, D), bias (K,)."""
        weight = self.weight.detach().double() * self.scale.double()
        return weight, self.bias.detach().double() - weight @ self.offset.double()
