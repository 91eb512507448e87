"""Law 3: training on cached outputs of the frozen blocks is training on the whole network.

With a cache in full precision the first step's gradient is the same within 1e-4; in half
precision, after 20 steps, rows held out have the same log-loss within 0.01.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import DEEP, EVERY, HEAVY, KINDS, cut_once, model_of, opened, rows_for
from torch.nn.functional import cross_entropy

from tiny import SCHEDULE
from warmstart.features.batches import to_tensor
from warmstart.features.engine import make_engine
from warmstart.network import freeze
from warmstart.network.cut import FrozenPrefix, UnfrozenBlocks, cached_layers
from warmstart.network.feature_layers import feature_layers
from warmstart.training.trainer import Trainer

BATCH = 16
LABELS = torch.arange(BATCH) % 3


def both_ways(name, depth, layers):
    """Live, then cached: a model, its actions and owners, blocks to train, what they take."""
    network, rows, inputs = cut_once(name)[1], rows_for(name, BATCH), opened(name)[1]
    names = [block.name for block in network.blocks]
    actions = {n: "frozen" if k < depth else "tuned" for k, n in enumerate(names)}
    actions |= {"neck": "tuned", "output": "replaced", "unused": "frozen"}
    prefix = FrozenPrefix(copy.deepcopy(network), depth, cached_layers(layers, depth))
    cached = make_engine("torch", prefix, inputs, torch.get_num_threads())(rows)
    cached = [torch.from_numpy(np.ascontiguousarray(one)) for one in cached]
    for place, tensors in ((0, [to_tensor(rows, inputs)]), (depth, cached)):
        model = model_of(copy.deepcopy(network), layers)
        yield model, actions, network.owners, UnfrozenBlocks(model, place), tensors


def gradient(name, model, actions, owners, unfrozen, tensors):
    """Of everything that moves; with dropout where its draws do not depend on the padding."""
    with freeze.FrozenBlocks(model, actions, owners) as held, torch.random.fork_rng(devices=[]):
        model.train(name in KINDS)
        held.rest()
        torch.manual_seed(5)
        model.zero_grad()
        cross_entropy(unfrozen(*tensors), LABELS).backward()
        moving = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
        return {n: p.grad.clone() for n, p in moving if p.grad is not None}


CASES = [
    pytest.param(name, depth, marks=[pytest.mark.slow] * (name in HEAVY))
    for name in DEEP
    for depth in sorted({EVERY[name] // 2, EVERY[name] - 1})
]


@pytest.mark.parametrize(("name", "depth"), CASES)
def test_the_first_gradient_is_that_of_the_whole_network(name, depth):
    offered = feature_layers(cut_once(name)[1].record)
    layers = (offered[0], offered[-1])  # one below every cut, and the neck
    live, cached = (gradient(name, *way) for way in both_ways(name, depth, layers))
    assert live.keys() == cached.keys() != set()
    for tensor, expected in live.items():
        size = max(float(expected.norm()), 1e-6)
        assert float((cached[tensor] - expected).norm()) / size < 1e-4, tensor


@pytest.mark.parametrize("name", ["mobilenetv3_small", "vit_tiny", "odd_norms"])
def test_half_precision_comes_to_the_same_losses(name):
    depth, losses = EVERY[name] // 2, []
    for model, actions, owners, unfrozen, tensors in both_ways(
        name, depth, feature_layers(cut_once(name)[1].record)[-1:]
    ):
        tensors = [rows.half().float() for rows in tensors] if losses else tensors
        moving = {n: p for n, p in model.named_parameters() if not n.startswith("head.t")}
        trainer = Trainer(unfrozen, moving, replace(SCHEDULE, weight_decay=0.01))
        with freeze.FrozenBlocks(model, actions, owners) as held:
            rates = dict.fromkeys((*actions, "output"), 1e-5)
            trainer.begin(freeze.groups(model, actions, owners, rates))
            for step in range(20):
                model.train()
                held.rest()
                trainer.update(step, 1.0, tuple(rows[:8] for rows in tensors), LABELS[:8])
        model.eval()
        with torch.inference_mode():
            held_out = tuple(rows[8:] for rows in tensors)
            losses.append(float(cross_entropy(unfrozen(*held_out), LABELS[8:])))
    assert abs(losses[0] - losses[1]) < 0.01
