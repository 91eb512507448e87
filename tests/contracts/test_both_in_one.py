"""The start's own upper layers beside tuned ones: laws 1, 2 and 5 over networks of many kinds."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import KINDS, cut_once

from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.ledger import prove_frozen, summary_lines, take_digests, write_ledger
from warmstart.network.surgery import (
    BRANCH,
    add_ensemble_branch,
    assemble,
    can_ensemble,
    unique_state,
)
from warmstart.network.weights import unique_tensors
from warmstart.records.network import FeatureLayer

SPLIT = [name for name in KINDS if KINDS[name].n_blocks > 1]


def _tuned(network, cut):
    """A copy whose parts after `cut` moved."""
    clone = copy.deepcopy(network)
    upper = {step.name for step in (*network.steps.blocks[cut:], network.steps.neck)}
    state = clone.backbone.state_dict()
    with torch.no_grad():
        for name, owner in clone.owners.items():
            if owner in upper and name in state and state[name].is_floating_point():
                state[name] += 0.01
    return clone


def _both(name):
    module, network = cut_once(name)
    cut = len(network.blocks) // 2
    if not can_ensemble(network, cut):
        pytest.skip("its upper layers cannot stand twice")
    clone = _tuned(network, cut)
    return module, network, clone, add_ensemble_branch(clone, network.backbone, cut), cut


def _inputs(name):
    kind = KINDS[name]
    rng = torch.Generator().manual_seed(1)
    return torch.randn(3, kind.channels, kind.size_px, kind.size_px, generator=rng)


def _model(network, wanted):
    width = sum(layer_width(network.record, layer) for layer in wanted)
    rng = torch.Generator().manual_seed(2)
    return assemble(network, wanted, torch.randn(3, width, generator=rng), torch.zeros(3))


@pytest.mark.parametrize("name", SPLIT)
def test_each_tap_is_what_its_own_network_gives(name):
    _, network, clone, both, cut = _both(name)
    inputs = _inputs(name)
    own = feature_layers(network.record)
    beside = tuple(
        FeatureLayer(block=layer.block, pool=layer.pool, of="base")
        for layer in own
        if layer.block > cut
    )
    with torch.inference_mode():
        found = _model(both, (*own, *beside)).features(inputs)
        tuned = _model(clone, own).features(inputs)
        base = _model(network, own).features(inputs)
    for one, other in zip(found, (*tuned, *base[-len(beside) :]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", SPLIT)
def test_no_tensor_is_lost_and_the_copies_are_the_starts(name):
    module, network, _, both, cut = _both(name)
    before = take_digests(network)
    names = [block.name for block in network.blocks]
    actions = {n: "frozen" if i < cut else "tuned" for i, n in enumerate(names)}
    last = feature_layers(network.record)[-1]
    model = _model(both, (last, FeatureLayer(block=last.block, pool="neck", of="base")))
    actions |= {"neck": "tuned", "unused": "frozen"}
    ledger = write_ledger(before, network, model, actions=actions)
    numel = [sum(t.numel() for t in unique_tensors(m).values()) for m in (module, model)]
    assert sum(row.numel_before for row in ledger.rows if row.before) == numel[0]
    assert sum(row.numel for row in ledger.rows if row.fate != "dropped") == numel[1]
    copied = [row for row in ledger.rows if row.fate == "copied"]
    assert copied
    assert all(row.before == row.after and row.block == BRANCH for row in copied)
    frozen = frozenset(n for n in names if actions[n] == "frozen")
    assert prove_frozen(ledger, frozen).identical
    assert any(line.startswith("copied") for line in summary_lines(ledger))


def test_a_copy_that_moved_is_seen():
    _, network, _, both, cut = _both(SPLIT[0])
    last = feature_layers(network.record)[-1]
    model = _model(both, (last, FeatureLayer(block=last.block, pool="neck", of="base")))
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if n.startswith(f"backbone.{BRANCH}.")).add_(1)
    frozen = frozenset(block.name for block in network.blocks[:cut])
    actions = {block.name: "tuned" for block in network.blocks} | dict.fromkeys(frozen, "frozen")
    actions |= {"neck": "tuned", "unused": "frozen"}
    ledger = write_ledger(take_digests(network), network, model, actions=actions)
    assert not prove_frozen(ledger, frozen).identical


@pytest.mark.parametrize("name", SPLIT)
def test_the_tensors_of_both_are_saved_once_each(name):
    _, _, _, both, cut = _both(name)
    last = feature_layers(both.record)[-1]
    saved = unique_state(
        _model(both, (last, FeatureLayer(block=last.block, pool="neck", of="base")))
    )
    upper = {step.name for step in (*both.steps.blocks[cut:], both.steps.neck)}
    doubled = [n for n, owner in both.owners.items() if owner in upper]
    assert all(f"backbone.{BRANCH}.{n}" in saved for n in doubled if f"backbone.{n}" in saved)
    lower = {step.name for step in both.steps.blocks[:cut]}
    assert not any(f"backbone.{BRANCH}.{n}" in saved for n, o in both.owners.items() if o in lower)


def test_a_network_that_runs_in_one_piece_cannot_stand_twice():
    name = next(name for name in KINDS if KINDS[name].n_blocks == 1)
    _, network = cut_once(name)
    assert not can_ensemble(network, 0) or "" not in network.steps.blocks[0].modules
