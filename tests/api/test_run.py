"""The Python front."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import warmstart
from tiny import PREP, fit, lines, network
from warmstart.api.run import Run, run_html
from warmstart.errors import DataError, PlanError, RunFolderError, UsageError
from warmstart.evaluation.readiness import readiness_line
from warmstart.events import Event
from warmstart.records.summary import ShippedCandidate, Verdict
from warmstart.terminal.result_text import estimate_text


def test_a_run_says_what_its_summary_says(finished):
    assert finished.verdict == finished.summary.verdict
    assert finished.estimate == finished.summary.estimate
    assert finished.test == finished.summary.test
    assert finished.plan.format == 1


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_opening_a_folder_gives_the_run_back(finished, kind):
    again = Run.open(kind(finished.path))
    assert (again.summary, again.path) == (finished.summary, finished.path)
    assert again.plan == finished.plan


def test_opening_what_is_no_run_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match=r"has no summary\.json"):
            Run.open(path)


def test_the_model_gives_calibrated_logits(finished, pictures):
    assert isinstance(finished.model, torch.nn.Module)
    assert finished.model is finished.model
    logits = finished.model(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 3)
    assert not any(parameter.grad_fn for parameter in finished.model.parameters())


def test_every_event_is_seen(pictures, tmp_path):
    events = []
    run = fit(pictures, out=tmp_path / "out", on_event=events.append)
    assert all(isinstance(event, Event) for event in events)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["read", "features", "checks", "plan", "head", "deliver"]
    logged = lines(run.path, "progress.jsonl")
    assert logged[0]["values"]["folder"] == str(tmp_path / "out")  # from then on there was a log
    assert len(logged) == 1 + sum(e.stage != "read" for e in events)


def test_a_run_from_a_module_answers_at_once_and_its_folder_wants_the_module(pictures, tmp_path):
    run = fit(pictures, out=tmp_path / "out")
    paths = sorted(pictures.rglob("*.png"))[::9]
    answers = run.predict(paths)
    assert [answer.label for answer in answers] == [path.parent.name for path in paths]
    again = Run.open(run.path)
    assert again == run
    with pytest.raises(warmstart.ModelError):
        warmstart.load(run.path, network=network("attention"))
    with pytest.raises(warmstart.ModelError, match="pass an instance of it as `network`"):
        again.predict(paths)
    assert warmstart.load(run.path, network=network()).predict(paths) == answers


def test_nothing_is_printed(pictures, tmp_path, capfd):
    fit(pictures, out=tmp_path / "out").predict([pictures / "red" / "000.png"])
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_watcher_marks_the_folder_at_once(pictures, tmp_path):
    def broken(event):
        if event.stage == "head":
            raise RuntimeError("watcher")

    with pytest.raises(RuntimeError) as caught:
        fit(pictures, out=tmp_path / "out", on_event=broken)
    assert caught.tb  # the frames of the run are still alive
    assert (tmp_path / "out" / "INTERRUPTED").exists()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"budget": "quick"}, UsageError, "--budget quick is not one of fast, balanced, thorough"),
        ({"strategy": "best"}, PlanError, "--strategy best: best is not a word of it"),
        ({"lr": -1.0}, UsageError, "--lr -1: it needs a number above 0"),
        ({"settings": {"training.batch_size": "auto"}}, PlanError, "batch_size=auto: auto is not"),
        ({"settings": {"lr": 0.1}, "strategy": "full"}, PlanError, "did you mean training.lr"),
        ({"settings": ["lr=0.1"], "strategy": "full"}, PlanError, "did you mean training.lr"),
        ({"settings": "lr=0.1"}, UsageError, "settings of type str are not read; give "),
        ({"settings": [3]}, UsageError, "settings of type list are not read; give "),
        ({"settings": 3}, UsageError, "settings of type int are not read; give "),
        ({"lr": 0.1, "strategy": "head"}, PlanError, "nothing is trained step by step"),
        ({"seed": -1}, UsageError, "--seed -1 is not a whole number"),
        ({"seed": 1.5}, UsageError, "--seed 1.5 is not a whole number"),
        ({"base": "resnet18"}, warmstart.ModelError, "did you mean timm:resnet18"),
        ({"data": "nowhere"}, DataError, "nowhere does not exist"),
        ({"data": 3}, DataError, "data of type int is not read"),
        ({"test": 3}, DataError, "data of type int is not read"),
    ],
)
def test_wrong_values_are_typed_errors_and_make_nothing(
    pictures, tmp_path, monkeypatch, wrong, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        fit(**{"data": pictures, **wrong})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("wrong", [3, None, network])
def test_load_wants_a_path(wrong):
    with pytest.raises(UsageError, match="wants the path of a run folder"):
        warmstart.load(wrong)


def test_a_module_left_in_training_mode_is_extracted_in_eval_mode(pictures, tmp_path):
    module = network().train()
    run = fit(pictures, base=module, preprocessing=PREP, out=tmp_path / "a")
    assert module.training
    assert run.estimate == fit(pictures, out=tmp_path / "b").estimate


def test_settings_are_a_mapping_or_texts(pictures, tmp_path):
    given = {
        "a": {"head.penalties": (0.1, 1), "head.outer_folds": 4},
        "b": ["head.penalties=0.1,1", "head.outer_folds=4"],
    }
    plans = [fit(pictures, settings=s, seed=5, out=tmp_path / k).plan for k, s in given.items()]
    assert plans[0] == plans[1]
    assert (plans[0].training.seed.value, plans[0].training.seed.source) == (5, "user")
    assert plans[0].head.outer_folds.value == 4


# ---- a run in a notebook cell ----


class Texts(HTMLParser):
    """The tags and the texts of a page; unclosed ones stay in `open`."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.open = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_it_says_what_a_reader_wants_first(finished):
    page = Texts(finished._repr_html_())
    assert page.open == []
    assert page.tags == {"div", "p", "b", "table", "tr", "th", "td"}
    text = " ".join(page.texts)
    assert page.texts[0] == readiness_line(finished.summary.readiness)
    assert finished.verdict.sentence.rstrip(".") in text
    assert estimate_text(finished.estimate) in text
    assert "on the test set" in text
    assert str(finished.path) in text
    assert finished.summary.shipped.strategy in text


def test_nothing_in_it_can_run(finished):
    evil = "<script>alert(1)</script> & \x1b[2J\nmore"
    summary = replace(
        finished.summary,
        verdict=Verdict(kind="inconclusive", sentence=evil),
        shipped=ShippedCandidate(strategy="head", why=evil),
    )
    page = run_html(summary, Path("a<img src=x onerror=y>"))
    assert Texts(page).tags == {"div", "p", "b", "table", "tr", "th", "td"}
    assert "\x1b" not in page


def test_without_a_model_there_is_no_accuracy(finished):
    summary = replace(finished.summary, shipped=ShippedCandidate(strategy="none", why="no signal"))
    texts = Texts(run_html(summary, Path("x"))).texts
    assert "Accuracy" not in texts
    assert "nothing: no signal." in texts
