"""The training loop against a loop written out by hand, and its schedule against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from warmstart.errors import PlanError, TrainingError
from warmstart.training.loop import ScaledHead, make_optimizer, train, warm_cosine

SEED = 5


def flat(step):
    """Rates as they are."""
    return 1.0


def small():
    """A network with dropout, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).train()


def batches(n=6, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 4, generator=rng), torch.randint(3, (8,), generator=rng)) for _ in range(n)
    ]


def groups_of(network):
    return [
        {"params": [*network[0].parameters()], "lr": 0.02},
        {"params": [*network[3].parameters()], "lr": 0.1, "weight_decay": 0.0},
    ]


def run(network, data, name="adamw", schedule=None, seed=SEED):
    optimizer = make_optimizer(name, groups_of(network), 0.05)
    return [*train(network, data, optimizer, schedule or warm_cosine(len(data), 0.3), seed)]


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- the schedule --------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [1, 2, 7, 40])
@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.5, 1.0])
def test_rates_rise_in_a_line_then_fall_along_a_cosine_and_never_rest(n_steps, warm_up):
    schedule = warm_cosine(n_steps, warm_up)
    factors = [schedule(step) for step in range(n_steps)]
    rising = math.ceil(warm_up * n_steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
    assert factors[:rising] == pytest.approx([(step + 1) / rising for step in range(rising)])
    falling = factors[rising:]
    angles = [math.pi * step / len(falling) for step in range(len(falling))]
    assert falling == pytest.approx([math.cos(angle / 2) ** 2 for angle in angles])


# ---- the optimizer -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_groups_keep_their_own_rates_and_decays(name, kind):
    given = groups_of(small())
    optimizer = make_optimizer(name, given, 0.05)
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert [group.get("momentum", 0.9) for group in optimizer.param_groups] == [0.9, 0.9]
    assert [set(group) for group in given] == [{"params", "lr"}, {"params", "lr", "weight_decay"}]


def test_another_optimizer_is_refused():
    with pytest.raises(PlanError, match=r"training.optimizer 'lion' does not exist; choose adamw"):
        make_optimizer("lion", groups_of(small()), 0.0)


# ---- the loop ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_training_is_the_loop_that_one_would_write_bit_for_bit(name):
    ours, theirs, data = small(), small(), batches()
    steps = run(ours, data, name)
    schedule, losses = warm_cosine(len(data), 0.3), []
    optimizer = make_optimizer(name, groups_of(theirs), 0.05)
    for index, (inputs, labels) in enumerate(data):
        optimizer.param_groups[0]["lr"] = schedule(index) * 0.02
        optimizer.param_groups[1]["lr"] = schedule(index) * 0.1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED + index)
            loss = nn.functional.cross_entropy(theirs(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert same(ours, theirs)
    assert [step.loss for step in steps] == losses
    assert [step.index for step in steps] == [*range(len(data))]
    assert [step.factor for step in steps] == [schedule(step) for step in range(len(data))]


def test_dropout_repeats_with_the_seed_and_differs_with_another():
    one, again, other = small(), small(), small()
    first = run(one, batches())
    torch.manual_seed(99)  # whatever the caller's own generator is at
    second = run(again, batches())
    third = run(other, batches(), seed=SEED + 1)
    assert first == second
    assert same(one, again)
    assert first != third
    assert not same(one, other)


def test_the_callers_randomness_is_left_alone_between_and_after_steps():
    network, data = small(), batches()
    optimizer = make_optimizer("sgd", groups_of(network), 0.0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for _ in train(network, data, optimizer, flat, SEED):
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_does_not_depend_on_those_that_were_drawn_before_it():
    """Step 3's dropout is that of step 3, whether or not the first three were made here."""
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            seen.append(nn.functional.dropout(torch.ones(50), 0.5, training=True))
            return x[:, :3] * self.scale

    def masks(data, seed):
        seen.clear()
        spy = Spy()
        optimizer = make_optimizer("sgd", [{"params": [spy.scale], "lr": 0.1}], 0.0)
        assert len([*train(spy, data, optimizer, flat, seed)]) == len(data)
        return [*seen]

    data = batches(5)
    whole, rest = masks(data, SEED), masks(data[3:], SEED + 3)
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
    assert not torch.equal(whole[0], whole[1])


def test_the_caller_stops_it_and_nothing_more_is_drawn():
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield from batches(1)

    network = small()
    steps = train(network, endless(), make_optimizer("sgd", groups_of(network), 0.0), flat, 0)
    next(steps)
    next(steps)
    steps.close()
    assert len(drawn) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_the_step_and_the_cure(bad):
    network, data = small(), batches(4)
    data[2] = (data[2][0] * bad, data[2][1])
    optimizer = make_optimizer("sgd", groups_of(network), 0.0)
    steps = train(network, data, optimizer, flat, SEED)
    next(steps)
    next(steps)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(TrainingError) as caught:
        next(steps)
    text = str(caught.value)
    assert text.startswith(
        "training diverged: the loss is nan at step 3; use a learning rate below "
    )
    assert "0.1 (--lr)" in text
    assert "--strategy head" in text
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)


def test_the_global_generator_is_put_back_after_a_divergence():
    network, data = small(), [(torch.full((8, 4), torch.nan), torch.zeros(8, dtype=torch.long))]
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with pytest.raises(TrainingError):
        run(network, data)
    assert torch.equal(torch.get_rng_state(), before)


# ---- the head ------------------------------------------------------------------------------


def scaled_head(seed=0):
    rng = torch.Generator().manual_seed(seed)
    widths, k = (5, 3, 8), 4
    d = sum(widths)
    scale = 10 ** (4 * torch.rand(d, generator=rng) - 2)  # feature layers of very different size
    offset = torch.randn(d, generator=rng) / scale
    head = ScaledHead(
        torch.randn(k, d, generator=rng), torch.randn(k, generator=rng), offset, scale
    )
    feature_layers = [
        t / scale[i] + offset[i]
        for t, i in zip(
            torch.randn(20, d, generator=rng).split(widths, 1),
            torch.arange(d).split(widths),
            strict=True,
        )
    ]
    return head, feature_layers


def test_the_scaled_head_is_its_definition():
    head, feature_layers = scaled_head()
    joined = (torch.cat(feature_layers, 1).double() - head.offset.double()) * head.scale.double()
    slow = joined @ head.weight.double().T + head.bias.double()
    torch.testing.assert_close(head(feature_layers).double(), slow, rtol=1e-4, atol=1e-4)


def test_the_plain_head_gives_the_scaled_heads_answers():
    head, feature_layers = scaled_head()
    weight, bias = head.plain()
    assert weight.dtype == bias.dtype == torch.float64
    assert not weight.requires_grad
    joined = torch.cat(feature_layers, 1).double()
    scaled = (joined - head.offset.double()) * head.scale.double() @ head.weight.double().T
    torch.testing.assert_close(
        joined @ weight.T + bias, scaled + head.bias.double(), rtol=1e-6, atol=1e-6
    )


def test_only_weight_and_bias_are_trained_and_no_tensor_is_the_callers():
    weight = torch.zeros(2, 3)
    head = ScaledHead(weight, torch.zeros(2), torch.zeros(3), torch.ones(3))
    assert {name for name, _ in head.named_parameters()} == {"weight", "bias"}
    with torch.no_grad():
        head.weight += 1
    assert weight.abs().sum() == 0


def test_a_head_of_zeros_gives_every_class_the_same():
    head = ScaledHead(torch.zeros(4, 3), torch.zeros(4), torch.randn(3), torch.rand(3))
    loss = nn.functional.cross_entropy(head([torch.randn(6, 3)]), torch.arange(6) % 4)
    assert loss.item() == pytest.approx(math.log(4))
