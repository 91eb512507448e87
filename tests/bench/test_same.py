"""`python -m bench same`: what its runs cover, and that it sees what changed."""

from __future__ import annotations

import argparse
import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pages_as_text import ROOT

sys.path.insert(0, str(ROOT))  # bench/ stands beside tests/
same = pytest.importorskip("bench.same", reason="bench/ is not beside the tests")
same_data = pytest.importorskip("bench.same_data")
same_job = pytest.importorskip("bench.same_job")

QUICKEST = ("table-number", "tensor-full")


def words(job):
    """Of a strategy: `last:2+gradual` → last, gradual."""
    depth, *extras = job.options.get("strategy", "auto").split("+")
    return {depth.partition(":")[0], *extras}


def test_the_table_of_runs_covers_every_kind_task_and_way_to_train():
    jobs = same.JOBS
    assert len({job.name for job in jobs}) == len(jobs) == 16
    assert {job.kind for job in jobs} == {"image", "text", "audio", "table", "tensor"}
    assert {job.task for job in jobs} == {"classify", "multilabel", "regress"}
    assert set().union(*map(words, jobs)) >= {
        "auto",
        "head",
        "last",
        "full",
        "scratch",
        "lora",
        "add",
        "gradual",
    }
    assert any(job.ships == "ensemble" for job in jobs)
    assert any(job.options["budget"] == "thorough" and job.says for job in jobs)  # a model soup
    assert any(job.after for job in jobs)
    assert any(job.killed_at and job.like in same.BY_NAME for job in jobs)
    assert any(job.processes == 2 and "pipeline:2" in job.options.values() for job in jobs)
    assert any(job.network and job.network.startswith("own_") for job in jobs)
    for job in jobs:
        assert job.data in same_data.DATA
        assert job.network is None or job.network in same_data.NETWORKS
        assert job.options.keys() <= same.OPTIONS.keys()
        assert job.plan.keys() <= same.PLAN.keys()


def command(verb, record):
    """`python -m bench same VERB RECORD --only` the quickest."""
    parser = argparse.ArgumentParser()
    same.add_verbs(parser)
    return same.main(parser.parse_args([verb, str(record), "--only", *QUICKEST]))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of the quickest runs."""
    folder = tmp_path_factory.mktemp("same")
    assert command("record", folder) == 0
    return folder


def test_the_same_code_gives_the_same_bytes(record, capsys):
    assert command("check", record) == 0
    said = capsys.readouterr().out
    assert "not comparable" not in said
    assert "2 of 2 are the same" in said
    kept = json.loads((record / "record.json").read_text("utf-8"))
    assert kept["runs"].keys() == {*QUICKEST}
    for trace in kept["runs"].values():
        assert trace["tensors"]
        assert trace["predictions"]
        assert trace["answers"]
        float.fromhex(trace["estimate"]["value"])


@pytest.fixture
def made(record, monkeypatch):
    """Traces and tensors of the record in place of runs; the record is what a test alters."""
    kept = json.loads((record / "record.json").read_text("utf-8"))
    tensors = load_file(record / "record.safetensors")

    def make(name, folder):
        own = {k.partition("/")[2]: t for k, t in tensors.items() if k.startswith(f"{name}/")}
        return kept["runs"][name], own, "no time"

    monkeypatch.setattr(same, "make", make)
    return kept["runs"]["tensor-full"], tensors


def test_a_changed_tensor_is_named_with_its_difference(record, made, tmp_path, capsys):
    """The record is what changes, by an eighth in one number: the file, and its digest."""
    save_file({}, tmp_path / "none.safetensors")
    trace, tensors = made
    name = next(n for n in trace["tensors"] if n.endswith("weight"))
    before = json.loads((record / "record.json").read_text("utf-8"))
    before["runs"]["tensor-full"]["tensors"][name]["sha256"] = "0" * 64
    (tmp_path / "record.json").write_text(json.dumps(before), "utf-8")
    moved = {key: tensor.clone() for key, tensor in tensors.items()}
    moved[f"tensor-full/{name}"].view(-1)[0] += 0.125
    save_file(moved, tmp_path / "record.safetensors")
    assert command("check", tmp_path) == 1
    said = capsys.readouterr().out
    size = moved[f"tensor-full/{name}"].numel()
    assert f"tensor {name}: max abs difference 0.125, 1 of {size} numbers" in said
    assert "1 of 2 are the same" in said


def test_what_else_changed_is_named(made):
    trace, _ = made
    now = json.loads(json.dumps(trace))
    now["shipped"], now["estimate"]["value"] = "head", (0.5).hex()
    now["answers"][1]["label"] = "another"
    first = next(iter(now["tensors"]))
    now["tensors"]["renamed"] = now["tensors"].pop(first)
    said = same.differences(trace, now, {}, {})
    old = float.fromhex(trace["estimate"]["value"])
    assert "shipped: full → head" in said
    assert f"estimate.value: {old!r} → 0.5 ({0.5 - old:+.2g})" in said
    assert f"answers[1].label: {trace['answers'][1]['label']} → another" in said
    assert f"tensor {first} is gone; same bytes: renamed" in said
    assert same.differences(trace, {"error": "exit code 1: no"}, {}, {}) == [
        "it failed: exit code 1: no"
    ]
    assert same.differences(None, now, {}, {}) == ["it is not in the record"]


def test_a_record_is_exact_and_keeps_its_own_names(monkeypatch):
    """So that one made before a renaming is read after it."""
    monkeypatch.setattr(same, "KEYS", {"unknown": "ood", "part": "block"})
    found = same_job.exact({"unknown": True, "part.2": [0.1], "meaning": "may be reworded"})
    assert found == {"ood": True, "block.2": ["0x1.999999999999ap-4"]}
    digests = [
        same_job.digest(torch.tensor(values)) for values in ([0.0, 1.0], [-0.0, 1.0], [0.0, 1.0])
    ]
    assert digests[0] == digests[2] != digests[1]


def test_a_run_that_must_be_like_another_is_compared_with_it(made):
    trace, _ = made
    other = {**trace, "shipped": "head"}
    assert same.unlike({"image-last": trace, "image-killed": trace}) == []
    assert same.unlike({"image-last": trace, "image-killed": other}) == [
        "image-killed is not like image-last: shipped: full → head"
    ]


def test_another_machine_is_told(record, made, tmp_path, capsys):
    kept = json.loads((record / "record.json").read_text("utf-8"))
    kept["machine"] |= {"cpu": "an abacus"}
    (tmp_path / "record.json").write_text(json.dumps(kept), "utf-8")
    save_file(made[1], tmp_path / "record.safetensors")
    assert command("check", tmp_path) == 0
    assert "not comparable: the record's cpu is an abacus, here it is" in capsys.readouterr().out


def test_without_a_record_it_says_how_to_make_one(tmp_path, capsys):
    assert command("check", tmp_path) == 2
    assert "python -m bench same record makes it" in capsys.readouterr().err


def test_a_run_that_fails_records_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        same, "make", lambda name, folder: ({"error": "exit code 1"}, {}, "no time")
    )
    assert command("record", tmp_path) == 1
    assert not [*tmp_path.iterdir()]
    assert "nothing was recorded" in capsys.readouterr().err
