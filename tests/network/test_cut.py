"""A network in pieces is the network: prefix, unfrozen blocks, stages of a pipeline."""

from __future__ import annotations

import copy
import functools
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

import tiny
from contracts.networks import KINDS, cut_once, each, inputs_for
from small_networks import noise, prep, warm
from warmstart.errors import PlanError
from warmstart.network import freeze, partition
from warmstart.network.cut import (
    NEAR,
    Cost,
    FrozenPrefix,
    PipelineStage,
    UnfrozenBlocks,
    balance_stages,
    cached_layers,
)
from warmstart.network.feature_layers import feature_layers

N = 5


@functools.cache
def depths(name):
    """The first cut, one in the middle, the last."""
    n = len(cut_once(name)[1].blocks)
    return sorted({1, (n + 1) // 2, n})


def whole_of(network):
    """A copy of a network, and a model of it that reads every feature layer."""
    network = copy.deepcopy(network)
    return network, warm(network, feature_layers(network.record))


@each(KINDS)
def test_prefix_and_unfrozen_blocks_are_the_model_at_every_cut(name):
    network, model = whole_of(cut_once(name)[1])
    offered, inputs = model.scan.feature_layers, inputs_for(name)
    network.backbone.train()
    with torch.inference_mode():
        FrozenPrefix(network, 1, ())
        assert not any(module.training for module in network.backbone.modules())
        whole = model(inputs.clone())
        features = dict(zip(offered, model.features(inputs.clone()), strict=True))
        assert torch.equal(UnfrozenBlocks(model, 0)(inputs.clone()), whole)
        for depth in depths(name):
            wanted = cached_layers(offered, depth)
            assert set(wanted) == {t for t in offered if t.block <= depth and t.pool != "neck"}
            main, *stored = FrozenPrefix(network, depth, wanted)(inputs.clone())
            assert main.shape[1:] == network.record.blocks[depth - 1].shape_out
            for layer, rows in zip(wanted, stored, strict=True):
                assert rows.dtype == torch.float32
                assert torch.equal(rows, features[layer])
            result = UnfrozenBlocks(model, depth)(main, *stored)
            torch.testing.assert_close(result, whole, rtol=1e-5, atol=1e-5)
            if stored:
                with pytest.raises(ValueError, match="shorter"):
                    UnfrozenBlocks(model, depth)(main, *stored[1:])


@pytest.mark.parametrize("cut", [0, 10])
def test_a_cut_that_the_network_does_not_have_is_refused(cut):
    with pytest.raises(PlanError, match=rf"training.split_at {cut}; the network has blocks 1 to 9"):
        FrozenPrefix(cut_once("resnet18")[1], cut, ())


def gradients(network, depth, recompute, actions=None):
    """Logits, gradients and buffers of one pass in train mode, with frozen blocks in eval mode."""
    network, model = whole_of(network)
    names = [block.name for block in network.blocks]
    actions = actions or {n: "frozen" if k < depth else "tuned" for k, n in enumerate(names)}
    actions = {"neck": "frozen", "output": "replaced", "unused": "frozen", **actions}
    inputs = (noise(network.record.blocks[0].shape_in[-1], N),)
    if depth:
        with torch.no_grad():
            layers = cached_layers(model.scan.feature_layers, depth)
            inputs = FrozenPrefix(network, depth, layers)(*inputs)
    with (
        freeze.FrozenBlocks(model, actions, network.owners) as frozen,
        torch.random.fork_rng(devices=[]),
    ):
        model.train()
        frozen.rest()
        torch.manual_seed(3)
        logits = UnfrozenBlocks(model, depth, recompute)(*inputs)
        cross_entropy(logits, torch.arange(N) % 3).backward()
    result = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert result
    return {"logits": logits.detach(), **result, **dict(model.named_buffers())}


def preactivated():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return partition.cut(Preactivated().eval(), prep(12))


@pytest.mark.parametrize("name", ["resnet18", "residual", "odd_norms", "vit_tiny", "in place"])
@pytest.mark.parametrize("action", ["tuned", "fresh"])
def test_what_is_computed_again_gives_the_same_gradients_and_statistics(name, action):
    """With dropout where the network has it: it draws the same again."""
    network = preactivated() if name == "in place" else cut_once(name)[1]
    names = [block.name for block in network.blocks]
    actions = dict.fromkeys((*names, "neck"), action)
    for depth in (0, len(names) // 2) if action == "tuned" else (0,):
        wish = actions if action == "fresh" else None
        plain, again = (gradients(network, depth, recompute, wish) for recompute in (False, True))
        assert plain.keys() == again.keys()
        assert torch.equal(plain["logits"], again["logits"])
        for key, value in plain.items():
            torch.testing.assert_close(again[key], value, rtol=1e-5, atol=1e-7)
    counters = [int(t) for n, t in again.items() if n.endswith("num_batches_tracked")]
    assert action == "tuned" or set(counters) <= {1}  # each batch counts once


class Preactivated(nn.Module):
    """Residual blocks that begin by working in place on what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second, self.third = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.SiLU(inplace=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        x = self.second(self.act(x)) + x
        x = self.third(self.act(x)) + x
        return self.out(x.mean((2, 3)))


def test_recomputed_activations_are_not_stored():
    """Tensors stored for the backward pass: the inputs of blocks, not those inside."""
    _, model = whole_of(cut_once("resnet18")[1])
    model.backbone.requires_grad_(True)
    sizes = []
    for recompute in (False, True):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.append(t.numel()), t)[1], lambda t: t
        ):
            UnfrozenBlocks(model, 0, recompute)(inputs_for("resnet18"))
        sizes.append(sum(saved))
    assert sizes[1] < sizes[0] / 2


COSTS = st.builds(
    Cost, st.floats(0.01, 10), st.sampled_from([0.0, 1.0, 2.5, 7.0]), st.integers(0, 100)
)


def _dearest(costs, run):
    """Seconds of an update, and the parameters of the fullest run."""
    sums = [
        tuple(sum(getattr(costs[p], name) for p in places) for places in run)
        for name in ("forward", "backward", "parameters")
    ]
    return max(sums[0]) + max(sums[1]), max(sums[2])


@given(costs=st.lists(COSTS, min_size=1, max_size=7), share=st.floats(0, 1))
def test_no_other_cut_about_as_quick_spreads_parameters_more_evenly(costs, share):
    n = 1 + int(share * (len(costs) - 1))
    runs = balance_stages(costs, n)
    assert [place for run in runs for place in run] == list(range(len(costs)))
    assert len(runs) == n
    assert all(runs)
    every = [
        _dearest(costs, [range(a, b) for a, b in pairwise((0, *cuts, len(costs)))])
        for cuts in combinations(range(1, len(costs)), n - 1)
    ]
    least = min(seconds for seconds, _ in every)
    seconds, fullest = _dearest(costs, runs)
    assert seconds <= NEAR * least + 1e-9
    assert fullest <= min(
        assigned for took, assigned in every if took <= NEAR * least - 1e-9 or took == least
    )


def test_frozen_and_trained_blocks_are_assigned_apart():
    """By sums the cut is below the trained blocks: 5 seconds and 5, but none at the same time."""
    costs = [Cost(1.0, 0.0, 1)] * 5 + [Cost(0.5, 2.0, 1)] * 2
    assert balance_stages(costs, 2) == (range(3), range(3, 7))


def test_more_stages_than_blocks_are_refused():
    says = r"^a pipeline of 3 stages .* there are 2: start at most 2 processes\.$"
    with pytest.raises(PlanError, match=says):
        balance_stages([Cost(1.0, 2.0, 3)] * 2, 3)


def test_gradients_go_no_further_down_than_something_learns():
    network = partition.cut(tiny.network("convolutions"), tiny.PREP)
    unfrozen = UnfrozenBlocks(warm(network), 0)
    first = PipelineStage(unfrozen, range(1, 2), is_last=False)
    second = PipelineStage(unfrozen, range(2, len(network.blocks) + 1), is_last=True)
    gradients = []
    for learns in (False, True):
        unfrozen.model.backbone.first.requires_grad_(learns)
        with torch.no_grad():
            (value,) = first(noise(32, 2))
        value = value.detach().requires_grad_()
        second(value).sum().backward()
        gradients.append(value.grad)
    assert gradients[0].shape == gradients[1].shape
    assert [bool(gradient.any()) for gradient in gradients] == [False, True]
