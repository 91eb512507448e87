"""A run's network is rebuilt: its outputs, its blocks, its ledger; nothing in it stays random."""

from __future__ import annotations

import pytest
import torch

from small_networks import noise, prep, rng, warm
from warmstart.errors import ModelError
from warmstart.network.architectures import build
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.finished_run import (
    FinishedRunNetwork,
    change,
    partition_base,
    rebuild_finished_run,
)
from warmstart.network.inputs import InputOptions
from warmstart.network.ledger import take_digests, tensors_of, write_ledger
from warmstart.network.partition import cut
from warmstart.network.surgery import MultiLayerHead, graft, make_block, unique_state
from warmstart.network.weights import unique_tensors
from warmstart.records.network import BaseModelRecord, FeatureLayer

SIZES = {
    "timm:lcnet_035": 32,
    "timm:test_vit": 160,
    "timm:deit_tiny_distilled_patch16_224": 224,  # two heads: one of them stays in the backbone
    "torchvision:squeezenet1_1": 64,  # its classifier is not the last linear layer
}
LCNET = "timm:lcnet_035"


def described(arch, **options):
    return BaseModelRecord(
        name="runs/photos",
        title="photos (3 classes)",
        source="run runs/photos",
        labels=("a", "b", "c"),
        lineage=("lite0", "runs/photos"),
        arch=arch,
        preprocessing=prep(SIZES[arch]),
        sha256="",
        parameters=0,
        classes=0,
        **options,
    )


def run_of(arch, wanted=None, hidden=()):
    """A run's model with a head of three classes, as fit would have made and saved it."""
    network = cut(build(arch, None, prep(SIZES[arch]).size).eval(), prep(SIZES[arch]))
    with torch.no_grad():
        for tensor in unique_tensors(network.backbone).values():
            if tensor.is_floating_point():
                tensor += 0.01 * torch.rand(tensor.shape, generator=rng(1))
    blocks = [make_block(network.record.blocks[-1], rng(1), width) for width in hidden]
    for block in blocks:
        torch.nn.init.normal_(block.up.weight, std=0.1, generator=rng(2))
    network = graft(network, blocks)
    model = warm(network, wanted(network.record) if wanted else None)
    head = model.head
    model.head = MultiLayerHead(head.weight, head.bias, 1.7, torch.tensor([0.3, 0, -0.3]))
    return model.requires_grad_(False)


def revived(arch, model, **options):
    record = described(arch, **options)
    return rebuild_finished_run(record, unique_state(model), model.scan.feature_layers)


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
        assert torch.equal(network.logits(noise(SIZES[arch])), model(noise(SIZES[arch])))
    result, saved = tensors_of(network), unique_tensors(model)
    heads = [n for n in result if n.rpartition(".")[0] == network.steps.classifier]
    assert [n.rpartition(".")[2] for n in heads] == list(model.head.state_dict())
    assert {network.owners[n] for n in heads} == {"head"}
    assert sum(t.numel() for t in result.values()) == sum(t.numel() for t in saved.values())
    assert base.record.parameters == sum(p.numel() for p in model.parameters())
    assert network.record.head_parameters == sum(p.numel() for p in model.head.parameters())
    assert (base.record.classes, base.record.labels) == (3, ("a", "b", "c"))


def test_the_old_head_of_the_ledger_is_the_runs_own():
    model = run_of(LCNET, many)
    network = partition_base(revived(LCNET, model))
    ledger = write_ledger(take_digests(network), network, warm(network, n_classes=2))
    dropped = [row for row in ledger.rows if row.fate == "dropped"]
    names = ["head.weight", "head.bias", "head.temperature", "head.class_bias"]
    assert [row.tensor for row in dropped] == names
    assert {row.block for row in dropped} == {"head"}
    assert dropped[0].shape == tuple(model.head.weight.shape)
    assert [row.tensor for row in ledger.rows if row.fate == "new"] == names
    old = sum(t.numel() for t in unique_tensors(model).values())
    assert sum(row.numel for row in ledger.rows if row.fate != "new") == old


def test_a_head_beside_a_tensor_of_that_name_takes_another():
    arch = "timm:deit_tiny_distilled_patch16_224"
    network = partition_base(revived(arch, run_of(arch)))
    assert "head.weight" in network.backbone.state_dict()
    assert network.steps.classifier == "run_head"
    assert network.owners["run_head.weight"] == "head"


def test_the_digest_is_that_of_the_backbone_with_added_blocks():
    one, two = run_of(LCNET, hidden=(8,)), run_of(LCNET, hidden=(8,))
    two.backbone.get_submodule("added").up.bias += 1.0
    digests = {revived(LCNET, model, added=(8,)).record.sha256 for model in (one, two)}
    plain = {revived(LCNET, model).record.sha256 for model in (run_of(LCNET), run_of(LCNET, many))}
    assert len(plain) == 1
    assert len(digests | plain) == 3


def test_the_random_classifier_is_never_used_and_nothing_is_drawn_or_trained():
    model, state = run_of(LCNET), torch.random.get_rng_state()
    base = revived(LCNET, model)
    first = partition_base(base)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(p.requires_grad for p in (*base.module.parameters(), *base.head.parameters()))
    assert not any(m.training for m in base.module.modules())
    base.module.classifier.weight.mul_(-3)
    second = partition_base(base)
    assert take_digests(first) == take_digests(second)
    assert torch.equal(second.logits(noise(32)), model(noise(32)))


@pytest.mark.parametrize("arch", [LCNET, "timm:test_vit"])
def test_added_layers_come_back_as_blocks(arch):
    model, inputs = run_of(arch, many, (8, 12)), noise(SIZES[arch])
    base = revived(arch, model, added=(8, 12))
    assert tuple(block.hidden for block in base.added) == (8, 12)
    network = partition_base(base)
    own = len(cut(base.module, base.record.preprocessing).blocks)
    assert [p.name for p in network.blocks][own:] == ["added", "added#2"]
    assert torch.equal(network.logits(inputs), model(inputs))
    actual = FeatureExtractor(network, model.scan.feature_layers)(inputs)
    assert all(map(torch.equal, actual, model.features(inputs)))


def test_other_inputs_keep_the_head_the_blocks_and_a_digest_that_tells_them():
    models = []
    for shift in (0.0, 1.0):
        model = run_of(LCNET, hidden=(8,))
        model.backbone.get_submodule("added").up.bias += shift
        models.append(revived(LCNET, model, added=(8,)))
    grey = [change(base, InputOptions(channels=1, size=48)) for base in models]
    assert len({base.record.sha256 for base in (*models, *grey)}) == 4
    record, before = grey[0].record, models[0].record
    assert (record.preprocessing.channels, record.preprocessing.size) == (1, (48, 48))
    assert [c.tensor for c in grey[0].changes] == ["conv_stem.weight"]
    assert grey[0].origin == before
    assert before.parameters - record.parameters == grey[0].module.conv_stem.weight.numel() * 2
    network = partition_base(grey[0])
    assert network.blocks[-1].name == "added"
    assert network.logits(noise(48, 2, 1)).shape == (2, 3)


def test_a_run_on_bands_is_not_shown_pictures_and_no_wish_leaves_a_run_as_it_is():
    base = revived("timm:lcnet_035", run_of("timm:lcnet_035"))
    assert change(base, InputOptions(image_channels=3)) is base
    bands = change(base, InputOptions(channels=5, image_channels=5))
    with pytest.raises(ModelError, match=r"takes 5 bands, the images have 3; choose a base model"):
        change(bands, InputOptions(image_channels=3))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("backbone.conv_stem.weight", None, "backbone.conv_stem.weight is missing"),
        ("backbone.added.up.bias", None, r"backbone.added.up.bias is missing"),
        ("backbone.extra", torch.ones(1), "backbone.extra is not in the network"),
        ("head.bias", torch.full((3,), float("nan")), "head.bias holds NaN"),
        ("head.weight", None, "no head.weight for 3 classes"),
    ],
)
def test_reviving_is_strict(name, tensor, message):
    model, record = run_of(LCNET, hidden=(8,)), described(LCNET, added=(8,))
    state = {**unique_state(model), name: tensor}
    state = {n: t for n, t in state.items() if t is not None}
    with pytest.raises(ModelError, match=message):
        rebuild_finished_run(record, state, model.scan.feature_layers)
    with pytest.raises(ModelError, match=r"has no feature layer 99\.avg"):
        rebuild_finished_run(record, unique_state(model), [FeatureLayer(block=99, pool="avg")])
