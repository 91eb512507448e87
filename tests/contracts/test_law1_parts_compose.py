"""Law 1: the parts and the head compose to the network: same logits."""

from __future__ import annotations

import pytest
import torch
from networks import KINDS, cut_once, inputs_for

from warmstart.network.segments import as_tensor
from warmstart.network.weights import place, unique_tensors

every_network = pytest.mark.parametrize("name", KINDS)


@every_network
def test_parts_neck_and_classifier_give_the_logits_of_the_network(name):
    module, network = cut_once(name)
    inputs = inputs_for(name)
    with torch.no_grad():
        expected = as_tensor(module(inputs))
        torch.testing.assert_close(network.logits(inputs), expected, rtol=1e-5, atol=1e-5)


@every_network
def test_blocks_and_neck_give_the_vector_of_the_classifier(name):
    _, network = cut_once(name)
    value = inputs_for(name)
    with torch.no_grad():
        expected = network.features(value)
        for step in (*network.blocks, network.steps.neck):
            value = step.run(network.backbone, value)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert value.shape[1] == network.record.neck_width


@every_network
def test_the_number_of_parts_is_the_one_a_reader_would_count(name):
    _, network = cut_once(name)
    assert len(network.blocks) == len(network.record.blocks) == KINDS[name].n_blocks
    assert len({block.name for block in network.blocks}) == KINDS[name].n_blocks


@every_network
def test_every_tensor_has_exactly_one_owner(name):
    module, network = cut_once(name)
    state = module.state_dict(keep_vars=True)
    owned = {place(state[tensor]) for tensor in network.owners}
    assert len(owned) == len(network.owners)
    assert owned == {place(tensor) for tensor in unique_tensors(module).values()}
    assert set(network.owners.values()) <= {
        *(block.name for block in network.blocks),
        "neck",
        "head",
        "unused",
    }


@every_network
def test_parts_share_the_tensors_of_the_network(name):
    module, network = cut_once(name)
    original = {id(parameter) for parameter in module.parameters()}
    for block in network.blocks:
        for module in map(network.backbone.get_submodule, block.modules):
            assert {id(parameter) for parameter in module.parameters()} <= original


@every_network
def test_shapes_in_the_record_are_the_shapes_that_flow(name):
    _, network = cut_once(name)
    value = inputs_for(name, 2)
    with torch.no_grad():
        for block, record in zip(network.blocks, network.record.blocks, strict=True):
            assert tuple(value.shape[1:]) == record.shape_in
            value = block.run(network.backbone, value)
            assert tuple(value.shape[1:]) == record.shape_out
