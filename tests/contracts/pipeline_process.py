"""One process of two: `pipeline_process.py FOLDER KIND...` trains tiny networks in both ways."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

import tiny
from warmstart.distributed import here, join_group
from warmstart.network import partition
from warmstart.network.batch_norm import recompute_statistics
from warmstart.network.cut import (
    Cost,
    PipelineStage,
    UnfrozenBlocks,
    assign_stages,
    balance_stages,
    group_modules,
)
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.surgery import assemble
from warmstart.training.checkpoint import write_joint_checkpoint
from warmstart.training.sharding import Pipeline, ShardedDataParallel
from warmstart.training.trainer import DataParallel, Trainer

HALF, DOUBLE = "bfloat16", "float64"
N_STEPS, BATCH, CLASSES = 5, 8, 5


def model_of(kind):
    """A tiny network with a head that listens to its first feature layer and its last."""
    network = partition.cut(tiny.network(kind), tiny.PREP)
    offered = feature_layers(network.record)
    wanted = tuple(dict.fromkeys((offered[0], offered[-1])))
    width = sum(layer_width(network.record, layer) for layer in wanted)
    rng = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(CLASSES, width, generator=rng)
    return network, assemble(network, wanted, weight, torch.zeros(CLASSES)).eval()


def choose_parallelism(word, network, model, tail):
    """The way of this process, or plain training where it is alone."""
    world = here()
    if world.size == 1 or word == "data":
        return DataParallel(tail, "cpu")
    if word == "fsdp":
        return ShardedDataParallel(
            tail, group_modules(tail), model.state_dict(keep_vars=True), "cpu"
        )
    runs = balance_stages([Cost(1, 2, 1)] * len(network.blocks), world.size)
    pieces = [range(run.start + 1, run.stop + 1) for run in runs]
    owners = {
        name: network.owners.get(name.removeprefix("backbone."), "output")
        for name in model.state_dict()
    }
    own = PipelineStage(tail, pieces[world.rank], is_last=world.rank == world.size - 1)
    kept = assign_stages(tail, owners, pieces)
    return Pipeline(tail, own, model.state_dict(keep_vars=True), kept, "cpu")


def renewed(model, way, images):
    """Statistics anew, of networks that have some."""
    with recompute_statistics(model, [*model.buffers()]) as is_wanted, torch.no_grad():
        if is_wanted:
            way.run(images)


def trained_in_double(kind, word=""):
    """The same where all that is kept in full precision is kept in double precision."""
    with patch.object(torch.Tensor, "float", torch.Tensor.double):
        return trained(kind, word, precision=DOUBLE)[0]


def trained(kind, word="", folder=None, precision="float32"):
    """What came of it, the parameters that this process held on the way, what it would keep.

    Losses, logits on the way with other processes' weights let go, and the end's weights.
    `folder`: where all processes write what they keep.
    """
    network, model = model_of(kind)
    if precision == DOUBLE:
        model.double()
    tail = UnfrozenBlocks(model, 0, recompute=True)
    way = choose_parallelism(word, network, model, tail)
    moving = {n: t for n, t in model.state_dict(keep_vars=True).items() if way.keeps(n)}
    if kind != "convolutions":  # those have statistics, which a fresh network learns
        moving = {n: t for n, t in moving.items() if isinstance(t, torch.nn.Parameter)}
    course = replace(
        tiny.SCHEDULE,
        weight_decay=0.01,
        ema_decay=0.9,
        l2_sp=0.1,
        micro_batch=2,
        precision="float32" if precision == DOUBLE else precision,
    )
    trainer = Trainer(tail, moving, course, parallelism=way)
    weights = [tensor for tensor in moving.values() if isinstance(tensor, torch.nn.Parameter)]
    trainer.begin([{"params": weights, "lr": 1e-3}])
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(N_STEPS, BATCH, 3, 32, 32, generator=rng)
    images = images.double() if precision == DOUBLE else images
    labels = torch.randint(CLASSES, (N_STEPS, BATCH), generator=rng)
    model.train(kind == "convolutions")
    losses = [trainer.update(step, 1.0, (images[step],), labels[step]) for step in range(N_STEPS)]
    model.eval()
    tensors = trainer.tensors()
    if folder is None:
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
    else:
        write_joint_checkpoint(folder, tensors, {})
        kept = {}
    held = sum(p.numel() for p in model.parameters())
    with trainer.averaged(0.5), torch.no_grad():
        renewed(model, way, images[0])
        logits = way.run(images[0])
    way.end()
    trainer.load_average()
    renewed(model, way, images[0])
    found = {"losses": torch.tensor(losses), "logits": logits, **model.state_dict()}
    return found, held, kept


if __name__ == "__main__":
    with join_group():
        for kind in sys.argv[2:]:
            for word in ("pipeline", "fsdp"):
                place = Path(sys.argv[1]) / f"{kind}-{word}"
                torch.save(trained(kind, word, place)[:2], f"{place}-{here().rank}.pt")
                half = trained(kind, word, place.with_suffix(".half"), HALF)[0]["losses"]
                torch.save(half, f"{place}-{here().rank}-half.pt")
            torch.save(
                trained_in_double(kind, "data"), Path(sys.argv[1]) / f"{kind}-data-{here().rank}.pt"
            )
