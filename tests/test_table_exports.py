"""Models of rows, clips and tensors in other formats: the same answers without warmstart."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import tables
import warmstart
from tiny import lines
from warmstart.cli.main import main
from warmstart.errors import ExportError

QUICK = ("training.epochs=5.3333", "training.folds=1")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A run on a table with numbers, words and missing cells."""
    root = tmp_path_factory.mktemp("clinic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        path = tables.table(root / "clinic.csv", 60)
        return warmstart.fit(
            path, strategy="scratch", settings=QUICK, budget="fast", out=root / "run"
        )


def asked(folder, *paths):
    """What predict.py of an export prints, in a process that knows nothing of warmstart."""
    words = [sys.executable, "-I", str(folder / "predict.py"), *map(str, paths)]
    return subprocess.run(words, capture_output=True, text=True, check=True)


def test_an_export_answers_for_rows_by_column_name(clinic, tmp_path):
    result = warmstart.export(clinic, "onnx", out=tmp_path / "onnx")
    assert result.agreement.images == "run"
    assert result.agreement.difference < 1e-4
    shuffled = [[site, age, dose] for age, dose, site, _ in tables.rows(5, seed=8)]
    path = tables.write(tmp_path / "new.csv", shuffled, ("site", "age", "dose"))
    said = asked(tmp_path / "onnx", path).stdout.splitlines()
    ours = clinic.predictor.predict([path])
    assert [line.split("  ")[1].split()[0] for line in said] == [one.label for one in ours]
    shares = [f"{one.probability:.1%}" for one in ours]
    assert [line.split("  ")[1].split()[1] for line in said] == shares


def test_its_card_speaks_of_rows(clinic, tmp_path, capsys):
    place = tmp_path / "onnx"
    assert main(["export", str(clinic.path), "--to", "onnx", "--out", str(place)]) == 0
    assert f"python {place / 'predict.py'} new.csv" in capsys.readouterr().out.replace(
        "\n          ", " "
    )
    card = (place / "README.md").read_text()
    assert "pipeline_tag: tabular-classification" in card
    assert "rows (N, 5) float32, encoded by `prepare` in predict.py" in card
    assert "image" not in card
    assert json.loads((place / "preprocess.json").read_text())["columns"][0]["name"] == "age"


def test_a_row_that_cannot_be_read_is_reported_and_the_others_are_answered(clinic, tmp_path):
    warmstart.export(clinic, "onnx", out=tmp_path / "onnx")
    body = [["old", "1", "north"], ["62", "", "south"]]
    done = asked(tmp_path / "onnx", tables.write(tmp_path / "a.csv", body, tables.COLUMNS[:3]))
    assert len(done.stdout.splitlines()) == 1
    assert "line 2 cannot be read" in done.stderr


def test_formats_and_options_for_images_are_refused_in_one_line(clinic, tmp_path):
    for to in ("timm", "transformers"):
        with pytest.raises(ExportError, match=f"which {to} cannot rebuild; use --to onnx"):
            warmstart.export(clinic, to, out=tmp_path / to)
    for option in ("int8", "pixels"):
        with pytest.raises(ExportError, match=f"--{option} is for networks that take images"):
            warmstart.export(clinic, "onnx", out=tmp_path / option, **{option: True})
    assert not list(tmp_path.iterdir())


def test_a_network_of_ones_own_on_tensors(tmp_path, monkeypatch):
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    classes = torch.arange(40) % 2
    signals = torch.randn(40, 2, 16) + classes[:, None, None]
    network = torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(56, 3)
    )
    data = torch.utils.data.TensorDataset(signals, classes)
    run = warmstart.fit(data, base=network, strategy="head", budget="fast", out=tmp_path / "run")
    warmstart.export(run, "onnx", out=tmp_path / "onnx")
    np.save(tmp_path / "one.npy", signals[3].numpy())
    said = asked(tmp_path / "onnx", tmp_path / "one.npy").stdout
    assert said.split("  ")[1].split()[0] == run.predictor.predict(signals[3:4])[0].label
    assert lines(run.path, "predictions.jsonl")
