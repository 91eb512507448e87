"""Law 2: no tensor is lost: the ledger's rows add up to both networks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from networks import KINDS, cut_once

import tiny
from tiny import PREP
from warmstart.network import surgery
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.inputs import InputOptions
from warmstart.network.ledger import prove_frozen, take_digests, write_ledger
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.network.weights import digest, unique_tensors

every_network = pytest.mark.parametrize("name", KINDS)


def _warm(network):
    """A model with a new head of three classes on the last tap."""
    last = feature_layers(network.record)[-1]
    width = layer_width(network.record, last)
    return assemble(network, [last], torch.zeros(3, width), torch.zeros(3))


def _numel(module):
    return sum(tensor.numel() for tensor in unique_tensors(module).values())


@every_network
def test_rows_add_up_to_the_old_network_and_to_the_new_one(name):
    module, network = cut_once(name)
    before = take_digests(network)
    model = _warm(network)
    rows = write_ledger(before, network, model).rows
    assert sum(row.numel for row in rows if row.fate != "new") == _numel(module)
    assert sum(row.numel for row in rows if row.fate != "dropped") == _numel(model)
    assert len({(row.tensor, row.fate) for row in rows}) == len(rows)


@every_network
def test_only_the_old_head_is_dropped_and_all_else_is_kept(name):
    _, network = cut_once(name)
    ledger = write_ledger(take_digests(network), network, _warm(network))
    for row in ledger.rows:
        assert row.fate == {"head": "new" if row.before is None else "dropped"}.get(
            row.block, "unchanged"
        )
    proof = prove_frozen(ledger)
    kept = [row for row in ledger.rows if row.fate == "unchanged"]
    assert proof.identical
    assert proof.parameters + proof.buffers == sum(row.numel for row in kept)


@every_network
def test_rows_add_up_whatever_is_done_to_the_parts(name):
    """The first part frozen, the last fresh, the others tuned, two blocks added."""
    module, network = cut_once(name)
    before, rng = take_digests(network), torch.Generator().manual_seed(0)
    names = [block.name for block in network.blocks]
    actions = {names[0]: "frozen", **dict.fromkeys(names[1:], "tuned"), names[-1]: "fresh"}
    actions |= {"neck": "fresh", "added": "added", "added#2": "added"}
    clone, last = copy.deepcopy(network), network.record.blocks[-1]
    clone = surgery.graft(clone, [surgery.make_block(last, rng) for _ in range(2)])
    surgery.refresh(clone, [names[-1], "neck"], rng)
    model = _warm(clone)
    with torch.no_grad():
        state = clone.backbone.state_dict()
        for tensor, block in clone.owners.items():
            if actions.get(block) == "tuned" and state[tensor].is_floating_point():
                state[tensor] += 1
    rows = write_ledger(before, network, model, actions=actions).rows
    assert sum(row.numel for row in rows if row.fate != "new") == _numel(module)
    assert sum(row.numel for row in rows if row.fate != "dropped") == _numel(model)
    assert len({(row.tensor, row.fate) for row in rows}) == len(rows)
    expected = {
        "frozen": {"frozen"},
        "tuned": {"trained", "frozen"},
        "fresh": {"dropped", "new"},
        "added": {"new"},
    }
    for row in rows:
        default = {"head": {"dropped", "new"}, "unused": {"frozen"}}.get(row.block)
        assert row.fate in (default or expected[actions[row.block]]), row


SURGERY = {
    "grey": ("convolutions", InputOptions(channels=1)),
    "alpha": ("convolutions", InputOptions(channels=4, is_tuned=True)),
    "bands": ("convolutions", InputOptions(channels=5)),
    "a grey bias": ("attention", InputOptions(channels=1)),
}


@pytest.mark.parametrize("action", ["frozen", "tuned", "fresh"])
@pytest.mark.parametrize("name", SURGERY)
def test_rows_add_up_to_the_start_as_it_came_after_surgery(name, action):
    kind, wish = SURGERY[name]
    prep = replace(PREP, mean=(0.3, 0.5, 0.6))
    plain = load(tiny.network(kind), preprocessing=prep)
    base = load(tiny.network(kind), preprocessing=prep, inputs=wish)
    assert base.changes
    network = cut(base.module, base.record.preprocessing)
    before, first = take_digests(network), network.record.blocks[0].name
    actions = {block.name: "frozen" for block in network.blocks} | {first: action}
    clone = copy.deepcopy(network)
    if action == "fresh":
        surgery.refresh(clone, [first], torch.Generator())
    model = _warm(clone)
    rows = write_ledger(before, network, model, actions=actions, changes=base.changes).rows
    assert sum(row.numel_before for row in rows) == _numel(plain.module)
    assert sum(row.numel for row in rows if row.fate != "dropped") == _numel(model)
    old = {n: digest(tensor) for n, tensor in unique_tensors(plain.module).items()}
    assert {row.tensor: row.before for row in rows if row.before is not None} == old
    assert base.origin == plain.record
    assert base.origin.sha256 != base.record.sha256


@every_network
def test_parameters_of_the_parts_add_up_to_the_trunk(name):
    module, network = cut_once(name)
    state = module.state_dict(keep_vars=True)
    outside = sum(
        state[tensor].numel()
        for tensor, owner in network.owners.items()
        if owner in ("neck", "head", "unused") and isinstance(state[tensor], torch.nn.Parameter)
    )
    total = sum(parameter.numel() for parameter in module.parameters())
    assert sum(block.parameters for block in network.record.blocks) == total - outside
