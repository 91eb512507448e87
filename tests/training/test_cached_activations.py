"""Stored activations: the frozen layers are run once an augmentation, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import jobs
import warmstart
from hue_images import fill
from multiband_images import fill_bands
from tiny import bytes_of, fit, lines, network
from warmstart.errors import TrainingError
from warmstart.events import drain, follow
from warmstart.features.engine import EngineError
from warmstart.network.cut import FrozenPrefix
from warmstart.network.feature_layers import feature_layers
from warmstart.training import cached_activations
from warmstart.training.cached_activations import cache_activations

SETTINGS = {"training.epochs": 2.6667, "training.batch_size": 8}


@pytest.fixture
def training_data(pictures):
    return jobs.training_data(pictures)


def cached_source(training_data, plan):
    """What is stored, and what was told meanwhile."""
    events = []
    return follow(cache_activations(training_data, plan), events.append), events


def passed(events):
    """How many images were passed; None where nothing was."""
    begun = [e for e in events if e.values.get("title") == "Augmentations" and e.kind == "begin"]
    return begun[0].of if begun else None


def everything(source, n, augmentations, wanted):
    """All rows of all augmentations, (augmentations, n, …) each input."""
    rows = np.arange(n)
    found = [source.batch(rows, np.full(n, view), wanted) for view in range(augmentations)]
    return [torch.stack(column) for column in zip(*found, strict=True)]


# ---- the same numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["last:1", "head+add"])
def test_what_is_stored_is_what_the_frozen_layers_give_for_each_augmentation(
    training_data, strategy
):
    plan = jobs.planned(training_data, strategy, ("training.color_jitter=0.2",), seed=4)
    source, _ = cached_source(training_data, plan)
    live = jobs.planned(training_data, "full", ("training.color_jitter=0.2",), seed=4)
    images = jobs.context(training_data, live).source
    cut = source.cut
    assert cut == plan.training.split_at.value == {"last:1": 1, "head+add": 2}[strategy]
    wanted = tuple(source.columns)
    assert wanted
    prefix = FrozenPrefix(training_data.extracted.network, cut, wanted)
    rows = np.array([0, 17, 35, 3, 17])
    for view in range(5):
        numbers = np.full(5, view)
        with torch.inference_mode():
            expected = prefix(*images.batch(rows, numbers, ()))
        found = source.batch(rows, numbers, wanted)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    plain = source.batch(rows, np.zeros(5, int), wanted)
    assert not torch.allclose(plain[0], found[0])


@pytest.mark.parametrize("head", ["last", "equal"])
def test_a_training_on_stored_augmentations_is_the_training_on_the_whole_network(
    training_data, head
):
    """Law 3 over a whole training: the same augmentations, the same updates."""
    settings = ("training.epochs=2.6667", "training.batch_size=8", f"head.candidates={head}")
    plans = [
        jobs.planned(training_data, "last:1", (*settings, *more))
        for more in (
            ("training.augmentations=4",),
            ("training.split_at=0", "training.augmentations=4"),
        )
    ]
    assert [plan.training.split_at.value for plan in plans] == [1, 0]
    found = []
    for plan in plans:
        made = jobs.job(training_data, plan, held=np.arange(0, 36, 5))
        trained = drain(made.learn())
        found.append((jobs.state(trained.trainable.model), trained.scores))
    for name, tensor in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], tensor, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)
    base = network().state_dict()["second.weight"]
    assert (found[0][0]["backbone.second.weight"] - base).abs().max() > 1e-3


@pytest.mark.parametrize("strategy", ["last:1", "head+add"])
def test_a_run_on_stored_augmentations_is_the_run_on_the_whole_network(
    split_pictures, tmp_path, strategy
):
    runs = [
        fit(
            split_pictures,
            strategy=strategy,
            settings={**SETTINGS, "training.augmentations": 3, **more},
            out=tmp_path / name / "split",
        )
        for name, more in (("stored", {}), ("live", {"training.split_at": 0}))
    ]
    assert [run.plan.training.split_at.value > 0 for run in runs] == [True, False]
    ours, theirs = (load_file(run.path / "model" / "model.safetensors") for run in runs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        size = max(float(ours[name].abs().max()), 1e-3) if ours[name].numel() else 1.0
        assert float((ours[name].double() - theirs[name].double()).abs().max()) < 1e-3 * size, name
    one, other = (lines(run.path, "predictions.jsonl") for run in runs)
    for a, b in zip(one, other, strict=True):
        assert (a["id"], a["fold"], a["label"]) == (b["id"], b["fold"], b["label"])
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-3)
    assert runs[0].estimate.value == runs[1].estimate.value


# ---- once ----------------------------------------------------------------------------------


def test_a_second_run_passes_nothing(training_data):
    plan = jobs.planned(training_data, "last:1")
    first, events = cached_source(training_data, plan)
    assert passed(events) == 36
    assert [e.step for e in events if e.kind == "step"] == [32, 36]
    second, events = cached_source(training_data, plan)
    assert events == []
    for ours, theirs in zip(*(everything(s, 36, 5, ()) for s in (first, second)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "change",
    [
        "training.crop=0.6",
        "training.flip=false",
        "training.color_jitter=0.3",
        "training.cache_dtype=float16",
    ],
)
def test_augmentations_that_are_made_otherwise_are_other_augmentations(training_data, change):
    cached_source(training_data, jobs.planned(training_data, "last:1"))
    _, events = cached_source(training_data, jobs.planned(training_data, "last:1", (change,)))
    assert passed(events) == 36


def test_more_augmentations_are_added_to_those_that_there_are(training_data, monkeypatch):
    cached_source(
        training_data, jobs.planned(training_data, "last:1", ("training.augmentations=2",))
    )
    numbers = []
    monkeypatch.setattr(
        cached_activations, "_append", lambda task, number, *_: numbers.append(number)
    )
    drain(
        cached_activations._run(
            task_of(training_data, augmentations=3),
            "torch",
            FrozenPrefix(training_data.extracted.network, 1, ()),
        )
    )
    assert set(numbers) == {3}


def task_of(training_data, augmentations):
    """What a plan with so many augmentations would pass."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_activations, "_run", lambda task, *_: made.append(task) or iter(()))
        plan = jobs.planned(training_data, "last:1", (f"training.augmentations={augmentations}",))
        drain(cache_activations(training_data, plan))
    return made[0]


def test_where_nothing_varies_the_images_are_passed_once_as_they_are(training_data):
    plan = jobs.planned(training_data, "last:1", (*jobs.PLAIN, "training.augmentations=4"))
    source, _ = cached_source(training_data, plan)
    assert len(source.cache_files) == 1


def test_an_interrupted_pass_goes_on_where_it_was(training_data, tmp_path):
    plan = jobs.planned(training_data, "last:1")
    steps = cache_activations(training_data, plan)
    while next(steps).kind != "step":
        pass
    steps.close()
    source, events = cached_source(training_data, plan)
    assert passed(events) == 4  # 32 of 36 had been passed
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    whole, _ = cached_source(training_data, plan)
    for ours, theirs in zip(*(everything(s, 36, 5, ()) for s in (source, whole)), strict=True):
        assert torch.equal(ours, theirs)


def test_images_with_the_same_bytes_are_passed_once(pictures):
    payload = (pictures / "blue" / "000.png").read_bytes()
    for number in range(3):
        (pictures / "blue" / f"copy-{number}.png").write_bytes(payload)
    training_data = jobs.training_data(pictures)
    source, events = cached_source(training_data, jobs.planned(training_data, "last:1"))
    assert passed(events) == 36
    (main,) = everything(source, 39, 3, ())
    same = [
        e.sha256 == training_data.labelled.learn[0].sha256 for e in training_data.labelled.learn
    ]
    assert sum(same) == 4
    assert (main[:, same] == main[:, :1]).all()


# ---- damage --------------------------------------------------------------------------------


def rows_files(tmp_path):
    """The files of stored rows that hold activations, the largest of the store."""
    files = [p for p in (tmp_path / "cache").glob("*.rows") if p.stat().st_size]
    return [p for p in files if '"activations"' in p.with_suffix(".json").read_text()]


def test_a_row_that_was_damaged_on_disk_is_passed_again(training_data, tmp_path):
    plan = jobs.planned(training_data, "last:1")
    first, _ = cached_source(training_data, plan)
    before = everything(first, 36, 5, ())
    files = rows_files(tmp_path)
    assert len(files) == 5
    size = files[2].stat().st_size // 36
    with files[2].open("r+b") as file:
        file.seek(7 * size + 40)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x40]))
    again, events = cached_source(training_data, plan)
    assert passed(events) == 1
    for ours, theirs in zip(before, everything(again, 36, 5, ()), strict=True):
        assert torch.equal(ours, theirs)


def test_rows_that_are_lost_while_training_goes_on_are_made_again(
    training_data, tmp_path, monkeypatch
):
    plan = jobs.planned(training_data, "last:1")
    source, _ = cached_source(training_data, plan)
    wanted = feature_layers(training_data.extracted.network.record)[:1]
    before = everything(source, 36, 5, wanted)
    for path in rows_files(tmp_path):
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    made = []
    make = cached_activations.make_engine
    monkeypatch.setattr(cached_activations, "make_engine", lambda *a: made.append(a[0]) or make(*a))
    for ours, theirs in zip(before, everything(source, 36, 5, wanted), strict=True):
        assert torch.equal(ours, theirs)
    assert made == ["torch"]


def test_a_run_whose_rows_are_lost_on_the_way_ends_as_if_they_were_not(
    split_pictures, tmp_path, monkeypatch
):
    whole = fit(split_pictures, strategy="last:1", settings=SETTINGS, out=tmp_path / "a" / "split")
    shutil.rmtree(tmp_path / "cache")
    lost = []

    def lose(event):
        if event.values.get("job") and not lost:
            lost.extend(rows_files(tmp_path))
            for path in lost:
                with path.open("r+b") as file:
                    file.truncate(1000)

    run = fit(
        split_pictures,
        strategy="last:1",
        settings=SETTINGS,
        out=tmp_path / "b" / "split",
        on_event=lose,
    )
    assert lost
    assert bytes_of(run.path / "model") == bytes_of(whole.path / "model")


# ---- formats and engines -------------------------------------------------------------------


def test_half_precision_halves_the_files_and_comes_close(training_data, tmp_path):
    whole, _ = cached_source(training_data, jobs.planned(training_data, "last:1"))
    full = sum(p.stat().st_size for p in rows_files(tmp_path))
    source, _ = cached_source(
        training_data, jobs.planned(training_data, "last:1", ("training.cache_dtype=float16",))
    )
    assert sum(p.stat().st_size for p in rows_files(tmp_path)) == full * 3 // 2
    for ours, theirs in zip(*(everything(s, 36, 5, ()) for s in (source, whole)), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert not torch.equal(ours, theirs)


def louder(by):
    """The network with a first layer whose outputs are `by` times as large."""

    def make():
        module = network()
        with torch.no_grad():
            module.norm.weight *= by
            module.norm.bias *= by
            module.second.weight /= by
        return module

    return make


def test_what_half_precision_cannot_hold_is_refused(pictures, tmp_path):
    training_data = jobs.training_data(pictures, louder(1e6))
    half = jobs.planned(training_data, "last:1", ("training.cache_dtype=float16",))
    says = (
        r"the frozen blocks return 7.35e\+05, which float16 cannot hold; use --set training.cache"
    )
    with pytest.raises(TrainingError, match=says):
        cached_source(training_data, half)
    assert rows_files(tmp_path) == []
    source, _ = cached_source(training_data, jobs.planned(training_data, "last:1"))
    assert source.batch(np.arange(3), np.ones(3, int), ())[0].abs().max() > 1e5


def test_augmentations_of_which_the_frozen_layers_give_no_number_are_refused(
    training_data, monkeypatch
):
    real = cached_activations.make_engine

    def make(*arguments):
        run = real(*arguments)
        return lambda images: [rows * np.float32(np.nan) for rows in run(images)]

    monkeypatch.setattr(cached_activations, "make_engine", make)
    says = (
        r"return nan for augmentation 0 of some images; use weaker augmentations \(--set training"
    )
    with pytest.raises(TrainingError, match=says):
        cached_source(training_data, jobs.planned(training_data, "last:1"))


@pytest.mark.parametrize("engine", ["traced", "onnxruntime", "openvino"])
def test_the_engine_of_the_plan_passes_the_augmentations(training_data, engine):
    pytest.importorskip("openvino") if engine == "openvino" else None
    usual, _ = cached_source(training_data, jobs.planned(training_data, "last:1"))
    plan = jobs.planned(training_data, "last:1")
    other = jobs.with_engine(plan, engine)
    source, events = cached_source(training_data, other)
    assert passed(events) == 36
    assert not [e for e in events if e.kind == "note"]
    for ours, theirs in zip(*(everything(s, 36, 5, ()) for s in (source, usual)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_where_the_engine_cannot_run_the_frozen_layers_torch_does(training_data, monkeypatch):
    real = cached_activations.make_engine

    def make(name, *arguments):
        if name == "onnxruntime":
            raise EngineError("ONNX Runtime disagrees with torch at tap 1")
        return real(name, *arguments)

    monkeypatch.setattr(cached_activations, "make_engine", make)
    plan = jobs.with_engine(jobs.planned(training_data, "last:1"), "onnxruntime")
    source, events = cached_source(training_data, plan)
    (note,) = [e for e in events if e.kind == "note"]
    assert note.values == {
        "title": "Engine",
        "text": "ONNX Runtime disagrees with torch at tap 1; torch is used instead",
    }
    assert len(source.batch(np.arange(4), np.ones(4, int), ())[0]) == 4


def test_a_scene_without_its_base_model_has_no_key(training_data):
    with pytest.raises(ValueError, match="need the record of their base model"):
        drain(
            cache_activations(
                replace(training_data, base=None), jobs.planned(training_data, "last:1")
            )
        )


# ---- other inputs --------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_images_and_such_with_alpha_are_stored_like_others(tmp_path, channels):
    data = fill(tmp_path / "photos", {"blue": 8, "red": 8})
    settings = {**SETTINGS, "input.channels": channels}
    found = [
        fit(data, strategy="last:1", settings={**settings, **more}, out=tmp_path / name)
        for name, more in (
            ("stored", {"training.augmentations": 2}),
            ("live", {"training.split_at": 0, "training.augmentations": 2}),
        )
    ]
    assert found[0].plan.training.split_at.value == 1
    assert found[0].plan.training.color_jitter.value == (0.1 if channels == 1 else 0.0)
    ours, theirs = (load_file(run.path / "model" / "model.safetensors") for run in found)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=2e-3)


def test_images_of_thirteen_bands_are_stored_and_their_brightness_is_kept(tmp_path):
    data = fill_bands(tmp_path / "fields", n=9)
    run = fit(data, strategy="last:1", settings=SETTINGS, out=tmp_path / "run")
    training = run.plan.training
    assert (training.split_at.value, training.augmentations.value) == (1, 3)
    assert training.color_jitter.value == 0.0
    assert run.summary.shipped.strategy == "last:1"
    columns = json.loads(rows_files(tmp_path)[0].with_suffix(".json").read_text())["feature_layers"]
    assert columns["main"] == 8 * 16 * 16
    answers = warmstart.load(run.path, network=network()).predict([data / "crop1" / "000.npy"])
    assert len(answers[0].scores) == 2
