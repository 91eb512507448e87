"""The proof of somebody else's loop, against what was done to the network by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import warmstart
from warmstart.errors import PlanError, TrainingError, UsageError
from warmstart.network.weights import digests


class Small(nn.Module):
    """Three blocks with BatchNorm, then an output."""

    def __init__(self):
        super().__init__()
        block = lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())  # noqa: E731
        self.body = nn.Sequential(block(), block(), block())
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.body(x))


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small()


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def a_step(net, parameters):
    """One update by a loop that knows nothing of plans."""
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1)
    net.train()
    net(X).square().sum().backward()
    optimizer.step()


def test_nothing_moves_where_nothing_is_done(net):
    with warmstart.watch(net, warmstart.plan(net)) as proof:
        net(X.clone())
        net.eval()
    assert [m.tensor for m in proof.moved] != []  # the forward was in train mode

    with warmstart.watch(net, warmstart.plan(net)) as proof:
        net(X)
    assert proof.moved == ()
    assert proof.frozen.identical
    assert proof.untrained == ("output",)
    assert {row.fate for row in proof.ledger.rows} == {"frozen"}
    proof.check()


def test_weights_that_move_are_named(net):
    with warmstart.watch(net, warmstart.plan(net, "last:1")) as proof:
        net.body[1][0].weight.data[0, 0] += 1e-7 + net.body[1][0].weight.data[0, 0].abs() * 1e-6
    (moved,) = proof.moved
    assert (moved.tensor, moved.block, moved.action) == ("body.1.0.weight", "body.1", "frozen")
    assert (moved.is_buffer, moved.is_statistic) == (False, False)
    assert proof.untrained == ("body.2", "output")
    assert "1 tensor of block 2 moved although frozen, first body.1.0.weight" in str(proof)
    assert not proof.frozen.identical
    with pytest.raises(TrainingError, match=r"1 tensor of frozen blocks moved: body\.1\.0\.weight"):
        proof.check()


def test_statistics_that_move_are_reported_with_their_cause_and_cure(net):
    plan = warmstart.plan(net)
    net.body.requires_grad_(False)
    with warmstart.watch(net, plan) as proof:
        a_step(net, net.parameters())
    assert len(proof.moved) == 9
    assert all(m.is_statistic and m.is_buffer for m in proof.moved)
    assert proof.untrained == ()
    text = str(proof)
    assert "frozen: 12 tensors of blocks 1-3 unchanged" in text
    assert "9 of 9 BatchNorm statistics of blocks 1-3 moved although they were frozen" in text
    assert "they were in train mode. Use warmstart.freeze(network, plan), or call .eval()" in text
    assert "trained: 2 tensors of the output" in text
    assert len(text.splitlines()) <= 8
    with pytest.raises(TrainingError, match=r"9 tensors of frozen blocks moved.* and 6 more"):
        proof.check()


def test_freezing_keeps_them(net):
    plan = warmstart.plan(net)
    with warmstart.freeze(net, plan) as handle, warmstart.watch(net, plan) as proof:
        a_step(net, net.parameters())
    proof.check()
    assert not proof.untrained
    assert net.body[0][0].weight.requires_grad
    handle.remove()  # twice is once


def test_it_only_watches(net):
    before, flags = digests(net), [p.requires_grad for p in net.parameters()]
    state = torch.get_rng_state()
    with warmstart.watch(net, warmstart.plan(net, "full")):
        assert [p.requires_grad for p in net.parameters()] == flags
        assert all(m.training for m in net.modules())
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    assert digests(net) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_an_exception_is_seen_and_the_proof_is_there(net):
    proof = warmstart.watch(net, warmstart.plan(net))

    def fail():
        with proof:
            net.body[0][0].bias.data.add_(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [m.tensor for m in proof.moved] == ["body.0.0.bias"]


def test_a_new_head_is_reported_in_the_ledger(net):
    with warmstart.watch(net, warmstart.plan(net)) as proof:
        net.fc = nn.Linear(4, 5, bias=False)
        net.extra = nn.Linear(2, 2)
    fates = {row.tensor: row.fate for row in proof.ledger.rows if row.fate != "frozen"}
    assert fates == {
        "fc.weight": "reshaped",
        "fc.bias": "dropped",
        "extra.weight": "new",
        "extra.bias": "new",
    }
    text = str(proof)
    assert "reshaped: 1 tensor, first fc.weight" in text
    assert "dropped: 1 tensor, first fc.bias" in text
    assert "new: 2 tensors, first extra.weight" in text
    old = sum(row.numel for row in proof.ledger.rows if row.fate != "new")
    assert old == sum(t.numel() for t in Small().state_dict().values())


def test_a_layer_that_a_wrapper_took_in_is_found_again(net):
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    with warmstart.watch(net, warmstart.plan(net)) as proof:
        net.body[0][0] = Wrapped(net.body[0][0])
    assert {row.fate for row in proof.ledger.rows} == {"frozen"}
    with warmstart.watch(net, warmstart.plan(net)) as proof:
        net.body[1][0].weight.data.add_(1)
        net.body[1][0] = Wrapped(net.body[1][0])
    assert [m.tensor for m in proof.moved] == ["body.1.0.weight"]


def test_a_frozen_layer_that_is_gone_is_reported(net):
    with warmstart.watch(net, warmstart.plan(net)) as proof:
        net.body[2] = nn.Identity()
    assert "dropped: 7 tensors, first body.2.0.weight" in str(proof)
    assert proof.moved == ()


def test_the_proof_is_not_there_before_the_end(net):
    with warmstart.watch(net, warmstart.plan(net)) as proof:
        assert str(proof) == "watching; the proof is taken when the block ends"
        with pytest.raises(UsageError, match="read it after the block"):
            _ = proof.moved


def test_a_plan_of_another_network_is_refused(net):
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(PlanError, match="made for another network"):
        warmstart.watch(other, warmstart.plan(net)).__enter__()
    with pytest.raises(PlanError, match="made for another network"):
        warmstart.freeze(other, warmstart.plan(net))


def test_a_block_that_should_be_trained_and_stands_still_is_reported(net):
    with warmstart.watch(net, warmstart.plan(net, "last:1")) as proof:
        net.fc.weight.data.add_(1)
    assert proof.untrained == ("body.2",)
    assert "nothing moved in block 3 although the plan trains it" in str(proof)
