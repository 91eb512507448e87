"""Blocks one by one, each on its own copies, are the network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))

from networks import KINDS, cut_once, inputs_for

from warmstart.features.offload import SingleBlock
from warmstart.network.feature_layers import FeatureExtractor, feature_layers


@pytest.mark.parametrize("name", KINDS)
def test_blocks_one_after_the_other_compute_the_network(name):
    _, network = cut_once(name)
    offered, main = feature_layers(network.record), inputs_for(name)
    result = {}
    with torch.inference_mode():
        expected = FeatureExtractor(network, offered)(main.clone())
        for number in range(1, len(network.blocks) + 1):
            module = SingleBlock(network, number, offered)
            main, *selected = module(main.clone())
            result |= dict(zip(module.feature_layers, selected, strict=True))
    assert [*result] == [*offered]
    for layer, values in zip(offered, expected, strict=True):
        assert torch.allclose(result[layer], values, atol=1e-5, rtol=1e-5), layer.name


def test_a_block_holds_its_own_tensors_alone():
    _, network = cut_once("resnet18")
    module = SingleBlock(network, 2, feature_layers(network.record))
    own = {id(tensor) for tensor in network.backbone.parameters()}
    assert sum(p.numel() for p in module.parameters()) == network.record.blocks[1].parameters
    assert not own & {id(parameter) for parameter in module.parameters()}
