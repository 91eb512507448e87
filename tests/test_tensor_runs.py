"""Networks of one's own on tensors of any shape: a map-style data set in, a run out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import warmstart
from contracts.networks import Attending, convolutions
from warmstart.errors import DataError, ModelError
from warmstart.network.weights import digests

QUICK = {"training.epochs": 3.3333, "training.folds": 1}
N = 48


def layers():
    return nn.Sequential(
        nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def made(kind):
    """A network and its data: three classes that can be told apart."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(N) % 3
    shift = y.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "signals":
            net, x = convolutions(1, 2), torch.randn(N, 2, 32, generator=rng) + shift[:, None, None]
        elif kind == "layers":
            net, x = layers(), torch.randn(N, 10, generator=rng) + shift[:, None]
        elif kind == "volumes":
            net = convolutions(3, 1)
            x = torch.randn(N, 1, 8, 8, 8, generator=rng) + shift[:, None, None, None, None]
        else:
            net, x = Attending(), torch.randint(0, 12, (N, 8), generator=rng) + 12 * y[:, None]
    return net, TensorDataset(x, y)


KINDS = ("signals", "layers", "tokens", "volumes")


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_learnt_and_tensors_are_answered(kind, tmp_path):
    net, data = made(kind)
    before = digests(net)
    run = warmstart.fit(data, base=net, strategy="head", budget="fast", out=tmp_path / "run")
    assert digests(net) == before  # the user's own module is left as it is
    assert run.estimate.value > 0.6
    blocks = json.loads((run.path / "network.json").read_text())["blocks"]
    assert len(blocks) > 1
    assert "other" not in {block["layout"] for block in blocks}
    kept = json.loads((run.path / "model" / "preprocess.json").read_text())
    assert kept["shape"] == list(data[0][0].shape)
    answers = warmstart.load(run.path, network=net).predict(data.tensors[0][:6])
    said = [answer.label for answer in run.predict([data[i] for i in range(6)])]
    assert said == [answer.label for answer in answers]
    assert json.loads((run.path / "data.json").read_text())["kind"] == "tensor"


def test_the_same_tensors_are_extracted_once(tmp_path):
    net, data = made("layers")
    options = {"base": net, "strategy": "head", "budget": "fast"}
    warmstart.fit(data, out=tmp_path / "one", **options)
    seen = []
    warmstart.fit(data, out=tmp_path / "two", on_event=seen.append, **options)
    ends = [event for event in seen if event.stage == "features" and event.kind == "end"]
    assert ends[0].values["passed"] == 0


class Given(Dataset):
    """A data set that gives what it is told to."""

    def __init__(self, *items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        return item() if callable(item) else item


ONE = torch.zeros(3)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ((), "the Given is empty; give one with examples"),
        (
            ((lambda: (torch.rand(3), 0)),),
            "returns another tensor each time for example 0",
        ),
        (
            ((ONE, 0), (torch.zeros(4), 1)),
            r"returns float32 of shape \(4,\) for example 1, and float32",
        ),
        ((ONE,), "returns a Tensor for example 0; give pairs"),
        (((ONE, 0.5),), "returns 0.5 as the class of example 0; give a whole number or a name"),
        ((("text", 0),), "example 0 of the Given is not a tensor of numbers"),
        (
            ((torch.tensor([1.0, np.nan]), 0),),
            "example 0 of the Given holds NaN or infinite numbers",
        ),
    ],
)
def test_data_sets_that_cannot_be_used_are_refused(items, words):
    with pytest.raises(DataError, match=words) as caught:
        warmstart.fit(Given(*items), base=layers())
    assert "\n" not in str(caught.value)


def test_tensors_want_a_network_of_ones_own():
    _, data = made("layers")
    with pytest.raises(ModelError, match="holds tensors, which a network of your own takes"):
        warmstart.fit(data)


def test_a_network_that_does_not_take_them_says_so(tmp_path):
    _, data = made("signals")
    with pytest.raises(ModelError, match=r"Sequential cannot take inputs of shape \(2, 32\)"):
        warmstart.fit(data, base=layers(), out=tmp_path / "run")


def test_tensors_of_another_shape_are_not_answered(tmp_path):
    net, data = made("layers")
    run = warmstart.fit(data, base=net, strategy="head", budget="fast", out=tmp_path / "run")
    assert run.predict(data[0][0]).label == run.predict(data[0]).label  # with its class, as well
    assert len(run.predict(data.tensors[0][:1])) == 1
    (answer,) = run.predict([torch.zeros(9)])
    assert "#0 is float32 of shape (9,); the network takes float32 of (10,)" in answer.error
