"""--track: what is asked for, and what is refused before anything is made."""

import pytest

from hue_images import fill
from warmstart.cli.main import main


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ()),
        ("--track tensorboard", ("tensorboard",)),
        ("--track wandb,,mlflow", ("wandb", "mlflow")),
        ("--track=tensorboard", ("tensorboard",)),
    ],
)
def test_the_trackers_that_were_typed_are_requested(work, words, names):
    assert main(["fit", "photos", *words.split()]) == 0
    assert work.requests[0].track == names


@pytest.mark.parametrize("words", ["", "--dry-run"])
def test_an_unknown_tracker_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", {"blue": 3, "red": 3})
    assert main(["fit", "photos", "-q", "--track", "tensorboard,tensorbord", *words.split()]) == 2
    assert capsys.readouterr().err == (
        "warmstart: --track tensorbord is not one of tensorboard, wandb, mlflow, comet_ml, aim, "
        "clearml, dvclive, swanlab, trackio. Did you mean tensorboard?\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--track", "--track needs a value: --track NAME,..."),
        ("--track=,", "--track needs a value: --track NAME,..."),
        ("--report_to wandb", "unknown option --report_to. Here it is --track."),
        ("--log-with wandb", "unknown option --log-with. Here it is --track."),
        ("--tensorboard", "unknown option --tensorboard. Here it is --track tensorboard."),
        ("--wandb", "unknown option --wandb. Here it is --track wandb."),
        ("report_to=mlflow", "unknown argument report_to=mlflow. Here it is --track mlflow"),
    ],
)
def test_a_habit_is_answered_with_one_line(capsys, words, line):
    assert main(["fit", "photos", *words.split()]) == 2
    assert capsys.readouterr().err == f"warmstart: {line}\n"
