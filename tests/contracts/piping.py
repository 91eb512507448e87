"""One process of a pipeline: `piping.py FOLDER KIND...` trains tiny networks and keeps them."""

from __future__ import annotations

import sys

import torch

import tiny
from warmstart.network import parts
from warmstart.network.edit import assemble
from warmstart.network.piece import Piece, balanced, keepers
from warmstart.network.tail import Tail
from warmstart.network.taps import tap_width, taps
from warmstart.training.parallel import Rows
from warmstart.training.pipeline import Pipeline
from warmstart.training.trainer import Course, Trainer
from warmstart.world import here, joined

N_STEPS, BATCH, CLASSES = 5, 8, 5


def model_of(kind):
    """A tiny network with a head that listens to its first tap and its last."""
    network = parts.cut(tiny.network(kind), tiny.PREP)
    offered = taps(network.record)
    wanted = tuple(dict.fromkeys((offered[0], offered[-1])))
    width = sum(tap_width(network.record, tap) for tap in wanted)
    rng = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(CLASSES, width, generator=rng)
    return network, assemble(network, wanted, weight, torch.zeros(CLASSES)).eval()


def way_of(network, model, tail):
    """The pipeline of this process, or plain training where it is alone."""
    world = here()
    if world.size == 1:
        return Rows(tail, "cpu")
    runs = balanced([1.0] * len(network.parts), world.size)
    pieces = [range(run.start + 1, run.stop + 1) for run in runs]
    owners = {name: network.owners.get(name.removeprefix("trunk."), "output")
              for name in model.state_dict()}  # fmt: skip
    own = Piece(tail, pieces[world.rank], is_last=world.rank == world.size - 1)
    kept = keepers(tail, owners, pieces)
    return Pipeline(tail, own, model.state_dict(keep_vars=True), kept, "cpu")


def trained(kind):
    """Losses, logits on the way with other processes' weights let go, and the end's weights."""
    network, model = model_of(kind)
    tail = Tail(model, 0, recompute=True)
    way = way_of(network, model, tail)
    moving = {name: p for name, p in model.named_parameters() if way.keeps(name)}
    course = Course(
        optimizer="adamw", weight_decay=0.01, average=0.9, l2_sp=0.1, micro_batch=2
    )  # fmt: skip
    trainer = Trainer(tail, moving, course, way=way)
    trainer.begin([{"params": [*moving.values()], "lr": 1e-3}])
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(N_STEPS, BATCH, 3, 32, 32, generator=rng)
    labels = torch.randint(CLASSES, (N_STEPS, BATCH), generator=rng)
    losses = [
        trainer.update(step, 1.0, (images[step],), labels[step]) for step in range(N_STEPS)
    ]  # fmt: skip
    held = sum(p.numel() for p in model.parameters())
    with trainer.shown(0.5), torch.no_grad():
        logits = way.run(images[0])
    way.end()
    trainer.settle()
    return {"losses": torch.tensor(losses), "logits": logits, **model.state_dict()}, held


if __name__ == "__main__":
    with joined():
        for kind in sys.argv[2:]:
            torch.save(trained(kind), f"{sys.argv[1]}/{kind}-{here().rank}.pt")
