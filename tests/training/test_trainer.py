"""Updates against those written out by hand; what is saved, against never having stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from tiny import SCHEDULE
from warmstart.errors import PlanError
from warmstart.training.checkpoint import Checkpoints, Snapshot
from warmstart.training.trainer import (
    PULL,
    Trainer,
    contrastive_loss,
    is_out_of_memory,
    make_optimizer,
    make_pair_loss,
    pair_loss,
    warm_cosine,
)

RATE, DECAY = 0.02, 0.1
property_of = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Net(nn.Module):
    """A convolution, BatchNorm and dropout, a matrix: always with the same weights."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, 3, stride=2, bias=False)  # BatchNorm takes it away
            self.norm = nn.BatchNorm2d(6)
            self.drop = nn.Dropout(dropout)
            self.out = nn.Linear(6, 4)
            nn.init.uniform_(self.norm.running_mean, -0.2, 0.2)

    def forward(self, x):
        return self.out(self.drop(torch.tanh(self.norm(self.conv(x))).mean((2, 3))))


def data(n_steps, n=12, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 3, 9, 9, generator=rng), torch.randint(4, (n,), generator=rng))
        for _ in range(n_steps)
    ]


def groups(network):
    """A lower group, drawn back to its start, and one that is new."""
    return [
        {"params": [network.conv.weight], "lr": RATE / 2, "block": "conv"},
        {"params": [network.norm.weight, network.norm.bias], "lr": RATE, "weight_decay": 0.0},
        {"params": [*network.out.parameters()], "lr": RATE, "is_anchored": False},
    ]


def moving(network):
    return network.state_dict(keep_vars=True)


def factor(step):
    """Rates fall from step to step."""
    return 20 / (20 + step)


def trainer(network, run=None, **course):
    course = {"optimizer": "adamw", "weight_decay": DECAY, "seed": 3, **course}
    made = Trainer(run or network, moving(network), replace(SCHEDULE, **course))
    made.begin(groups(network))
    return made


def train(made, batches, begin=0):
    tuples = (((inputs,), labels) for inputs, labels in batches)
    return [step.loss for step in made.train(tuples, factor, begin)]


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_close(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def by_hand(network, batches, name="adamw", l2_sp=0.0):
    """The same updates by torch alone; the weights after each."""
    own = groups(network)
    home = {id(p): p.detach().clone() for group in own for p in group["params"]}
    anchored = [group["params"] for group in own if group.pop("is_anchored", True)]
    for group in own[: len(anchored)] if l2_sp else ():
        group["weight_decay"] = 0.0
    rates = [group["lr"] for group in own]
    if name == "adamw":
        optimizer = torch.optim.AdamW(own, weight_decay=DECAY)
    else:
        optimizer = torch.optim.SGD(own, weight_decay=DECAY, momentum=0.9)
    seen = []
    for step, (inputs, labels) in enumerate(batches):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(step)
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for params, rate in zip(anchored, rates, strict=False):
                for p in params:
                    p += min(rate * factor(step) * l2_sp, PULL) * (home[id(p)] - p)
        seen.append(state(network))
    return seen


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_updates_are_those_that_torch_makes(name):
    ours, theirs, batches = Net(), Net(), data(5)
    losses = train(trainer(ours, optimizer=name), batches)
    with torch.no_grad():
        first = cross_entropy(Net().train()(batches[0][0]), batches[0][1])
    assert losses[0] == pytest.approx(float(first), abs=1e-6)
    assert_close(state(ours), by_hand(theirs, batches, name)[-1], rtol=0, atol=1e-6)


@property_of
@given(name=st.sampled_from(["adamw", "sgd"]), micro=st.integers(1, 13))
def test_pieces_of_a_batch_make_the_same_step(name, micro):
    """Without layers that look at the batch as a whole."""
    ours, theirs, batches = Net().eval(), Net().eval(), data(3)
    pieces = train(trainer(ours, optimizer=name, micro_batch=micro), batches)
    whole = train(trainer(theirs, optimizer=name), batches)
    assert pieces == pytest.approx(whole, abs=1e-6)
    assert_close(state(ours), state(theirs), rtol=0, atol=1e-6)


def test_dropout_repeats_with_seed_and_step_and_leaves_the_callers_generator_alone():
    batches, found = data(3), []
    for seed in (3, 3, 4):
        network = Net(0.5)
        torch.manual_seed(len(found))
        before = torch.get_rng_state()
        losses = train(trainer(network, seed=seed), batches)
        assert torch.equal(torch.get_rng_state(), before)
        found.append((losses, state(network)))
    assert found[0][0] == found[1][0] != found[2][0]
    assert_same(found[0][1], found[1][1])


@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_loss_that_is_no_number_changes_nothing(at):
    network = Net()
    made = trainer(network, ema_decay=0.9, l2_sp=1.0, micro_batch=4)
    train(made, data(2))
    before = {name: tensor.clone() for name, tensor in made.tensors().items()}
    facts = made.facts()
    inputs, labels = data(1)[0]
    inputs[at] = math.inf
    assert not math.isfinite(made.update(2, 1.0, (inputs,), labels))
    assert_same(made.tensors(), before)
    assert made.facts() == facts
    assert all(parameter.grad is None for parameter in network.parameters())
    assert math.isfinite(made.update(2, 1.0, (inputs.nan_to_num(posinf=0.0),), labels))


LACKS = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 9 bytes."
    ),
    "python": MemoryError,
}


class Greedy(torch.autograd.Function):
    """Fails on the way back for more than so many examples."""

    @staticmethod
    def forward(ctx, x, most, error):
        ctx.most, ctx.error = most, error
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > ctx.most:
            raise ctx.error()
        return gradient, None, None


def greedy(network, most, error, way="forward"):
    """The network on a machine with memory for `most` examples; sizes that were tried."""
    sizes = []

    def run(inputs):
        sizes.append(len(inputs))
        logits = network(inputs)
        if way == "forward" and len(inputs) > most:
            raise error()
        return Greedy.apply(logits, most, error) if way == "backward" else logits

    return run, sizes


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("error", LACKS.values(), ids=LACKS.keys())
def test_a_batch_that_memory_does_not_hold_is_halved_until_it_fits(error, way):
    ours, theirs, batches = Net(0.5), Net(0.5), data(3, n=16)
    run, sizes = greedy(ours, 5, error, way)
    made = trainer(ours, run, micro_batch=32, ema_decay=0.9)
    losses = train(made, batches)
    assert sizes == [16, 8, 4, 4, 4, 4, *[4] * 8]
    assert made.micro_batch == 4
    assert losses == train(trainer(theirs, micro_batch=4, ema_decay=0.9), batches)
    assert_same(state(ours), state(theirs))  # statistics of the passes that failed, too


def test_where_one_example_does_not_fit_the_error_is_told():
    network = Net().eval()
    run, sizes = greedy(network, 0, LACKS["cpu"])
    made = trainer(network, run)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        train(made, data(1, n=6))
    assert sizes == [6, 3, 1]


def test_errors_of_memory_are_told_from_others():
    assert all(is_out_of_memory(error()) for error in LACKS.values())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"))
    assert not is_out_of_memory(RuntimeError("a view needs contiguous memory"))
    run, sizes = greedy(Net(), 4, lambda: RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(trainer(Net(), run), data(1))
    assert sizes == [12]
    assert not is_out_of_memory(ValueError("memory"))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("pull", [0.5, 1e9])
def test_weights_are_drawn_back_to_their_base_model_and_new_ones_are_not(name, pull):
    ours, theirs, batches = Net(), Net(), data(4)
    train(trainer(ours, optimizer=name, l2_sp=pull), batches)
    assert_close(state(ours), by_hand(theirs, batches, name, pull)[-1], rtol=0, atol=1e-6)


def test_a_group_that_nothing_reaches_stays_as_it_is():
    """Of layers above all that the head listens to."""
    network = Net()
    network.spare = nn.Linear(2, 2)
    before = state(network)
    made = Trainer(network, moving(network), replace(SCHEDULE, l2_sp=1.0))
    made.begin([*groups(network), {"params": [*network.spare.parameters()], "lr": RATE}])
    train(made, data(2))
    assert torch.equal(network.spare.weight, before["spare.weight"])
    assert not torch.equal(network.conv.weight, before["conv.weight"])


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_is_its_definition(decay):
    network, batches = Net(), data(30)
    made = trainer(network, ema_decay=decay)
    seen = by_hand(Net(), batches)
    mean = {name: tensor.double() for name, tensor in Net().state_dict().items()}
    for n, (now, (inputs, labels)) in enumerate(zip(seen, batches, strict=True), 1):
        made.update(n - 1, factor(n - 1), (inputs,), labels)
        kept = min(decay, n / (10 + n))  # the first weights count for less
        mean = {name: kept * mean[name] + (1 - kept) * now[name] for name in mean}
    mean["norm.num_batches_tracked"] = torch.tensor(30.0).double()
    found = {n: m.double() for n, m in zip(moving(network), made.mean, strict=True)}
    assert_close(found, mean, rtol=0, atol=2e-5)
    assert_close(state(network), seen[-1], rtol=0, atol=1e-5)
    made.load_average()
    assert_close({n: t.double() for n, t in state(network).items()}, mean, rtol=0, atol=2e-5)


def test_weights_that_were_shown_are_put_back_whatever_happens():
    network = Net()
    made = trainer(network, ema_decay=0.9)
    train(made, data(2))
    own, home = state(network), network.conv.weight
    with pytest.raises(ZeroDivisionError), made.averaged(0.5):
        1 / torch.equal(network.conv.weight, own["conv.weight"])
    assert_same(state(network), own)
    assert network.conv.weight is home
    made.load_average(0.0)
    assert torch.equal(network.conv.weight, Net().conv.weight)


def kept(folder, made, step):
    """Through a file of the kind that a run keeps."""
    checkpoints = Checkpoints(Path(folder), "key")
    facts = {"step": step, "trainer": made.facts()}
    checkpoints.save(Snapshot(made.tensors(), facts))
    found = Checkpoints(Path(folder), "key").load()
    assert found.facts["step"] == step
    return found


def courses():
    return st.fixed_dictionaries(
        {
            "optimizer": st.sampled_from(["adamw", "sgd"]),
            "ema_decay": st.sampled_from([0.0, 0.8]),
            "l2_sp": st.sampled_from([0.0, 2.0]),
            "micro_batch": st.sampled_from([32, 5]),
            "precision": st.sampled_from(["float32", "bfloat16", "float16"]),
        }
    )


@property_of
@given(course=courses(), done=st.integers(0, 4), layout=st.sampled_from(["plain", "last"]))
def test_what_goes_on_from_a_file_never_stopped(course, done, layout):
    """Bit for bit, and in another trainer: weights, statistics, moments, average, scale."""

    def make():
        network = Net(0.3)
        if layout == "last":
            network = network.to(memory_format=torch.channels_last)
        return network, trainer(network, **course)

    batches = data(6)
    whole_network, whole = make()
    losses = train(whole, batches)
    _, first = make()
    assert train(first, batches[:done]) == losses[:done]
    with TemporaryDirectory() as folder:
        saved = kept(folder, first, done)
    network, again = make()
    again.restore(saved.tensors, saved.facts["trainer"])
    assert train(again, batches[done:], done) == losses[done:]
    assert_same(again.tensors(), whole.tensors())
    assert again.facts() == whole.facts()
    for one, other in zip(network.parameters(), whole_network.parameters(), strict=True):
        assert one.stride() == other.stride()
    for made in (whole, again):
        made.load_average(0.5)
    assert_same(state(network), state(whole_network))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_products_in_half_precision_come_close_and_weights_stay_whole(precision):
    seen = []

    def run(inputs):
        hidden = network.conv(inputs)
        seen.append(hidden.dtype)
        return network.out(torch.tanh(network.norm(hidden)).mean((2, 3)))

    network, plain, batches = Net(), Net(), data(20)
    losses = train(trainer(network, run, precision=precision), batches)
    expected = train(trainer(plain), batches)
    assert set(seen) == {getattr(torch, precision)}
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert losses == pytest.approx(expected, abs=0.02)
    assert losses != expected


def test_a_scale_at_which_gradients_overflow_skips_the_step_and_is_halved():
    network = Net()
    made = trainer(network, precision="float16")
    before = state(network)
    scale = made.facts()["scaler"]["scale"]
    inputs, labels = data(1)[0]
    handle = network.out.weight.register_hook(lambda gradient: gradient * math.inf)
    assert math.isfinite(made.update(0, 1.0, (inputs,), labels))
    handle.remove()
    after = state(network)
    assert all(torch.equal(after[n], before[n]) for n, _ in network.named_parameters())
    assert made.facts()["scaler"]["scale"] == scale / 2
    made.update(1, 1.0, (inputs,), labels)
    assert not torch.equal(network.conv.weight, before["conv.weight"])
    assert json.loads(json.dumps(made.facts())) == made.facts()


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


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_groups_keep_their_own_rates_and_decays(name, kind):
    given = groups(Net())[:2]
    optimizer = make_optimizer(name, given, 0.05)
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [RATE / 2, RATE]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert [group.get("momentum", 0.9) for group in optimizer.param_groups] == [0.9, 0.9]
    assert "weight_decay" not in given[0]


def test_another_optimizer_is_refused():
    with pytest.raises(PlanError, match=r"training.optimizer 'lion' does not exist; choose adamw"):
        make_optimizer("lion", groups(Net()), 0.0)


def written_out(vectors, labels, temperature):
    """Khosla et al. 2020, equation 2, row by row."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness, total = unit @ unit.T / temperature, 0.0
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        whole = math.log(sum(math.exp(likeness[i, j]) for j in others))
        alike = [j for j in others if labels[j] == label]
        total -= sum(likeness[i, j] - whole for j in alike) / max(len(alike), 1)
    return total


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_contrast_is_what_its_paper_writes(temperature):
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(12, 5)), rng.integers(0, 4, 12)
    labels[-1] = 9  # alone in its class
    found = contrastive_loss(torch.from_numpy(vectors), torch.from_numpy(labels), temperature)
    assert found.item() == pytest.approx(written_out(vectors, labels, temperature))


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]], ids=["one row", "no two alike"])
def test_a_batch_without_pairs_says_nothing_and_moves_nothing(labels):
    vectors = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0))
    vectors.requires_grad_(True)
    loss = contrastive_loss(vectors, torch.tensor(labels), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


def test_a_temperature_tells_which_of_the_two_it_is():
    vectors, labels = torch.eye(4)[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 1])
    assert make_pair_loss(0.0)(vectors, labels) == pair_loss(vectors, labels)
    assert make_pair_loss(0.1)(vectors, labels) == contrastive_loss(vectors, labels, 0.1)
