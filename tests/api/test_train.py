"""Training as a generator: against a loop written by hand, stopped early, and when it fails."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import warmstart
from warmstart.errors import DataError, PlanError, TrainingError
from warmstart.network.weights import digests
from warmstart.records.plan import Choice


def network(dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3),
            nn.BatchNorm2d(6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(6, 3),
        )


def batches(n=40, size=8):
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % 3
    images = torch.randn(n, 3, 8, 8, generator=rng) + labels[:, None, None, None]
    return list(zip(images.split(size), labels.split(size), strict=True))


IMAGE = torch.zeros(1, 3, 8, 8)


def made(strategy="last:1", **options):
    net = network(options.pop("dropout", 0.0))
    return net, warmstart.plan(net, strategy, **{"inputs": IMAGE, "n": 40, **options})


def losses(events):
    return [event.values["loss"] for event in events if event.kind == "step"]


def test_it_learns_and_proves_what_is_frozen():
    net, plan = made(lr=0.03)
    before = digests(net)
    *steps, end = warmstart.train(plan, net, batches())
    after = digests(net)
    assert len(steps) == steps[0].of == 125  # 1,000 images in batches of 8
    assert [event.step for event in steps] == list(range(1, 126))
    assert steps[-1].values["images"] == 1000
    assert sum(losses(steps)[-10:]) < 0.8 * sum(losses(steps)[:10])
    assert (end.kind, end.values["moved"]) == ("end", 0)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"3.weight", "3.bias", "4.weight", "4.bias", "8.weight", "8.bias"}


def test_it_is_the_loop_that_one_would_write_by_hand():
    net, plan = made("full", optimizer="sgd", lr=0.01)
    hand = network()
    list(warmstart.train(plan, net, batches()))
    rates = {block.name: block.lr.value for block in plan.blocks}
    where = {"0": "0", "1": "0", "3": "3", "4": "3", "8": "output"}
    optimizer = torch.optim.SGD(
        [
            {
                "params": [p],
                "lr": rates[where[name.split(".")[0]]],
                "weight_decay": 1e-4 if p.ndim > 1 else 0.0,
            }
            for name, p in hand.named_parameters()
        ],
        momentum=0.9,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    hand.train()
    hand[1].eval()
    hand[4].eval()
    data = batches()
    for step in range(125):
        rise = (step + 1) / 13
        fall = 0.5 * (1 + math.cos(math.pi * (step - 13) / 112))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (rise if step < 13 else fall)
        images, labels = data[step % len(data)]
        optimizer.zero_grad()
        cross_entropy(hand(images), labels).backward()
        optimizer.step()
    for name, tensor in hand.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_same_seed_and_batches_give_the_same_network():
    result = []
    for seed in (0, 0, 5):
        net, plan = made(dropout=0.5)
        torch.rand(len(result) + 1)  # the global state does not matter
        state = torch.get_rng_state()
        list(warmstart.train(plan, net, batches(), seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        result.append(digests(net))
    assert result[0] == result[1]
    assert result[0] != result[2]


def test_it_can_be_stopped_and_puts_back_what_it_set():
    net, plan = made()
    net.eval()
    net[0].weight.requires_grad_(False)
    before = digests(net)
    steps = warmstart.train(plan, net, batches())
    assert digests(net) == before  # nothing happens before it is asked for
    for event in steps:
        assert net[3].training
        assert not net[1].training
        if event.step == 3:
            steps.close()
            break
    assert not any(module.training for module in net.modules())
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["0.weight"]
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert digests(net)["8.weight"] != before["8.weight"]


@pytest.mark.parametrize("stop", [True, False])
def test_a_frozen_tensor_that_moves_is_an_error(stop):
    net, plan = made()
    steps = warmstart.train(plan, net, batches())
    next(steps)
    net[0].bias.data.add_(1)
    with pytest.raises(TrainingError, match=r"1 tensor of frozen blocks moved: 0\.bias"):
        steps.close() if stop else list(steps)
    assert all(p.requires_grad for p in net.parameters())


def test_a_loss_that_is_no_number_is_an_error():
    net, plan = made("full", lr=1e30)
    with pytest.raises(TrainingError, match=r"diverged: the loss is (nan|inf) at step \d+"):
        list(warmstart.train(plan, net, batches()))
    assert all(p.requires_grad for p in net.parameters())


def test_a_loader_and_a_mapping_give_the_same_as_a_list():
    images, labels = (torch.cat(column) for column in zip(*batches(), strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)

    class Named(nn.Module):
        base_model_prefix = "net"

        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, pixel_values):
            return {"logits": self.net(pixel_values)}

    net, plan = made()
    list(warmstart.train(plan, net, loader))
    named = Named()
    plan = warmstart.plan(named, "last:1", inputs=IMAGE, n=40)
    dicts = [{"pixel_values": x, "labels": y} for x, y in batches()]
    list(warmstart.train(plan, named, dicts))
    assert digests(net) == digests(named.net)
    again = Named()
    list(warmstart.train(plan, again, [({"pixel_values": x}, y) for x, y in batches()]))
    assert digests(again) == digests(named)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "data gives no batch; give"),
        (iter(batches()), "when it is iterated again; give a DataLoader or a list"),
        ([torch.zeros(8, 3, 8, 8)], r"a batch of data is a Tensor; give \(inputs, labels\)"),
        ([(torch.zeros(8, 3, 8, 8), torch.zeros(8))], "labels of a batch are torch.float32"),
        ([(torch.zeros(8, 3, 8, 8), torch.full((8,), 3))], "go from 3 to 3 and the network"),
    ],
)
def test_batches_that_cannot_be_used_are_said(data, says):
    net, plan = made()
    with pytest.raises(DataError, match=says):
        list(warmstart.train(plan, net, data))


def changed(plan, place, **values):
    """The plan with one part's choices changed."""
    blocks = list(plan.blocks)
    blocks[place] = replace(blocks[place], **values)
    return replace(plan, blocks=tuple(blocks))


def test_plans_that_cannot_be_followed_are_refused_at_once():
    net, plan = made()
    low = changed(plan, 0, action=Choice(value="low-rank", because="so", source="user"))
    with pytest.raises(PlanError, match=r"changes the network itself \(0: low-rank\)"):
        warmstart.train(low, net, batches())
    closed = replace(plan, blocks=tuple(replace(block, lr=None) for block in plan.blocks))
    with pytest.raises(PlanError, match="trains nothing step by step"):
        warmstart.train(closed, net, batches())
    with pytest.raises(PlanError, match="made for another network"):
        warmstart.train(plan, nn.Linear(3, 3), batches())
    short = replace(plan, training=replace(plan.training, epochs=None))
    with pytest.raises(PlanError, match=r"training\.epochs"):
        warmstart.train(short, net, batches())


def guards(events):
    return [(event.step, event.values["kind"]) for event in events if event.kind == "guard"]


def test_training_that_goes_well_raises_no_alarm():
    net, plan = made("full", lr=0.03)
    assert guards(warmstart.train(plan, net, batches())) == []


def test_a_rate_that_is_too_high_is_reported_and_training_is_yours_to_stop():
    net, plan = made("full", lr=30.0)
    events = warmstart.train(plan, net, batches())
    told = next(event for event in events if event.kind == "guard")
    events.close()
    assert (told.stage, told.of, told.values["kind"]) == ("fine_tune", 125, "diverged")
    assert told.step < 30
    assert "the loss rose from" in told.values["text"]


def test_a_rate_that_moves_nothing_is_reported_at_the_end():
    net, plan = made("full", lr=0.03)
    list(warmstart.train(plan, net, batches()))
    again = warmstart.plan(net, "full", inputs=IMAGE, lr=1e-9, n=40)
    *_, told, end = warmstart.train(again, net, batches())
    assert (told.kind, told.step, end.kind) == ("guard", 125, "end")
    assert told.values["text"].startswith("nothing changed: after 125 updates outputs differ by")


def test_a_loss_that_stays_that_of_blind_answers_is_reported_once():
    data = [(torch.zeros_like(images), labels) for images, labels in batches()]
    net, plan = made("full", lr=0.01)
    ((step, kind),) = guards(warmstart.train(plan, net, data))
    assert kind == "stuck"
    assert 90 < step < 125


def test_answers_that_the_last_update_ruined_are_an_error():
    net, plan = made("full")
    events = warmstart.train(plan, net, batches())
    for event in events:
        if event.step == 124:
            break
    net[8].register_forward_hook(lambda m, i, out: out if m.training else out * math.inf)
    with pytest.raises(TrainingError, match="the network's outputs are not finite"):
        list(events)


def test_looking_at_answers_leaves_modes_and_the_random_state_alone():
    plain, plan = made("full", dropout=0.5)
    modes = []
    plain[7].register_forward_hook(lambda m, i, out: modes.append(m.training))
    events = warmstart.train(plan, plain, batches())
    next(events)
    assert modes[-2:] == [False, True]
    assert all(m.training == (not isinstance(m, nn.BatchNorm2d)) for m in plain.modules())
    state = torch.get_rng_state()
    list(events)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes[-1] is False


def test_a_loss_of_ones_own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    rng = torch.Generator().manual_seed(2)
    inputs = torch.randn(64, 4, generator=rng)
    wanted = inputs.sum(dim=1, keepdim=True)  # not a class: a number
    data = list(zip(inputs.split(16), wanted.split(16), strict=True))
    plan = warmstart.plan(net, "last:1", lr=0.01)
    frozen = net[0].weight.clone()
    *steps, end = warmstart.train(plan, net, data, loss=nn.functional.mse_loss)
    assert losses(steps)[-1] < 0.5 * losses(steps)[0]
    assert torch.equal(net[0].weight, frozen)
    assert end.values["moved"] == 0
    assert not [event for event in steps if event.kind == "guard"]


def test_a_loss_of_ones_own_that_rises_is_called_diverged():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    data = [(torch.ones(8, 4), torch.ones(8, 1))]
    plan = warmstart.plan(net, "last:1", lr=1e3)
    events = warmstart.train(plan, net, data, loss=nn.functional.mse_loss)
    text = next(event.values["text"] for event in events if event.kind == "guard")
    assert "the loss rose from" in text
    assert "class shares" not in text


def test_labels_of_a_loss_of_ones_own_have_an_axis_for_the_batch():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    data = [(torch.ones(8, 4), torch.tensor(1.0))]
    with pytest.raises(DataError, match=r"labels of a batch have shape \(\); their first axis"):
        list(warmstart.train(warmstart.plan(net), net, data, loss=nn.functional.mse_loss))
