"""A base model prepared for a plan, its head at step 0, and its features and head afterwards."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import cut_once, inputs_for

import jobs
from jobs import FEW, job, planned
from plans import plan_for
from tiny import PREP
from warmstart.errors import ModelError
from warmstart.events import drain
from warmstart.features.batches import normalised
from warmstart.modalities.image import IMAGE
from warmstart.network import freeze
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.ledger import take_digests, violations
from warmstart.planning.facts import NetworkFacts
from warmstart.solve.calibration import Calibration
from warmstart.training import batches, score
from warmstart.training.batches import BatchSource
from warmstart.training.early_stopping import (
    held_scores,
)
from warmstart.training.linear_probe import HeadFit
from warmstart.training.score import head_scores
from warmstart.training.trainable import (
    PENALTY,
    FineTunedFeatures,
    RefitHead,
    ScaledHead,
    may_refit,
    trainable,
)

NETWORKS = ("resnet18", "vit_tiny", "mlp", "residual", "convnext_atto", "eva02_tiny")
WORDS = ("head+add", "last:1", "last:1+add", "full", "full+gradual", "full+add", "full+lora")
N, K = 12, 3


def plan_of(name, strategy):
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
    network, plan = plan_of(name, strategy)
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
    network, plan = plan_of(name, strategy)
    read, inputs = seen(network, name, feature_layers(network.record))
    head = fitted(network, read, wanted)
    return trainable(network, plan, head, read, 0), answers(head, read), inputs


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
def test_scratch_says_nothing_and_keeps_nothing_of_the_base_model(name):
    _, network = cut_once(name)
    marked = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in marked.backbone.parameters():
            parameter += 0.01  # also where a new layer begins at ones or zeros
    before = take_digests(marked)
    _, plan = plan_of(name, "scratch")
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
    network, plan = plan_of("residual", "scratch")
    read, _ = seen(network, "residual", feature_layers(network.record))
    head = fitted(network, read, feature_layers(network.record))
    one, again, other = (trainable(network, plan, head, read, seed) for seed in (0, 0, 1))
    assert take_digests(one.network) == take_digests(again.network)
    assert take_digests(one.network) != take_digests(other.network)


def test_feature_layers_that_never_vary_get_no_say_and_break_nothing():
    network, plan = plan_of("residual", "full")
    wanted = feature_layers(network.record)
    read, inputs = seen(network, "residual", wanted)

    def flat(layer):
        return np.full_like(read(layer), 2.5) if layer == wanted[0] else read(layer)

    head = fitted(network, flat, wanted)
    made = trainable(network, plan, head, flat, 0)
    np.testing.assert_allclose(say(made.model, inputs), answers(head, flat), rtol=1e-4, atol=1e-4)


def test_a_part_that_cannot_be_given_its_action_is_named():
    network, plan = plan_of("tied", "head+add")
    record = replace(network.record.blocks[-1], layout="other")
    odd = replace(
        network, record=replace(network.record, blocks=(*network.record.blocks[:-1], record))
    )
    read, _ = seen(network, "tied", feature_layers(network.record))
    head = fitted(network, read, feature_layers(network.record))
    with pytest.raises(ModelError, match=r"no layers can be added behind it; tune it instead"):
        trainable(odd, plan, head, read, 0)


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


HELD = np.arange(0, 36, 5)


@pytest.fixture(scope="module")
def trained(training_data):
    """A training of the uppermost part on all rows: its plan, job, network."""
    plan = planned(training_data, "last:1", FEW)
    made = job(training_data, plan)
    return plan, made, drain(made.learn()).trainable


def test_the_output_that_ships_says_what_the_mean_of_both_says(training_data, trained):
    plan, made, trainable = trained
    head = score.fit_on(training_data, plan, made.rows)
    again = RefitHead(training_data, plan, made.source)
    output, reader = again.end(trainable, head, (2.0, 3.0))
    examples = training_data.examples(HELD)
    own = held_scores(trainable, made.source, HELD)
    other = again.held_scores(trainable, head, made.rows, HELD)
    said = head.scale * head_scores(output, reader(examples))
    np.testing.assert_allclose(said, (2 * own + 3 * other) / 2, rtol=1e-4, atol=1e-4)
    assert output.penalty == PENALTY
    alone, _ = again.end(trainable, head, None)
    assert alone.feature_layers == trainable.feature_layers


def test_rows_held_out_are_answered_by_an_output_that_never_saw_them(training_data, trained):
    plan, made, trainable = trained
    head = score.fit_on(training_data, plan, made.rows)
    again = RefitHead(training_data, plan, made.source)
    keep = np.setdiff1d(made.rows, HELD)
    plain = again.held_scores(trainable, head, keep, HELD)
    labels = training_data.labelled.labels.copy()
    labels[HELD] = (labels[HELD] + 1) % 3
    wrong = replace(training_data, labelled=replace(training_data.labelled, labels=labels))
    other = RefitHead(wrong, plan, made.source).held_scores(trainable, head, keep, HELD)
    np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize(
    ("strategy", "may"),
    [
        ("last:1", True),
        ("full", True),
        ("head+add", False),
        ("scratch", False),
    ],
)
def test_layers_that_began_at_random_keep_the_output_that_was_trained_on_them(
    training_data, strategy, may
):
    plan = planned(training_data, strategy, FEW)
    made = job(training_data, plan, HELD)
    trainable = made.make()
    assert may_refit(trainable) == may
    head = score.fit_on(training_data, plan, made.rows)
    found = RefitHead(training_data, plan, made.source).held_scores(
        trainable, head, made.rows, HELD
    )
    assert np.isfinite(found).all() == may
    assert found.shape == (len(HELD), 3)


@pytest.fixture
def copied_data(split_pictures):
    """36 pictures to learn from, among them a copy; 15 for the test, one with the same bytes."""
    payload = (split_pictures / "train" / "red" / "000.png").read_bytes()
    (split_pictures / "train" / "red" / "copy.png").write_bytes(payload)
    (split_pictures / "test" / "red" / "known.png").write_bytes(payload)
    return jobs.training_data(split_pictures)


QUICK = ("training.epochs=0.8889", "training.batch_size=8", "head.candidates=equal")


def looked(copied_data, strategy, settings=QUICK):
    """A trained network, its feature layers, its features, how often its source was read."""
    made = job(copied_data, planned(copied_data, strategy, settings, lr=0.01))
    trainable = drain(made.learn()).trainable
    asked = []

    def batch(rows, numbers, wanted):
        asked.append((rows.tolist(), set(numbers.tolist())))
        return made.source.batch(rows, numbers, wanted)

    extracted = FineTunedFeatures(
        trainable.network,
        trainable.feature_layers,
        BatchSource(made.source.cut, batch, made.source.labelled),
        copied_data,
    )
    return trainable, extracted, asked


def slow_features(copied_data, trainable, examples):
    """Each feature layer by the network itself, an image at a time."""
    tapped = FeatureExtractor(trainable.network, trainable.feature_layers).eval()
    pixels = [IMAGE.encode(copied_data.collection.load(e.id), e.id, PREP) for e in examples]
    with torch.inference_mode():
        rows = [tapped(normalised(image[None], PREP)) for image in pixels]
    return {
        layer: np.concatenate([row[i] for row in rows])
        for i, layer in enumerate(trainable.feature_layers)
    }


@pytest.mark.parametrize("strategy", ["last:1", "full", "last:1+add", "scratch"])
def test_feature_layers_are_those_of_a_plain_pass(copied_data, strategy):
    longer = ("training.epochs=4.4444", "training.batch_size=8")
    settings = longer if strategy == "scratch" else QUICK
    trainable, extracted, asked = looked(copied_data, strategy, settings)
    learn, test = copied_data.labelled.learn, copied_data.labelled.test
    examples = [*learn[5:9], *test, *learn[30:], learn[5]]
    read = extracted(examples)
    for layer, expected in slow_features(copied_data, trainable, examples).items():
        found = read(layer)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert {view for _, augmentations in asked for view in augmentations} == {0}  # as they are


@pytest.mark.parametrize("strategy", ["last:1", "full"])
def test_each_image_is_passed_once_and_what_was_learnt_is_not_decoded_again(
    copied_data, monkeypatch, strategy
):
    _, extracted, asked = looked(copied_data, strategy)
    decoded = []
    real = batches.decode_images

    def decode_images(collection, examples, prep):
        decoded.extend(e.id for e in examples)
        return real(collection, examples, prep)

    monkeypatch.setattr("warmstart.training.trainable.decode_images", decode_images)
    learn, test = copied_data.labelled.learn, copied_data.labelled.test
    assert not asked
    layer = extracted._scan.feature_layers[0]
    first = extracted(learn[:20])(layer)
    both = extracted([*learn[10:], *test, *learn[:3]])(layer)
    np.testing.assert_array_equal(both[:10], first[10:])
    np.testing.assert_array_equal(both[-3:], first[:3])
    passed = [row for rows, _ in asked for row in rows]
    assert len(passed) == len(set(passed)) == 36  # one of two copies stands for both
    known = {e.sha256 for e in learn}
    assert decoded == [e.id for e in test if e.sha256 not in known]
    assert len(decoded) == len(test) - 1


def test_rows_lie_in_a_folder_that_goes_with_the_look(copied_data, monkeypatch, tmp_path):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.setattr("warmstart.training.trainable.folder_with_space", lambda _: place)
    _, extracted, _ = looked(copied_data, "last:1")
    extracted(copied_data.labelled.learn)
    (folder,) = place.iterdir()
    assert [*folder.glob("*.rows")]
    del extracted
    gc.collect()
    assert not [*place.iterdir()]
