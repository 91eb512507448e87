"""Warm models: the head is W·features + b with its calibration, and saving loses nothing."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from warmstart.errors import ModelError
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import (
    MultiLayerHead,
    assemble,
    graft,
    make_block,
    rebuild,
    shift_layers,
    unique_state,
)
from warmstart.network.weights import digests
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

SMALL = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
SHIFT = torch.tensor([0.3, 0.0, -0.3])


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return cut(timm.create_model("resnet18", num_classes=6).eval(), SMALL)


@pytest.fixture(scope="module")
def chosen():
    return (
        FeatureLayer(block=3, pool="grid2"),
        FeatureLayer(block=6, pool="avg"),
        FeatureLayer(block=9, pool="neck"),
    )


@pytest.fixture(scope="module")
def model(network, chosen):
    width = sum(layer_width(network.record, layer) for layer in chosen)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(3, width, generator=generator) * 0.01
    return assemble(network, chosen, weight, torch.ones(3), 1.7, SHIFT)


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_logits_are_scores_over_temperature_plus_class_bias(network, chosen, model, inputs):
    with torch.no_grad():
        features = torch.cat(FeatureExtractor(network, chosen)(inputs), dim=1)
        expected = (features @ model.head.weight.T + model.head.bias) / 1.7 + SHIFT
        torch.testing.assert_close(model(inputs), expected)


def test_backbone_tensors_keep_their_names_and_the_old_classifier_is_gone(network, model):
    names = set(model.state_dict())
    assert not any("fc" in name for name in names)
    backbone = {name.removeprefix("backbone.") for name in names if name.startswith("backbone.")}
    assert backbone == {name for name, owner in network.owners.items() if owner != "head"}
    heads = {"head.weight", "head.bias", "head.temperature", "head.class_bias"}
    assert names - {f"backbone.{name}" for name in backbone} == heads


def test_only_the_head_asks_for_gradients(model):
    asking = [name for name, p in model.named_parameters() if p.requires_grad]
    assert asking == ["head.weight", "head.bias"]
    assert not model.training


def test_the_original_head_is_the_case_of_the_last_feature_layer(network, inputs):
    neck = feature_layers(network.record)[-1]
    old = network.classifier
    with torch.no_grad():
        model = assemble(network, [neck], old.weight, old.bias)
        torch.testing.assert_close(model(inputs), network.logits(inputs))


def test_saved_and_rebuilt_gives_the_same_logits(chosen, model, inputs, tmp_path):
    save_file(unique_state(model), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    again = rebuild("timm:resnet18", state, chosen, 3, SMALL)
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))
    assert digests(again) == digests(model)


@pytest.fixture(scope="module")
def extended(network, chosen):
    """Two blocks of other widths behind the last one, which add something."""
    rng, last = torch.Generator().manual_seed(4), network.record.blocks[-1]
    clone = graft(copy.deepcopy(network), [make_block(last, rng, width) for width in (4, 6)])
    with torch.no_grad():
        for block in (clone.backbone.added, clone.backbone.added_2):
            block.up.weight.add_(torch.randn(block.up.weight.shape, generator=rng))
    moved = shift_layers(chosen, len(network.blocks), 2)
    width = sum(layer_width(clone.record, layer) for layer in moved)
    return moved, assemble(clone, moved, torch.randn(3, width, generator=rng), torch.zeros(3))


def test_a_model_with_added_blocks_is_rebuilt_from_their_widths(extended, inputs, tmp_path):
    moved, model = extended
    save_file(unique_state(model), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert state["backbone.added_2.down.weight"].shape[0] == 6
    again = rebuild("timm:resnet18", state, moved, 3, SMALL, added=(4, 6))
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))
    assert digests(again) == digests(model)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((), r"has no feature layer 11.neck"),
        ((4,), r"has no feature layer 11.neck"),
        ((4, 4), r"backbone.added_2.down.weight has shape \(6, 512\)"),
    ],
)
def test_rebuilding_with_other_blocks_is_refused(extended, widths, message):
    moved, model = extended
    with pytest.raises(ModelError, match=message):
        rebuild("timm:resnet18", unique_state(model), moved, 3, SMALL, added=widths)


def test_a_copy_and_a_trace_give_the_same_logits(model, inputs):
    with torch.no_grad():
        expected = model(inputs)
        assert torch.equal(copy.deepcopy(model)(inputs), expected)
        torch.testing.assert_close(torch.jit.trace(model, inputs)(inputs), expected)


class Own(nn.Module):
    """A user's module with tied matrices."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3 * 32 * 32, 6), nn.Linear(6, 6)
        self.third, self.out = nn.Linear(6, 6), nn.Linear(6, 2)
        self.third.weight = self.second.weight

    def forward(self, x):
        x = self.first(x.flatten(1)).relu()
        return self.out(self.third(self.second(x).relu()).relu())


def test_a_users_own_module_is_rebuilt_with_its_blocks(inputs):
    network = cut(Own().eval(), SMALL)
    rng, last = torch.Generator().manual_seed(4), network.record.blocks[-1]
    clone = graft(network, [make_block(last, rng)])
    layer = feature_layers(clone.record)[-1]
    model = assemble(clone, [layer], torch.randn(3, 6, generator=rng), torch.zeros(3))
    again = rebuild("module:Own", unique_state(model), [layer], 3, SMALL, network=Own(), added=(8,))
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))


def test_a_users_own_module_is_rebuilt_from_an_instance(inputs, tmp_path):
    module = Own()
    base = load(module, preprocessing=SMALL)
    network = cut(base.module, SMALL)
    last = feature_layers(network.record)[-1]
    model = assemble(network, [last], torch.randn(3, 6), torch.zeros(3))
    save_file(unique_state(model), tmp_path / "m.safetensors")
    state = load_file(tmp_path / "m.safetensors")
    other = Own()
    before = digests(other)
    again = rebuild(base.record.arch, state, [last], 3, SMALL, network=other)
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))
    assert digests(other) == before
    assert again.backbone.third.weight is again.backbone.second.weight
    with pytest.raises(ModelError, match=r"made from your own Own; pass an instance"):
        rebuild(base.record.arch, state, [last], 3, SMALL)


def _without(state, name):
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: _without(s, "backbone.conv1.weight"), r"backbone.conv1.weight is missing"),
        (lambda s: {**s, "backbone.extra": torch.ones(1)}, r"backbone.extra is not in the network"),
        (
            lambda s: {**s, "backbone.bn1.bias": torch.ones(3)},
            r"backbone.bn1.bias has shape \(3,\)",
        ),
        (lambda s: {**s, "head.bias": torch.ones(4)}, r"head.bias has shape \(4,\)"),
        (lambda s: {**s, "head.bias": torch.full((3,), float("nan"))}, r"head.bias holds NaN"),
        (lambda s: _without(s, "head.weight"), r"no head.weight for 3"),
        (
            lambda s: {**s, "head.weight": torch.ones(3, 5)},
            r"does not fit feature layers of widths",
        ),
    ],
)
def test_rebuilding_is_strict(chosen, model, spoil, message):
    with pytest.raises(ModelError, match=message):
        rebuild("timm:resnet18", spoil(unique_state(model)), chosen, 3, SMALL)


def test_a_head_that_does_not_fit_is_refused(network, chosen):
    with pytest.raises(ModelError, match="fit the head on these layers"):
        assemble(network, chosen, torch.zeros(3, 5), torch.zeros(3))


def test_the_head_copies_its_arguments():
    weight = torch.zeros(2, 3, dtype=torch.float64)
    head = MultiLayerHead(weight, torch.zeros(2))
    weight += 1
    assert head([torch.ones(1, 3)]).tolist() == [[0.0, 0.0]]
    assert head.weight.dtype == torch.float32
