"""Model soup: several trainings on all rows, in another order each, averaged into one network.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time", §2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from warmstart.events import Steps, note
from warmstart.solve.ridge import Rows
from warmstart.training.early_stopping import held_scores, spread
from warmstart.training.job import TrainedNetwork, TrainingJob
from warmstart.training.loop import mean_loss
from warmstart.training.trainable import TrainableNetwork, tensors_to_train

ROWS = 256  # training rows, at most, on which the mean is compared with its ingredients
BARRIER = 0.05  # of the loss of always guessing: a mean that is worse by more lies between basins


def train_soup(
    make: Callable[[int, float], TrainingJob], numbers: range, scale: float
) -> Steps[TrainedNetwork]:
    """Train once for each number; the result has the mean of all their weights.

    `make` returns the job of a number and a learning rate scale. Where the mean fits the training
    rows worse than its ingredients do, the first training is returned.
    """
    job = make(numbers[0], scale)
    trained = yield from job.learn()
    trainable = trained.trainable
    if len(numbers) == 1 or trainable is None:
        return trained
    rows = spread(job.rows, ROWS)
    first = {n: tensor.detach().clone() for n, tensor in tensors_to_train(trainable).items()}
    mean, losses = first, [_loss(job, trainable, rows)]
    for count, number in enumerate(numbers[1:], start=2):
        other = yield from make(number, trained.scale).learn()
        trained = replace(trained, guards=(*trained.guards, *other.guards))
        if other.trainable is None:
            break  # its guards say why; the mean so far counts
        losses.append(_loss(job, other.trainable, rows))
        weights = tensors_to_train(other.trainable)
        mean = {n: torch.lerp(t, weights[n].detach(), 1 / count) for n, t in mean.items()}
        del other, weights  # a whole network
    if len(losses) == 1:
        return trained
    _set_weights(trainable, mean)
    barrier = _loss(job, trainable, rows) - float(np.mean(losses))
    target = job.context.target
    if barrier > BARRIER * target.blind_loss(job.context.labels[job.rows]):
        _set_weights(trainable, first)
        text = f"the mean of {len(losses)} trainings is worse than each; the first is kept"
    else:
        text = f"the weights are the mean of {len(losses)} trainings"
    yield note("fine_tune", "Model soup", text)
    return trained


def _set_weights(trainable: TrainableNetwork, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors_to_train(trainable).items():
            tensor.copy_(weights[name])


def _loss(job: TrainingJob, trainable: TrainableNetwork, rows: Rows) -> float:
    scores = torch.from_numpy(held_scores(trainable, job.context, rows))
    return mean_loss(job.context.target, scores, job.context.targets(rows))
