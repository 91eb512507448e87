"""Single trainings of tiny networks on a small data set, as a run makes them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from extraction import scene_of
from hue_images import fill
from plans import apply_settings, plan_for
from tiny import network
from warmstart.events import drain
from warmstart.network.ledger import take_digests
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.schedule import schedule
from warmstart.training import score
from warmstart.training.batches import open_source
from warmstart.training.loop import TrainingJob
from warmstart.training.trainable import trainable

PLAIN = ("training.crop=1", "training.flip=false", "training.color_jitter=0")
FEW = ("training.epochs=0.8889", "training.batch_size=8")


class Four(nn.Module):
    """Four layers that join one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2)
        self.c, self.d = nn.Conv2d(8, 12, 3), nn.Conv2d(12, 16, 3)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = torch.relu(self.d(torch.relu(self.c(x))))
        return self.out(x.mean((2, 3)))


def four() -> nn.Module:
    """Always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Four().eval()


@contextmanager
def picture_folder(factory, name):
    """A folder of 36 pictures in three colours, and a cache of features for as long."""
    root = factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        yield fill(root / "pictures", {"blue": 12, "green": 12, "red": 12})


def training_data(data, module=network, **options):
    """Cleaned data with the features of a network."""
    return scene_of(data, module(), budget="fast", **options)


def planned(training_data, strategy, settings=(), lr=None, **wishes):
    """The plan of a run on this data."""
    facts = NetworkFacts(
        record=training_data.extracted.network.record, preprocessing=training_data.prep
    )
    data = training_data.labelled.facts()
    made = plan_for(strategy, data, facts, lr=lr, raw=True, **wishes)
    return plan_cache(apply_settings(made, settings), facts, data)


def source(training_data, plan):
    """The batches of a training."""
    return drain(open_source(training_data, plan, schedule(plan)))


def job(training_data, plan, held=(), **options):
    """A training on all rows but those held out."""
    rows = np.arange(len(training_data.labelled.learn))
    held = np.asarray(held, np.int64)
    keep = np.setdiff1d(rows, held)
    head = score.fit_on(training_data, plan, keep)
    read = training_data.extracted.reader(training_data.examples(keep))
    options = {"number": 1, **options}
    return TrainingJob(
        make=lambda: trainable(training_data.extracted.network, plan, head, read, 0),
        schedule=schedule(plan),
        source=source(training_data, plan),
        digests=take_digests(training_data.extracted.network),
        rows=keep,
        held=held,
        **options,
    )


def state(model):
    """All tensors of a model, copied."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def differing(one, other):
    """Names of tensors that are not the same bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def changed(job, trainable):
    """Blocks with a tensor that differs from the base model's."""
    now, before = take_digests(trainable.network), job.digests
    return {trainable.network.owners[name] for name in before if now[name] != before[name]}


def with_engine(plan, name):
    """The plan with another engine."""
    engine = replace(plan.training.engine, value=name)
    return replace(plan, training=replace(plan.training, engine=engine))
