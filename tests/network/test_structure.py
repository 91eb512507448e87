"""Parts by how a module is built, against what its author would call its layers."""

from __future__ import annotations

import pytest
import torch
import torchvision.models
from torch import nn

from warmstart.network.structure import find_blocks


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


def test_blocks_of_a_list_are_blocks_and_what_lies_around_them_joins():
    assert blocks(Encoder()) == {
        "stem": 5,  # the token and the norm are registered before the first block too
        "layers.0": 12,
        "layers.1": 12,
        "layers.2": 16,  # with the last norm, and the head's first
        "output": 2,
    }


def test_without_a_list_the_children_are_blocks():
    assert blocks(Reader()) == {"embed": 1, "lstm": 8, "output": 2}


def test_a_layer_alone_is_one_block_or_the_output():
    assert blocks(nn.LSTM(3, 4)) == {"whole": 4, "output": 0}
    assert blocks(nn.Linear(3, 4)) == {"output": 2}


def test_a_wrapper_is_opened():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Reader()

    assert blocks(Wrapper()) == {"net.embed": 1, "net.lstm": 8, "output": 2}


def test_layers_of_a_perceptron_are_its_blocks():
    net = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    assert blocks(net) == {"0": 7, "3": 2, "output": 2}


def test_plain_containers_are_blocks_where_they_hold_the_same():
    block = lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU())  # noqa: E731
    body = nn.Sequential(block(), block(), block())
    assert blocks(nn.Sequential(body, nn.Sequential(nn.ReLU(), nn.Linear(8, 2)))) == {
        "0.0": 2,
        "0.1": 2,
        "0.2": 2,
        "output": 2,
    }


@pytest.mark.parametrize(
    ("name", "n_blocks", "first", "last"),
    [
        ("resnet18", 9, "conv1", "layer4.1"),
        ("vit_b_16", 13, "conv_proj", "encoder.layers.encoder_layer_11"),
        ("densenet121", 5, "features.conv0", "features.denseblock4"),
    ],
)
def test_known_networks(name, n_blocks, first, last):
    result = blocks(torchvision.models.get_model(name, num_classes=7))
    assert len(result) == n_blocks + 1
    assert next(iter(result)) == first
    assert list(result)[-2] == last
    assert result["output"] == 2


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def transformer(kind, **config):
    """A network of transformers with random weights."""
    library = pytest.importorskip("transformers")
    return getattr(library, kind)(getattr(library, kind.split("For")[0] + "Config")(**config))


def test_bert_with_its_pooler_in_the_last_layer():
    assert blocks(transformer("BertForSequenceClassification", **SMALL)) == {
        "bert.embeddings": 5,
        "bert.encoder.layer.0": 16,
        "bert.encoder.layer.1": 18,
        "output": 2,
    }


def test_all_that_stands_outside_of_the_base_is_output():
    roberta = transformer("RobertaForSequenceClassification", **SMALL)
    assert blocks(roberta)["output"] == 4
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    assert blocks(transformer("DistilBertForSequenceClassification", **sizes))["output"] == 4


def test_shared_layers_and_large_tables_do_not_hide_the_blocks():
    albert = blocks(transformer("AlbertForSequenceClassification", **SMALL))
    assert list(albert) == ["albert.embeddings", "albert.encoder", "albert.pooler", "output"]
    lm = blocks(transformer("BertForMaskedLM", **SMALL))
    assert list(lm)[1:3] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def test_encoder_and_decoder_blocks_are_blocks():
    t5 = transformer("T5ForConditionalGeneration", d_model=16, num_layers=2, num_heads=2, d_ff=32)
    assert list(blocks(t5))[1:5] == [
        "encoder.block.0",
        "encoder.block.1",
        "decoder.block.0",
        "decoder.block.1",
    ]
