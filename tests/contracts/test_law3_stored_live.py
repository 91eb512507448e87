"""Law 3: training on stored outputs of the frozen parts is training on the whole network.

With a store in full precision the first step's gradient is the same within 1e-4; in half
precision, after 20 steps, rows held out have the same log-loss within 0.01. Over networks of
many kinds, cut at every depth at which parts can be frozen.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import KINDS
from torch.nn.functional import cross_entropy

from tiny import SCHEDULE
from warmstart.errors import PlanError
from warmstart.features.batches import normalised
from warmstart.features.engine import make_engine
from warmstart.network import freeze
from warmstart.network.cut import FrozenPrefix, UnfrozenBlocks, cached_layers
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.training.trainer import Trainer

N_CLASSES, BATCH = 3, 16
LABELS = torch.arange(BATCH) % N_CLASSES


@functools.cache
def _cut(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return cut(KINDS[name].make().eval(), KINDS[name].preprocessing)


def _images(name):
    prep = KINDS[name].preprocessing
    shape = (BATCH, *prep.size, prep.channels)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def _model(name, depth, wanted):
    """A copy with a random head on `wanted`; parts above `depth` are to move."""
    network = copy.deepcopy(_cut(name))
    width = sum(layer_width(network.record, layer) for layer in wanted)
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(N_CLASSES, width, generator=rng) / width**0.5
    model = assemble(network, wanted, weight, torch.zeros(N_CLASSES))
    names = [block.name for block in network.blocks]
    actions = {n: "frozen" if k < depth else "tuned" for k, n in enumerate(names)}
    actions |= {"neck": actions[names[-1]], "output": "replaced", "unused": "frozen"}
    return network, model, actions


def _stored(name, depth, wanted, engine="torch"):
    """What the frozen parts give for the images, as a run keeps it: in float32."""
    prep = KINDS[name].preprocessing
    prefix = FrozenPrefix(copy.deepcopy(_cut(name)), depth, cached_layers(wanted, depth))
    run = make_engine(engine, prefix, prep, torch.get_num_threads())
    return [torch.from_numpy(np.ascontiguousarray(rows)) for rows in run(_images(name))]


def _gradient(model, actions, owners, run, inputs):
    with freeze.FrozenBlocks(model, actions, owners) as held, torch.random.fork_rng(devices=[]):
        model.train()
        held.rest()
        torch.manual_seed(5)
        model.zero_grad()
        cross_entropy(run(*inputs), LABELS).backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.grad is not None
        }


def _depths(name):
    """The middle, and all parts but the last; none where there is but one part."""
    n = len(_cut(name).blocks)
    return sorted({depth for depth in (n // 2, n - 1) if 1 <= depth < n})


CASES = [(name, depth) for name in KINDS for depth in _depths(name)]


@pytest.mark.parametrize(("name", "depth"), CASES)
def test_the_first_gradient_is_that_of_the_whole_network(name, depth):
    offered = feature_layers(_cut(name).record)
    wanted = (offered[0], offered[-1])  # one feature layer below every cut, and the neck
    network, model, actions = _model(name, depth, wanted)
    images = normalised(_images(name), KINDS[name].preprocessing)
    live = _gradient(model, actions, network.owners, UnfrozenBlocks(model, 0), (images,))
    stored = _stored(name, depth, wanted)
    found = _gradient(model, actions, network.owners, UnfrozenBlocks(model, depth), stored)
    assert live.keys() == found.keys() != set()
    for tensor, expected in live.items():
        size = max(float(expected.norm()), 1e-6)
        assert float((found[tensor] - expected).norm()) / size < 1e-4, tensor


@pytest.mark.parametrize(("name", "depth"), CASES[:1] + CASES[-3:])
def test_half_precision_comes_to_the_same_losses(name, depth):
    wanted = (feature_layers(_cut(name).record)[-1],)
    prep, losses = KINDS[name].preprocessing, []
    for kind in ("live", "stored"):
        network, model, actions = _model(name, depth, wanted)
        if kind == "live":
            tail, inputs = UnfrozenBlocks(model, 0), [normalised(_images(name), prep)]
        else:
            half = [rows.half().float() for rows in _stored(name, depth, wanted)]
            tail, inputs = UnfrozenBlocks(model, depth), half
        moving = {n: p for n, p in model.named_parameters() if not n.startswith("head.t")}
        trainer = Trainer(tail, moving, replace(SCHEDULE, weight_decay=0.01))
        with freeze.FrozenBlocks(model, actions, network.owners) as held:
            rates = dict.fromkeys((*actions, "output"), 1e-5)
            trainer.begin(freeze.groups(model, actions, network.owners, rates))
            for step in range(20):
                model.train()
                held.rest()
                trainer.update(step, 1.0, tuple(rows[:8] for rows in inputs), LABELS[:8])
        model.eval()
        with torch.inference_mode():
            held_out = tuple(rows[8:] for rows in inputs)
            losses.append(float(cross_entropy(tail(*held_out), LABELS[8:])))
    assert abs(losses[0] - losses[1]) < 0.01


def test_a_cut_outside_the_network_is_refused():
    network = _cut("resnet18")
    with pytest.raises(PlanError, match=r"training.split_at 99; the network has blocks 1 to"):
        FrozenPrefix(network, 99, ())
