"""The training loop, a generator of one `Step` per update; losses, schedules, optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, normalize

from warmstart.errors import PlanError, TrainingError
from warmstart.tasks.task import Target

Batch = tuple[Any, Tensor]  # inputs as the network takes them, labels (B,)
Schedule = Callable[[int], float]  # step -> factor of every learning rate
Loss = Callable[[Any, Any], Tensor]  # outputs of the network, labels -> one number
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """One update: the loss before it, in nats, and the factor of its learning rates."""

    index: int
    loss: float
    factor: float


def warm_cosine(n_steps: int, warm_up: float, *, falls: bool = True) -> Schedule:
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


def train(
    network: Callable[[Any], Any],
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    seed: int,
    loss: Loss = cross_entropy,
) -> Iterator[Step]:
    """Yield one `Step` after each update. `network` returns logits (B, K), or what `loss` takes.

    Dropout draws from torch's global generator: it is seeded with `seed` plus the step for each
    step and restored afterwards, so that single steps can be repeated.
    Raises: TrainingError where the loss is not finite.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    for index, (inputs, labels) in enumerate(batches):
        factor = schedule(index)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = factor * peak
        with seeded(seed + index):
            batch_loss = loss(network(inputs), labels)
            value = float(batch_loss.detach())
            if not math.isfinite(value):
                raise divergence_error(max(peaks), f"the loss is {value} at step {index + 1}")
            optimizer.zero_grad(set_to_none=True)
            batch_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield Step(index, value, factor)


def divergence_error(
    peak: float, what: str = "the network's outputs are not finite"
) -> TrainingError:
    """The error for training that diverged at learning rates of at most `peak`."""
    return TrainingError(
        f"training diverged: {what}; use a learning rate below {peak:g} (--lr), or --strategy "
        "head, which cannot diverge."
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for a while, those of GPUs included; restore them after."""
    has_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count() if has_gpu else 0)):
        torch.manual_seed(seed)
        yield


class ScaledHead(nn.Module):
    """A linear head on standardised features: logits = W ((features - offset) * scale) + b.

    Rows have about unit length, so that one learning rate fits all feature layers.
    Shapes: offset, scale (D,), weight (K, D), bias (K,).
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
        """Features, one (B, d_t) per layer with widths that add up to D, to logits (B, K)."""
        joined = (torch.cat(list(features), dim=1) - self.offset) * self.scale
        return nn.functional.linear(joined, self.weight, self.bias)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the same head on unscaled features, in float64."""
        weight = self.weight.detach().double() * self.scale.double()
        return weight, self.bias.detach().double() - weight @ self.offset.double()


BatchLoss = Callable[[Tensor, Tensor], Tensor]  # outputs (B, K) and truth -> sum over rows


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
