"""What a training lowers, task by task, on torch tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    log_softmax,
    mse_loss,
    normalize,
)

from warmstart.records.data import Task
from warmstart.tasks.task import Target

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs (B, K) and truth to the sum over rows


def class_loss(outputs: Tensor, truth: Tensor) -> Tensor:
    """Log-loss, in nats."""
    return cross_entropy(outputs, truth, reduction="sum")


def _label_sets(outputs: Tensor, truth: Tensor) -> Tensor:
    """The mean over labels, so that many labels weigh no more than few."""
    wanted = truth.to(outputs.dtype)
    return binary_cross_entropy_with_logits(outputs, wanted, reduction="sum") / truth.shape[1]


def _numbers(outputs: Tensor, truth: Tensor) -> Tensor:
    """Squared error; the truth is standardised, so a unit is its variance."""
    return mse_loss(outputs[:, 0], truth.to(outputs.dtype), reduction="sum")


def pair_loss(vectors: Tensor, truth: Tensor) -> Tensor:
    """How far cosines are from 1 within classes and from 0 between them, times the rows.

    Both kinds of pairs weigh alike. Shapes: vectors (B, C), truth (B,). SetFit's loss (Tunstall
    et al. 2022, "Efficient Few-Shot Learning Without Prompts", §3) over all pairs of a batch.

    >>> vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> pair_loss(vectors, torch.tensor([0, 0, 1])).item()
    0.0
    """
    unit, same = normalize(vectors), truth[:, None] == truth[None]
    errors = (unit @ unit.T - same.to(unit.dtype)) ** 2
    alike = same & ~torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    total = 0 * unit.sum()
    for pairs in (alike, ~same):
        if bool(pairs.any()):
            total = total + errors[pairs].mean()
    return len(truth) * total


def contrast_loss(vectors: Tensor, truth: Tensor, temperature: float) -> Tensor:
    """How hard each row's own class is to tell from all others of the batch, summed over rows.

    Rows that have no other of their class say nothing of it. Shapes: vectors (B, C), truth (B,).
    The supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, §3.2.2), over cosines.

    >>> vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> kept, torn = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    >>> contrast_loss(vectors, kept, 0.1).item() < 0.001
    True
    >>> contrast_loss(vectors, torn, 0.1).item() > 10
    True
    """
    unit = normalize(vectors)
    own = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    alike = (truth[:, None] == truth[None]) & ~own
    likeness = unit @ unit.T / temperature
    told = log_softmax(likeness.masked_fill(own, torch.finfo(unit.dtype).min), dim=1)
    many = alike.sum(dim=1)
    return -(told.masked_fill(~alike, 0.0).sum(dim=1) / many.clamp(min=1)).sum()


def pairs_loss(temperature: float) -> Loss:
    """What pairs are learnt by: cosines drawn to 1 and 0 at a temperature of 0, else contrast."""
    if temperature:
        return partial(contrast_loss, temperature=temperature)
    return pair_loss


_LOSSES: dict[Task, Loss] = {
    "classify": class_loss,
    "multilabel": _label_sets,
    "regress": _numbers,
}


def summed_loss(target: Target) -> Loss:
    """The loss of a task, summed over rows.

    >>> import torch
    >>> from warmstart.tasks.regress import Numbers
    >>> summed_loss(Numbers())(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])).item()
    4.0
    """
    return _LOSSES[target.task]


def mean_loss(target: Target, outputs: Tensor, truth: Tensor) -> float:
    """Its mean. Shapes: outputs (m, K) float64, truth as the target takes it."""
    return float(summed_loss(target)(outputs, truth) / len(outputs))
