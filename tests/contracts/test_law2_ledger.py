"""Law 2: no tensor is lost: the ledger's rows add up to both networks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from networks import DEEP, EVERY, KINDS, cut_once, each, inputs_for, model_of, n_numbers

import tiny
from warmstart.network import surgery
from warmstart.network.feature_layers import feature_layers
from warmstart.network.inputs import InputOptions
from warmstart.network.ledger import prove_frozen, summary_lines, take_digests, write_ledger
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import BRANCH, add_ensemble_branch, can_ensemble, unique_state
from warmstart.network.weights import digest, unique_tensors
from warmstart.records.network import FeatureLayer


def add_up(rows, before, model):
    """To the old network and to the new one, each tensor once."""
    assert sum(row.numel_before for row in rows if row.before) == n_numbers(before)
    assert sum(row.numel for row in rows if row.fate != "dropped") == n_numbers(model)
    assert len({(row.tensor, row.fate) for row in rows}) == len(rows)


def moved(network, blocks):
    """A copy in which the tensors of these blocks are other ones."""
    clone = copy.deepcopy(network)
    with torch.no_grad():
        state = clone.backbone.state_dict()
        for name, owner in clone.owners.items():
            if owner in blocks and name in state and state[name].is_floating_point():
                state[name] += 0.01
    return clone


@each(EVERY)
def test_only_the_old_head_is_dropped_and_all_else_is_kept(name):
    module, network = cut_once(name)
    model = model_of(network)
    ledger = write_ledger(take_digests(network), network, model)
    add_up(ledger.rows, module, model)
    for row in ledger.rows:
        head = "new" if row.before is None else "dropped"
        assert row.fate == (head if row.block == "head" else "unchanged")
    proof = prove_frozen(ledger)
    kept = [row.numel for row in ledger.rows if row.fate == "unchanged"]
    assert proof.identical
    assert proof.parameters + proof.buffers == sum(kept)


FATES = {
    "frozen": {"frozen"},
    "tuned": {"trained", "frozen"},
    "fresh": {"dropped", "new"},
    "added": {"new"},
    "head": {"dropped", "new"},
}


@each(EVERY)
def test_rows_add_up_whatever_is_done_to_the_blocks(name):
    """The first block frozen, the last fresh, the others tuned, two blocks added."""
    module, network = cut_once(name)
    before, rng = take_digests(network), torch.Generator().manual_seed(0)
    names = [block.name for block in network.blocks]
    actions = {names[0]: "frozen", **dict.fromkeys(names[1:], "tuned"), names[-1]: "fresh"}
    actions |= {"neck": "fresh", "added": "added", "added#2": "added", "unused": "frozen"}
    clone = moved(network, {name for name, action in actions.items() if action == "tuned"})
    last = network.record.blocks[-1]
    if last.layout not in ("NCL", "NCDHW"):  # behind those none can be added
        clone = surgery.graft(clone, [surgery.make_block(last, rng) for _ in range(2)])
    surgery.refresh(clone, [names[-1], "neck"], rng)
    model = model_of(clone)
    rows = write_ledger(before, network, model, actions=actions).rows
    add_up(rows, module, model)
    for row in rows:
        assert row.fate in FATES[actions.get(row.block, row.block)], row


SURGERY = {
    "grey": ("convolutions", InputOptions(channels=1)),
    "alpha": ("convolutions", InputOptions(channels=4, is_tuned=True)),
    "bands": ("convolutions", InputOptions(channels=5)),
    "a grey bias": ("attention", InputOptions(channels=1)),
}


@pytest.mark.parametrize("action", ["frozen", "tuned", "fresh"])
@pytest.mark.parametrize("name", SURGERY)
def test_rows_add_up_to_the_base_model_as_it_came_after_surgery(name, action):
    kind, options = SURGERY[name]
    prep = replace(tiny.PREP, mean=(0.3, 0.5, 0.6))
    plain = load(tiny.network(kind), preprocessing=prep)
    base = load(tiny.network(kind), preprocessing=prep, inputs=options)
    network = cut(base.module, base.record.preprocessing)
    before, first = take_digests(network), network.record.blocks[0].name
    actions = {block.name: "frozen" for block in network.blocks} | {first: action}
    clone = copy.deepcopy(network)
    if action == "fresh":
        surgery.refresh(clone, [first], torch.Generator())
    model = model_of(clone)
    rows = write_ledger(before, network, model, actions=actions, changes=base.changes).rows
    add_up(rows, plain.module, model)
    old = {n: digest(tensor) for n, tensor in unique_tensors(plain.module).items()}
    assert {row.tensor: row.before for row in rows if row.before is not None} == old
    assert base.changes
    assert base.origin == plain.record
    assert base.origin.sha256 != base.record.sha256


# ---- fine-tuned blocks beside the base model's own, in one network ----------------------------


@each(DEEP)
def test_an_ensemble_holds_both_networks_and_each_tensor_once(name):
    module, network = cut_once(name)
    at = len(network.blocks) // 2
    if not can_ensemble(network, at):
        pytest.skip("its upper blocks cannot exist twice")
    upper = {step.name for step in (*network.steps.blocks[at:], network.steps.neck)}
    clone = moved(network, upper)
    both = add_ensemble_branch(clone, network.backbone, at)
    own = feature_layers(network.record)
    beside = [replace(layer, of="base") for layer in own if layer.block > at]
    with torch.inference_mode():  # law 1: each feature is what its own network gives
        inputs = inputs_for(name)
        found = model_of(both, (*own, *beside)).features(inputs)
        tuned, base = (model_of(one, own).features(inputs) for one in (clone, network))
    for one, other in zip(found, (*tuned, *base[-len(beside) :]), strict=True):
        assert torch.equal(one, other)

    names = [block.name for block in network.blocks]
    actions = {n: "tuned" if n in upper else "frozen" for n in names}
    actions |= {"neck": "tuned", "unused": "frozen"}
    model = model_of(both, (own[-1], FeatureLayer(block=own[-1].block, pool="neck", of="base")))
    before, frozen = take_digests(network), frozenset(names) - upper
    ledger = write_ledger(before, network, model, actions=actions)
    add_up(ledger.rows, module, model)
    copied = [row for row in ledger.rows if row.fate == "copied"]
    assert copied
    assert all(row.before == row.after and row.block == BRANCH for row in copied)
    assert prove_frozen(ledger, frozen).identical
    assert any(line.startswith("copied") for line in summary_lines(ledger))
    saved = unique_state(model)
    for tensor, owner in both.owners.items():
        if f"backbone.{tensor}" in saved and owner != BRANCH:
            assert (f"backbone.{BRANCH}.{tensor}" in saved) == (owner in upper), tensor
    with torch.no_grad():  # a copy that moved is seen
        next(p for n, p in model.named_parameters() if n.startswith(f"backbone.{BRANCH}.")).add_(1)
    ledger = write_ledger(before, network, model, actions=actions)
    assert not prove_frozen(ledger, frozen).identical


def test_a_network_of_one_block_cannot_exist_twice():
    name = next(name for name in KINDS if EVERY[name] == 1)
    _, network = cut_once(name)
    assert not can_ensemble(network, 0) or "" not in network.steps.blocks[0].modules
