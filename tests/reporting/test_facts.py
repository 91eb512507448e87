"""The command that makes a run again, from its request."""

import json
import shlex
from pathlib import Path

from plans import typed_request
from warmstart.reporting.facts import repeat_of
from warmstart.request import write_request


def written(folder, **request):
    write_request(
        folder, typed_request(**request), "00", {"packages": {"torch": "2"}, "cpu": "x86"}
    )
    return repeat_of(folder, "runs/photos")


def test_what_was_typed_is_typed_again_and_no_default(tmp_path):
    assert written(tmp_path, data="photos").command == "warmstart fit photos"
    repeat = written(
        tmp_path,
        data="my photos",
        base="timm:resnet18",
        strategy="last:2",
        budget="fast",
        lr=0.000123456789,
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
    assert repeat.command == (
        "warmstart fit 'my photos' --base timm:resnet18 --strategy last:2 --budget fast "
        "--lr 0.000123456789 --minutes 5 --test later --label kind --group who "
        "--relabel label_issues.csv --seed 7 --device cpu --set training.epochs=2.7778 --fix"
    )
    assert repeat.data == "'my photos'"
    assert repeat.is_own_strategy
    assert repeat.is_timed
    assert (repeat.options["base"], repeat.options["label"]) == (
        "--base timm:resnet18",
        "--label kind",
    )


def test_a_plan_is_followed_from_the_run_folder(tmp_path):
    words = shlex.split(written(tmp_path, data="photos", plan=Path("plan.toml")).command)
    assert words[-2:] == ["--plan", "runs/photos/plan.toml"]


def test_objects_are_named_as_such(tmp_path):
    repeat = written(tmp_path, data=([1], [2]))
    assert repeat.command.startswith("warmstart.fit(")
    assert repeat.data == "DATA"


def test_versions_of_both_files_are_listed_or_nothing_without_them(tmp_path):
    repeat = repeat_of(tmp_path, "x")
    assert (repeat.command, repeat.data) == ("", "DATA")
    assert repeat.rows == (("warmstart", "unknown"),)
    env = {"warmstart": "1.2", "python": "3.11", "packages": {"numpy": "2"}}
    (tmp_path / "env.json").write_text(json.dumps(env))
    rows = dict(written(tmp_path, data="photos").rows)
    assert (rows["packages"], rows["warmstart"]) == ("numpy 2, torch 2", "1.2")
    assert (rows["seed"], rows["python"], rows["processor"]) == ("0", "3.11", "x86")
