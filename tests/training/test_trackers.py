"""Which trackers there are, and what is said where one is not."""

from types import SimpleNamespace

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from warmstart.errors import UsageError
from warmstart.training import trackers
from warmstart.training.trackers import (
    TRACKERS,
    check_trackers,
    is_installed,
    project_of,
    tracker_location,
)


def lacking(monkeypatch, *missing):
    monkeypatch.setattr(trackers, "is_installed", lambda module: module not in missing)


def refused(name):
    with pytest.raises(UsageError) as caught:
        check_trackers([name])
    return str(caught.value)


def test_the_trackers_are_those_of_accelerate():
    assert set(TRACKERS) == set(LOGGER_TYPE_TO_CLASS)


def test_an_unknown_name_is_answered_with_those_there_are():
    text = refused("tensorbord")
    assert text.startswith("--track tensorbord is not one of tensorboard, wandb, mlflow,")
    assert text.endswith("Did you mean tensorboard?")
    assert refused("printer").endswith("swanlab, trackio.")


@pytest.mark.parametrize(
    ("name", "missing", "cure"),
    [
        ("wandb", ["wandb"], "wandb"),
        ("tensorboard", ["accelerate", "tensorboard"], "accelerate tensorboard"),
        ("comet_ml", ["accelerate"], "accelerate"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, name, missing, cure):
    lacking(monkeypatch, *missing)
    assert refused(name) == (
        f"--track {name} needs a package that is not installed; run `pip install {cure}`."
    )


def test_a_folder_of_logs_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "tracker_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("tracker_of_nobody")
    (tmp_path / "tracker_of_nobody" / "__init__.py").touch()
    assert is_installed("tracker_of_nobody")


def test_runs_on_the_same_data_share_a_project(tmp_path):
    for name in ("photos", "photos-2", "survey-2024"):
        (tmp_path / name).mkdir()
    assert project_of(tmp_path / "photos") == "photos"
    assert project_of(tmp_path / "photos-2") == "photos"
    assert project_of(tmp_path / "survey-2024") == "survey-2024"
    assert project_of(tmp_path / "o'hara: 5 %") == "o-hara-5-"


@pytest.mark.parametrize(
    ("name", "run", "text"),
    [
        ("wandb", {"url": "https://example.org/r1"}, "wandb, https://example.org/r1"),
        ("wandb", {"url": "https://example.org/r1", "offline": True}, "wandb, project photos"),
        ("mlflow", {}, "mlflow, project photos"),  # asked for its page, it raises
        ("tensorboard", {}, "tensorboard --logdir '{}/photos/track'"),
    ],
)
def test_it_is_said_where_the_curves_are(tmp_path, name, run, text):
    place, tracker = tmp_path / "my runs", SimpleNamespace(tracker=SimpleNamespace(**run))
    assert tracker_location(name, tracker, place / "photos") == text.format(place)
