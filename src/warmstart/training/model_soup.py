"""Several trainings on all rows, one network: the mean of their weights.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time", §2. All begin with the same weights and the same
output, and differ in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from warmstart.events import Steps, note
from warmstart.solve.ridge import Rows
from warmstart.training.job import TrainedNetwork, TrainingJob
from warmstart.training.loop import mean_loss
from warmstart.training.trainable import TrainableNetwork, tensors_to_train
from warmstart.training.validation import held_scores, spread

ROWS = 256  # learnt rows, at most, on which the mean is compared with what it is made of
BARRIER = 0.05  # of the loss of blind answers: a mean worse by more lies on a ridge between them

Weights = dict[str, Tensor]


def train_soup(
    make: Callable[[int, float], TrainingJob], numbers: range, scale: float
) -> Steps[TrainedNetwork]:
    """Train once for each number; what comes out has the mean of all their weights.

    `make` gives a training of that number that begins at a scale of its rates. A mean that answers
    learnt rows worse than its ingredients is left: then the first is what comes out.
    """
    job = make(numbers[0], scale)
    trained = yield from job.learn()
    trainable = trained.trainable
    if len(numbers) == 1 or trainable is None:
        return trained
    rows = spread(job.rows, ROWS)
    first = _weights(trainable)
    mean, losses = first, [_loss(job, trainable, rows)]
    for count, number in enumerate(numbers[1:], start=2):
        again = yield from make(number, trained.scale).learn()
        trained = replace(trained, guards=(*trained.guards, *again.guards))
        if again.trainable is None:
            break  # its guards tell why; what was learnt before stands
        losses.append(_loss(job, again.trainable, rows))
        mean = _moved(mean, _weights(again.trainable), 1 / count)
        del again  # a whole network
    if len(losses) == 1:
        return trained
    _put(trainable, mean)
    height = _loss(job, trainable, rows) - float(np.mean(losses))
    target = job.context.target
    if height > BARRIER * target.blind_loss(job.context.labels[job.rows]):
        _put(trainable, first)
        text = f"the mean of {len(losses)} trainings answers worse than each; the first is kept"
        yield note("fine_tune", "Mean", text)
    else:
        yield note("fine_tune", "Mean", f"the weights are the mean of {len(losses)} trainings")
    return trained


def _weights(trainable: TrainableNetwork) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in tensors_to_train(trainable).items()}


def _moved(mean: Weights, other: Weights, share: float) -> Weights:
    """Each tensor a share of the way to the other."""
    return {name: torch.lerp(tensor, other[name], share) for name, tensor in mean.items()}


def _put(trainable: TrainableNetwork, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors_to_train(trainable).items():
            tensor.copy_(weights[name])


def _loss(job: TrainingJob, trainable: TrainableNetwork, rows: Rows) -> float:
    """Mean loss of learnt rows, not calibrated."""
    scores = torch.from_numpy(held_scores(trainable, job.context, rows))
    return mean_loss(job.context.target, scores, job.context.targets(rows))
