"""`warmstart resume`: the words before and after the work."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from warmstart.cli.main import main
from warmstart.errors import RunFolderError
from warmstart.events import Event


@pytest.fixture
def resumed(work, monkeypatch, tmp_path):
    """A stand-in for the work that records its calls."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MKL_CBWR", "AVX2,STRICT")
    work_done = SimpleNamespace(runs=[], error=None, summary=work.summary, arithmetic=None)

    def resume(run):
        work_done.runs.append(run)
        work_done.arithmetic = os.environ.get("MKL_CBWR")
        yield Event(stage="features", kind="step", step=1, of=1, t=0.0)
        if work_done.error is not None:
            raise work_done.error
        return SimpleNamespace(path=run, summary=work_done.summary)

    module = ModuleType("warmstart.run.resume")
    module.resume = resume
    monkeypatch.setitem(sys.modules, "warmstart.run.resume", module)
    return work_done


def test_the_result_is_printed_as_that_of_a_fit(resumed, work, capsys):
    assert main(["resume", "runs/photos"]) == 0
    out, err = capsys.readouterr()
    assert resumed.runs == [Path("runs/photos")]
    assert out.startswith("Usable with review: 1 in 6 predictions is wrong.\n\nAccuracy  83 %")
    assert "warmstart predict runs/photos photo.jpg" in out
    assert "Nothing to do" not in err


def test_json_is_the_summary_and_no_signal_exit_3(resumed, work, capsys):
    assert main(["resume", "runs/photos", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["estimate"]["value"] == work.summary.estimate.value
    assert err.splitlines()[-1] == "Folder    runs/photos"
    resumed.summary = work.no_signal
    assert main(["resume", "runs/photos", "--json", "-q"]) == 3
    assert capsys.readouterr().err == ""


def test_a_run_that_is_done_is_shown_again(resumed, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "DONE").touch()
    assert main(["resume", "run"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "Nothing to do: run is done. Its result:"
    assert out.startswith("Usable with review: ")
    assert main(["resume", "run", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_an_error_is_one_line_and_an_interrupt_says_how_to_continue(resumed, capsys):
    resumed.error = RunFolderError("nowhere does not exist.")
    assert main(["resume", "nowhere", "-q"]) == 2
    assert capsys.readouterr() == ("", "warmstart: nowhere does not exist.\n")
    resumed.error = KeyboardInterrupt()
    assert main(["resume", "run", "-q"]) == 130
    assert "Run the same command again to continue." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_json", "mode"),
    [
        ('{"environment": {"arithmetic": "AVX512,STRICT"}}', "AVX512,STRICT"),
        ('{"environment": {"arithmetic": ""}}', None),
        ('{"environment": {"arithmetic": 3}}', "AVX2,STRICT"),
        ('{"environment": []}', "AVX2,STRICT"),
        ("[]", "AVX2,STRICT"),
        ("{", "AVX2,STRICT"),
        (None, "AVX2,STRICT"),
    ],
)
def test_numbers_are_rounded_as_when_the_run_began(resumed, tmp_path, request_json, mode):
    (tmp_path / "run").mkdir()
    if request_json is not None:
        (tmp_path / "run" / "request.json").write_text(request_json)
    assert main(["resume", "run", "-q"]) == 0
    assert resumed.arithmetic == mode


def test_an_image_of_the_data_is_named_as_an_example(resumed, tmp_path, capsys):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "request.json").write_text('{"request": {"data": "photos", "test": null}}')
    assert main(["resume", "run", "-q"]) == 0
    assert "warmstart predict run photos/cat/1.jpg" in capsys.readouterr().out
