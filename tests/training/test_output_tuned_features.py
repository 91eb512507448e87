"""A second look is a plain pass of the trained network, wherever its inputs come from."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import jobs
from jobs import job, planned
from tiny import PREP
from warmstart.events import drain
from warmstart.features.batches import normalised
from warmstart.modalities.image import IMAGE
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.training import output
from warmstart.training.output import FineTunedFeatures


@pytest.fixture
def training_data(split_pictures):
    """36 pictures to learn from, among them a copy; 15 for the test, one with the same bytes."""
    payload = (split_pictures / "train" / "red" / "000.png").read_bytes()
    (split_pictures / "train" / "red" / "copy.png").write_bytes(payload)
    (split_pictures / "test" / "red" / "known.png").write_bytes(payload)
    return jobs.training_data(split_pictures)


FEW = ("training.epochs=0.8889", "training.batch_size=8", "head.candidates=equal")


def looked(training_data, strategy, settings=FEW):
    """A trained network, its feature layers, its features, how often its source was read."""
    made = job(training_data, planned(training_data, strategy, settings, lr=0.01))
    trainable = drain(made.learn()).trainable
    asked = []

    class Counting:
        cut = made.context.source.cut

        def batch(self, rows, numbers, wanted):
            asked.append((rows.tolist(), set(numbers.tolist())))
            return made.context.source.batch(rows, numbers, wanted)

    extracted = FineTunedFeatures(
        trainable.network,
        trainable.feature_layers,
        Counting(),
        training_data,
    )
    return trainable, extracted, asked


def slow(training_data, trainable, examples):
    """Each feature layer by the network itself, an image at a time."""
    tapped = FeatureExtractor(trainable.network, trainable.feature_layers).eval()
    pixels = [IMAGE.encode(training_data.collection.load(e.id), e.id, PREP) for e in examples]
    with torch.inference_mode():
        rows = [tapped(normalised(image[None], PREP)) for image in pixels]
    return {
        layer: np.concatenate([row[i] for row in rows])
        for i, layer in enumerate(trainable.feature_layers)
    }


@pytest.mark.parametrize("strategy", ["last:1", "full", "head+add", "last:1+add", "scratch"])
def test_feature_layers_are_those_of_a_plain_pass(training_data, strategy):
    settings = FEW if strategy != "scratch" else ("training.epochs=4.4444", "training.batch_size=8")
    trainable, extracted, asked = looked(training_data, strategy, settings)
    learn, test = training_data.labelled.learn, training_data.labelled.test
    examples = [*learn[5:9], *test, *learn[30:], learn[5]]
    read = extracted(examples)
    for layer, expected in slow(training_data, trainable, examples).items():
        found = read(layer)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert {view for _, augmentations in asked for view in augmentations} == {0}  # as they are


@pytest.mark.parametrize("strategy", ["last:1", "full"])
def test_each_image_is_passed_once_and_what_was_learnt_is_not_decoded_again(
    training_data, monkeypatch, strategy
):
    _, extracted, asked = looked(training_data, strategy)
    decoded = []
    real = output.decode_images

    def decode_images(collection, examples, prep):
        decoded.extend(e.id for e in examples)
        return real(collection, examples, prep)

    monkeypatch.setattr(output, "decode_images", decode_images)
    learn, test = training_data.labelled.learn, training_data.labelled.test
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


def test_rows_of_copies_are_alike(training_data):
    _, extracted, _ = looked(training_data, "last:1")
    learn, test = training_data.labelled.learn, training_data.labelled.test
    same = {e.sha256 for e in (*learn, *test) if e.id.endswith(("copy.png", "known.png"))}
    copies = [e for e in (*learn, *test) if e.sha256 in same]
    assert len(copies) == 3
    rows = extracted(copies)(extracted._scan.feature_layers[0])
    assert (rows == rows[0]).all()


def test_rows_lie_in_a_folder_that_goes_with_the_look(training_data, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(output, "folder_with_space", lambda n_bytes: tmp_path / "here")
    _, extracted, _ = looked(training_data, "last:1")
    extracted(training_data.labelled.learn)
    (folder,) = (tmp_path / "here").iterdir()
    assert [*folder.glob("*.rows")]
    del extracted
    gc.collect()
    assert not [*(tmp_path / "here").iterdir()]


def test_it_looks_at_the_network_that_was_trained_and_not_at_the_base_model(training_data):
    trainable, extracted, _ = looked(training_data, "full")
    layer = trainable.feature_layers[-1]
    learn = training_data.labelled.learn
    before = training_data.extracted.reader(learn)(layer)
    assert np.abs(extracted(learn)(layer) - before).max() > 0.01
    assert layer in feature_layers(training_data.extracted.network.record)


def test_the_network_rests_while_it_is_looked_at(training_data):
    trainable, extracted, _ = looked(training_data, "full")
    layer, learn = trainable.feature_layers[-1], training_data.labelled.learn
    trainable.network.backbone.train()
    np.testing.assert_allclose(
        extracted(learn[:3])(layer),
        slow(training_data, trainable, learn[:3])[layer],
        rtol=1e-4,
        atol=1e-4,
    )
