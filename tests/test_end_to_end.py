"""The product on real pictures, through the command line, as a user would meet it."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest

from warmstart.cli.main import main
from warmstart.evaluation.readiness import LEVELS

pytestmark = pytest.mark.slow

STAMPS = Path("/usr/share/tuxpaint/stamps")


@pytest.fixture(autouse=True)
def _as_the_process_was(monkeypatch, tmp_path):
    """`main` settles the environment and the collector for a process of its own."""
    for name in ("MKL_CBWR", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.chdir(tmp_path)
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.skipif(not STAMPS.is_dir(), reason="tuxpaint-stamps-default is not installed")
def test_stamps_of_a_debian_package(capsys):
    """Nested class folders of photographs and drawings; a fifth are SVG, without pixels."""
    assert main(["fit", str(STAMPS), "--budget", "fast"]) == 0
    out, err = capsys.readouterr()
    assert out.partition(":")[0] in LEVELS.values()
    assert "\nAccuracy " in out
    assert "Traceback" not in err
    run = Path("runs/stamps")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["estimate"]["low"] > 1.5 / summary["data"]["classes"]
    assert summary["verdict"]["evidence"][0]["details"]["p"] <= 0.01
    assert (run / "DONE").exists()
    classes = json.loads((run / "model" / "labels.json").read_text())
    stamp = sorted((STAMPS / "animals").rglob("*.png"))[0]
    assert main(["predict", str(run), str(stamp), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["path"] == str(stamp)
    assert answer["label"] in classes
    assert answer["scores"].keys() == set(classes)
    assert main(["predict", "runs/latest", str(stamp)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(str(stamp))


def test_cells_under_another_microscope(real_images, capsys):
    """Fit on one part, evaluate on the other: the estimate must hold."""
    data = real_images / "wbc_cells_site2"
    if not data.is_dir():
        pytest.skip("wbc_cells_site2 is not among the real image sets")
    train = data / "train" if (data / "train").is_dir() else data
    assert main(["fit", str(train), "--budget", "fast", "--json", "-q"]) == 0
    summary = json.loads(capsys.readouterr().out)
    estimate = summary["estimate"]
    assert estimate["low"] > 1 / summary["data"]["classes"]
    (run,) = (path for path in Path("runs").iterdir() if not path.is_symlink())
    assert main(["evaluate", str(run), str(data), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores.keys() == {
        "n",
        "accuracy",
        "low",
        "high",
        "balanced_accuracy",
        "macro_f1",
        "log_loss",
        "ece",
        "classes",
    }
    assert scores["low"] <= estimate["high"]
    assert scores["high"] >= estimate["low"]
