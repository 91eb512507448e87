"""A run's network is rebuilt: its outputs, its blocks, its ledger; nothing in it stays random."""

from __future__ import annotations

import pytest
import torch

from warmstart.errors import ModelError
from warmstart.network.architectures import build
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.finished_run import (
    FinishedRunNetwork,
    change,
    partition_base,
    rebuild_finished_run,
)
from warmstart.network.inputs import InputOptions
from warmstart.network.ledger import take_digests, tensors_of, write_ledger
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble, graft, make_block, unique_state
from warmstart.network.weights import unique_tensors
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import BaseModelRecord, FeatureLayer

SIZES = {
    "timm:lcnet_035": 32,
    "timm:resnet18": 32,
    "timm:test_vit": 160,
    "timm:deit_tiny_distilled_patch16_224": 224,  # two heads: one of them stays in the backbone
    "torchvision:squeezenet1_1": 64,  # its classifier is no last linear layer
    "torchvision:mobilenet_v3_small": 64,
}


def prep_of(size):
    return Preprocessing(size=(size, size), resize=size, mean=(0.5,) * 3, std=(0.5,) * 3)


def described(arch, prep, **options):
    fields = {
        "name": "runs/photos",
        "title": "photos (3 classes)",
        "source": "run runs/photos",
        "labels": ("a", "b", "c"),
        "lineage": ("lite0", "runs/photos"),
    }
    return BaseModelRecord(
        arch=arch, preprocessing=prep, sha256="", parameters=0, classes=0, **(fields | options)
    )


def run_of(arch, wanted=None, hidden=()):
    """A run's model with a head of three classes, as fit would have made and saved it."""
    prep = prep_of(SIZES[arch])
    generator = torch.Generator().manual_seed(1)
    network = cut(build(arch, None, prep.size).eval(), prep)
    with torch.no_grad():
        for tensor in unique_tensors(network.backbone).values():
            if tensor.is_floating_point():
                tensor += 0.01 * torch.rand(tensor.shape, generator=generator)
    blocks = [make_block(network.record.blocks[-1], generator, width) for width in hidden]
    for block in blocks:
        torch.nn.init.normal_(block.up.weight, std=0.1, generator=generator)
    network = graft(network, blocks)
    chosen = wanted(network.record) if wanted else feature_layers(network.record)[-1:]
    width = sum(layer_width(network.record, layer) for layer in chosen)
    weight = torch.randn(3, width, generator=generator) * 0.1
    return assemble(network, chosen, weight, torch.arange(3.0), 1.7, torch.tensor([0.3, 0, -0.3]))


def revived(arch, model, **options):
    record = described(arch, prep_of(SIZES[arch]), **options)
    return rebuild_finished_run(record, unique_state(model), model.scan.feature_layers)


def inputs_of(arch, n=3):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, SIZES[arch], SIZES[arch], generator=generator)


def many(record):
    """A head that listens to the first, a middle and the last depth."""
    offered = feature_layers(record)
    return (offered[0], offered[len(offered) // 2], offered[-1])


@pytest.mark.parametrize("arch", SIZES)
@pytest.mark.parametrize("wanted", [None, many])
def test_it_answers_as_the_run_does_and_no_tensor_is_lost(arch, wanted):
    model = run_of(arch, wanted)
    base = revived(arch, model)
    network = partition_base(base)
    assert isinstance(network, FinishedRunNetwork)
    with torch.no_grad():
        assert torch.equal(network.logits(inputs_of(arch)), model(inputs_of(arch)))
    result, saved = tensors_of(network), unique_tensors(model)
    heads = [n for n in result if n.rpartition(".")[0] == network.steps.classifier]
    assert [n.rpartition(".")[2] for n in heads] == list(model.head.state_dict())
    assert {network.owners[n] for n in heads} == {"head"}
    assert sum(t.numel() for t in result.values()) == sum(t.numel() for t in saved.values())
    assert base.record.parameters == sum(p.numel() for p in model.parameters())
    assert network.record.head_parameters == sum(p.numel() for p in model.head.parameters())
    assert (base.record.classes, base.record.labels) == (3, ("a", "b", "c"))


def test_the_old_head_of_the_ledger_is_the_runs_own():
    model = run_of("timm:lcnet_035", many)
    network = partition_base(revived("timm:lcnet_035", model))
    before = take_digests(network)
    last = feature_layers(network.record)[-1]
    again = assemble(network, [last], torch.zeros(2, 1280), torch.zeros(2))
    ledger = write_ledger(before, network, again)
    dropped = [row for row in ledger.rows if row.fate == "dropped"]
    names = ["head.weight", "head.bias", "head.temperature", "head.class_bias"]
    assert [row.tensor for row in dropped] == names
    assert {row.block for row in dropped} == {"head"}
    assert dropped[0].shape == tuple(model.head.weight.shape)
    new = [row.tensor for row in ledger.rows if row.fate == "new"]
    assert new == names
    old = sum(t.numel() for t in unique_tensors(model).values())
    assert sum(row.numel for row in ledger.rows if row.fate != "new") == old


def test_where_the_backbone_holds_a_tensor_of_that_name_the_head_takes_another():
    arch = "timm:deit_tiny_distilled_patch16_224"
    network = partition_base(revived(arch, run_of(arch)))
    assert "head.weight" in network.backbone.state_dict()
    assert network.steps.classifier == "run_head"
    assert network.owners["run_head.weight"] == "head"


@pytest.mark.parametrize("arch", ["timm:lcnet_035", "timm:test_vit"])
def test_the_random_classifier_is_never_used(arch):
    model = run_of(arch)
    base = revived(arch, model)
    first = partition_base(base)
    with torch.no_grad():
        base.module.get_submodule("classifier" if "lcnet" in arch else "head").weight.mul_(-3)
    second = partition_base(base)
    assert take_digests(first) == take_digests(second)
    with torch.no_grad():
        expected = model(inputs_of(arch))
        assert torch.equal(second.logits(inputs_of(arch)), expected)


@pytest.mark.parametrize("arch", ["timm:lcnet_035", "timm:test_vit"])
@pytest.mark.parametrize("hidden", [(8,), (8, 12)])
def test_added_layers_come_back_as_blocks(arch, hidden):
    model = run_of(arch, many, hidden)
    base = revived(arch, model, added=hidden)
    assert tuple(block.hidden for block in base.added) == hidden
    network = partition_base(base)
    own = len(cut(base.module, base.record.preprocessing).blocks)
    assert len(network.blocks) == own + len(hidden)
    assert [p.name for p in network.blocks][own:] == ["added", "added#2"][: len(hidden)]
    with torch.no_grad():
        assert torch.equal(network.logits(inputs_of(arch)), model(inputs_of(arch)))
        actual = FeatureExtractor(network, model.scan.feature_layers)(inputs_of(arch))
        for layer, expected in zip(actual, model.features(inputs_of(arch)), strict=True):
            assert torch.equal(layer, expected)


def test_the_digest_is_that_of_the_backbone_with_added_blocks():
    arch = "timm:lcnet_035"
    plain, other_head = run_of(arch), run_of(arch, many)
    assert revived(arch, plain).record.sha256 == revived(arch, other_head).record.sha256
    one, two = run_of(arch, hidden=(8,)), run_of(arch, hidden=(8,))
    with torch.no_grad():
        two.backbone.get_submodule("added").up.bias += 1.0
    digests = {revived(arch, model, added=(8,)).record.sha256 for model in (one, two)}
    assert len(digests | {revived(arch, plain).record.sha256}) == 3


def test_other_inputs_keep_the_head_the_blocks_and_a_digest_that_tells_them():
    arch = "timm:lcnet_035"
    models = []
    for shift in (0.0, 1.0):
        model = run_of(arch, hidden=(8,))
        with torch.no_grad():
            model.backbone.get_submodule("added").up.bias += shift
        models.append(revived(arch, model, added=(8,)))
    grey = [change(base, InputOptions(channels=1, size=48)) for base in models]
    assert len({base.record.sha256 for base in (*models, *grey)}) == 4
    assert grey[0].record.preprocessing.channels == 1
    assert grey[0].record.preprocessing.size == (48, 48)
    assert [c.tensor for c in grey[0].changes] == ["conv_stem.weight"]
    assert grey[0].origin == models[0].record
    assert grey[0].origin.preprocessing == models[0].record.preprocessing
    kernels = models[0].module.conv_stem.weight.shape
    lost = 2 * kernels[0] * kernels[2] * kernels[3]
    assert grey[0].record.parameters == models[0].record.parameters - lost
    network = partition_base(grey[0])
    assert network.blocks[-1].name == "added"
    assert network.logits(torch.zeros(2, 1, 48, 48)).shape == (2, 3)


def test_a_run_on_bands_is_not_shown_pictures_and_no_wish_leaves_a_run_as_it_is():
    base = revived("timm:lcnet_035", run_of("timm:lcnet_035"))
    assert change(base, InputOptions(image_channels=3)) is base
    bands = change(base, InputOptions(channels=5, image_channels=5))
    with pytest.raises(ModelError, match=r"takes 5 bands, the images have 3; choose a base model"):
        change(bands, InputOptions(image_channels=3))


def test_a_base_model_that_is_no_run_is_cut_as_before():
    base = load("lite0")
    network = partition_base(base)
    assert not isinstance(network, FinishedRunNetwork)
    assert network.owners == cut(base.module, base.record.preprocessing).owners


def test_nothing_requires_gradients_and_no_random_number_is_used():
    torch.manual_seed(5)
    expected = torch.rand(2)
    model = run_of("timm:lcnet_035", hidden=(8,))
    torch.manual_seed(5)
    base = revived("timm:lcnet_035", model, added=(8,))
    partition_base(base)
    assert torch.equal(torch.rand(2), expected)
    tensors = [*base.module.parameters(), *base.head.parameters()]
    assert not any(p.requires_grad for p in tensors)
    assert not any(m.training for m in base.module.modules())


def without(state, name):
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: without(s, "backbone.conv_stem.weight"), "backbone.conv_stem.weight is missing"),
        (lambda s: without(s, "backbone.added.up.bias"), r"backbone.added.up.bias is missing"),
        (lambda s: {**s, "backbone.extra": torch.ones(1)}, "backbone.extra is not in the network"),
        (lambda s: {**s, "head.bias": torch.full((3,), float("nan"))}, "head.bias holds NaN"),
        (lambda s: without(s, "head.weight"), "no head.weight for 3 classes"),
    ],
)
def test_reviving_is_strict(spoil, message):
    model = run_of("timm:lcnet_035", hidden=(8,))
    record = described("timm:lcnet_035", prep_of(32), added=(8,))
    with pytest.raises(ModelError, match=message):
        rebuild_finished_run(record, spoil(unique_state(model)), model.scan.feature_layers)


def test_a_missing_feature_layer_is_refused():
    model = run_of("timm:lcnet_035")
    record = described("timm:lcnet_035", prep_of(32))
    with pytest.raises(ModelError, match=r"has no feature layer 99\.avg"):
        rebuild_finished_run(record, unique_state(model), [FeatureLayer(block=99, pool="avg")])
