"""A network in two pieces is the network; what is computed again is what was computed."""

from __future__ import annotations

import copy
import functools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))

from networks import KINDS, cut_once, inputs_for

from warmstart.errors import PlanError
from warmstart.network import freeze
from warmstart.network.cut import FrozenPrefix, UnfrozenBlocks, cached_layers
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

each = pytest.mark.parametrize("name", KINDS)
N_CLASSES, N = 3, 5
LABELS = torch.arange(N) % N_CLASSES


@functools.cache
def depths(name):
    """The first cut, one in the middle, the last."""
    n = len(cut_once(name)[1].blocks)
    return sorted({1, (n + 1) // 2, n})


def model_of(network, wanted):
    """A copy of the network with a random head on these feature layers."""
    network = copy.deepcopy(network)
    rng = torch.Generator().manual_seed(0)
    width = sum(layer_width(network.record, layer) for layer in wanted)
    weight = torch.randn(N_CLASSES, width, generator=rng) / width**0.5
    return network, assemble(network, wanted, weight, torch.zeros(N_CLASSES))


# ---- two pieces ----------------------------------------------------------------------------


@each
def test_prefix_and_unfrozen_blocks_are_the_model_at_every_cut(name):
    network, model = model_of(cut_once(name)[1], feature_layers(cut_once(name)[1].record))
    inputs = inputs_for(name)
    with torch.inference_mode():
        whole = model(inputs.clone())
        assert torch.equal(UnfrozenBlocks(model, 0)(inputs.clone()), whole)
        for depth in depths(name):
            wanted = cached_layers(model.scan.feature_layers, depth)
            main, *stored = FrozenPrefix(network, depth, wanted)(inputs.clone())
            assert main.shape[1:] == network.record.blocks[depth - 1].shape_out
            widths = [layer_width(network.record, layer) for layer in wanted]
            assert [tuple(rows.shape) for rows in stored] == [(N, width) for width in widths]
            result = UnfrozenBlocks(model, depth)(main, *stored)
            torch.testing.assert_close(result, whole, rtol=1e-5, atol=1e-5)


@each
def test_a_prefix_gives_the_layers_of_a_feature_extractor(name):
    _, network = cut_once(name)
    offered, inputs = feature_layers(network.record), inputs_for(name)
    with torch.inference_mode():
        features = dict(
            zip(offered, FeatureExtractor(network, offered)(inputs.clone()), strict=True)
        )
        for depth in depths(name):
            wanted = cached_layers(offered, depth)
            assert set(wanted) == {t for t in offered if t.block <= depth and t.pool != "neck"}
            _, *stored = FrozenPrefix(network, depth, wanted[::-1])(inputs.clone())
            for layer, rows in zip(wanted[::-1], stored, strict=True):
                assert rows.dtype == torch.float32
                assert torch.equal(rows, features[layer])


@each
def test_a_prefix_rests_and_shares_the_networks_modules(name):
    network = copy.deepcopy(cut_once(name)[1])
    network.backbone.train()
    before = {n: t.clone() for n, t in network.backbone.state_dict().items()}
    prefix = FrozenPrefix(network, 1, ())
    with torch.inference_mode():
        (main,) = prefix(inputs_for(name))
    assert not any(module.training for module in prefix.modules())
    assert prefix.backbone is network.backbone
    assert len(main) == N
    assert all(torch.equal(t, before[n]) for n, t in network.backbone.state_dict().items())


@pytest.mark.parametrize("cut", [-1, 0, 10, 99])
def test_a_cut_that_the_network_does_not_have_is_refused(cut):
    with pytest.raises(PlanError, match=rf"training.split_at {cut}; the network has blocks 1 to 9"):
        FrozenPrefix(cut_once("resnet18")[1], cut, ())


def test_the_neck_is_never_stored():
    offered = [
        FeatureLayer(block=2, pool="grid2"),
        FeatureLayer(block=2, pool="neck"),
        FeatureLayer(block=1, pool="avg"),
    ]
    assert cached_layers(offered, 0) == ()
    assert cached_layers(offered, 1) == (offered[2],)
    assert cached_layers(offered, 9) == (offered[0], offered[2])


def test_unfrozen_blocks_need_a_value_for_each_layer_below():
    network, model = model_of(
        cut_once("resnet18")[1], feature_layers(cut_once("resnet18")[1].record)
    )
    unfrozen = UnfrozenBlocks(model, 4)
    main, *stored = FrozenPrefix(network, 4, unfrozen.cached)(inputs_for("resnet18"))
    with pytest.raises(ValueError, match="shorter"):
        unfrozen(main, *stored[1:])


def test_modes_devices_and_hooks_reach_the_model_through_its_unfrozen_blocks():
    _, model = model_of(cut_once("residual")[1], feature_layers(cut_once("residual")[1].record))
    unfrozen, called = UnfrozenBlocks(model, 0), []
    model.backbone.left.register_forward_hook(lambda *_: called.append(1))
    unfrozen.train()
    assert model.backbone.training
    assert unfrozen.to(torch.float64).model.backbone.stem.weight.dtype == torch.float64
    unfrozen.to(torch.float32)(inputs_for("residual"))
    assert called == [1]


# ---- computed again ------------------------------------------------------------------------


def gradients(name, depth, recompute, actions=None):
    """Logits, gradients and buffers of one pass in train mode; what is held rests."""
    network, model = model_of(cut_once(name)[1], feature_layers(cut_once(name)[1].record))
    names = [block.name for block in network.blocks]
    if actions is None:
        actions = {n: "frozen" if k < depth else "tuned" for k, n in enumerate(names)}
    actions = {"neck": "frozen", "output": "replaced", "unused": "frozen", **actions}
    inputs = inputs_for(name)
    if depth:
        with torch.no_grad():
            inputs = FrozenPrefix(network, depth, cached_layers(model.scan.feature_layers, depth))(
                inputs
            )
    unfrozen = UnfrozenBlocks(model, depth, recompute)
    with (
        freeze.FrozenBlocks(model, actions, network.owners) as frozen,
        torch.random.fork_rng(devices=[]),
    ):
        model.train()
        frozen.rest()
        torch.manual_seed(3)
        logits = unfrozen(*inputs) if depth else unfrozen(inputs)
        cross_entropy(logits, LABELS).backward()
    result = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), result, dict(model.named_buffers())


def same(one, other):
    assert torch.equal(one[0], other[0])
    for ours, theirs in zip(one[1:], other[1:], strict=True):
        assert ours.keys() == theirs.keys() != set()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


SLOW = {"swin_tiny", "densenet121", "torchvision_resnet18", "wrapper", "mobilenetv3_small"}


@pytest.mark.parametrize("name", sorted(KINDS.keys() - SLOW))
def test_what_is_computed_again_gives_the_same_gradients(name):
    """With dropout where the network has it: it draws the same again."""
    n = len(cut_once(name)[1].blocks)
    for depth in {0, n // 2}:
        same(gradients(name, depth, False), gradients(name, depth, True))


@pytest.mark.parametrize("name", ["resnet18", "residual", "odd_norms", "vit_tiny"])
def test_statistics_of_a_batch_count_once(name):
    names = [block.name for block in cut_once(name)[1].blocks]
    fresh = dict.fromkeys((*names, "neck"), "fresh")
    one, again = (gradients(name, 0, recompute, fresh) for recompute in (False, True))
    same(one, again)
    counters = [t for n, t in again[2].items() if n.endswith("num_batches_tracked")]
    assert all(int(counter) == 1 for counter in counters)
    assert counters or name in ("residual", "vit_tiny")


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


def test_blocks_that_work_in_place_are_recomputed_from_their_inputs():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Preactivated().eval()
    prep = Preprocessing(size=(12, 12), resize=12, mean=(0.5,) * 3, std=(0.5,) * 3)
    network = cut(module, prep)
    assert len(network.blocks) == 3
    inputs = torch.randn(N, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    result = []
    for recompute in (False, True):
        _, model = model_of(network, feature_layers(network.record)[-1:])
        model.backbone.requires_grad_(True)
        logits = UnfrozenBlocks(model.train(), 0, recompute)(inputs)
        cross_entropy(logits, LABELS).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        result.append((logits.detach(), grads, {}))
    assert torch.equal(result[0][0], result[1][0])
    for name, gradient in result[0][1].items():
        torch.testing.assert_close(result[1][1][name], gradient, rtol=1e-5, atol=1e-7)


def test_recomputed_activations_are_not_stored():
    """Tensors stored for the backward pass: the inputs of blocks, not those inside."""
    _, network = cut_once("resnet18")
    sizes = []
    for recompute in (False, True):
        _, model = model_of(network, feature_layers(network.record)[-1:])
        model.backbone.requires_grad_(True)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.append(t.numel()), t)[1], lambda t: t
        ):
            UnfrozenBlocks(model, 0, recompute)(inputs_for("resnet18"))
        sizes.append(sum(saved))
    assert sizes[1] < sizes[0] / 2


def test_nothing_is_stored_without_gradients():
    _, model = model_of(cut_once("residual")[1], feature_layers(cut_once("residual")[1].record))
    inputs = inputs_for("residual")
    with torch.inference_mode():
        assert torch.equal(UnfrozenBlocks(model, 0, recompute=True)(inputs), model(inputs))
