"""The command that makes a run again."""

import json
import shlex
from pathlib import Path

from warmstart.reporting.facts import repeat_of
from warmstart.request import Request, write_request


def written(folder, **request):
    write_request(folder, Request(**request), "00", {"packages": {"torch": "2"}, "cpu": "x86"})
    return repeat_of(folder, "runs/photos")


def test_only_what_is_not_usual_is_typed(tmp_path):
    assert written(tmp_path, data="photos").command == "warmstart fit photos"


def test_everything_that_was_typed_is_typed_again(tmp_path):
    repeat = written(
        tmp_path,
        data="my photos",
        base="timm:resnet18",
        strategy="last:2",
        budget="fast",
        lr=3e-4,
        minutes=5.0,
        test=Path("later"),
        label="kind",
        group="who",
        relabel=Path("label_issues.csv"),
        fix=True,
        seed=7,
        device="cpu",
        settings=("training.epochs=2.7778",),
    )
    assert shlex.split(repeat.command) == [
        "warmstart",
        "fit",
        "my photos",
        "--base",
        "timm:resnet18",
        "--strategy",
        "last:2",
        "--budget",
        "fast",
        "--lr",
        "0.0003",
        "--minutes",
        "5",
        "--test",
        "later",
        "--label",
        "kind",
        "--group",
        "who",
        "--relabel",
        "label_issues.csv",
        "--seed",
        "7",
        "--device",
        "cpu",
        "--set",
        "training.epochs=2.7778",
        "--fix",
    ]
    assert repeat.data == "'my photos'"
    assert repeat.is_own_strategy
    assert repeat.is_timed
    assert repeat.options["base"] == "--base timm:resnet18"
    assert repeat.options["label"] == "--label kind"


def test_a_rate_keeps_all_its_digits(tmp_path):
    rate = 0.000123456789
    words = shlex.split(written(tmp_path, data="photos", lr=rate).command)
    assert float(words[-1]) == rate


def test_objects_are_named_as_such(tmp_path):
    repeat = written(tmp_path, data=([1], [2]))
    assert repeat.command.startswith("warmstart.fit(")
    assert repeat.data == "DATA"


def test_versions_of_both_files_are_listed(tmp_path):
    (tmp_path / "env.json").write_text(
        json.dumps({"warmstart": "1.2", "python": "3.11", "packages": {"numpy": "2"}})
    )
    rows = dict(written(tmp_path, data="photos").rows)
    assert (rows["packages"], rows["warmstart"]) == ("numpy 2, torch 2", "1.2")
    assert (rows["seed"], rows["python"], rows["processor"]) == ("0", "3.11", "x86")


def test_a_folder_without_a_request_has_no_command(tmp_path):
    repeat = repeat_of(tmp_path, "x")
    assert (repeat.command, repeat.data) == ("", "DATA")
    assert repeat.rows == (("warmstart", "unknown"),)
