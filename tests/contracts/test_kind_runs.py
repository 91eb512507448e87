"""Laws 5, 6, 7, 8 and 10 over whole runs on clips, drawn or as samples, and on tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import tiny_audio_encoder
import warmstart
from audio_clips import fill
from run_texts import image_words_in
from tiny import bytes_of, weights

SMALL = {
    "strategy": "last:1",
    "settings": ["training.epochs=2.4", "training.folds=1"],
    "budget": "fast",
}
OTHER = {"a note": "hiss", "hiss": "a note"}


def signals(n, seed, flipped=False):
    """Two classes that can be told apart; `flipped` has each called the other."""
    classes = torch.arange(n) % 2
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randn(n, 2, 16, generator=drawn) + classes[:, None, None]
    return TensorDataset(values, 1 - classes if flipped else classes)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv1d(2, 4, 3),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.Conv1d(4, 8, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )


class Asked:
    """What a run of one kind is asked, and the same with the labels of its test part exchanged."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        if kind == "tensors":
            self.data, self.test, self.permuted = signals(40, 0), signals(8, 1), signals(8, 1, True)
            self.base = {"base": network()}
            return
        self.data = fill(root / "train", {"a note": 10, "hiss": 10})
        self.test = fill(root / "test", {"a note": 3, "hiss": 3}, seed=1)
        self.permuted = root / "permuted"
        for name, other in OTHER.items():
            for path in (self.test / name).iterdir():
                place = self.permuted / other / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
        self.base = {"base": weights(root), "arch": "timm:lcnet_035"}
        if kind == "samples":
            self.base = {"base": f"transformers:{tiny_audio_encoder.folder_of()}"}

    @property
    def settings(self):
        size = ["input.size=64"] if self.kind == "clips" else []
        return {**SMALL, "settings": [*SMALL["settings"], *size]}

    def fit(self, out, test=None, **options):
        given = {"data": self.data, "test": test or self.test, **self.base, **self.settings}
        return warmstart.fit(**{**given, **options}, out=out)


@pytest.fixture(scope="module", params=["clips", "samples", "tensors"])
def made(request, tmp_path_factory):
    """A run whose upper layer was trained, and what it was asked."""
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        asked = Asked(request.param, root)
        yield asked.fit(root / "run"), asked


def test_no_sentence_of_the_run_speaks_of_images(made):
    assert image_words_in(made[0].path) == {}


def test_law_5_what_is_frozen_keeps_its_bytes(made):
    run, _ = made
    assert run.summary.frozen.identical
    ledger = json.loads((run.path / "weights_ledger.json").read_text())["rows"]
    held = [row for row in ledger if row["fate"] in ("frozen", "unchanged")]
    assert held
    assert all(row["before"] == row["after"] for row in held)


def test_law_6_a_plan_replayed_gives_the_same_model(made, tmp_path):
    run, asked = made
    plan = run.path / "plan.toml"
    base = asked.base if asked.kind == "tensors" else {}
    again = warmstart.fit(asked.data, test=asked.test, plan=plan, out=tmp_path / "again", **base)
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")
    assert again.estimate == run.estimate


def test_law_7_stopped_and_resumed_is_never_stopped(made, tmp_path):
    run, asked = made

    def stop(event):
        if event.stage == "fine_tune" and event.kind == "step" and event.step > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked.fit(tmp_path / "cut", on_event=stop)
    own = {"data": asked.data, "test": asked.test, **asked.base}
    given = own if asked.kind == "tensors" else {}
    again = warmstart.resume(tmp_path / "cut", **given)
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")


def test_law_10_test_labels_change_nothing_that_is_learnt(made, tmp_path):
    run, asked = made
    again = asked.fit(tmp_path / "run", test=asked.permuted)
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")
    assert (again.path / "plan.toml").read_bytes() == (run.path / "plan.toml").read_bytes()
    for name in ("verdict", "shipped", "estimate"):
        assert getattr(again.summary, name) == getattr(run.summary, name)
    assert again.test.accuracy == pytest.approx(1 - run.test.accuracy)


def test_law_8_an_export_of_clips_as_samples_answers_as_the_model_does(made, tmp_path):
    run, asked = made
    if asked.kind != "samples":
        pytest.skip("pictures and tensors have tests of their own")
    told = warmstart.export(run, "onnx", out=tmp_path / "out")
    assert told.agreement.same_labels == told.agreement.n
    clip = next((asked.test / "hiss").iterdir())
    words = [str(tmp_path / "out" / "predict.py"), str(clip)]
    done = subprocess.run(
        [sys.executable, "-I", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    (best,) = run.predict([clip])
    assert f"{best.label} {best.probability:.1%}" in done.stdout, done.stderr
