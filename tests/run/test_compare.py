"""Finished runs on the same examples: what is compared, what it says, what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

import warmstart
from tiny import bytes_of
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.run.compare import compare


@pytest.fixture
def copy(finished, tmp_path):
    """Makes copies of the finished run, each with its files edited."""

    def make(name, *, summary=None, data=None, said=None, marker=None):
        path = Path(shutil.copytree(finished.path, tmp_path / "runs" / name))
        for file, edit in (("summary.json", summary), ("data.json", data)):
            if edit is not None:
                plain = json.loads((path / file).read_text("utf-8"))
                edit(plain)
                (path / file).write_text(json.dumps(plain), "utf-8")
        if said is not None:
            lines = (path / "predictions.jsonl").read_text("utf-8").splitlines()
            kept = [said(json.loads(line)) for line in lines]
            text = "".join(json.dumps(line) + "\n" for line in kept if line is not None)
            (path / "predictions.jsonl").write_text(text, "utf-8")
        return path

    return make


def blind(line):
    """Always the same answer."""
    return {**line, "label": "blue"}


def without_test(line):
    return None if line["split"] == "test" else line


def as_run_of(strategy, **more):
    def edit(summary):
        summary["shipped"]["strategy"] = strategy
        summary.update(more)

    return edit


# ---- what is compared ----------------------------------------------------------------------


def test_the_test_set_scores_as_it_did_in_the_run(finished, copy):
    result = compare(finished, copy("blind", said=blind))
    assert (result.metric, result.rows, result.n) == ("accuracy", "test", 15)
    first = result.runs[0]
    assert (first.name, first.path) == ("split", str(finished.path))
    assert (first.value, first.low, first.high) == (
        finished.test.accuracy,
        finished.test.low,
        finished.test.high,
    )
    (pair,) = result.pairs
    assert (pair.a, pair.b, pair.winner, pair.n) == ("split", "blind", "split", 15)
    assert pair.difference == pytest.approx(finished.test.accuracy - 1 / 3)
    assert pair.low <= pair.difference <= pair.high


def test_a_run_ties_with_itself_and_is_not_called_equal(finished, copy):
    (pair,) = compare(finished.path, str(copy("again"))).pairs
    assert (pair.difference, pair.winner, pair.p) == (0.0, None, 1.0)
    assert pair.low < -0.05
    assert pair.high > 0.05


def test_without_a_common_test_set_held_out_examples_are_taken_and_less_is_claimed(finished, copy):
    result = compare(finished, copy("again", said=without_test))
    assert (result.rows, result.n) == ("held-out", 36)
    estimate = finished.estimate
    assert (result.runs[0].value, result.runs[0].low) == (estimate.value, estimate.low)


def test_names_and_order_of_files_do_not_matter(finished, copy):
    def renamed(data):
        for number, example in enumerate(reversed(data["examples"])):
            example["id"] = names.setdefault(example["id"], f"{number}.png")
        data["near_duplicates"] = []
        data["problems"] = []
        data["examples"].sort(key=lambda example: example["id"])

    names = {}
    other = copy("other", data=renamed)
    lines = [json.loads(x) for x in (other / "predictions.jsonl").read_text("utf-8").splitlines()]
    renamed_lines = [json.dumps({**line, "id": names[line["id"]]}) for line in reversed(lines)]
    (other / "predictions.jsonl").write_text("\n".join(renamed_lines), "utf-8")
    (pair,) = compare(finished, other).pairs
    assert (pair.difference, pair.n) == (0.0, 15)


def test_other_data_are_reported(finished, copy):
    def fewer(data):
        first = next(e for e in data["examples"] if e["split"] == "train")
        data["examples"].remove(first)

    result = compare(finished, copy("fewer", data=fewer))
    assert {run.name: run.n_train for run in result.runs} == {"split": 36, "fewer": 35}
    assert result.n_common_train == 35


def test_what_a_run_had_seen_before_is_left_out(finished, copy):
    def leaky(data):
        tests = [e["id"] for e in data["examples"] if e["split"] == "test"]
        data["problems"].append({"kind": "leakage", "sentence": "so", "items": tests[:4]})

    result = compare(finished, copy("leaky", data=leaky))
    assert (result.n, result.rows, result.leaked) == (11, "test", 4)


def test_groups_widen_the_interval(finished, copy):
    def grouped(data):
        for number, example in enumerate(e for e in data["examples"] if e["split"] == "test"):
            example["group"] = f"{number // 5}"

    (plain,) = compare(finished, copy("blind", said=blind)).pairs
    (wide,) = compare(finished, copy("grouped", said=blind, data=grouped)).pairs
    assert wide.difference == plain.difference
    assert wide.high - wide.low > plain.high - plain.low


def test_three_runs_from_best_to_worst(finished, copy):
    def poor(line):
        return {
            **line,
            "label": "blue" if line["id"].endswith(("0.png", "1.png")) else line["label"],
        }

    result = compare(copy("blind", said=blind), copy("poor", said=poor), finished)
    assert [run.name for run in result.runs] == ["split", "poor", "blind"]
    assert [(p.a, p.b) for p in result.pairs] == [
        ("split", "poor"),
        ("split", "blind"),
        ("poor", "blind"),
    ]
    values = [run.value for run in result.runs]
    assert values == sorted(values, reverse=True)
    assert all(pair.difference >= 0 for pair in result.pairs)


# ---- time and updates ----------------------------------------------------------------------


def test_a_closed_form_head_is_there_when_it_is_fitted(finished, copy):
    result = compare(finished, copy("again"))
    seconds = finished.summary.seconds
    for run in result.runs:
        assert (run.updates, run.updates_to_95) == (0, 0)
        assert run.seconds == seconds["total"]
        own = sum(seconds[stage] for stage in ("read", "features", "checks", "plan", "head"))
        assert run.seconds_to_95 == pytest.approx(own, abs=0.001)
        assert not run.features_cached


def looked(path, values, head):
    """Give a run one training of ten updates that held rows out."""
    begin = {"stage": "fine_tune", "kind": "begin", "values": {"trainings": 2}, "t": 1e9}
    events = [begin]
    for update, value in enumerate(values, 1):
        told = {"loss": 1.0, "job": 1, "val": value, "head": head}
        events.append(
            {
                "stage": "fine_tune",
                "kind": "step",
                "step": update,
                "of": 2 * len(values),
                "values": told,
                "t": 1e9 + update,
            }
        )
    with open(path / "progress.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    return path


def test_tuned_layers_and_scratch_are_near_their_end_when_they_were_seen_to_be(finished, copy):
    rising = [0.3, 0.5, 0.8, 0.81, 0.8]
    warm = looked(copy("warm", summary=as_run_of("full")), rising, head=0.79)
    cold = looked(copy("cold", summary=as_run_of("scratch")), rising, head=0.79)
    runs = {run.name: run for run in compare(warm, cold).runs}
    assert (runs["warm"].updates_to_95, runs["cold"].updates_to_95) == (0, 3)
    assert runs["warm"].updates == runs["cold"].updates == 5
    assert runs["warm"].seconds_to_95 < runs["cold"].seconds_to_95


def test_where_no_events_are_left_nothing_is_said_of_time(finished, copy):
    path = copy("full", summary=as_run_of("full"))
    (path / "progress.jsonl").unlink()
    runs = {run.name: run for run in compare(finished, path).runs}
    assert runs["full"].updates_to_95 is None
    assert runs["full"].seconds_to_95 is None
    assert runs["full"].seconds > 0


# ---- names, records, refusals --------------------------------------------------------------


def test_runs_go_by_their_folder_or_by_their_path(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, _ = copy("one"), copy("two")
    (tmp_path / "runs" / "latest").symlink_to("two")
    result = compare("runs/one/", "runs/latest")
    assert [(run.name, run.path) for run in result.runs] == [
        ("one", "runs/one"),
        ("two", "runs/two"),
    ]
    shutil.copytree(one, tmp_path / "elsewhere" / "one")
    result = compare("runs/one", "elsewhere/one")
    assert {run.name for run in result.runs} == {"runs/one", "elsewhere/one"}
    monkeypatch.chdir(one)
    assert [run.name for run in compare(".", "../two").runs] == ["one", "two"]


def test_it_is_a_public_name_and_gives_a_frozen_record(finished, copy):
    result = warmstart.compare(finished, copy("again"))
    with pytest.raises(FrozenInstanceError):
        result.n = 3
    assert np.isfinite([pair.p for pair in result.pairs]).all()


def test_no_run_is_changed(finished, copy):
    other = copy("again")
    before = bytes_of(finished.path), bytes_of(other)
    compare(finished, other)
    assert (bytes_of(finished.path), bytes_of(other)) == before


def test_fewer_than_two_runs_or_the_same_twice(finished, tmp_path, monkeypatch):
    for runs in ((), (finished,)):
        with pytest.raises(UsageError, match="at least two runs"):
            compare(*runs)
    with pytest.raises(UsageError, match="are the same run; name another one"):
        compare(finished, finished.path / ".." / finished.path.name)
    with pytest.raises(UsageError, match="wants paths of run folders"):
        compare(finished, 7)


def test_what_is_no_finished_run(finished, copy, tmp_path, pictures):
    with pytest.raises(RunFolderError, match="nowhere does not exist"):
        compare(finished, tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"holds no summary\.json.*--strategies head,full"):
        compare(finished, pictures)
    waiting = copy("waiting")
    for name in ("summary.json", "DONE"):
        (waiting / name).unlink()
    with pytest.raises(RunFolderError, match=r"has not finished.*warmstart resume"):
        compare(finished, waiting)
    (waiting / "FAILED").write_text("the disk is full.\n")
    with pytest.raises(RunFolderError, match=r"failed \(the disk is full\); fix that"):
        compare(finished, waiting)


def test_a_run_without_a_model_or_without_predictions(finished, copy):
    none = copy("none", summary=as_run_of("none"))
    with pytest.raises(RunFolderError, match="shipped no model"):
        compare(finished, none)
    lost = copy("lost")
    (lost / "predictions.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(RunFolderError, match=r"predictions\.jsonl cannot be read"):
        compare(finished, lost)
    (lost / "predictions.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"predictions\.jsonl cannot be read"):
        compare(finished, lost)


def test_other_classes_are_named(finished, copy):
    def violet(data):
        data["classes"] = ["blue", "green", "violet"]

    with pytest.raises(DataError, match=r"'red' only in .*split, 'violet' only in .*other"):
        compare(finished, copy("other", data=violet))

    def more(data):
        data["classes"] = [*data["classes"], "violet"]

    with pytest.raises(DataError, match=r"\('violet' only in"):
        compare(finished, copy("more", data=more))


def test_no_example_in_common_says_why(finished, copy):
    def strangers(data):
        for example in data["examples"]:
            example["sha256"] = example["sha256"][::-1]

    with pytest.raises(DataError, match="held out no image in common"):
        compare(finished, copy("strangers", data=strangers))

    def leaky(data):
        items = [e["id"] for e in data["examples"]]
        data["problems"].append({"kind": "leakage", "sentence": "so", "items": items})

    with pytest.raises(DataError, match="51 images in common, but one of them was trained on"):
        compare(finished, copy("leaky", data=leaky))

    def another(line):
        return {**line, "target": "red" if line["target"] == "blue" else "blue"}

    with pytest.raises(DataError, match="51 images in common, all with other labels"):
        compare(finished, copy("another", said=another))
