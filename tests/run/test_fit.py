"""From data to a run folder, end to end, over tiny networks."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import warmstart
from hue_images import draw, fill
from tiny import PREP, Convolutions, bytes_of, fit, lines, network
from warmstart.api.run import Run
from warmstart.errors import DataError, RunFolderError, TrainingError
from warmstart.records.run_folder import RunFolder
from warmstart.records.summary import Evidence, Scores

FILES = {
    "plan.toml",
    "network.json",
    "data.json",
    "inspection.json",
    "weights_ledger.json",
    "predictions.jsonl",
    "progress.jsonl",
    "summary.json",
    "README.md",
    "env.json",
    "DONE",
    "label_issues.csv",
    "off_topic.csv",
    "request.json",
    "report.html",
    "model/model.safetensors",
    "model/config.json",
    "model/labels.json",
    "model/preprocess.json",
    "model/calibration.json",
    "model/neighbours.safetensors",
}
CLOCKED = ("seconds", "peak_rss_mb")
# They tell times, and where it is.
OWN = {"progress.jsonl", "summary.json", "request.json", "report.html"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def noise(folder, n, classes=("a", "b"), seed=0, size=32):
    """Pictures that say nothing about their classes."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        path = folder / classes[number % len(classes)] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return folder


def summary_of(run):
    return json.loads((run / "summary.json").read_text("utf-8"))


def unclocked(run):
    """The summary without what no two runs share."""
    return {key: value for key, value in summary_of(run).items() if key not in CLOCKED}


def look_of(run):
    """What the look says at its end."""
    (end,) = [
        e["values"]
        for e in lines(run, "progress.jsonl")
        if (e["stage"], e["kind"]) == ("features", "end")
    ]
    return end["passed"], end["decoded"]


# ---- the run folder ----------------------------------------------------------------------


def test_the_folder_holds_the_promised_files_and_nothing_else(finished):
    assert bytes_of(finished.path).keys() == FILES


def test_the_summary_has_the_keys_of_the_contract(finished):
    summary = summary_of(finished.path)
    assert summary.keys() == {
        "format",
        "task",
        "verdict",
        "shipped",
        "estimate",
        "test",
        "data",
        "base",
        "frozen",
        "guards",
        "findings",
        "seconds",
        "peak_rss_mb",
        "own_head",
        "baselines",
        "weakest",
        "readiness",
        "linear_probe",
        "fine_tuning_gain",
    }
    assert summary["fine_tuning_gain"] is None  # nothing was trained step by step
    assert summary["linear_probe"] == summary["estimate"]
    assert summary["own_head"] is None
    assert summary["readiness"].keys() == {"level", "reasons"}
    assert summary["readiness"]["level"] in ("ready", "review", "not-ready")
    assert (summary["format"], summary["task"]) == (1, "classify")
    assert summary["verdict"].keys() == {"kind", "sentence", "evidence"}
    assert summary["verdict"]["kind"] in (
        "linear-probe",
        "fine-tune",
        "no-transfer",
        "no-signal",
        "inconclusive",
    )
    named = {"name", "value", "low", "high", "n", "meaning"}
    for evidence in summary["verdict"]["evidence"]:
        assert evidence.keys() - {"details"} == named
        if evidence["value"] is not None:
            assert evidence["low"] <= evidence["value"] <= evidence["high"] or (
                evidence["name"] == "permutation_test"  # its interval is that of shuffled labels
            )
    assert summary["shipped"].keys() == {"strategy", "why"}
    assert summary["estimate"].keys() == {"metric", "value", "low", "high", "n", "method"}
    assert (summary["estimate"]["n"], summary["estimate"]["method"]) == (36, "nested-cv")
    assert summary["test"].keys() == {field.name for field in fields(Scores)}
    assert summary["test"]["n"] == 15
    for block in (summary["estimate"], {**summary["test"], "value": summary["test"]["accuracy"]}):
        assert 0 <= block["low"] <= block["value"] <= block["high"] <= 1
    assert summary["data"] == {
        **dict.fromkeys(("unreadable", "near_duplicates", "leaks"), 0),
        "train": 36,
        "test": 15,
        "classes": 3,
        "label_issues": None,  # too few to count any
    }
    assert summary["base"].keys() == {"name", "sha256", "parameters"}
    assert len(summary["base"]["sha256"]) == 64
    assert summary["frozen"].keys() == {"parameters", "buffers", "identical"}
    assert summary["frozen"]["identical"] is True
    assert summary["guards"] == []
    # Drawn pictures are tinted to their very edge, and that is told.
    assert [finding["kind"] for finding in summary["findings"]] == ["spurious-correlation"]
    assert summary["findings"][0].keys() == {"code", "kind", "sentence", "items"}
    stages = {
        "read",
        "features",
        "checks",
        "plan",
        "head",
        "fine_tune",
        "evaluate",
        "deliver",
        "total",
    }
    assert summary["seconds"].keys() == stages
    blocks = sum(value for name, value in summary["seconds"].items() if name != "total")
    assert blocks <= summary["seconds"]["total"] + 0.01
    assert summary["peak_rss_mb"] > 50


def test_every_training_row_is_predicted_once_out_of_fold_and_every_test_row_once(finished):
    result = lines(finished.path, "predictions.jsonl")
    examples = json.loads((finished.path / "data.json").read_text())["examples"]
    for split, ours in (("oof", "train"), ("test", "test")):
        ids = [line["id"] for line in result if line["split"] == split]
        assert ids == [example["id"] for example in examples if example["split"] == ours]
    label = {example["id"]: example["label"] for example in examples}
    for line in result:
        assert line.keys() == {"id", "split", "fold", "target", "label", "scores"}
        assert line["target"] == label[line["id"]]
        assert sum(line["scores"].values()) == pytest.approx(1, abs=5e-6)
        assert line["label"] == max(line["scores"], key=line["scores"].get)
        assert (line["fold"] is None) == (line["split"] == "test")


def test_the_summary_counts_what_the_predictions_say(finished):
    result, summary = lines(finished.path, "predictions.jsonl"), summary_of(finished.path)
    for split, claimed in (
        ("oof", summary["estimate"]["value"]),
        ("test", summary["test"]["accuracy"]),
    ):
        hits = [p["label"] == p["target"] for p in result if p["split"] == split]
        assert claimed == pytest.approx(np.mean(hits))


def test_the_plan_can_be_read_and_leaves_nothing_to_be_decided(finished):
    text = (finished.path / "plan.toml").read_text("utf-8")
    plan = tomllib.loads(text)
    assert plan["format"] == 1
    assert '"auto"' not in text
    names = [
        block["name"]
        for block in json.loads((finished.path / "network.json").read_text())["blocks"]
    ]
    assert [block["name"] for block in plan["block"]] == [*names, "output"]
    assert {block["action"]["value"] for block in plan["block"][:-1]} == {"frozen"}
    assert finished.plan.strategy.value == plan["strategy"]["value"] == "head"


def test_every_tensor_but_the_output_is_kept(finished):
    rows = json.loads((finished.path / "weights_ledger.json").read_text())["rows"]
    assert {row["fate"] for row in rows} == {"unchanged", "new", "dropped"}
    assert all(row["before"] == row["after"] for row in rows if row["fate"] == "unchanged")
    assert {row["tensor"].split(".")[0] for row in rows if row["fate"] == "new"} == {"head"}


# ---- where it goes -----------------------------------------------------------------------


def test_runs_are_named_after_their_data_and_latest_points_to_the_newest(pictures, tmp_path):
    paths = [fit(pictures, kind="layers").path for _ in range(3)]
    assert paths == [Path("runs") / name for name in ("pictures", "pictures-2", "pictures-3")]
    assert Path("runs/latest").resolve() == (tmp_path / "runs/pictures-3").resolve()
    assert Run.open("runs/latest").summary == Run.open("runs/pictures-3").summary


def test_a_folder_in_use_is_refused_and_left_alone(pictures, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RunFolderError, match="exists and is not empty; nothing was changed"):
        fit(pictures, out=tmp_path / "mine")
    assert bytes_of(tmp_path / "mine") == {"letter.txt": b"dear"}
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("wrong", [{"base": "no-such"}, {"label": "kind"}, {"test": "nowhere"}])
def test_bad_input_leaves_no_folder(pictures, tmp_path, wrong):
    with pytest.raises((DataError, warmstart.ModelError)):
        fit(pictures, **wrong)
    assert not (tmp_path / "runs").exists()


# ---- doing it again ----------------------------------------------------------------------


def test_a_second_run_passes_nothing_and_ships_the_same_bytes(split_pictures, tmp_path):
    first, second = (fit(split_pictures, out=tmp_path / "runs" / n / "split") for n in "ab")
    assert look_of(first.path) == (51, 51)
    assert look_of(second.path) == (0, 0)
    assert unclocked(first.path) == unclocked(second.path)
    ours, theirs = bytes_of(first.path), bytes_of(second.path)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= OWN


@pytest.mark.parametrize("kind", ["convolutions", "attention"])
def test_two_cold_runs_are_equal_byte_for_byte(kind, split_pictures, tmp_path, monkeypatch):
    runs = []
    for name in "ab":
        monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / f"cache-{name}"))
        runs.append(fit(split_pictures, kind=kind, out=tmp_path / name / "split").path)
    assert [look_of(run) for run in runs] == [(51, 51)] * 2
    ours, theirs = map(bytes_of, runs)
    assert {n for n in ours if ours[n] != theirs[n]} <= OWN
    assert unclocked(runs[0]) == unclocked(runs[1])


def test_added_images_are_the_only_ones_passed(pictures):
    fit(pictures)
    fill(pictures, {"blue": 15, "green": 12, "red": 14}, seed=5)  # 41 others in all
    shutil.copy(pictures / "red" / "000.png", pictures / "red" / "copy.png")
    assert look_of(fit(pictures).path) == (41, 41)
    draw(np.random.default_rng(9), 0).save(pictures / "blue" / "new.png")
    run = fit(pictures)
    assert look_of(run.path) == (1, 1)
    assert run.summary.data.train == 43


def test_an_incremental_extraction_ships_what_a_whole_one_would(pictures, tmp_path, monkeypatch):
    late = [pictures / "green" / "003.png", pictures / "red" / "011.png"]
    for path in late:
        shutil.move(path, tmp_path / f"{path.parent.name}-{path.name}")
    fit(pictures)
    for path in late:
        shutil.move(tmp_path / f"{path.parent.name}-{path.name}", path)
    grown = fit(pictures)
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cold"))
    whole = fit(pictures)
    assert (look_of(grown.path), look_of(whole.path)) == ((2, 2), (36, 36))
    assert bytes_of(grown.path / "model") == bytes_of(whole.path / "model")


# ---- data of all kinds -------------------------------------------------------------------


def test_a_hold_out_set_gives_the_estimate_and_is_learnt_from_too(tmp_path):
    root = tmp_path / "given"
    fill(root / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "val", {"blue": 4, "green": 4, "red": 4}, seed=3)
    run = fit(root)
    assert (run.estimate.method, run.estimate.n) == ("holdout", 12)
    assert run.summary.data.train == 48
    ids = [line["id"] for line in lines(run.path, "predictions.jsonl")]
    assert len(ids) == 12
    assert all(id.startswith("val/") for id in ids)


def test_groups_are_never_split_between_folds(pictures):
    run = fit(**grouped(pictures, lambda number: number % 9))
    examples = json.loads((run.path / "data.json").read_text())["examples"]
    group = {example["id"]: example["group"] for example in examples}
    folds = {}
    for line in lines(run.path, "predictions.jsonl"):
        folds.setdefault(group[line["id"]], set()).add(line["fold"])
    assert len(folds) == 9
    assert all(len(numbers) == 1 for numbers in folds.values())
    assert run.plan.head.outer_folds.value == 5


def test_copies_are_one_block_and_counted(pictures):
    for number in range(3):
        shutil.copy(pictures / "red" / "000.png", pictures / "red" / f"copy-{number}.png")
    run = fit(pictures)
    fold = {line["id"]: line["fold"] for line in lines(run.path, "predictions.jsonl")}
    names = ["000.png", *(f"copy-{number}.png" for number in range(3))]
    assert len({fold[f"red/{name}"] for name in names}) == 1
    assert run.summary.data.near_duplicates == 3
    assert run.summary.data.train == 39
    assert [finding.kind for finding in run.summary.findings] == [
        "spurious-correlation",
        "near-duplicate",
    ]
    assert look_of(run.path) == (36, 36)


def test_what_cannot_be_read_is_left_out_listed_and_not_tried_again(pictures):
    whole = (pictures / "blue" / "001.png").read_bytes()
    (pictures / "blue" / "001.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "green" / "letter.jpg").write_text("dear")
    (pictures / "red" / "empty.png").touch()
    first, second = fit(pictures), fit(pictures)
    for run in (first, second):
        assert (run.summary.data.unreadable, run.summary.data.train) == (3, 35)
        (finding,) = [f for f in run.summary.findings if f.kind == "unreadable"]
        assert [item.split(":")[0] for item in finding.items] == [
            "blue/001.png",
            "green/letter.jpg",
            "red/empty.png",
        ]
        assert len(lines(run.path, "predictions.jsonl")) == 35
    assert look_of(first.path) == (35, 38)
    assert look_of(second.path) == (0, 0)
    assert bytes_of(first.path / "model") == bytes_of(second.path / "model")


def test_a_class_left_without_readable_images_fails_and_says_so(pictures, tmp_path):
    for path in (pictures / "red").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="red"):
        fit(pictures, out=tmp_path / "out")
    assert "red" in (tmp_path / "out" / "FAILED").read_text()
    assert not (tmp_path / "out" / "model").exists()


def test_noise_ships_nothing_unless_the_user_asks_for_a_model(tmp_path):
    run = fit(noise(tmp_path / "noise", 100))
    assert run.verdict.kind == "no-signal"
    assert run.summary.shipped.strategy == "none"
    assert bytes_of(run.path).keys() == {
        name for name in FILES if not name.startswith("model/")
    } - {"weights_ledger.json"}
    with pytest.raises(RunFolderError, match="holds no model: none was shipped"):
        run.predict([tmp_path / "noise" / "a" / "000.png"])
    request = fit(tmp_path / "noise", strategy="head")
    assert request.verdict.kind == "no-signal"
    assert request.summary.shipped.strategy == "head"
    assert (request.path / "model" / "model.safetensors").exists()
    assert request.plan.strategy.source == "user"


def test_nothing_is_claimed_of_a_test_set_when_nothing_is_shipped(tmp_path):
    noise(tmp_path / "noise" / "train", 100)
    noise(tmp_path / "noise" / "test", 10, seed=1)
    run = fit(tmp_path / "noise")
    assert (run.summary.shipped.strategy, run.test) == ("none", None)
    assert {line["split"] for line in lines(run.path, "predictions.jsonl")} == {"oof"}


def test_four_images_are_too_few_to_tell(tmp_path):
    run = fit(fill(tmp_path / "few", {"blue": 2, "red": 2}))
    assert run.verdict.kind == "inconclusive"
    assert run.summary.shipped.strategy == "head"
    assert run.estimate.low < 0.5 < run.estimate.high
    assert "small-class" in {finding.kind for finding in run.summary.findings}
    assert len(lines(run.path, "predictions.jsonl")) == 4


def test_a_class_that_lies_in_one_block_gets_no_estimate_of_its_own(pictures):
    for number in range(1, 12):
        shutil.copy(pictures / "red" / "000.png", pictures / "red" / f"{number:03d}.png")
    run = fit(pictures)
    result = [p for p in lines(run.path, "predictions.jsonl") if p["target"] == "red"]
    assert len(result) == 12
    assert {p["label"] for p in result} <= {"blue", "green"}  # never seen while it was held out
    assert all(np.isfinite(list(p["scores"].values())).all() for p in result)


def grouped(pictures, group_of):
    """A table over the pictures; `group_of` maps a row's number to its group."""
    with open(pictures / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "person"])
        for number, path in enumerate(sorted(pictures.rglob("*.png"))):
            writer.writerow([path.relative_to(pictures), path.parent.name, group_of(number)])
    return {"data": pictures / "labels.csv", "label": "kind", "group": "person"}


@pytest.mark.parametrize("sets", [1, 2])
def test_fewer_than_three_independent_sets_are_refused(pictures, sets):
    with pytest.raises(DataError, match=f"form {sets} independent sets?.* 3 are needed"):
        fit(**grouped(pictures, lambda number: number % sets))


def test_three_independent_sets_are_enough(pictures):
    run = fit(**grouped(pictures, lambda number: number % 3))
    assert run.estimate.n == 36
    assert 0 <= run.estimate.low <= run.estimate.value <= run.estimate.high <= 1
    assert run.estimate.high - run.estimate.low > 0.5  # three sets cannot promise much


@pytest.mark.parametrize("budget", ["fast", "balanced"])
def test_a_network_that_says_the_same_of_everything_is_no_base_model(pictures, budget):
    """Colours tell these classes, and nothing of them comes through: no model, and why."""
    module = network()
    for parameter in module.parameters():
        parameter.data.zero_()
    run = fit(pictures, base=module, budget=budget)
    assert run.verdict.kind == "no-transfer"
    assert run.verdict.evidence[0].details["p"] > 0.01
    assert run.summary.shipped.strategy == "none"
    assert not (run.path / "model").exists()
    assert all(
        np.isfinite(list(p["scores"].values())).all() for p in lines(run.path, "predictions.jsonl")
    )


class Overflowing(Convolutions):
    """Gives what is no number wherever the picture is dark."""

    def forward(self, x):
        return self.out(torch.log(self.norm(self.first(x)).relu().mean((2, 3)) - 0.3).repeat(1, 2))


def test_a_network_that_gives_no_numbers_is_refused(pictures, tmp_path):
    with pytest.raises(warmstart.ModelError, match=r"not numbers for \d+ of 36 images"):
        fit(pictures, base=Overflowing().eval(), out=tmp_path / "out")
    assert "not numbers" in (tmp_path / "out" / "FAILED").read_text()


def test_many_rows_are_solved_in_primal_form():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 2100)
    images = rng.normal(110, 30, (2100, 8, 8, 3)) + 25 * np.eye(3)[labels][:, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    tiny = warmstart.Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    run = fit((images, labels), preprocessing=tiny)
    assert run.estimate.n == 2100
    assert run.estimate.value > 0.9
    assert not {"class-mean", "logistic"} & set(run.plan.head.candidates.value)
    again = warmstart.load(run.path, network=network()).predict(images[:40])
    assert np.mean([a.label == str(y) for a, y in zip(again, labels, strict=False)]) > 0.9


def test_arrays_and_a_network_of_ones_own(pictures):
    files = sorted(pictures.rglob("*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in files])
    labels = [path.parent.name for path in files]
    module = network("attention")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    run = warmstart.fit(
        (images[:30], labels[:30]),
        test=(images[30:], labels[30:]),
        base=module,
        preprocessing=PREP,
        budget="fast",
    )
    assert module.state_dict().keys() == before.keys()
    assert all((module.state_dict()[name] == before[name]).all() for name in before)
    tested = {p["id"]: p for p in lines(run.path, "predictions.jsonl") if p["split"] == "test"}
    answers = warmstart.load(run.path, network=network("attention")).predict(images[30:])
    assert len(tested) == len(answers) == 6
    for (id, line), answer in zip(tested.items(), answers, strict=True):
        assert answer.label == line["label"], id
        for name, p in line["scores"].items():
            assert answer.scores[name] == pytest.approx(p, abs=2e-3)
    with pytest.raises(warmstart.ModelError, match="pass an instance of it as `network`"):
        warmstart.load(run.path)


def test_tables_without_paths_are_not_images():
    with pytest.raises(DataError):
        fit((np.zeros((4, 5)), [0, 0, 1, 1]))


# ---- when it is stopped ------------------------------------------------------------------


def stopping(at, error):
    """Raise at the given event (stage, kind)."""

    def watch(event):
        if (event.stage, event.kind) == at:
            raise error

    return watch


@pytest.mark.parametrize("at", [("features", "step"), ("head", "begin"), ("deliver", "begin")])
def test_an_interrupted_run_says_so_and_the_next_goes_on_from_its_rows(pictures, tmp_path, at):
    with pytest.raises(KeyboardInterrupt):
        fit(pictures, out=tmp_path / "out", on_event=stopping(at, KeyboardInterrupt()))
    assert (tmp_path / "out" / "INTERRUPTED").exists()
    assert not (tmp_path / "out" / "DONE").exists()
    assert not (tmp_path / "out" / "summary.json").exists()
    kept = 32 if at == ("features", "step") else 36
    assert look_of(fit(pictures, out=tmp_path / "again").path) == (36 - kept, 36 - kept)


def test_an_interrupt_while_the_network_works_keeps_the_batch_before(
    pictures, tmp_path, monkeypatch
):
    from warmstart.features import extraction

    calls, real = [], extraction.np.stack

    def stop_second(rows):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(rows)

    with monkeypatch.context() as patch:
        patch.setattr(extraction.np, "stack", stop_second)
        with pytest.raises(KeyboardInterrupt):
            fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "INTERRUPTED").exists()
    assert look_of(fit(pictures, out=tmp_path / "again").path) == (4, 4)


def test_the_same_command_names_what_goes_on_after_an_interruption(pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fit(pictures, out=out, on_event=stopping(("deliver", "begin"), KeyboardInterrupt()))
    before = bytes_of(out)
    with pytest.raises(RunFolderError, match=r"Run `warmstart resume .*` to continue it"):
        fit(pictures, out=out)
    assert bytes_of(out) == before
    run = warmstart.resume(out, base=network())
    whole = fit(pictures, out=tmp_path / "whole")
    assert bytes_of(out).keys() == FILES
    assert bytes_of(out / "model") == bytes_of(whole.path / "model")
    assert run.estimate == whole.estimate


def test_the_same_command_begins_anew_after_a_failure(pictures, tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    with monkeypatch.context() as patch:
        patch.setattr("warmstart.run.deliver._write_records", broken)
        with pytest.raises(ZeroDivisionError):
            fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "checkpoints").exists()
    assert bytes_of(fit(pictures, out=tmp_path / "out").path).keys() == FILES


def test_a_full_disk_is_an_interruption(pictures, tmp_path, monkeypatch):
    def full(folder, results):
        raise OSError(errno.ENOSPC, "No space left on device", "plan.toml")

    with monkeypatch.context() as patch:
        patch.setattr("warmstart.run.deliver._write_records", full)
        with pytest.raises(TrainingError, match=r"the disk is full \(plan.toml\)"):
            fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "INTERRUPTED").read_text() == "the disk is full (plan.toml)\n"
    assert look_of(fit(pictures, out=tmp_path / "again").path) == (0, 0)


def test_a_full_disk_in_the_extraction_is_an_interruption(pictures, tmp_path, monkeypatch):
    def full(cache_file, hashes, feature_layers):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("warmstart.features.cache.CacheFile.append", full)
        with pytest.raises(TrainingError, match="the disk is full"):
            fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "INTERRUPTED").exists()
    assert fit(pictures, out=tmp_path / "again").summary.data.train == 36


def test_a_failure_leaves_its_reason(pictures, tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("warmstart.run.deliver._write_records", broken)
    with pytest.raises(ZeroDivisionError):
        fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "FAILED").read_text() == "ZeroDivisionError('by zero')\n"


def test_a_network_that_differs_from_its_features_is_not_shipped(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("warmstart.run.deliver.TOLERANCE", {"float32": 0.0})
    with pytest.raises(TrainingError, match="differs from the features it was fitted on"):
        fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "FAILED").exists()
    assert not (tmp_path / "out" / "model").exists()


def test_images_that_vanish_during_the_extraction_are_left_out(pictures, tmp_path):
    def steal(event):
        if (event.stage, event.kind) == ("read", "end"):
            (pictures / "red" / "011.png").unlink()
            (pictures / "red" / "010.png").write_bytes(b"other bytes")

    run = fit(pictures, on_event=steal)
    assert (run.summary.data.train, run.summary.data.unreadable) == (34, 2)


def test_evidence_in_the_inspection_is_that_of_the_verdict(finished):
    result = json.loads((finished.path / "inspection.json").read_text())["evidence"]
    assert result == summary_of(finished.path)["verdict"]["evidence"]
    assert all(isinstance(evidence, Evidence) for evidence in finished.verdict.evidence)
    assert isinstance(RunFolder(finished.path), RunFolder)
