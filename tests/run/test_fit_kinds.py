"""Runs on bands, alpha, grey and sounds: from files to features, checks and answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import warmstart
from audio_clips import fill, tone, wav
from extraction import collect
from multiband_images import fill_bands, npy, tiff
from multiband_images import training_data as scene_of
from tiny import PREP, fit, lines, network, weights
from warmstart.errors import ModelError, PlanError
from warmstart.events import drain
from warmstart.evidence.check import measure_transfer_gain
from warmstart.evidence.preprocessing import measure_domain_gap, try_preprocessing, warning
from warmstart.evidence.probe import open_probe
from warmstart.features.batches import normalised
from warmstart.features.extraction import extract_features
from warmstart.modalities.image import IMAGE, band_ranges, count_bands
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.run.predictor import evaluate, predict
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.training.dataset import training_dataset


def options_of(collection, **more):
    """What a run would find out about its images before it loads the start."""
    examples = collection.record.examples
    n = count_bands(collection.load, examples)
    return InputOptions(channels=n, ranges=band_ranges(collection.load, examples), **more)


def assert_read_and_checked(collection, base, channels):
    """Features equal those of plain torch, image by image, and each check has its numbers."""
    prep, examples = base.record.preprocessing, collection.record.examples
    extracted = drain(extract_features(collection, base))
    assert not extracted.unreadable
    blocks = cut(base.module, prep)
    last = feature_layers(blocks.record)[-1]
    pixels = [IMAGE.encode(collection.load(e.id), e.id, prep) for e in examples]
    with torch.inference_mode():
        slow = FeatureExtractor(blocks, [last])(normalised(np.stack(pixels), prep))[0].numpy()
    features = extracted.features.read(examples, last)
    np.testing.assert_allclose(features, slow, rtol=1e-3, atol=1e-4)
    seen = extracted.thumbnails(examples)
    assert set(seen.width) == set(seen.height) == {40}
    probe = open_probe(training_dataset(collection, extracted, base.record, "balanced", 0))
    assert probe(6).images.shape == (6, 32, 32, channels)
    assert measure_domain_gap(probe(6)).n > 0
    trial = try_preprocessing(probe)
    assert trial.value is None  # swapped channels and other normalisations mean nothing here
    assert warning(trial, CLASSIFICATION.words, IMAGE.nouns) is None
    assert drain(measure_transfer_gain(probe, len(collection.record.classes), 0)).n > 0


@pytest.mark.parametrize(("write", "suffix"), [(npy, ".npy"), (tiff, ".tif")])
@pytest.mark.parametrize("is_tuned", [True, False])
def test_thirteen_bands_from_files_to_features_and_checks(tmp_path, write, suffix, is_tuned):
    if write is tiff:
        pytest.importorskip("tifffile")
    collection = collect(fill_bands(tmp_path / "fields", write=write, suffix=suffix, n=10))
    inputs = options_of(collection, rgb=(3, 2, 1), is_tuned=is_tuned)
    assert_read_and_checked(collection, load(network(), preprocessing=PREP, inputs=inputs), 13)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha_from_pictures_to_features_and_checks(pictures, channels):
    for path in sorted(pictures.rglob("*.png"))[::3]:
        with Image.open(path) as picture:
            picture.convert("RGBA").save(path)
    base = load(network(), preprocessing=PREP, inputs=InputOptions(channels=channels))
    assert_read_and_checked(collect(pictures), base, channels)


def test_a_file_of_another_number_of_bands_is_left_out_and_named(tmp_path):
    root = fill_bands(tmp_path / "fields", n=4)
    collection = collect(root)
    options = options_of(collection)
    (root / "crop0" / "002.npy").write_bytes(npy(np.zeros((9, 9, 12), np.int16)))
    collection = collect(root)
    extracted = drain(
        extract_features(collection, load(network(), preprocessing=PREP, inputs=options))
    )
    assert extracted.unreadable == {
        "crop0/002.npy": "crop0/002.npy has 12 bands; the network takes 13"
    }


def test_a_run_on_bands_answers_for_files_and_arrays(tmp_path):
    root = fill_bands(tmp_path / "fields", n=12)
    run = fit(root, out=tmp_path / "run")
    predictor = warmstart.load(run.path, network=network())
    asked = [root / "crop0" / "001.npy", scene_of(1, 99), np.moveaxis(scene_of(0, 98), 2, 0)]
    assert [answer.label for answer in predictor.predict(asked)] == ["crop0", "crop1", "crop0"]
    (answer,) = predictor.predict([np.zeros((9, 9, 3), np.uint8)])
    assert answer.error == "#0 has 3 bands; the network takes 13"


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A finished run on clips; tests must not change it."""
    root = tmp_path_factory.mktemp("heard")
    fill(root / "notes" / "train", {"a note": 12, "hiss": 12, "tick": 12})
    fill(root / "notes" / "test", {"a note": 4, "hiss": 4, "tick": 4}, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return fit(
            root / "notes",
            base=weights(root),
            arch="timm:lcnet_035",
            preprocessing=None,
            settings=["input.size=64"],
            out=root / "run",
        )


def test_a_run_on_clips_knows_them(heard):
    summary = json.loads((heard.path / "summary.json").read_text())
    assert summary["test"]["accuracy"] > 0.8
    assert json.loads((heard.path / "data.json").read_text())["kind"] == "audio"
    prep = json.loads((heard.path / "model" / "preprocess.json").read_text())
    assert len(prep["mean"]) == 1
    assert prep["sound"]["sample_rate"] == 8000
    assert prep["sound"]["seconds"] == pytest.approx(0.4, abs=0.03)
    rows = lines(heard.path, "predictions.jsonl")
    assert {row["id"][-4:] for row in rows} == {".wav"}
    plan = heard.plan
    assert (plan.input.sample_rate.value, plan.input.channels.value) == (8000, 1)
    assert plan.input.n_mels.source == "rule"


def test_predict_and_evaluate_listen(heard, tmp_path):
    clips = fill(tmp_path / "new", {"a note": 3, "hiss": 3, "tick": 3}, seed=2)
    answers = [*predict(heard.path, [str(clips)])]
    right = [answer.label in answer.path for answer in answers]
    assert len(right) == 9
    assert sum(right) >= 8
    assert drain(evaluate(heard.path, clips)).n == 9


def test_what_is_no_sound_is_an_answer_with_an_error(heard, tmp_path):
    (tmp_path / "silent.wav").write_bytes(wav(np.zeros(800)))
    (tmp_path / "torn.wav").write_bytes(wav(tone(np.random.default_rng(0), 440))[:99])
    errors = [a.error for a in predict(heard.path, [str(tmp_path)])]
    assert [error.partition("tmp")[0] and error.rpartition(".wav ")[2] for error in errors] == [
        "is silent (all samples are 0)",
        "is cut off",
    ]


def test_a_run_on_clips_is_the_base_model_of_another_and_its_plan_draws_them(
    heard, pictures, tmp_path
):
    more = fill(tmp_path / "more", {"a note": 9, "hiss": 9}, seed=3)
    plan = {"plan": heard.path / "plan.toml"}
    options = {"base": {"base": heard.path, "budget": "fast"}, "plan": plan}
    first = (heard.path / "model" / "preprocess.json").read_text()
    for name, option in options.items():
        run = warmstart.fit(more, out=tmp_path / name, **option)
        assert (run.path / "model" / "preprocess.json").read_text() == first
    with pytest.raises(ModelError, match="was trained on sounds, the data holds images"):
        warmstart.fit(pictures, base=heard.path, budget="fast")


def test_settings_of_sounds_are_taken_and_checked(tmp_path, pictures):
    data = fill(tmp_path / "notes", {"a note": 4, "hiss": 4})
    run = fit(data, settings=["input.seconds=0.2", "input.n_mels=32"], out=tmp_path / "run")
    sound = json.loads((run.path / "model" / "preprocess.json").read_text())["sound"]
    assert (sound["seconds"], sound["mels"], sound["sample_rate"]) == (0.2, 32, 8000)
    with pytest.raises(PlanError, match=r"input\.sample_rate must be a whole number from 2000"):
        fit(data, settings=["input.sample_rate=7"])
    with pytest.raises(PlanError, match=r"input\.n_mels=64: the data holds images, not sounds"):
        fit(pictures, settings=["input.n_mels=64"])


def test_clips_that_cannot_be_heard_are_left_out_and_listed(tmp_path):
    data = fill(tmp_path / "notes", {"a note": 6, "hiss": 6})
    (data / "hiss" / "silent.wav").write_bytes(wav(np.zeros(800)))
    run = fit(data, out=tmp_path / "run")
    result = [f for f in run.summary.findings if f.kind == "unreadable"]
    assert result[0].items == ("hiss/silent.wav: is silent (all samples are 0)",)
    assert result[0].sentence == "1 clip could not be read and was left out."
