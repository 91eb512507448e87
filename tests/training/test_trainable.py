"""A start made ready: step 0 is the fitted head, and the start itself is not touched."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))

from networks import KINDS, cut_once, inputs_for

from plans import a_choice, plan_for, with_block
from warmstart.errors import ModelError
from warmstart.network import freeze, lora
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.ledger import take_digests, violations
from warmstart.planning.facts import NetworkFacts
from warmstart.solve.calibration import Calibration
from warmstart.training.linear_probe import HeadFit
from warmstart.training.trainable import trainable

NETWORKS = ("resnet18", "vit_tiny", "mlp", "residual", "convnext_atto", "eva02_tiny")
WORDS = ("head+add", "last:1", "last:1+add", "full", "full+gradual", "full+add", "full+lora")
N, K = 12, 3


def planned(name, strategy):
    _, network = cut_once(name)
    return network, plan_for(strategy, network=NetworkFacts(record=network.record))


def seen(network, name, wanted):
    """Each feature layer of some images, as a reader, and the images."""
    inputs = inputs_for(name, N)
    with torch.inference_mode():
        found = FeatureExtractor(network, wanted)(inputs)
    return lambda layer: found[list(wanted).index(layer)].numpy(), inputs


def fitted(network, read, wanted, seed=0):
    """A head as `fit_head` returns it: weights on the features' scale, with a calibration."""
    rng = np.random.default_rng(seed)
    groups = []
    for layer in wanted:
        spread = read(layer).std(axis=0).astype(np.float64)
        alive = spread > 1e-6 * spread.max()
        scale = np.where(alive, 1 / np.where(alive, spread, 1), 0) / np.sqrt(max(alive.sum(), 1))
        groups.append(rng.normal(size=(K, len(spread))) * scale)
    return HeadFit(
        name="equal",
        penalty=1.0,
        feature_layers=tuple(wanted),
        weight=np.concatenate(groups, axis=1).astype(np.float32),
        bias=rng.normal(size=K).astype(np.float32),
        calibration=Calibration(1.7, np.array([0.3, -0.2, -0.1])),
        probabilities=np.full((N, K), 1 / K),
        fold=np.arange(N) % 5,
    )


def answers(head, read):
    """What the head says: temperature * (W . feature layers + b) + class bias."""
    joined = np.concatenate([read(layer) for layer in head.feature_layers], axis=1).astype(
        np.float64
    )
    return 1.7 * (joined @ head.weight.T.astype(np.float64) + head.bias) + [0.3, -0.2, -0.1]


def ready(name, strategy, wanted=None):
    network, plan = planned(name, strategy)
    wanted = wanted or feature_layers(network.record)
    read, inputs = seen(network, name, wanted)
    head = fitted(network, read, wanted)
    return network, trainable(network, plan, head, read, 0), answers(head, read), inputs


def say(model, inputs):
    with torch.inference_mode():
        return model.eval()(inputs).double().numpy()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strategy", WORDS)
def test_step_zero_gives_the_fitted_heads_answers_and_leaves_the_base_model_alone(name, strategy):
    pytest.importorskip("peft") if "lora" in strategy else None
    _, network = cut_once(name)
    before = take_digests(network)
    network, made, expected, inputs = ready(name, strategy)
    np.testing.assert_allclose(say(made.model, inputs), expected, rtol=1e-4, atol=1e-4)
    _move(made)
    assert np.abs(say(made.model, inputs) - expected).max() > 1e-3
    assert take_digests(network) == before
    assert not violations(before, made.network, made.actions)


def _move(made):
    """One large step of all that is to move."""
    freeze.apply(made.model, made.actions, made.owners)
    groups = freeze.groups(made.model, made.actions, made.owners, made.rates)
    assert groups
    with torch.no_grad():
        for group in groups:
            assert group["lr"] == made.rates.get(group["block"], group["lr"])
            for parameter in group["params"]:
                parameter += 0.1 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
                )


def heard(name, strategy, wanted):
    """An network under a head that listens to these feature layers, what that says, and images."""
    network, plan = planned(name, strategy)
    read, inputs = seen(network, name, feature_layers(network.record))
    head = fitted(network, read, wanted)
    return trainable(network, plan, head, read, 0), answers(head, read), inputs


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
@pytest.mark.parametrize("strategy", ["head", "last:1", "full"])
def test_one_feature_layer_or_many_it_is_the_heads_own_feature_layers_that_are_read(name, strategy):
    offered = feature_layers(cut_once(name)[1].record)
    for wanted in (offered[-1:], (offered[1], offered[-2], offered[-1])):
        made, expected, inputs = heard(name, strategy, wanted)
        assert made.feature_layers == tuple(wanted)
        np.testing.assert_allclose(say(made.model, inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("resnet18", "last:1"),
        ("resnet18", "full"),
        ("resnet18", "last:2+add"),
        ("vit_tiny", "last:1"),
        ("vit_tiny", "head+add"),
        ("vit_tiny", "full+lora"),
    ],
)
def test_a_head_that_hears_no_layer_that_moves_listens_to_the_last_one_too(name, strategy):
    """With weights of zero at first: else nothing that is tuned would have a say."""
    pytest.importorskip("peft") if "lora" in strategy else None
    offered = feature_layers(cut_once(name)[1].record)
    wanted = offered[1:3]
    made, expected, inputs = heard(name, strategy, wanted)
    assert [layer.block for layer in made.feature_layers[:2]] == [layer.block for layer in wanted]
    assert len(made.feature_layers) == 3
    assert made.feature_layers[-1].pool == "neck"
    np.testing.assert_allclose(say(made.model, inputs), expected, rtol=1e-4, atol=1e-4)
    for _ in range(2):  # the output first, then what it has begun to listen to
        moved = _gradients(made, inputs)
    moving = {
        block for block, action in made.actions.items() if action not in ("frozen", "replaced")
    }
    assert moving <= moved | {"neck"}


def _gradients(made, inputs):
    """One step down; the parts whose parameters have a gradient that is not zero."""
    freeze.apply(made.model, made.actions, made.owners)
    groups = freeze.groups(made.model, made.actions, made.owners, made.rates)
    made.model.zero_grad()
    torch.nn.functional.cross_entropy(made.model(inputs), torch.arange(N) % K).backward()
    found = set()
    with torch.no_grad():
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.any():
                    found.add(group["block"])
                    parameter -= 0.1 * parameter.grad
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_added_blocks_stand_behind_the_last_part_and_what_read_it_reads_them(name):
    network, made, _, _ = ready(name, "head+add")
    n = len(network.blocks)
    assert [block.name for block in made.network.blocks] == [
        *(p.name for p in network.blocks),
        "added",
    ]
    assert {layer.block for layer in made.feature_layers} == {
        n + 1 if layer.block == n else layer.block for layer in feature_layers(network.record)
    }
    assert made.actions["added"] == "added"
    new = [tensor for tensor, block in made.owners.items() if block == "added"]
    assert new
    assert all(tensor in made.model.state_dict() for tensor in new)
    assert len(network.blocks) == n


@pytest.mark.parametrize("name", NETWORKS)
def test_scratch_says_nothing_and_keeps_nothing_of_the_base_model(name):
    _, network = cut_once(name)
    marked = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in marked.backbone.parameters():
            parameter += 0.01  # also where a new layer begins at ones or zeros
    before = take_digests(marked)
    _, plan = planned(name, "scratch")
    read, inputs = seen(marked, name, feature_layers(marked.record))
    made = trainable(marked, plan, fitted(marked, read, feature_layers(marked.record)), read, 0)
    assert not say(made.model, inputs).any()
    now = take_digests(made.network)
    parameters = {n for n, _ in marked.backbone.named_parameters()}
    owned = {n for n, block in marked.owners.items() if block not in ("head", "unused")}
    assert not {n for n in owned & parameters if now[n] == before[n]}
    assert take_digests(marked) == before
    assert [layer.block for layer in made.feature_layers] == [len(network.blocks)]
    assert (
        layer_width(made.network.record, made.feature_layers[0]) == made.model.head.weight.shape[1]
    )


def test_scratch_follows_from_the_seed():
    network, plan = planned("residual", "scratch")
    read, _ = seen(network, "residual", feature_layers(network.record))
    head = fitted(network, read, feature_layers(network.record))
    one, again, other = (trainable(network, plan, head, read, seed) for seed in (0, 0, 1))
    assert take_digests(one.network) == take_digests(again.network)
    assert take_digests(one.network) != take_digests(other.network)


def test_a_part_made_fresh_above_others_lets_the_output_begin_at_zero():
    network, plan = planned("residual", "last:2")
    name = plan.blocks[3].name
    plan = with_block(plan, 3, action=a_choice("fresh"))
    read, inputs = seen(network, "residual", feature_layers(network.record))
    made = trainable(network, plan, fitted(network, read, feature_layers(network.record)), read, 0)
    assert not say(made.model, inputs).any()
    before, now = take_digests(network), take_digests(made.network)
    changed = {network.owners[tensor] for tensor in before if before[tensor] != now[tensor]}
    assert changed == {name}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strategy", ["head+add", "last:1", "full", "scratch"])
def test_every_tensor_of_the_model_has_an_owner_and_an_action(name, strategy):
    network, plan = planned(name, strategy)
    read, _ = seen(network, name, feature_layers(network.record))
    made = trainable(network, plan, fitted(network, read, feature_layers(network.record)), read, 0)
    blocks = freeze.tensor_blocks(made.model, made.owners)
    assert blocks.keys() >= dict(made.model.named_parameters()).keys()
    assert {freeze.behaviour_of(made.actions, block) for block in blocks.values()}
    last = network.record.blocks[-1].name
    assert made.actions["neck"] == made.actions[last]
    moving = {
        block for block, action in made.actions.items() if action not in ("frozen", "replaced")
    }
    groups = freeze.groups(made.model, made.actions, made.owners, made.rates)
    assert {group["block"] for group in groups} <= moving | {"output"}
    assert made.rates.keys() == {block.name for block in plan.blocks if block.lr is not None}


def test_only_the_updates_of_low_rank_parts_move_and_merging_keeps_the_answers():
    pytest.importorskip("peft")
    network, made, _, inputs = ready("vit_tiny", "full+lora")
    before = take_digests(network)
    assert lora.has_updates(made.network.backbone)
    _move(made)
    moved = say(made.model, inputs)
    assert not violations(before, made.network, made.actions)
    lora.merge(made.network.backbone)
    assert not lora.has_updates(made.network.backbone)
    np.testing.assert_allclose(say(made.model, inputs), moved, rtol=1e-3, atol=1e-3)
    assert take_digests(made.network) != before
    assert made.actions["neck"] == "frozen"


def test_feature_layers_that_never_vary_get_no_say_and_break_nothing():
    network, plan = planned("residual", "full")
    wanted = feature_layers(network.record)
    read, inputs = seen(network, "residual", wanted)

    def flat(layer):
        return np.full_like(read(layer), 2.5) if layer == wanted[0] else read(layer)

    head = fitted(network, flat, wanted)
    made = trainable(network, plan, head, flat, 0)
    np.testing.assert_allclose(say(made.model, inputs), answers(head, flat), rtol=1e-4, atol=1e-4)


def test_a_part_that_cannot_be_given_its_action_is_named():
    network, plan = planned("tied", "head+add")
    record = replace(network.record.blocks[-1], layout="other")
    odd = replace(
        network, record=replace(network.record, blocks=(*network.record.blocks[:-1], record))
    )
    read, _ = seen(network, "tied", feature_layers(network.record))
    head = fitted(network, read, feature_layers(network.record))
    with pytest.raises(ModelError, match=r"no layers can be added behind it; tune it instead"):
        trainable(odd, plan, head, read, 0)


def test_the_kinds_cover_what_networks_are_made_of():
    families = {cut_once(name)[1].record.family for name in NETWORKS}
    assert families == {"convnet", "transformer", "mlp"}
    assert len(NETWORKS) >= 4
    assert set(NETWORKS) <= set(KINDS)
