"""The verbs over stand-ins: requests, output, exit codes."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from warmstart.cli.main import main
from warmstart.errors import DataError, ModelError, RunFolderError, TrainingError
from warmstart.planning.strategy import AUTO, parse
from warmstart.records.answer import Answer
from warmstart.records.run_folder import to_plain
from warmstart.records.summary import Readiness

SHIRT = Answer(
    path="a.jpg",
    label="shirt",
    probability=0.91,
    confident=True,
    ood=False,
    scores={"shirt": 0.91, "hat": 0.09},
    nearest=("shirt/1.jpg",),
)
BROKEN = replace(
    SHIRT,
    path="b.jpg",
    label=None,
    probability=None,
    confident=None,
    scores={},
    error="b.jpg cannot be decoded",
)


def fields(request, *names):
    return [getattr(request, name) for name in names]


def test_fit_passes_on_what_was_typed_and_the_defaults(work):
    words = (
        "fit photos --base timm:x --arch timm:y --strategy last:2+add --budget=fast --out runs/o "
        "--seed 7 --test later --label kind --group person --lr 3e-4 "
        "--set training.epochs=50 --set block.1.lr=1e-4 --track wandb,,mlflow"
    )
    assert main(words.split()) == main(["fit", "photos"]) == 0
    typed, plain = work.requests
    names = ("data", "base", "arch", "strategy", "budget", "out", "seed", "test", "label", "group")
    assert fields(typed, *names) == [
        *("photos", "timm:x", "timm:y", parse("last:2+add"), "fast", Path("runs/o"), 7),
        *("later", "kind", "person"),
    ]
    assert fields(typed, "lr", "track") == [3e-4, ("wandb", "mlflow")]
    assert [str(one) for one in typed.settings.values()] == [
        "training.epochs=50",
        "block.1.lr=1e-4",
    ]
    assert typed.given == {"base", "arch", "strategy", "budget", "seed", "lr"}
    assert fields(plain, "base", "strategy", "budget", "out") == ["lite0", AUTO, "balanced", None]
    assert fields(plain, "lr", "plan", "settings", "track") == [None, None, {}, ()]
    assert plain.given == frozenset()


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--base lite0", {"base"}),
        ("--seed 0", {"seed"}),
        ("--strategy auto --budget balanced", {"strategy", "budget"}),
        ("--label kind --test later --out r", set()),
    ],
)
def test_a_default_that_was_typed_counts_as_typed(work, words, given):
    assert main(["fit", "photos", *words.split()]) == 0
    assert work.requests[0].given == given


def test_switches_may_stand_before_the_verb_and_arguments_after_two_hyphens(work):
    assert main(["-q", "--json", "fit", "--", "--odd-name"]) == 0
    assert work.requests[0].data == "--odd-name"


def test_fit_prints_the_result_on_stdout_and_progress_on_stderr(work, capsys):
    assert main(["fit", "photos"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usable with review: 1 in 6 predictions is wrong.\n\nAccuracy  83 % ")
    assert "Features  2/4" in err
    assert "Proof     frozen: unchanged, bit for bit\n" in err
    assert "\x1b" not in err
    assert main(["fit", "photos", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == to_plain(work.summary)
    assert "Folder    runs/photos\n" in err
    assert main(["fit", "photos", "--quiet", "--json"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("switches", [[], ["--json"], ["--strict"]])
def test_no_signal_exits_with_3(work, capsys, switches):
    work.summary = work.no_signal
    assert main(["fit", "photos", *switches]) == 3
    assert "No signal found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("level", "switches", "status"),
    [
        ("ready", ["--strict"], 0),
        ("review", ["--strict"], 0),
        ("not-ready", ["--strict"], 4),
        ("not-ready", [], 0),
    ],
)
def test_not_ready_exits_with_4_with_strict(work, level, switches, status, capsys):
    work.summary = replace(work.summary, readiness=Readiness(level=level, reasons=("so",)))
    assert main(["fit", "photos", *switches]) == status
    lead = {"ready": "Ready", "review": "Usable with review", "not-ready": "Not ready"}[level]
    assert capsys.readouterr().out.startswith(f"{lead}: so.")


def test_rank_passes_on_what_was_typed_and_names_the_same_data(work, capsys):
    words = "rank t.csv --models lite0,,f.pt@timm:x --label kind --group person --seed 7"
    assert main(words.split()) == 0
    assert work.requests == [("t.csv", ["lite0", "f.pt@timm:x"], "kind", "person", 7)]
    out = capsys.readouterr().out
    assert out.endswith("warmstart fit t.csv --label kind --group person --seed 7 --base lite0\n")
    assert main(["rank", "photos", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"name", "value", "low", "high", "seconds"} <= printed["models"][0].keys()
    assert work.requests[1] == ("photos", [], None, None, 0)


ERRORS = [
    (DataError("photos does not exist; name a folder"), 2, "photos does not exist; name a folder"),
    (ModelError("no such base model"), 2, "no such base model"),
    (RunFolderError("runs/x exists"), 2, "runs/x exists"),
    (TrainingError("the disk is full (x)"), 1, "the disk is full (x)"),
    (DataError("two\nlines"), 2, "two lines"),
    (DataError("steered\x1b[2J"), 2, "steered?[2J"),
    (ZeroDivisionError("by zero"), 1, "this is a bug in warmstart: ZeroDivisionError: by zero."),
    (AssertionError(), 1, "this is a bug in warmstart: AssertionError. Run again with --debug"),
    (MemoryError(), 1, "there is not enough memory for this"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full; make room"),
]
COMMANDS = ("fit photos -q", "predict runs/x a.jpg", "evaluate runs/x d", "rank photos -q")


@pytest.mark.parametrize(("error", "code", "line"), ERRORS)
def test_an_error_is_one_line_and_its_exit_code(work, capsys, error, code, line):
    work.error = error
    for command in (*COMMANDS, "suggest runs/x in"):
        assert main(command.split()) == code
        out, err = capsys.readouterr()
        assert err.splitlines()[-1].startswith(f"warmstart: {line}")
        assert "Traceback" not in err
        assert out == ""


def test_debug_shows_where_an_error_arose(work, capsys):
    work.error = ZeroDivisionError("division by zero")
    assert main(["fit", "photos", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "raise self.error" in err


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("fit photos", "what was computed is kept. Run the same command again to continue."),
        ("evaluate runs/x d", "Interrupted."),
    ],
)
def test_an_interrupted_command_says_how_to_continue(work, capsys, command, line):
    work.error = KeyboardInterrupt()
    assert main(command.split()) == 130
    err = capsys.readouterr().err
    assert err.splitlines()[-1].endswith(line)
    assert "Traceback" not in err


def test_the_work_is_closed_when_showing_it_is_interrupted(work, monkeypatch):
    def interrupted(stages, event):
        if event.stage == "features":
            raise KeyboardInterrupt
        return iter(())

    monkeypatch.setattr("warmstart.terminal.progress.Stages.feed", interrupted)
    assert main(["fit", "photos"]) == 130
    assert work.closed  # the generator of the run was ended: it could mark its folder


# ---- Predict.


def test_predict_prints_a_line_an_image_as_text_json_or_a_table(work, capsys):
    work.answers = [SHIRT, BROKEN]
    command = ["predict", "runs/x", "a.jpg", "b.jpg"]
    assert main(command) == 0
    assert work.requests == [(Path("runs/x"), ["a.jpg", "b.jpg"])]
    assert capsys.readouterr() == (
        "image  class  probability\na.jpg  shirt    91 %\nb.jpg  -           -  cannot be decoded\n"
        "\n2 images: 1 confident, 1 unreadable.\n",
        "",
    )
    assert main([*command, "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == ["path", "label", "probability", "confident", "ood", "scores"]
    assert first["scores"] == {"shirt": 0.91, "hat": 0.09}
    assert (second["label"], second["error"]) == (None, "b.jpg cannot be decoded")
    assert main([*command, "--csv"]) == 0
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


def test_predict_survives_an_undecodable_file_name_and_says_when_nothing_is_guaranteed(
    work, capsys
):
    name = os.fsdecode(b"caf\xe9.jpg")
    work.answers = [replace(SHIRT, path=name)]
    assert main(["predict", "runs/x", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == name
    work.answers = [replace(SHIRT, confident=None)]
    assert main(["predict", "runs/x", "a.jpg"]) == 0
    assert capsys.readouterr().err.startswith("Too few training examples to guarantee")


# ---- Other verbs.


def test_evaluate(work, capsys):
    assert main(["evaluate", "runs/x", "later.csv", "--label", "kind", "--group=person"]) == 0
    assert work.requests == [(Path("runs/x"), "later.csv", "kind", "person")]
    assert capsys.readouterr().out.startswith("Accuracy  78 % (95 % CI 72–84) on 200 images.\n")
    assert main(["evaluate", "runs/x", "later", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == to_plain(work.scores)


def test_suggest(work, capsys):
    assert main(["suggest", "runs/x", "in", "more/1.jpg", "--count", "7", "--out", "next.csv"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("You wanted 7; there is one in in:\n")
    assert out.endswith("Table     next.csv: fill in its column `label`.\n")
    assert "Features  1/1" in err
    assert main(["suggest", "runs/x", "in", "--json", "-q"]) == 0
    assert work.requests == [
        (Path("runs/x"), ["in", "more/1.jpg"], 7, Path("next.csv")),
        (Path("runs/x"), ["in"], 20, None),
    ]
    out, err = capsys.readouterr()
    assert err == ""
    assert list(json.loads(out)) == ["suggestions", "expected", "skipped", "candidates"]


def test_base_models(work, capsys):
    assert main(["models", "lite"]) == 0
    assert capsys.readouterr().out.startswith("lite0  Lite0")
    for words, names in ((["models"], ["lite0"]), (["models", "zzz"], [])):
        assert main([*words, "--json"]) == 0
        assert [one["name"] for one in json.loads(capsys.readouterr().out)] == names
    assert work.requests == ["lite", "", "zzz"]


@pytest.mark.parametrize(("action", "begins"), [("info", "Cache     cache"), ("clear", "Removed")])
def test_cache(work, capsys, action, begins):
    assert main(["cache", action]) == 0
    assert capsys.readouterr().out.startswith(begins)
    assert main(["cache", action, "--json"]) == 0
    keys = ["path", "feature_sets", "rows", "bytes", "limit_bytes"]
    assert list(json.loads(capsys.readouterr().out)) == keys


def test_the_command_of_the_result_names_an_image_that_exists(work, tmp_path, capsys):
    (tmp_path / "a cat").mkdir()
    (tmp_path / "a cat" / "1.jpg").touch()
    (tmp_path / "a cat" / ".hidden.jpg").touch()
    assert main(["fit", str(tmp_path)]) == 0
    assert f"predict runs/photos '{tmp_path}/a cat/1.jpg'" in capsys.readouterr().out


PIPED = """
import sys, types
from warmstart.records.answer import Answer
from warmstart.cli.main import main
one = Answer(path='a', label='b', probability=0.5, confident=True, ood=False, scores={})
module = types.ModuleType('warmstart.run.predictor')
module.predict = lambda run, paths: (one for _ in range(100_000))
sys.modules['warmstart.run.predictor'] = module
sys.exit(main(['predict', 'r', 'a']))
"""


def test_a_closed_pipe_is_no_error():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    job = subprocess.Popen([sys.executable, "-c", PIPED], **pipes)
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
