"""Clips of sound go the way of pictures: fit, predict, evaluate, serve, report, warm start."""

from __future__ import annotations

import io
import json
import re
import runpy

import numpy as np
import pytest

import warmstart
from audio_clips import fill, tone, wav
from server_client import live
from tiny import fit, lines, weights
from warmstart.errors import DataError, ModelError, PlanError
from warmstart.events import drain
from warmstart.modalities.audio import SPECTROGRAM
from warmstart.records.inputs import Preprocessing
from warmstart.records.run_folder import read_json
from warmstart.run.predictor import evaluate, predict
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application


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


def test_the_plan_says_how_clips_are_drawn(heard):
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


def test_the_server_takes_a_clip_and_says_what_is_none(heard, tmp_path):
    clip = wav(tone(np.random.default_rng(5), 220 * 2))
    with live(application(heard.path, ServeOptions(), ServerLimits())) as server:
        sent = server.send(("new.wav", clip), ("torn.wav", clip[:99])).json["answers"]
        assert sent[0]["label"] == heard_label(heard, tmp_path, clip)
        assert "torn.wav is cut off" in json.dumps(sent[1])
        assert sent[1]["words"] == "not a clip"
        told = server.ask("GET", "/metadata").json
        assert (told["kind"], told["accept"].partition(",")[0]) == ("audio", "audio/*")
        alone = server.ask("POST", "/predict", clip, Content_Type="audio/wav").json["answers"]
        assert alone[0]["label"] == sent[0]["label"]


def heard_label(run, folder, clip):
    path = folder / "one.wav"
    path.write_bytes(clip)
    (answer,) = warmstart.load(run.path).predict([path])
    return answer.label


def test_the_report_shows_the_spectrograms_of_clips_that_it_speaks_of(heard, tmp_path):
    page = (heard.path / "report.html").read_text("utf-8")
    assert "36 training clips" in page
    assert "data:image/" not in page  # no held-out prediction was wrong: there is none to show
    clips = fill(tmp_path / "notes", {"a note": 12, "hiss": 12, "tick": 12})
    (clips / "hiss" / "000.wav").rename(clips / "tick" / "wrong.wav")
    run = fit(
        clips,
        base=heard.path.parent / "start.safetensors",
        arch="timm:lcnet_035",
        preprocessing=None,
        settings=["input.size=64"],
        out=tmp_path / "run",
    )
    page = (run.path / "report.html").read_text("utf-8")
    shown = re.findall(r'src="data:image/(?:png|jpeg);base64,[^"]+" alt="Clip ([^"]+)"', page)
    assert "tick/wrong.wav" in shown


def test_a_run_on_clips_is_the_base_model_of_another(heard, tmp_path):
    more = fill(tmp_path / "more", {"a note": 8, "hiss": 8}, seed=3)
    run = warmstart.fit(more, base=heard.path, budget="fast", out=tmp_path / "run")
    first, second = (
        json.loads((r.path / "model" / "preprocess.json").read_text()) for r in (heard, run)
    )
    assert first == second


def test_a_run_on_clips_is_no_base_model_for_pictures(heard, pictures):
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


def test_a_plan_draws_clips_as_it_says(heard, tmp_path):
    data = fill(tmp_path / "notes", {"a note": 9, "hiss": 9}, seed=5)
    run = warmstart.fit(data, plan=heard.path / "plan.toml", out=tmp_path / "run")
    first, second = (
        json.loads((r.path / "model" / "preprocess.json").read_text()) for r in (heard, run)
    )
    assert first == second


def test_clips_that_cannot_be_heard_are_left_out_and_listed(tmp_path):
    data = fill(tmp_path / "notes", {"a note": 6, "hiss": 6})
    (data / "hiss" / "silent.wav").write_bytes(wav(np.zeros(800)))
    run = fit(data, out=tmp_path / "run")
    result = [f for f in run.summary.findings if f.kind == "unreadable"]
    assert result[0].items == ("hiss/silent.wav: is silent (all samples are 0)",)
    assert result[0].sentence == "1 clip could not be read and was left out."


def test_a_folder_of_nothing_that_sounds_is_one_line(tmp_path):
    data = fill(tmp_path / "notes", {"a note": 3, "hiss": 3})
    for path in data.rglob("*.wav"):
        path.write_bytes(wav(np.zeros(8)))
    with pytest.raises(DataError, match=r"a note: none of its clips can be read; replace them"):
        fit(data)


def test_flac_beside_wav(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    data = fill(tmp_path / "notes", {"a note": 4, "hiss": 4})
    for path in list(data.rglob("00[01].wav")):
        samples, rate = soundfile.read(io.BytesIO(path.read_bytes()))
        soundfile.write(path.with_suffix(".flac"), samples, rate)
        path.unlink()
    run = fit(data, out=tmp_path / "run")
    assert run.summary.data.train == 8


def test_layers_are_trained_on_augmentations_of_sounds(tmp_path):
    data = fill(tmp_path / "notes", {"a note": 6, "hiss": 6})
    run = fit(data, strategy="last:1", out=tmp_path / "run", settings=["training.epochs=3.3333"])
    training = run.plan.training
    assert (
        training.flip.value,
        training.time_shift.value > 0,
        training.spec_augment.value > 0,
    ) == (
        False,
        True,
        True,
    )


def test_an_export_draws_clips_by_itself(heard, tmp_path):
    """The script beside the model gives the pixels that the network was fed with."""
    pytest.importorskip("soundfile")
    warmstart.export(heard.path, "onnx", out=tmp_path / "out")
    script = runpy.run_path(str(tmp_path / "out" / "predict.py"), run_name="export")
    prep = read_json(heard.path / "model" / "preprocess.json", Preprocessing)
    rng = np.random.default_rng(4)
    for seconds, rate in ((0.3, 8000), (0.9, 8000), (0.3, 11_025)):
        path = tmp_path / "clip.wav"
        path.write_bytes(wav(tone(rng, 440, seconds, rate), rate))
        expected = SPECTROGRAM.encode(path.read_bytes(), "clip.wav", prep)
        ours = script["prepare"](str(path))
        assert ours.shape == expected.shape
        assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 1
