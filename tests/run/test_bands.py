"""Bands, alpha and grey from files on disk to features, checks and answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import warmstart
from extraction import collect
from multiband_images import fill_bands, npy, tiff
from multiband_images import training_data as scene_of
from tiny import PREP, fit, network
from warmstart.events import drain
from warmstart.evidence.domain_gap import measure_domain_gap
from warmstart.evidence.preprocessing import try_preprocessing, warning
from warmstart.evidence.probe import open_probe
from warmstart.evidence.transfer_gain import measure_transfer_gain
from warmstart.features.batches import normalised
from warmstart.features.extraction import extract_features
from warmstart.modalities.image import IMAGE, band_ranges, count_bands
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.training.dataset import training_dataset


def wish_for(collection, **options):
    """What a run would find out about its images before it loads the start."""
    examples = collection.record.examples
    n = count_bands(collection.load, examples)
    return InputOptions(channels=n, ranges=band_ranges(collection.load, examples), **options)


def by_hand(collection, base):
    """Features of all images, one after the other, with plain torch."""
    prep = base.record.preprocessing
    blocks = cut(base.module, prep)
    last = feature_layers(blocks.record)[-1]
    tapped = FeatureExtractor(blocks, [last])
    pixels = [IMAGE.encode(collection.load(e.id), e.id, prep) for e in collection.record.examples]
    with torch.inference_mode():
        return last, tapped(normalised(np.stack(pixels), prep))[0].numpy()


@pytest.mark.parametrize(("write", "suffix"), [(npy, ".npy"), (tiff, ".tif")])
@pytest.mark.parametrize("is_tuned", [True, False])
def test_thirteen_bands_from_files_to_features_and_checks(tmp_path, write, suffix, is_tuned):
    if write is tiff:
        pytest.importorskip("tifffile")
    collection = collect(fill_bands(tmp_path / "fields", write=write, suffix=suffix, n=10))
    wish = wish_for(collection, rgb=(3, 2, 1), is_tuned=is_tuned)
    base = load(network(), preprocessing=PREP, inputs=wish)
    extracted = drain(extract_features(collection, base))
    assert not extracted.unreadable
    layer, slow = by_hand(collection, base)
    np.testing.assert_allclose(
        extracted.features.read(collection.record.examples, layer), slow, rtol=1e-3, atol=1e-4
    )
    seen = extracted.thumbnails(collection.record.examples)
    assert set(seen.width) == set(seen.height) == {40}
    training_data = training_dataset(collection, extracted, base.record, "balanced", 0)
    probe = open_probe(training_data)
    assert probe(6).images.shape == (6, 32, 32, 13)
    assert measure_domain_gap(probe(6)).n > 0
    result = try_preprocessing(probe)
    assert result.value is None  # swapped channels and other normalisations mean nothing here
    assert warning(result) is None
    assert drain(measure_transfer_gain(probe, 2, 0)).n > 0


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha_from_pictures_to_features_and_checks(pictures, channels):
    for path in sorted(pictures.rglob("*.png"))[::3]:
        with Image.open(path) as picture:
            picture.convert("RGBA").save(path)
    collection = collect(pictures)
    base = load(network(), preprocessing=PREP, inputs=InputOptions(channels=channels))
    extracted = drain(extract_features(collection, base))
    assert not extracted.unreadable
    layer, slow = by_hand(collection, base)
    np.testing.assert_allclose(
        extracted.features.read(collection.record.examples, layer), slow, rtol=1e-3, atol=1e-4
    )
    training_data = training_dataset(collection, extracted, base.record, "balanced", 0)
    probe = open_probe(training_data)
    assert probe(6).images.shape == (6, 32, 32, channels)
    assert try_preprocessing(probe).value is None
    assert measure_domain_gap(probe(6)).n > 0
    assert drain(measure_transfer_gain(probe, 3, 0)).n > 0


def test_a_tuned_first_layer_sees_at_first_what_the_old_network_saw(tmp_path):
    collection = collect(fill_bands(tmp_path / "fields", n=4))
    wish = wish_for(collection, rgb=(3, 2, 1), is_tuned=True)
    base = load(network(), preprocessing=PREP, inputs=wish)
    three = load(network(), preprocessing=PREP)
    prep = base.record.preprocessing
    pixels = np.stack(
        [IMAGE.encode(collection.load(e.id), e.id, prep) for e in collection.record.examples]
    )
    with torch.inference_mode():
        result = base.module(normalised(pixels, prep))
        expected = three.module(normalised(np.ascontiguousarray(pixels[..., [3, 2, 1]]), PREP))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_a_file_of_another_number_of_bands_is_left_out_and_named(tmp_path):
    root = fill_bands(tmp_path / "fields", n=4)
    collection = collect(root)
    wish = wish_for(collection)
    (root / "crop0" / "002.npy").write_bytes(npy(np.zeros((9, 9, 12), np.int16)))
    collection = collect(root)
    extracted = drain(
        extract_features(collection, load(network(), preprocessing=PREP, inputs=wish))
    )
    assert extracted.unreadable == {
        "crop0/002.npy": "crop0/002.npy has 12 bands; the network takes 13"
    }


def test_what_was_no_picture_is_read_again_as_bands(tmp_path):
    collection = collect(fill_bands(tmp_path / "fields", n=4))
    extracted = drain(extract_features(collection, load(network(), preprocessing=PREP)))
    assert len(extracted.unreadable) == 8
    extracted = drain(
        extract_features(
            collection, load(network(), preprocessing=PREP, inputs=wish_for(collection))
        )
    )
    assert not extracted.unreadable


def test_other_ranges_are_another_extraction(tmp_path):
    collection = collect(fill_bands(tmp_path / "fields", n=4))
    wish = wish_for(collection)
    wider = replace(wish, ranges=tuple((low, high + 500) for low, high in wish.ranges))
    for inputs, passed in ((wish, 8), (wish, 0), (wider, 8)):
        extracted = drain(
            extract_features(collection, load(network(), preprocessing=PREP, inputs=inputs))
        )
        assert extracted.features.n_extracted == passed


def test_three_bands_of_other_values_are_fed_in_one_way_only(tmp_path):
    collection = collect(fill_bands(tmp_path / "fields", n=6, bands=3))
    wish = wish_for(collection)
    assert wish.channels == 3
    base = load(network(), preprocessing=PREP, inputs=wish)
    assert base.changes == ()
    extracted = drain(extract_features(collection, base))
    training_data = training_dataset(collection, extracted, base.record, "balanced", 0)
    assert try_preprocessing(open_probe(training_data)).value is None


def test_a_run_on_bands_answers_for_files_and_arrays(tmp_path):
    root = fill_bands(tmp_path / "fields", n=12)
    run = fit(root, out=tmp_path / "run")
    predictor = warmstart.load(run.path, network=network())
    asked = [root / "crop0" / "001.npy", scene_of(1, 99), np.moveaxis(scene_of(0, 98), 2, 0)]
    assert [answer.label for answer in predictor.predict(asked)] == ["crop0", "crop1", "crop0"]
    (answer,) = predictor.predict([np.zeros((9, 9, 3), np.uint8)])
    assert answer.error == "#0 has 3 bands; the network takes 13"
