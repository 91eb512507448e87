"""--lr, --plan, --set and --dry-run: what is asked for, and what is said when it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hue_images import fill
from warmstart.cli.main import main
from warmstart.cli.parse import parse
from warmstart.records.plan import DryRun

LITE = "fit photos --budget fast -q"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with photos to work in."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", {"blue": 6, "green": 6, "red": 6})
    return tmp_path


# ---- words -------------------------------------------------------------------------------


def test_what_was_typed_is_requested(work):
    words = (
        "fit photos --lr 3e-4 --plan my.toml --set training.epochs=50 --set block.1.lr=1e-4 "
        "--strategy last:2+add"
    )
    assert main(words.split()) == 0
    request = work.requests[0]
    assert (request.lr, request.plan, request.strategy) == (3e-4, Path("my.toml"), "last:2+add")
    assert request.settings == ("training.epochs=50", "block.1.lr=1e-4")
    assert request.given == {"lr", "strategy"}


def test_nothing_typed_is_nothing_given(work):
    assert main(["fit", "photos"]) == 0
    request = work.requests[0]
    assert (request.lr, request.plan, request.settings, request.given) == (
        None,
        None,
        (),
        frozenset(),
    )


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--base lite0", {"base"}),
        ("--seed 0", {"seed"}),
        ("--budget balanced", {"budget"}),
        ("--strategy head --seed 3", {"strategy", "seed"}),
        ("--arch timm:x --out r", {"arch"}),
        ("--strategy auto", {"strategy"}),
        ("--label kind --test later", set()),
    ],
)
def test_a_usual_value_that_was_typed_counts_as_typed(work, words, given):
    assert main(["fit", "photos", *words.split()]) == 0
    assert work.requests[0].given == given


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--lr", "--lr needs a value: --lr X"),
        ("--lr=", "--lr needs a value: --lr X"),
        ("--lr fast", "--lr fast: it needs a number above 0, such as 0.0003."),
        ("--lr 0", "--lr 0: it needs a number above 0, such as 0.0003."),
        ("--lr=-1", "--lr -1: it needs a number above 0, such as 0.0003."),
        ("--lr nan", "--lr nan: it needs a number above 0, such as 0.0003."),
        ("--lr inf", "--lr inf: it needs a number above 0, such as 0.0003."),
        ("--plan", "--plan needs a value: --plan FILE"),
        ("--set", "--set needs a value: --set PATH=V"),
        ("--dry-run=yes", "--dry-run is a switch and takes no value."),
        ("--config my.toml", "unknown option --config. Here it is --plan."),
        ("--dryrun", "unknown option --dryrun. Here it is --dry-run."),
        (
            "--optimizer sgd",
            "unknown option --optimizer. Here it is --set training.optimizer=sgd "
            "(see --dry-run for all choices).",
        ),
        (
            "--weight-decay 0.1",
            "unknown option --weight-decay. Here it is --set "
            "training.weight_decay=0.01 (see --dry-run for all choices).",
        ),
        (
            "--freeze 10",
            "unknown option --freeze. Here it is --strategy: head freezes all layers, "
            "frozen:K the first K, last:N all but the last N.",
        ),
        ("--lora", "unknown option --lora. Here it is --strategy full+lora or last:N+lora."),
        (
            "--augment",
            "unknown option --augment. Here it is --set training.crop=0.35 and --set "
            "training.flip=true, where layers are fine-tuned.",
        ),
    ],
)
def test_a_misuse_is_answered_with_one_line(words, line, capsys):
    assert main(["fit", "photos", *words.split()]) == 2
    assert capsys.readouterr() == ("", f"warmstart: {line}\n")


# ---- the work itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--strategy lora:4", "--strategy lora:4: lora takes no number; its rank is set by --set"),
        ("--set training.epochs", "--set training.epochs needs a path and a value"),
        ("--set training.epochs=auto", "--set training.epochs=auto: auto is not a value"),
        ("--set training.epochs=9 --set training.epochs=8", "--set training.epochs is given twice"),
        ("--plan none.toml", "--plan none.toml does not exist; write a plan with --dry-run"),
        ("--dry-run --out runs/x", "--out runs/x: with --dry-run it names the file for the plan"),
    ],
)
def test_what_is_no_plan_is_refused_at_once_and_leaves_nothing(here, capsys, words, line):
    assert main([*LITE.split(), *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"warmstart: {line}")
    assert len(err.splitlines()) == 1
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "words", ["--strategy head", "--strategy last:1 --set training.epochs=3.5556"]
)
def test_a_dry_run_shows_a_plan_and_writes_nothing(here, capsys, words):
    assert main([*LITE.split(), *words.split(), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for word in ("Layers", "frozen", "Because", "Cost", "Next"):
        assert word in out
    assert {path.name for path in here.iterdir()} <= {"photos", "cache"}


def test_a_dry_run_as_json_holds_the_plan_and_the_forecast(here, capsys):
    assert (
        main([*LITE.split(), "--strategy", "last:1", "--lr", "0.001", "--dry-run", "--json"]) == 0
    )
    dry_run = json.loads(capsys.readouterr().out)
    assert dry_run.keys() == set(DryRun.__dataclass_fields__) - {"kind"}  # of other inputs alone
    assert dry_run["plan"]["training"]["lr"]["value"] == 0.001
    assert dry_run["forecast"]["seconds"]["total"] > 0
    assert dry_run["plan_file"] is None


def test_progress_of_a_dry_run_goes_to_stderr(here, capsys):
    assert main(["fit", "photos", "--budget", "fast", "--strategy", "head", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "Base " in err
    assert out.startswith("Data      18 training images, 3 classes\n")


def test_a_plan_that_was_written_is_followed_and_single_values_still_win(here, capsys):
    words = [*LITE.split(), "--strategy", "last:1", "--seed", "3"]
    few = ["--set", "training.epochs=0.8889", "--set", "training.folds=1"]
    assert main([*words, *few, "--dry-run", "--out", "plan.toml"]) == 0
    assert "warmstart fit photos --plan plan.toml" in capsys.readouterr().out
    assert main(["fit", "photos", "-q", "--plan", "plan.toml", "--out", "one"]) in (0, 3)
    assert main(
        [
            "fit",
            "photos",
            "-q",
            "--plan",
            "plan.toml",
            "--out",
            "two",
            "--set",
            "training.epochs=1.3333",
        ]
    ) in (0, 3)
    plan, one, two = (
        Path(name).read_text() for name in ("plan.toml", "one/plan.toml", "two/plan.toml")
    )
    assert one == plan
    epochs = two.split("[training.epochs]")[1].split("\n[")[0]
    assert "value = 1.3333\n" in epochs
    assert 'source = "user"' in epochs
    assert "value = 3\n" in two.split("[training.seed]")[1].split("\n[")[0]


def test_an_equals_sign_in_a_setting_is_no_misplaced_assignment():
    call = parse(["fit", "photos", "--set", "training.crop=1", "--set=training.flip=false"])
    assert call.many == {"--set": ("training.crop=1", "training.flip=false")}
    assert call.places == ("photos",)
