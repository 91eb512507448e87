"""Ownership of any module: every tensor once, the same by both ways, nothing touched."""

from __future__ import annotations

import copy
from collections import defaultdict

import pytest
import torch
import torchvision.models
from torch import nn

import warmstart
from contracts.networks import KINDS, cut_once, inputs_for
from warmstart.errors import ModelError, PlanError
from warmstart.network.architectures import find_family
from warmstart.network.structure import aliases, sections, sections_for
from warmstart.network.weights import digests, unique_tensors

every_network = pytest.mark.parametrize("name", KINDS)


@every_network
def test_every_tensor_has_one_owner_and_blocks_are_those_of_the_cut(name):
    module, network = cut_once(name)
    result = sections(module, inputs_for(name))
    assert list(result.owners) == list(unique_tensors(module))
    assert set(result.owners.values()) <= {*result.names, "output", "unused"}
    if network.record.partition == "traced":
        assert result.names == tuple(block.name for block in network.blocks)


@every_network
def test_nothing_is_touched(name):
    module, _ = cut_once(name)
    module = copy.deepcopy(module).train()
    next(module.parameters()).requires_grad_(False)
    before = digests(module)
    flags = [p.requires_grad for p in module.parameters()]
    modes = [m.training for m in module.modules()]
    state = torch.get_rng_state()
    sections(module, inputs_for(name))
    assert digests(module) == before
    assert [p.requires_grad for p in module.parameters()] == flags
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


class Noisy(nn.Module):
    """Draws at every call, and counts them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.body = nn.Conv2d(3, 4, 3)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        self.calls += 1
        return self.out(self.body(x + torch.rand_like(x)).mean((2, 3)))


def test_a_network_that_draws_and_counts_is_left_as_it_is():
    module, state = Noisy(), torch.get_rng_state()
    assert sections(module, torch.zeros(1, 3, 8, 8)).owners["out.weight"] == "output"
    assert torch.equal(torch.get_rng_state(), state)
    assert module.calls == 0


def texts():
    """Networks that take no images."""
    library = pytest.importorskip("transformers")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    gpt2 = library.GPT2Config(n_embd=16, n_layer=2, n_head=2)
    return {
        "bert": library.BertForSequenceClassification(library.BertConfig(**small)),
        "gpt2": library.GPT2LMHeadModel(gpt2),
        "lstm": nn.LSTM(3, 4, 2),
    }


@pytest.mark.parametrize("name", ["bert", "gpt2", "lstm"])
def test_networks_that_take_no_images_are_parted_too(name):
    module = texts()[name]
    before = digests(module)
    result = sections(module)
    assert result.shape is None
    assert list(result.owners) == list(unique_tensors(module))
    assert set(result.owners.values()) - {"output"} == set(result.names)
    assert digests(module) == before
    assert sections_for(module, warmstart.plan(module, "last:1")) == result


def test_timm_says_its_own_size():
    timm = pytest.importorskip("timm")
    result = sections(timm.create_model("test_resnet", num_classes=4))
    assert result.shape == (3, 160, 160)
    assert result.n_outputs == 4


def grouped(owners):
    """Sets of tensors that belong together, whatever the blocks are called."""
    groups = defaultdict(set)
    for name, owner in owners.items():
        groups[owner].add(name)
    return set(map(frozenset, groups.values()))


def test_forward_and_registration_give_a_resnet_the_same_blocks():
    module = torchvision.models.resnet18()
    followed, find_blocks = sections(module, torch.zeros(1, 3, 32, 32)), sections(module, "text")
    assert followed.shape == (3, 32, 32)
    assert find_blocks.shape is None
    assert grouped(followed.owners) == grouped(find_blocks.owners)


def test_half_precision_and_a_mapping_of_inputs():
    module = torchvision.models.resnet18()
    whole = sections(module, {"pixel_values": torch.zeros(1, 3, 32, 32)})
    half = sections(module.bfloat16(), torch.zeros(1, 3, 32, 32))
    assert whole.owners == half.owners
    assert module.conv1.weight.dtype == torch.bfloat16


def test_tied_tensors_belong_to_the_first_block_that_reads_them():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 20, bias=False)
            self.embed = nn.Embedding(20, 8)
            self.layers = nn.ModuleList([nn.GRU(8, 8), nn.GRU(8, 8)])
            self.head.weight = self.embed.weight

    result = sections(Tied())
    assert result.owners["head.weight"] == "embed"
    assert aliases(Tied())["head.weight"] == ["head.weight", "embed.weight"]
    assert result.names == ("embed", "layers.0", "layers.1")
    assert result.n_outputs is None


def test_an_auxiliary_head_that_forward_does_not_read_is_unused():
    module = torchvision.models.googlenet(init_weights=False)
    owners = sections(module, torch.zeros(2, 3, 64, 64)).owners
    assert {o for name, o in owners.items() if name.startswith("aux")} == {"unused"}


def test_sizes_come_from_the_configuration():
    library = pytest.importorskip("transformers")
    config = library.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_channels=1,
        num_labels=5,
    )
    result = sections(library.ViTForImageClassification(config))
    assert result.names == ("vit.embeddings", "vit.layers.0", "vit.layers.1")
    assert (result.family, result.n_outputs) == ("transformer", 5)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet18", "convnet"),
        ("vit_tiny", "transformer"),
        ("mlp", "mlp"),
        ("convnext_atto", "convnet"),
        ("swin_tiny", "transformer"),
    ],
)
def test_families(name, family):
    assert find_family(KINDS[name].make()) == family


def test_a_module_without_tensors_is_refused():
    with pytest.raises(ModelError, match="ReLU has no tensors"):
        sections(nn.ReLU())


@every_network
def test_a_plan_finds_its_blocks_again_without_the_batch(name):
    module, _ = cut_once(name)
    plan = warmstart.plan(module, "full", inputs=inputs_for(name))
    assert sections_for(module, plan).owners == sections(module, inputs_for(name)).owners


def test_a_plan_is_refused_by_another_network():
    image = torch.zeros(1, 3, 32, 32)
    plan = warmstart.plan(torchvision.models.resnet18(), inputs=image)
    with pytest.raises(PlanError, match="another network: this Sequential has no block 'conv1'"):
        sections_for(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), plan)
    with pytest.raises(PlanError, match="this ResNet has 17 blocks, not 9"):
        sections_for(torchvision.models.resnet34(), plan)
