"""The ledger tells by bytes what became of each tensor."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from warmstart.folder import from_plain, to_plain
from warmstart.network.edit import assemble
from warmstart.network.ledger import prove_frozen, take_digests, write_ledger
from warmstart.network.parts import cut
from warmstart.network.taps import taps
from warmstart.records import Ledger, Preprocessing

SMALL = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def made():
    network = cut(timm.create_model("resnet18", num_classes=6).eval(), SMALL)
    before = take_digests(network)
    last = taps(network.record)[-1]
    model = copy.deepcopy(assemble(network, [last], torch.zeros(3, 512), torch.zeros(3)))
    return before, network, model


def _row(ledger, name):
    return next(row for row in ledger.rows if row.tensor == name)


def test_fates_without_training(made):
    ledger = write_ledger(*made, trained=False)
    assert _row(ledger, "conv1.weight").fate == "kept"
    assert _row(ledger, "conv1.weight").part == "conv1"
    assert _row(ledger, "bn1.running_mean").buffer
    assert _row(ledger, "fc.weight").fate == "dropped"
    assert _row(ledger, "fc.weight").after is None
    assert _row(ledger, "head.weight").fate == "new"
    assert _row(ledger, "head.weight").before is None


def test_one_changed_bit_is_trained_and_breaks_the_proof_of_its_part(made):
    before, network, model = made
    with torch.no_grad():
        model.trunk.layer4[1].bn2.running_var[0] += 1e-3
    ledger = write_ledger(before, network, model, trained=True)
    assert _row(ledger, "layer4.1.bn2.running_var").fate == "trained"
    assert _row(ledger, "conv1.weight").fate == "frozen"
    assert not prove_frozen(ledger).identical
    assert not prove_frozen(ledger, frozenset({"layer4.1"})).identical
    proof = prove_frozen(ledger, frozenset({"conv1", "layer1.0"}))
    assert proof.identical
    assert proof.parameters == sum(part.parameters for part in network.record.parts[:2])
    assert proof.buffers == 64 * 2 * 3 + 3  # mean, variance and count of three BatchNorms


def test_a_tensor_of_another_shape_is_reshaped(made):
    before, network, model = made
    model.trunk.conv1.weight = torch.nn.Parameter(torch.zeros(64, 1, 7, 7))
    ledger = write_ledger(before, network, model, trained=True)
    assert _row(ledger, "conv1.weight").fate == "reshaped"


def test_tensors_added_to_the_trunk_are_new(made):
    before, network, model = made
    model.trunk.extra = torch.nn.Linear(2, 2)
    ledger = write_ledger(before, network, model, trained=True)
    assert _row(ledger, "trunk.extra.weight").fate == "new"
    assert _row(ledger, "trunk.extra.weight").part == "added"


def test_the_ledger_survives_its_file(made):
    ledger = write_ledger(*made, trained=False)
    assert from_plain(Ledger, to_plain(ledger)) == ledger
