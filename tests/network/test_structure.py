"""Blocks of any module: as its author would call its layers, along forward or by registration."""

from __future__ import annotations

import copy
from collections import defaultdict

import pytest
import timm
import torch
import torchvision.models
from torch import nn

import warmstart
from contracts.networks import KINDS, cut_once, each, inputs_for
from warmstart.errors import ModelError, PlanError
from warmstart.network.architectures import find_family
from warmstart.network.structure import find_blocks, sections, sections_for
from warmstart.network.weights import digests, unique_tensors


def blocks(module):
    """Part names, and how many tensors each has, the output last."""
    names, owners = find_blocks(module)
    assert owners.keys() == module.state_dict().keys()
    return {name: list(owners.values()).count(name) for name in (*names, "output")}


class Reader(nn.Module):
    """A text network as one writes it oneself."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, ids):
        return self.fc(self.lstm(self.embed(ids))[0][:, -1])


class Encoder(nn.Module):
    """Blocks in a list, tensors of its own, norms between, a head of two layers."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.stem = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        layer = lambda: nn.TransformerEncoderLayer(8, 2, 16)  # noqa: E731
        self.layers = nn.ModuleList([layer(), layer(), layer()])
        self.last = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def container(*layers):
    return nn.Sequential(*layers)


def block():
    return container(nn.Linear(8, 8), nn.ReLU())


BODY, HEAD = container(block(), block(), block()), container(nn.ReLU(), nn.Linear(8, 2))


MIDDLE = (nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())


PERCEPTRON = container(nn.Linear(4, 8), *MIDDLE, nn.Linear(8, 2))


EXPECTED = [
    (  # the token and the norm are registered before the first block too
        Encoder(),  # its last norm, and the head's first layer, join the last block
        {"stem": 5, "layers.0": 12, "layers.1": 12, "layers.2": 16, "output": 2},
    ),
    (Reader(), {"embed": 1, "lstm": 8, "output": 2}),
    (nn.LSTM(3, 4), {"whole": 4, "output": 0}),
    (nn.Linear(3, 4), {"output": 2}),
    (container(Reader()), {"0.embed": 1, "0.lstm": 8, "output": 2}),
    (PERCEPTRON, {"0": 7, "3": 2, "output": 2}),
    (container(BODY, HEAD), {"0.0": 2, "0.1": 2, "0.2": 2, "output": 2}),
]


@pytest.mark.parametrize(("module", "expected"), EXPECTED)
def test_blocks_and_numbers_of_their_tensors(module, expected):
    assert blocks(module) == expected


@pytest.mark.parametrize(
    ("name", "n_blocks", "first", "last"),
    [
        ("resnet18", 9, "conv1", "layer4.1"),
        ("vit_b_16", 13, "conv_proj", "encoder.layers.encoder_layer_11"),
        ("densenet121", 5, "features.conv0", "features.denseblock4"),
    ],
)
def test_known_networks(name, n_blocks, first, last):
    with torch.device("meta"):
        names, owners = find_blocks(torchvision.models.get_model(name, num_classes=7))
    assert (len(names), names[0], names[-1]) == (n_blocks, first, last)
    assert list(owners.values()).count("output") == 2


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


SIZES |= {"intermediate_size": 32}


def transformer(kind, **config):
    """A network of transformers with random weights."""
    library = pytest.importorskip("transformers")
    config = config or SIZES
    return getattr(library, kind)(getattr(library, kind.split("For")[0] + "Config")(**config))


def test_blocks_of_transformers():
    """The pooler goes with the last layer; all that stands outside of the base is output."""
    bert = {"bert.embeddings": 5, "bert.encoder.layer.0": 16, "bert.encoder.layer.1": 18}
    assert blocks(transformer("BertForSequenceClassification")) == {**bert, "output": 2}
    assert blocks(transformer("RobertaForSequenceClassification"))["output"] == 4
    albert = blocks(transformer("AlbertForSequenceClassification"))  # it shares its layers
    assert list(albert) == ["albert.embeddings", "albert.encoder", "albert.pooler", "output"]
    lm = blocks(transformer("BertForMaskedLM"))
    assert list(lm)[1:3] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    t5 = transformer("T5ForConditionalGeneration", d_model=16, num_layers=2, num_heads=2, d_ff=32)
    names = [f"{side}.block.{k}" for side in ("encoder", "decoder") for k in (0, 1)]
    assert list(blocks(t5))[1:5] == names


@each(KINDS)
def test_every_tensor_has_one_owner_blocks_are_those_of_the_cut_and_nothing_is_touched(name):
    module, network = cut_once(name)
    module = copy.deepcopy(module).train()
    next(module.parameters()).requires_grad_(False)
    before, state = digests(module), torch.get_rng_state()
    result = sections(module, inputs_for(name))
    assert list(result.owners) == list(unique_tensors(module))
    assert set(result.owners.values()) <= {*result.names, "output", "unused"}
    if network.record.partition == "traced":
        assert result.names == tuple(block.name for block in network.blocks)
    assert digests(module) == before
    assert sum(not p.requires_grad for p in module.parameters()) == 1
    assert all(m.training for m in module.modules())
    assert torch.equal(torch.get_rng_state(), state)
    plan = warmstart.plan(module, "full", inputs=inputs_for(name))
    assert sections_for(module, plan).owners == result.owners  # without the batch


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


TEXTS = {
    "bert": lambda: transformer("BertForSequenceClassification"),
    "lstm": lambda: nn.LSTM(3, 4, 2),
}


@pytest.mark.parametrize("name", TEXTS)
def test_networks_that_take_no_images_are_parted_too(name):
    module = TEXTS[name]()
    before = digests(module)
    result = sections(module)
    assert result.shape is None
    assert list(result.owners) == list(unique_tensors(module))
    assert set(result.owners.values()) - {"output"} == set(result.names)
    assert digests(module) == before
    assert sections_for(module, warmstart.plan(module, "last:1")) == result


def test_sizes_come_from_the_configuration():
    result = sections(timm.create_model("test_resnet", num_classes=4))
    assert (result.shape, result.n_outputs) == ((3, 160, 160), 4)
    own = {"image_size": 32, "patch_size": 8, "num_channels": 1, "num_labels": 5}
    result = sections(transformer("ViTForImageClassification", **SIZES, **own))
    assert result.names == ("vit.embeddings", "vit.layers.0", "vit.layers.1")
    assert (result.family, result.n_outputs) == ("transformer", 5)
    assert find_family(KINDS["swin_tiny"].make()) == "transformer"


def grouped(owners):
    """Sets of tensors that belong together, whatever the blocks are called."""
    groups = defaultdict(set)
    for name, owner in owners.items():
        groups[owner].add(name)
    return set(map(frozenset, groups.values()))


def test_forward_and_registration_give_a_resnet_the_same_blocks():
    module = torchvision.models.resnet18()
    followed, registered = sections(module, torch.zeros(1, 3, 32, 32)), sections(module, "text")
    assert (followed.shape, registered.shape) == ((3, 32, 32), None)
    assert grouped(followed.owners) == grouped(registered.owners)
    with pytest.raises(ModelError, match="ReLU has no tensors"):
        sections(nn.ReLU())


def test_half_precision_and_a_mapping_of_inputs():
    module = torchvision.models.resnet18()
    whole = sections(module, {"pixel_values": torch.zeros(1, 3, 32, 32)})
    half = sections(module.bfloat16(), torch.zeros(1, 3, 32, 32))
    assert whole.owners == half.owners
    assert module.conv1.weight.dtype == torch.bfloat16


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 20, bias=False)
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([nn.GRU(8, 8), nn.GRU(8, 8)])
        self.head.weight = self.embed.weight


def test_tied_tensors_belong_to_the_first_block_that_reads_them():
    result = sections(Tied())
    assert result.owners["head.weight"] == "embed"
    assert result.names == ("embed", "layers.0", "layers.1")
    assert result.n_outputs is None


def test_an_auxiliary_head_that_forward_does_not_read_is_unused():
    module = torchvision.models.googlenet(init_weights=False)
    owners = sections(module, torch.zeros(2, 3, 64, 64)).owners
    assert {o for name, o in owners.items() if name.startswith("aux")} == {"unused"}


def test_a_plan_is_refused_by_another_network():
    image = torch.zeros(1, 3, 32, 32)
    plan = warmstart.plan(torchvision.models.resnet18(), inputs=image)
    with pytest.raises(PlanError, match="another network: this Sequential has no block 'conv1'"):
        sections_for(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), plan)
    with pytest.raises(PlanError, match="this ResNet has 17 blocks, not 9"):
        sections_for(torchvision.models.resnet34(), plan)
