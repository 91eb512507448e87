"""From data to a run folder, end to end, over tiny networks."""

from __future__ import annotations

import errno
import json
import math
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import warmstart
from hue_images import fill
from plans import typed_request
from tiny import KINDS, PREP, Convolutions, bytes_of, fit, lines, network
from warmstart.api.run import Run
from warmstart.errors import DataError, RunFolderError, TrainingError, UsageError
from warmstart.events import drain
from warmstart.records.data import DataRecord
from warmstart.records.run_folder import STAGES, read_json, to_plain
from warmstart.records.summary import Inspection, Scores
from warmstart.run.fit import check

FILES = {
    *("plan.toml", "network.json", "data.json", "inspection.json", "weights_ledger.json"),
    *("predictions.jsonl", "progress.jsonl", "summary.json", "README.md", "env.json", "DONE"),
    *("label_issues.csv", "off_topic.csv", "request.json", "report.html"),
    *("model/model.safetensors", "model/config.json", "model/labels.json"),
    *("model/preprocess.json", "model/calibration.json", "model/neighbours.safetensors"),
}
CLOCKED = ("seconds", "peak_rss_mb")
# They tell times, and where it is.
OWN = {"progress.jsonl", "summary.json", "request.json", "report.html"}

pytestmark = pytest.mark.usefixtures("own_folder")


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


def extracted(run):
    """How many images were passed through the network, and how many decoded."""
    ends = [
        e for e in lines(run, "progress.jsonl") if (e["stage"], e["kind"]) == ("features", "end")
    ]
    return ends[0]["values"]["passed"], ends[0]["values"]["decoded"]


def test_the_folder_holds_the_promised_files_and_nothing_else(finished):
    assert bytes_of(finished.path).keys() == FILES


def test_the_summary_has_the_keys_of_the_contract(finished):
    summary = summary_of(finished.path)
    assert summary.keys() == {
        *("format", "task", "verdict", "shipped", "readiness", "estimate", "linear_probe"),
        *("fine_tuning_gain", "test", "data", "base", "frozen", "guards", "findings", "seconds"),
        *("peak_rss_mb", "own_head", "baselines", "weakest"),
    }
    assert summary["verdict"].keys() == {"kind", "sentence", "evidence"}
    for evidence in summary["verdict"]["evidence"]:
        assert evidence.keys() - {"details"} == {"name", "value", "low", "high", "n", "meaning"}
    assert (summary["format"], summary["task"]) == (1, "classify")
    assert summary["readiness"].keys() == {"level", "reasons"}
    assert summary["shipped"].keys() == {"strategy", "why"}
    assert summary["estimate"].keys() == {"metric", "value", "low", "high", "n", "method"}
    assert (summary["estimate"]["n"], summary["estimate"]["method"]) == (36, "nested-cv")
    assert summary["linear_probe"] == summary["estimate"]
    assert summary["fine_tuning_gain"] is None  # nothing was trained step by step
    assert summary["test"].keys() == {field.name for field in fields(Scores)}
    for score in (summary["estimate"], {**summary["test"], "value": summary["test"]["accuracy"]}):
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
    assert summary["data"] == {
        **dict.fromkeys(("unreadable", "near_duplicates", "leaks"), 0),
        "train": 36,
        "test": 15,
        "classes": 3,
        "label_issues": None,  # too few to count any
    }
    assert summary["base"].keys() == {"name", "sha256", "parameters"}
    assert summary["frozen"].keys() == {"parameters", "buffers", "identical"}
    assert summary["frozen"]["identical"] is True
    # Drawn pictures are tinted to their very edge.
    assert [finding["kind"] for finding in summary["findings"]] == ["spurious-correlation"]
    assert summary["findings"][0].keys() == {"code", "kind", "sentence", "items"}
    assert summary["seconds"].keys() == {*STAGES, "total"}
    assert sum(summary["seconds"][stage] for stage in STAGES) <= summary["seconds"]["total"] + 0.01


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


@pytest.mark.parametrize("kind", ["convolutions", "attention"])
def test_a_second_run_ships_the_same_bytes_cold_or_from_the_cache(
    kind, split_pictures, tmp_path, monkeypatch
):
    runs = []
    for name, cache in (("a", "one"), ("b", "other"), ("c", "other")):
        monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / f"cache-{cache}"))
        runs.append(fit(split_pictures, kind=kind, out=tmp_path / name / "split").path)
    assert [extracted(run) for run in runs] == [(51, 51), (51, 51), (0, 0)]
    first, *others = map(bytes_of, runs)
    for run, files in zip(runs[1:], others, strict=True):
        assert {name for name in first if first[name] != files[name]} <= OWN
        same = {**summary_of(run), **{key: summary_of(runs[0])[key] for key in CLOCKED}}
        assert same == summary_of(runs[0])


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


def test_copies_are_one_group_and_counted(pictures):
    names = [f"copy-{number}.png" for number in range(3)]
    for name in names:
        shutil.copy(pictures / "red" / "000.png", pictures / "red" / name)
    run = fit(pictures)
    fold = {line["id"]: line["fold"] for line in lines(run.path, "predictions.jsonl")}
    assert len({fold[f"red/{name}"] for name in ["000.png", *names]}) == 1
    assert (run.summary.data.near_duplicates, run.summary.data.train) == (3, 39)
    assert run.summary.findings[-1].kind == "near-duplicate"
    assert extracted(run.path) == (36, 36)


def test_what_cannot_be_read_is_left_out_listed_and_not_tried_again(pictures):
    whole = (pictures / "blue" / "001.png").read_bytes()
    (pictures / "blue" / "001.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "green" / "letter.jpg").write_text("dear")
    (pictures / "red" / "empty.png").touch()
    first, second = fit(pictures), fit(pictures)
    for run in (first, second):
        assert (run.summary.data.unreadable, run.summary.data.train) == (3, 35)
        (finding,) = [f for f in run.summary.findings if f.kind == "unreadable"]
        bad = ["blue/001.png", "green/letter.jpg", "red/empty.png"]
        assert [item.split(":")[0] for item in finding.items] == bad
        assert len(lines(run.path, "predictions.jsonl")) == 35
    assert extracted(first.path) == (35, 38)
    assert extracted(second.path) == (0, 0)
    assert bytes_of(first.path / "model") == bytes_of(second.path / "model")


def test_noise_ships_nothing_unless_the_user_asks_for_a_model(tmp_path):
    noise(tmp_path / "noise" / "test", 10, seed=1)
    noise(tmp_path / "noise" / "train", 100)
    run = fit(tmp_path / "noise")
    assert run.test is None  # nothing is claimed of it
    assert run.verdict.kind == "no-signal"
    assert run.summary.shipped.strategy == "none"
    assert bytes_of(run.path).keys() == {
        name for name in FILES if not name.startswith("model/")
    } - {"weights_ledger.json"}
    with pytest.raises(RunFolderError, match="holds no model: none was shipped"):
        run.predict([tmp_path / "noise" / "test" / "a" / "000.png"])
    request = fit(tmp_path / "noise", strategy="head")
    assert request.verdict.kind == "no-signal"
    assert request.summary.shipped.strategy == "head"
    assert (request.path / "model" / "model.safetensors").exists()
    assert request.plan.strategy.source == "user"


def test_a_class_that_lies_in_one_block_gets_no_estimate_of_its_own(pictures):
    for number in range(1, 12):
        shutil.copy(pictures / "red" / "000.png", pictures / "red" / f"{number:03d}.png")
    run = fit(pictures)
    result = [p for p in lines(run.path, "predictions.jsonl") if p["target"] == "red"]
    assert len(result) == 12
    assert {p["label"] for p in result} <= {"blue", "green"}  # never seen while it was held out
    assert all(np.isfinite(list(p["scores"].values())).all() for p in result)


def test_three_independent_sets_are_enough_and_two_are_not(people):
    run = fit(people(3), label="label", group="person")
    assert run.estimate.n == 36
    assert run.estimate.high - run.estimate.low > 0.5  # three sets cannot promise much
    with pytest.raises(DataError, match=r"form 2 independent sets.* 3 are needed"):
        fit(people(2), label="label", group="person")


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


def test_a_network_that_gives_no_numbers_is_refused(pictures, tmp_path):
    class Overflowing(Convolutions):
        def forward(self, x):  # no number wherever the picture is dark
            x = torch.log(self.norm(self.first(x)).relu().mean((2, 3)) - 0.3)
            return self.out(x.repeat(1, 2))

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
    labels, module = [path.parent.name for path in files], network("attention")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    run = fit((images[:30], labels[:30]), test=(images[30:], labels[30:]), base=module)
    assert module.state_dict().keys() == before.keys()
    assert all((module.state_dict()[name] == before[name]).all() for name in before)
    tested = [p for p in lines(run.path, "predictions.jsonl") if p["split"] == "test"]
    answers = warmstart.load(run.path, network=network("attention")).predict(images[30:])
    for line, answer in zip(tested, answers, strict=True):
        assert answer.label == line["label"]
        assert answer.scores == pytest.approx(line["scores"], abs=2e-3)
    with pytest.raises(warmstart.ModelError, match="pass an instance of it as `network`"):
        warmstart.load(run.path)


@pytest.mark.parametrize("at", [("features", "step"), ("head", "begin"), ("deliver", "begin")])
def test_an_interrupted_run_says_so_and_the_next_goes_on_from_its_rows(pictures, tmp_path, at):
    def stop(event):
        if (event.stage, event.kind) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(pictures, out=tmp_path / "out", on_event=stop)
    assert (tmp_path / "out" / "INTERRUPTED").exists()
    assert not {"DONE", "summary.json"} & {path.name for path in (tmp_path / "out").iterdir()}
    left = 4 if at == ("features", "step") else 0
    assert extracted(fit(pictures, out=tmp_path / "again").path) == (left, left)


@pytest.mark.parametrize("where", ["run.deliver._write_records", "features.cache.CacheFile.append"])
def test_a_full_disk_is_an_interruption(pictures, tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "plan.toml")

    with monkeypatch.context() as patch:
        patch.setattr(f"warmstart.{where}", full)
        with pytest.raises(TrainingError, match=r"the disk is full \(plan.toml\)"):
            fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "INTERRUPTED").read_text() == "the disk is full (plan.toml)\n"
    assert fit(pictures, out=tmp_path / "again").summary.data.train == 36


def test_a_failure_leaves_its_reason_and_the_same_command_begins_anew(
    pictures, tmp_path, monkeypatch
):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    with monkeypatch.context() as patch:
        patch.setattr("warmstart.run.deliver._write_records", broken)
        with pytest.raises(ZeroDivisionError):
            fit(pictures, out=tmp_path / "out")
    assert (tmp_path / "out" / "FAILED").read_text() == "ZeroDivisionError('by zero')\n"
    assert (tmp_path / "out" / "checkpoints").exists()
    assert bytes_of(fit(pictures, out=tmp_path / "out").path).keys() == FILES


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


NAMES = [
    *("permutation_test", "depth", "learning_curve", "transfer_gain", "domain_gap"),
    *("preprocessing", "label_noise_ceiling", "fine_tuning_gain"),
]
CHECK_FILES = {
    *("data.json", "inspection.json", "label_issues.csv", "off_topic.csv"),
    *("progress.jsonl", "DONE"),
}


def ask(data, kind="convolutions", **options):
    return drain(check(typed_request(data=data, base=network(kind), preprocessing=PREP, **options)))


@pytest.mark.parametrize("kind", KINDS)
def test_all_evidence_is_gathered_and_is_plain_numbers(kind, pictures):
    result = ask(pictures, kind)
    assert [one.name for one in result.verdict.evidence] == NAMES
    for evidence in result.verdict.evidence:
        numbers = [evidence.value, evidence.low, evidence.high, *evidence.details.values()]
        assert all(math.isfinite(x) for x in numbers if isinstance(x, (int, float)))
        if evidence.value is None:
            assert evidence.low is evidence.high is None
        elif evidence.name != "permutation_test":  # whose interval is that of shuffled labels
            assert evidence.low <= evidence.value <= evidence.high
    json.dumps(to_plain(result), allow_nan=False)
    assert (result.data.train, result.data.classes, result.path) == (36, 3, None)


def test_files_are_written_where_they_are_requested_alone(pictures, tmp_path):
    before = bytes_of(pictures)
    assert ask(pictures).path is None
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "cache"}
    result = ask(pictures, out=tmp_path / "problems")
    assert result.path == str(tmp_path / "problems")
    assert bytes_of(tmp_path / "problems").keys() == CHECK_FILES
    assert bytes_of(pictures) == before
    inspection = read_json(tmp_path / "problems" / "inspection.json", Inspection)
    assert inspection.evidence == result.verdict.evidence
    record = read_json(tmp_path / "problems" / "data.json", DataRecord)
    assert (*record.problems, *inspection.findings) == result.findings


def test_fix_makes_a_folder_of_its_own_with_the_clean_index(pictures, tmp_path):
    (pictures / "blue" / "copy.png").write_bytes((pictures / "blue" / "000.png").read_bytes())
    before = bytes_of(pictures)
    result = ask(pictures, fix=True)
    assert result.path == "runs/pictures-check"
    assert bytes_of(tmp_path / result.path).keys() == CHECK_FILES | {"clean.csv"}
    assert not (tmp_path / "runs" / "latest").exists()
    assert bytes_of(pictures) == before
    assert result.data.train == 36
    again = ask(pictures, relabel=tmp_path / result.path / "clean.csv")
    assert (again.data.train, again.data.near_duplicates) == (36, 0)


def test_an_ignored_finding_is_reported_nowhere(pictures):
    shutil.copy(pictures / "red" / "000.png", pictures / "red" / "again.png")
    plain, run = fit(pictures), fit(pictures, ignore="WS102")
    kinds, fewer = ({f.kind for f in one.summary.findings} for one in (plain, run))
    assert kinds - fewer == {"near-duplicate"}
    assert run.summary.data == plain.summary.data
    assert run.estimate == plain.estimate
    with pytest.raises(UsageError, match=r"--ignore WS999: no finding has this code"):
        fit(pictures, ignore="WS999")
    with pytest.raises(UsageError, match=r"--ignore ws102: .* did you mean WS102\?"):
        fit(pictures, ignore=["ws102"])
