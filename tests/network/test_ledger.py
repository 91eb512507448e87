"""The ledger says by bytes what became of each tensor."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from small_networks import prep, rng, warm
from warmstart.errors import PlanError
from warmstart.network import lora, surgery
from warmstart.network.ledger import (
    prove_frozen,
    summary_lines,
    take_digests,
    tensors_of,
    violations,
    write_ledger,
)
from warmstart.network.partition import cut
from warmstart.network.weights import digest
from warmstart.records.network import InputChange, Ledger, LedgerRow
from warmstart.records.run_folder import from_plain, to_plain

PARTS = ("conv1", *(f"layer{n}.{k}" for n in (1, 2, 3, 4) for k in (0, 1)))


TUNED = dict.fromkeys(PARTS, "tuned")


FROZEN = dict.fromkeys(PARTS, "frozen")


@pytest.fixture
def case():
    network = cut(timm.create_model("resnet18", num_classes=6).eval(), prep(32))
    return take_digests(network), network, copy.deepcopy(warm(network))


def _row(ledger, name):
    return next(row for row in ledger.rows if row.tensor == name)


def test_fates_without_training(case):
    before, network, model = case
    assert before == {name: digest(tensor) for name, tensor in tensors_of(network).items()}
    ledger = write_ledger(*case)
    kept, dropped, new = (_row(ledger, f"{n}.weight") for n in ("conv1", "fc", "head"))
    assert (kept.fate, kept.block) == ("unchanged", "conv1")
    assert _row(ledger, "bn1.running_mean").buffer
    assert (dropped.fate, dropped.after) == ("dropped", None)
    assert (new.fate, new.before) == ("new", None)
    assert from_plain(Ledger, to_plain(ledger)) == ledger
    lines = summary_lines(ledger)
    assert [line.split()[0] for line in lines] == ["unchanged", "new", "dropped"]
    parameters = sum(p.numel() for p in model.backbone.parameters())
    assert lines[0] == f"unchanged 120 tensors, {parameters:,} weights, the same bit for bit"


def test_one_changed_bit_is_trained_and_breaks_the_proof_of_its_block(case):
    before, network, model = case
    with torch.no_grad():
        model.backbone.layer4[1].bn2.running_var[0] += 1e-3
    ledger = write_ledger(before, network, model, actions=TUNED)
    assert _row(ledger, "layer4.1.bn2.running_var").fate == "trained"
    assert _row(ledger, "conv1.weight").fate == "frozen"
    assert not prove_frozen(ledger).identical
    assert not prove_frozen(ledger, frozenset({"layer4.1"})).identical
    proof = prove_frozen(ledger, frozenset({"conv1", "layer1.0"}))
    assert proof.identical
    assert proof.parameters == sum(block.parameters for block in network.record.blocks[:2])
    assert proof.buffers == 64 * 2 * 3 + 3  # mean, variance and count of three BatchNorms


def _fates(ledger, block):
    return {row.fate for row in ledger.rows if row.block == block}


@pytest.mark.parametrize("action", ["tuned", "frozen"])
def test_a_block_that_moved_is_trained_whatever_the_plan_says(case, action):
    before, network, model = case
    _move(model.backbone.layer4[1])
    ledger = write_ledger(before, network, model, actions={**FROZEN, "layer4.1": action})
    for row in ledger.rows:
        if row.block == "layer4.1":
            assert row.fate == ("frozen" if row.buffer else "trained")
    assert _fates(ledger, "layer4.0") == {"frozen"}
    assert _fates(ledger, "head") == {"new", "dropped"}
    assert not prove_frozen(ledger, frozenset(PARTS)).identical


def _move(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1


def _extended(network, n=2):
    blocks = [surgery.make_block(network.record.blocks[-1], rng(), 4) for _ in range(n)]
    clone = surgery.graft(copy.deepcopy(network), blocks)
    return clone, warm(clone)


def test_added_blocks_are_new_blocks_and_old_tensors_of_the_next_run(case):
    before, network, _ = case
    clone, model = _extended(network)
    actions = {**FROZEN, "added": "added", "added#2": "added"}
    ledger = write_ledger(before, network, model, actions=actions)
    assert ledger == write_ledger(before, clone, model, actions=actions)
    for name in ("added", "added#2"):
        assert [row.fate for row in ledger.rows if row.block == name] == ["new"] * 6
    assert _row(ledger, "backbone.added_2.up.bias").block == "added#2"
    later = write_ledger(take_digests(clone), clone, model, actions={**actions, "added": "frozen"})
    assert _fates(later, "added") == {"frozen"}
    _move(clone.backbone.added)  # no bytes to keep
    actions["added#2"] = "frozen"
    assert violations(before, clone, actions) == violations(before, clone, actions, model) == ()


def test_a_block_that_the_actions_forget_is_an_error(case):
    with pytest.raises(PlanError, match=r"no action for block 'layer1.0'"):
        write_ledger(*case, actions={"conv1": "frozen"})
    with pytest.raises(PlanError, match=r"no action for block 'layer1.0'"):
        violations(case[0], case[1], {"conv1": "frozen"})


def _change(tensor, fate, before=None, after=None):
    source = None if fate == "new" else "of the start"
    own = {"shape_before": before, "shape_after": after, "before": source}
    return InputChange(tensor=tensor, fate=fate, because="other channels", **own)


CHANGES = (
    _change("conv1.weight", "reshaped", (64, 1, 7, 7), (64, 3, 7, 7)),
    _change("bn1.bias", "new", None, (64,)),
    _change("adapter.weight", "dropped", (5, 2), None),
)


@pytest.mark.parametrize("actions", [None, FROZEN, TUNED])
def test_surgery_rows_have_the_digest_of_the_base_model(case, actions):
    ledger = write_ledger(*case, actions=actions, changes=CHANGES)
    row = _row(ledger, "conv1.weight")
    assert (row.fate, row.before, row.shape) == ("reshaped", "of the start", (64, 3, 7, 7))
    assert (row.shape_before, row.numel_before, row.numel) == ((64, 1, 7, 7), 3136, 9408)
    assert [r.tensor for r in ledger.rows if r.shape_before is not None] == ["conv1.weight"]
    assert row.after == case[0]["conv1.weight"]
    row = _row(ledger, "bn1.bias")
    assert (row.fate, row.before, row.block) == ("new", None, "conv1")
    row = _row(ledger, "adapter.weight")
    assert (row.fate, row.before, row.after) == ("dropped", "of the start", None)
    assert (row.numel, row.block) == (10, "unused")
    assert prove_frozen(ledger, frozenset(PARTS)).identical
    assert len({(row.tensor, row.fate) for row in ledger.rows}) == len(ledger.rows)


def test_tensors_reshaped_and_then_reinitialised_are_dropped_as_they_were(case):
    ledger = write_ledger(*case, actions={**FROZEN, "conv1": "fresh"}, changes=CHANGES)
    rows = [row for row in ledger.rows if row.tensor == "conv1.weight"]
    assert [(row.fate, row.shape) for row in rows] == [
        ("dropped", (64, 1, 7, 7)),
        ("new", (64, 3, 7, 7)),
    ]
    assert rows[0].before == "of the start"
    assert [row.fate for row in ledger.rows if row.tensor == "bn1.bias"] == ["new"]


# ---- violations ------------------------------------------------------------------------------
def test_violations_name_parameters_and_buffers_of_frozen_blocks_alone(case):
    before, network, model = case
    assert violations(before, network, FROZEN) == ()
    assert violations(before, network, FROZEN, model) == ()
    with torch.no_grad():
        model.backbone.layer4[1].bn2.running_var[0] += 1e-3
        model.backbone.conv1.weight[0, 0, 0, 0] += 1e-3
    moved = ("conv1.weight", "layer4.1.bn2.running_var")
    assert violations(before, network, FROZEN, model) == moved
    assert violations(before, network, {**FROZEN, "conv1": "tuned"}, model) == moved[1:]
    assert violations(before, network, TUNED, model) == ()
    assert violations(before, network, FROZEN) == ()  # the model is a copy


def test_violations_of_low_rank_blocks_until_they_are_merged(case):
    pytest.importorskip("peft")
    before, network, _ = case
    actions, block = {**FROZEN, "layer4.1": "low-rank"}, network.backbone.layer4[1]
    lora.inject(network, ["layer4.1"], 2, rng())
    _move(block.conv1.lora_B)
    assert violations(before, network, actions) == ()
    assert take_digests(network) == before
    with torch.no_grad():
        block.conv1.base_layer.weight[0] += 1
        block.bn1.running_mean[0] += 1
    moved = ("layer4.1.conv1.weight", "layer4.1.bn1.running_mean")
    assert violations(before, network, actions) == moved
    lora.merge(network.backbone)
    assert violations(before, network, actions) == moved[1:]


def _rows(fate, n, numel=1_000_000):
    own = {"shape": (numel,), "numel": numel, "buffer": False, "before": "a", "after": "a"}
    return [LedgerRow(tensor="t", block="p", fate=fate, **own)] * n


@pytest.mark.parametrize("without", ["", "frozen", "merged", "reshaped"])
def test_lines_are_few_and_short_and_no_fate_is_left_out(without):
    fates = {"frozen", "trained", "merged", "reshaped", "new", "dropped"} - {without}
    rows = [row for fate in fates for row in _rows(fate, 1000, 12_345_678)]
    lines = summary_lines(Ledger(rows=tuple(rows)))
    assert len(lines) == 5
    assert max(map(len, lines)) <= 71
    assert all(any(fate in line for line in lines) for fate in fates)
    assert sum(line.count("1,000 tensors") for line in lines) == len(fates)


def test_a_tensor_of_another_shape_is_reshaped_and_one_more_is_new(case):
    before, network, model = case
    model.backbone.conv1.weight = torch.nn.Parameter(torch.zeros(64, 1, 7, 7))
    model.backbone.extra = torch.nn.Linear(2, 2)
    ledger = write_ledger(before, network, model, actions=TUNED)
    row, extra = _row(ledger, "conv1.weight"), _row(ledger, "backbone.extra.weight")
    assert (row.fate, row.shape_before) == ("reshaped", (64, 3, 7, 7))
    assert (extra.fate, extra.block) == ("new", "added")
    assert from_plain(Ledger, to_plain(ledger)) == ledger
