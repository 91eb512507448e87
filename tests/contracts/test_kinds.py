"""Laws 1 to 4 over rows of tables, clips of sound and tensors for a network of one's own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_law4_cache_key import changes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import tiny
import tiny_audio_encoder
from warmstart.features.batches import to_tensor
from warmstart.features.cache_key import FeatureKey
from warmstart.features.engine import make_engine
from warmstart.modalities.registry import modality_of
from warmstart.network import freeze
from warmstart.network.cut import FrozenPrefix, UnfrozenBlocks, cached_layers
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.ledger import take_digests, write_ledger
from warmstart.network.load import load
from warmstart.network.partition import Network, cut
from warmstart.network.surgery import assemble
from warmstart.network.table_network import draw
from warmstart.network.weights import unique_tensors
from warmstart.records.inputs import (
    ColumnRecord,
    Inputs,
    Sound,
    TableInputs,
    TensorInputs,
    WaveInputs,
)
from warmstart.records.network import FeatureLayer

N, K = 8, 3
TABLE = TableInputs(
    columns=(
        ColumnRecord(name="age", kind="number", mean=50, std=9, knots=(-1.0, 0.0, 1.0)),
        ColumnRecord(name="dose", kind="number", knots=(-2.0, 2.0), has_missing=True),
        ColumnRecord(name="site", kind="category", values=("north", "south"), has_missing=True),
    )
)
SIGNAL = TensorInputs(shape=(2, 32), dtype="float32", low=-3.0, high=3.0)
TOKENS = TensorInputs(shape=(8,), dtype="int64", low=0.0, high=39.0)
SAMPLES = WaveInputs(sample_rate=8000, seconds=0.2, is_scaled=True)
SOUND = dataclasses.replace(
    tiny.PREP,
    mean=(0.5,),
    std=(0.5,),
    sound=Sound(
        sample_rate=8000,
        seconds=0.5,
        window=256,
        hop=40,
        mels=32,
        low=20.0,
        high=4000.0,
        range_db=30.0,
    ),
)


class Attending(nn.Module):
    """Tokens, two blocks of attention, their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.first = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.second = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.second(self.first(self.embed(x))).mean(1))
        return found


def signals() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 5),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 16, 5),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def listening() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


KINDS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "rows": (lambda: draw(TABLE, 5, 1), TABLE),
    "signals": (signals, SIGNAL),
    "tokens": (Attending, TOKENS),
    "clips": (listening, SOUND),
    "samples": (lambda: load(f"transformers:{tiny_audio_encoder.folder_of()}").module, SAMPLES),
    "patches": (
        lambda: load(f"transformers:{tiny_audio_encoder.folder_of('ast')}").module,
        SAMPLES,
    ),
    "mels": (
        lambda: load(f"transformers:{tiny_audio_encoder.folder_of('whisper')}").module,
        SAMPLES,
    ),
    "distances": (
        lambda: load(f"transformers:{tiny_audio_encoder.folder_of('wavlm')}").module,
        SAMPLES,
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def opened(kind: str) -> tuple[nn.Module, Network, Inputs]:
    """A network with random weights and statistics, and its parts."""
    make, inputs = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make().eval()
    return module, cut(module, inputs), inputs


def warm(network: Network) -> Any:
    """A model with a random head of K classes on the last tap."""
    last = feature_layers(network.record)[-1]
    width = layer_width(network.record, last)
    weight = torch.randn(K, width, generator=torch.Generator().manual_seed(0)) / width**0.5
    return assemble(network, [last], weight, torch.zeros(K))


def numel(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in unique_tensors(module).values())


@each_kind
def test_law_1_the_parts_and_the_head_compose_to_the_network(kind):
    module, network, inputs = opened(kind)
    assert len(network.blocks) > 1
    values = to_tensor(modality_of(inputs).noise(N, inputs), inputs)
    with torch.no_grad():
        torch.testing.assert_close(network.logits(values), module(values), rtol=1e-4, atol=1e-5)


@each_kind
def test_law_2_the_rows_of_the_ledger_add_up_to_both_networks(kind):
    module, network, _ = opened(kind)
    before, model = take_digests(network), warm(network)
    rows = write_ledger(before, network, model).rows
    assert sum(row.numel for row in rows if row.fate != "new") == numel(module)
    assert sum(row.numel for row in rows if row.fate != "dropped") == numel(model)


@each_kind
def test_law_3_the_gradient_on_what_is_stored_is_that_of_the_whole_network(kind):
    _, network, inputs = opened(kind)
    depth = len(network.blocks) - 1
    names = [block.name for block in network.blocks]
    actions = {name: "frozen" if place < depth else "tuned" for place, name in enumerate(names)}
    actions |= {"neck": "tuned", "output": "replaced", "unused": "frozen"}
    model, last = warm(copy.deepcopy(network)), feature_layers(network.record)[-1]
    prefix = FrozenPrefix(copy.deepcopy(network), depth, cached_layers([last], depth))
    batch = modality_of(inputs).noise(N, inputs)
    rows = make_engine("torch", prefix, inputs, 1)(batch)
    stored = [torch.from_numpy(np.ascontiguousarray(one)) for one in rows]
    live = gradient(model, actions, network, UnfrozenBlocks(model, 0), [to_tensor(batch, inputs)])
    kept = gradient(model, actions, network, UnfrozenBlocks(model, depth), stored)
    assert live.keys() == kept.keys() != set()
    for name, expected in live.items():
        size = max(float(expected.norm()), 1e-6)
        assert float((kept[name] - expected).norm()) / size < 1e-4, name


def gradient(
    model: Any, actions: Any, network: Network, run: Any, inputs: list[Tensor]
) -> dict[str, Tensor]:
    """Of the parts that move, without dropout."""
    with freeze.FrozenBlocks(model, actions, network.owners):
        model.eval()
        model.zero_grad()
        cross_entropy(run(*inputs), torch.arange(N) % K).backward()
        found = model.named_parameters()
        return {name: p.grad.clone() for name, p in found if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("inputs", [TABLE, SIGNAL, SAMPLES], ids=["rows", "signals", "samples"])
def test_law_4_every_member_of_the_description_is_in_the_key(inputs):
    key = FeatureKey(
        network="n",
        arch="a",
        blocks=("p",),
        feature_layers=(FeatureLayer(block=1, pool="avg"),),
        preprocessing=inputs,
        decoder="d",
        engine="torch",
        engine_version="t",
        threads=1,
    )
    changed = [other for _, other in changes(inputs)]
    assert len(changed) > 2
    for other in changed:
        assert dataclasses.replace(key, preprocessing=other).digest != key.digest, other
