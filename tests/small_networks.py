"""What tests of networks share: preprocessing, random numbers, seeded networks, warm models."""

from __future__ import annotations

import torch

from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.surgery import assemble
from warmstart.records.inputs import Preprocessing


def prep(side, channels=3):
    half = (0.5,) * channels
    return Preprocessing(size=(side, side), resize=side, mean=half, std=half)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(side, n=3, channels=3, seed=3):
    return torch.randn(n, channels, side, side, generator=rng(seed))


def seeded(make, seed=1):
    """A network in eval mode, always with the same random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def warm(network, layers=None, n_classes=3):
    """A model with a random head on feature layers, the last one if none is named."""
    layers = layers or feature_layers(network.record)[-1:]
    width = sum(layer_width(network.record, layer) for layer in layers)
    weight = torch.randn(n_classes, width, generator=rng()) / width**0.5
    return assemble(network, layers, weight, torch.zeros(n_classes))
