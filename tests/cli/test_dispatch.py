"""The verbs over stand-ins: requests, output, exit codes."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from warmstart.cli.main import main
from warmstart.errors import DataError, ModelError, RunFolderError, TrainingError
from warmstart.records.answer import Answer
from warmstart.records.run_folder import to_plain

SHIRT = Answer(
    path="a.jpg",
    label="shirt",
    probability=0.91,
    confident=True,
    ood=False,
    scores={"shirt": 0.91, "hat": 0.09},
    nearest=("shirt/1.jpg",),
)
BROKEN = Answer(
    path="b.jpg",
    label=None,
    probability=None,
    confident=None,
    ood=False,
    scores={},
    error="b.jpg cannot be decoded",
)


def test_fit_passes_on_what_was_typed(work):
    words = (
        "fit photos --base timm:x --arch timm:y --strategy head --budget=fast --out runs/o "
        "--seed 7 --test later --label kind --group person"
    )
    assert main(words.split()) == 0
    request = work.requests[0]
    assert (request.data, request.base, request.arch) == ("photos", "timm:x", "timm:y")
    assert (request.strategy, request.budget, request.out) == ("head", "fast", Path("runs/o"))
    assert (request.seed, request.test, request.label, request.group) == (
        7,
        "later",
        "kind",
        "person",
    )


def test_fit_leaves_the_defaults_to_the_product(work):
    assert main(["fit", "photos"]) == 0
    request = work.requests[0]
    assert (request.base, request.strategy, request.budget, request.out) == (
        "lite0",
        "auto",
        "balanced",
        None,
    )


def test_switches_may_stand_before_the_verb_and_arguments_after_two_hyphens(work):
    assert main(["-q", "--json", "fit", "--", "--odd-name"]) == 0
    assert work.requests[0].data == "--odd-name"


def test_fit_prints_the_result_on_stdout_and_progress_on_stderr(work, capsys):
    assert main(["fit", "photos"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usable with review: 1 in 7 predictions is wrong.\n\nAccuracy  86 % ")
    assert "\n\nAccuracy  86 % (95 % CI 82–89), cross-validated.\n" in out
    assert "Features  2/4" in err
    assert "Proof     frozen: unchanged, bit for bit\n" in err
    assert "\x1b" not in err


def test_fit_json_prints_the_summary_and_nothing_else_on_stdout(work, capsys):
    assert main(["fit", "photos", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == to_plain(work.summary)
    assert "Folder    runs/photos\n" in err


@pytest.mark.parametrize("switches", [["-q"], ["--quiet", "--json"]])
def test_quiet_leaves_only_the_result(work, capsys, switches):
    assert main(["fit", "photos", *switches]) == 0
    out, err = capsys.readouterr()
    assert out
    assert err == ""


@pytest.mark.parametrize("switches", [[], ["--json"]])
def test_no_signal_exits_with_3(work, capsys, switches):
    work.summary = work.no_signal
    assert main(["fit", "photos", *switches]) == 3
    assert "No signal found" in capsys.readouterr().out


def test_rank_passes_on_what_was_typed_and_names_the_same_data(work, capsys):
    words = "rank t.csv --models lite0,,f.pt@timm:x --label kind --group person --seed 7"
    assert main(words.split()) == 0
    assert work.requests == [("t.csv", ["lite0", "f.pt@timm:x"], "kind", "person", 7)]
    out = capsys.readouterr().out
    assert out.endswith("warmstart fit t.csv --label kind --group person --seed 7 --base lite0\n")


def test_rank_json_holds_the_base_models_and_the_ties(work, capsys):
    assert main(["rank", "photos", "--json"]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    keys = {"name", "value", "low", "high", "seconds", "parameters"}
    assert keys <= printed["models"][0].keys()
    assert printed["ties"] == []
    assert "Features" in err
    assert work.requests == [("photos", [], None, None, 0)]


ERRORS = [
    (DataError("photos does not exist; name a folder"), 2, "photos does not exist; name a folder"),
    (ModelError("no such base model"), 2, "no such base model"),
    (RunFolderError("runs/x exists"), 2, "runs/x exists"),
    (TrainingError("the disk is full (x)"), 1, "the disk is full (x)"),
    (DataError("two\nlines"), 2, "two lines"),
    (DataError("steered\x1b[2J"), 2, "steered?[2J"),
    (
        ZeroDivisionError("division by zero"),
        1,
        "this is a bug in warmstart: ZeroDivisionError: division by zero. "
        "Run again with --debug and report it.",
    ),
    (
        AssertionError(),
        1,
        "this is a bug in warmstart: AssertionError. Run again with --debug and report it.",
    ),
    (
        MemoryError(),
        1,
        "there is not enough memory for this; close other programs and run it again.",
    ),
    (
        OSError(errno.ENOSPC, "No space left on device"),
        1,
        "the disk is full; make room, then run the same command again.",
    ),
]


@pytest.mark.parametrize(("error", "code", "line"), ERRORS)
@pytest.mark.parametrize(
    "command",
    [
        "fit photos -q",
        "predict runs/x a.jpg",
        "evaluate runs/x d",
        "rank photos -q",
        "suggest runs/x in",
    ],
)
def test_an_error_is_one_line_and_its_exit_code(work, capsys, error, code, line, command):
    work.error = error
    assert main(command.split()) == code
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == f"warmstart: {line}"
    assert "Traceback" not in err
    assert out == ""


def test_debug_shows_where_an_error_arose(work, capsys):
    work.error = ZeroDivisionError("division by zero")
    assert main(["fit", "photos", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "raise self.error" in err


def test_an_interrupted_fit_says_how_to_continue(work, capsys):
    work.error = KeyboardInterrupt()
    assert main(["fit", "photos"]) == 130
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == (
        "Interrupted; what was computed is kept. Run the same command again to continue."
    )
    assert "Traceback" not in err


def test_other_verbs_keep_nothing_when_interrupted(work, capsys):
    work.error = KeyboardInterrupt()
    assert main(["evaluate", "runs/x", "d"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted."


def test_the_work_is_closed_when_showing_it_is_interrupted(work, monkeypatch):
    def interrupted(stages, event):
        if event.stage == "features":
            raise KeyboardInterrupt
        return iter(())

    monkeypatch.setattr("warmstart.terminal.progress.Stages.feed", interrupted)
    assert main(["fit", "photos"]) == 130
    assert work.closed  # the generator of the run was ended: it could mark its folder


def test_predict_prints_a_line_an_image(work, capsys):
    work.answers = [SHIRT, BROKEN]
    assert main(["predict", "runs/x", "a.jpg", "b.jpg"]) == 0
    assert work.requests == [(Path("runs/x"), ["a.jpg", "b.jpg"])]
    assert capsys.readouterr() == (
        "image  class  probability\na.jpg  shirt    91 %\nb.jpg  -           -  cannot be decoded\n"
        "\n2 images: 1 confident, 1 unreadable.\n",
        "",
    )


def test_predict_json_has_the_documented_keys(work, capsys):
    work.answers = [SHIRT, BROKEN]
    assert main(["predict", "runs/x", "a.jpg", "b.jpg", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == ["path", "label", "probability", "confident", "ood", "scores"]
    assert first["scores"] == {"shirt": 0.91, "hat": 0.09}
    assert second["error"] == "b.jpg cannot be decoded"
    assert second["label"] is None


def test_predict_csv_is_a_table(work, capsys):
    work.answers = [SHIRT, BROKEN]
    assert main(["predict", "runs/x", "a.jpg", "b.jpg", "--csv"]) == 0
    assert capsys.readouterr() == (
        "path,label,probability,confident,ood,error\n"
        "a.jpg,shirt,0.91,True,False,\n"
        "b.jpg,,,,False,b.jpg cannot be decoded\n",
        "",
    )


@pytest.mark.parametrize("switches", [[], ["--csv"], ["--json"]])
def test_predict_exits_with_2_when_nothing_could_be_read(work, capsys, switches):
    work.answers = [BROKEN]
    assert main(["predict", "runs/x", "b.jpg", *switches]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == (1 if "--json" in switches else 2)  # a header but in JSON
    assert err == "warmstart: no image could be read (1 named); nothing was predicted.\n"


def test_predict_json_survives_an_undecodable_file_name(work, capsys):
    name = os.fsdecode(b"caf\xe9.jpg")
    work.answers = [Answer(**{**to_plain(SHIRT), "path": name})]
    assert main(["predict", "runs/x", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == name


def test_predict_says_when_nothing_is_guaranteed(work, capsys):
    work.answers = [Answer(**{**to_plain(SHIRT), "confident": None})]
    assert main(["predict", "runs/x", "a.jpg"]) == 0
    assert capsys.readouterr().err == (
        "Too few training examples to guarantee which answers are confident.\n"
    )


def test_evaluate(work, capsys):
    assert main(["evaluate", "runs/x", "later.csv", "--label", "kind", "--group=person"]) == 0
    assert work.requests == [(Path("runs/x"), "later.csv", "kind", "person")]
    assert capsys.readouterr().out.startswith("Accuracy  84 % (95 % CI 78–88) on 200 images.\n")


def test_evaluate_json_has_the_keys_of_test(work, capsys):
    assert main(["evaluate", "runs/x", "later", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == to_plain(work.scores)


def test_suggest_passes_on_what_was_typed(work, capsys):
    assert main(["suggest", "runs/x", "in", "more/1.jpg", "--count", "7", "--out", "next.csv"]) == 0
    assert work.requests == [(Path("runs/x"), ["in", "more/1.jpg"], 7, Path("next.csv"))]
    out, err = capsys.readouterr()
    assert out.startswith("You wanted 7; there is one in in:\n")
    assert out.endswith("Table     next.csv: fill in its column `label`.\n")
    assert "Features  1/1" in err


def test_suggest_json_has_the_documented_keys(work, capsys):
    assert main(["suggest", "runs/x", "in", "--json", "-q"]) == 0
    assert work.requests == [(Path("runs/x"), ["in"], 20, None)]
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "suggestions": [{"path": "in/a.jpg", "label": "hat", "probability": 0.4, "why": "unsure"}],
        "expected": None,
        "skipped": {"present": 0, "copies": 0, "unreadable": 0},
        "candidates": 1,
    }


def test_base_models(work, capsys):
    assert main(["models", "lite"]) == 0
    assert capsys.readouterr().out.startswith("lite0  EfficientNet-Lite0")
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "lite0"
    assert work.requests == ["lite", ""]
    assert main(["models", "zzz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(("action", "begins"), [("info", "Cache     cache"), ("clear", "Removed")])
def test_cache(work, capsys, action, begins):
    assert main(["cache", action]) == 0
    assert capsys.readouterr().out.startswith(begins)
    assert main(["cache", action, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": "cache",
        "feature_sets": 2,
        "rows": 1234,
        "bytes": 130_000_000,
        "limit_bytes": 5_000_000_000,
    }


def test_the_command_of_the_result_names_an_image_that_exists(work, tmp_path, capsys):
    (tmp_path / "a cat").mkdir()
    (tmp_path / "a cat" / "1.jpg").touch()
    (tmp_path / "a cat" / ".hidden.jpg").touch()
    assert main(["fit", str(tmp_path)]) == 0
    assert f"predict runs/photos '{tmp_path}/a cat/1.jpg'" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error():
    code = (
        "import sys, types\n"
        "from warmstart.records.answer import Answer\n"
        "from warmstart.cli.main import main\n"
        "one = Answer(path='a', label='b', probability=0.5, confident=True, ood=False, scores={})\n"
        "module = types.ModuleType('warmstart.run.predictor')\n"
        "module.predict = lambda run, paths: (one for _ in range(100_000))\n"
        "sys.modules['warmstart.run.predictor'] = module\n"
        "sys.exit(main(['predict', 'r', 'a']))\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert job.stdout.readline() == b"image  class  probability\n"
    job.stdout.close()
    assert job.stderr.read() == b""
    job.stderr.close()
    assert job.wait(30) == 141


def test_what_is_not_shared_is_done_by_the_first_of_several_processes(work, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, is_first in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert main(["models", "--json"]) == 0
        assert bool(capsys.readouterr().out) == is_first
    monkeypatch.setenv("RANK", "1")
    assert main(["fit", "photos", "--dry-run"]) == 0
    assert work.requests == [""]  # of `models`
