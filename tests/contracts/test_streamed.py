"""A network that is streamed from its file gives the run that it gives in memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import killed_streaming
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import tiny
import warmstart
from hue_images import fill
from plans import typed_request
from warmstart.cli.main import main
from warmstart.errors import ModelError, PlanError
from warmstart.planning.plan_file import open_plan
from warmstart.planning.settings import parse_settings
from warmstart.run import plan as inputs

pytestmark = pytest.mark.slow

SMALL = (
    "training.epochs=1.3333",
    "training.batch_size=8",
    "training.folds=1",
    "training.augmentations=1",
)
STREAM = "training.offload=true"
PREDICTIONS = "predictions.jsonl"
CLOCKED = {
    "progress.jsonl",
    "summary.json",
    "request.json",
    "report.html",
    "plan.toml",
    "README.md",
    "INTERRUPTED",
    "DONE",
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What all runs here are asked."""
    root = tmp_path_factory.mktemp("streamed")
    fill(root / "pictures", {"blue": 12, "red": 12})
    return {
        "data": root / "pictures",
        "base": tiny.weights(root),
        "arch": tiny.ARCH,
        "preprocessing": tiny.PREP,
    }


def fit(asked, out, strategy="head", settings=(), **options):
    wanted = settings if strategy == "head" else (*SMALL, *settings)
    wanted = (*wanted, "training.engine=torch")
    return tiny.fit(**asked, out=out, strategy=strategy, settings=wanted, **options)


def files(run):
    found = tiny.bytes_of(run.path)
    return {k: v for k, v in found.items() if k not in CLOCKED and "checkpoints" not in k}


@pytest.mark.parametrize("strategy", ["head", "last:1"])
def test_a_streamed_run_is_the_run_in_memory(asked, tmp_path, monkeypatch, strategy):
    """Byte for byte: the same layers on the same numbers, only at other times."""
    if strategy == "last:1":
        base = tiny.weights(tmp_path, tiny.CONVNEXT)
        asked = {**asked, "base": base, "arch": tiny.CONVNEXT}
    whole = fit(asked, tmp_path / "whole", strategy)
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "other"))
    streamed = fit(asked, tmp_path / "streamed", strategy, (STREAM,))
    assert files(streamed) == files(whole)
    assert not streamed.summary.guards
    plan = open_plan(streamed.path / "plan.toml")
    assert (plan.training.offload.value, plan.training.offload.source) == ("float32", "user")
    assert not [*(tmp_path / "other" / "offload").glob("*/*")]


@pytest.mark.parametrize("before", ["last:1", "head"])
def test_the_plain_view_is_not_passed_again(asked, tmp_path, monkeypatch, before):
    """The look kept what the trained part begins with; so does that of `head` for later."""
    base = tiny.weights(tmp_path, tiny.CONVNEXT)
    asked = {**asked, "base": base, "arch": tiny.CONVNEXT}
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "own"))
    if before == "head":
        fit(asked, tmp_path / "head", "head", (STREAM,))
    seen = []
    fit(asked, tmp_path / "run", "last:1", (STREAM,), on_event=seen.append)
    begun = [e.values["title"] for e in seen if e.kind == "begin" and "title" in e.values]
    assert "Augmentation 1" in begun
    assert "Augmentation 0" not in begun


def test_stopped_in_a_part_it_goes_on_with_that_part(asked, tmp_path, monkeypatch):
    whole = fit(asked, tmp_path / "whole", settings=(STREAM,))
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "other"))
    blocks = []

    def stop(event):
        blocks.append(event.values.get("block", 0))
        if event.values.get("block") == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(asked, tmp_path / "run", settings=(STREAM,), on_event=stop)
    done = json.loads(next((tmp_path / "other" / "offload").glob("*/progress.json")).read_text())
    assert done["blocks"] in (4, 5)
    again = []
    run = warmstart.resume(
        tmp_path / "run", on_event=lambda e: again.append(e.values.get("block", 0))
    )
    assert min(block for block in again if block) > done["blocks"] - 1
    assert files(run) == files(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_in_one_part_after_the_other_it_is_the_run_that_never_was(
    asked, tmp_path, monkeypatch
):
    """In the look, then in the view that is stored; `bench run scale_kills` takes all parts."""
    base = tiny.weights(tmp_path, tiny.CONVNEXT)
    asked = {**asked, "base": base, "arch": tiny.CONVNEXT}
    whole = fit(asked, tmp_path / "whole", "last:1", (STREAM,))
    wanted = {
        **asked,
        "strategy": "last:1",
        "budget": "fast",
        "settings": (*SMALL, STREAM, "training.engine=torch"),
    }
    n_blocks = len(json.loads((whole.path / "network.json").read_text())["blocks"])
    places = [("features", block) for block in (1, 2, n_blocks)] + [
        ("fine_tune", 1),
        ("fine_tune", n_blocks - 1),
    ]
    server = get_context("forkserver")  # which imports once what each of them needs
    server.set_forkserver_preload(
        ["killed_streaming", "tiny", "warmstart.cli.main", "warmstart.run.fit"]
    )
    run, own = tmp_path / "run", str(tmp_path / "own")
    for place in places:
        told = (own, run, None if run.exists() else wanted, place)
        job = server.Process(target=killed_streaming.fall, args=told)
        job.start()
        job.join()
        assert job.exitcode == -signal.SIGKILL, place
    monkeypatch.setenv("WARMSTART_CACHE", own)
    assert files(warmstart.resume(run)) == files(whole)


def test_half_precision_between_parts_is_another_look(asked, tmp_path):
    """Its rows are no others' rows, and differ by no more than its rounding."""
    whole = fit(asked, tmp_path / "whole")
    half = fit(asked, tmp_path / "half", settings=("training.offload=float16",))
    heads = [load_file(run.path / "model" / "model.safetensors") for run in (whole, half)]
    assert not torch.equal(*(head["head.weight"] for head in heads))
    said = [
        torch.tensor([[*line["scores"].values()] for line in tiny.lines(run.path, PREDICTIONS)])
        for run in (whole, half)
    ]
    assert torch.allclose(*said, atol=0.05)


def test_a_dry_run_forecasts_a_streamed_run(asked, capsys):
    command = [
        "fit",
        str(asked["data"]),
        "--base",
        str(asked["base"]),
        "--arch",
        asked["arch"],
        "--set",
        STREAM,
        "--dry-run",
        "--json",
        "--budget",
        "fast",
    ]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["training"]["offload"]["value"] == "float32"
    assert told["forecast"]["disk_mb"] > 1


def test_memory_decides_where_nobody_does(asked, monkeypatch):
    request = typed_request(data=asked["data"], base=asked["base"], arch=asked["arch"])
    size = Path(asked["base"]).stat().st_size
    for free, streams in ((10 * size, False), (2 * size, True), (None, False)):
        monkeypatch.setattr(inputs, "free_memory", lambda free=free: free)
        found = inputs.choose_offload(request)
        assert (found is not None) == streams
    monkeypatch.setattr(inputs, "free_memory", lambda: 2 * size)
    assert "4 times" in inputs.choose_offload(request).because
    assert inputs.choose_offload(typed_request(data=asked["data"])) is None


def test_what_cannot_be_streamed_is_loaded_where_nobody_asked(asked, tmp_path, monkeypatch):
    """Half precision, weights that fit in part, a computer without accelerate."""
    monkeypatch.setattr(inputs, "free_memory", lambda: 1)
    request = typed_request(data=asked["data"], base=asked["base"], arch=asked["arch"])
    assert inputs.choose_offload(request) is not None
    half = {n: t.half() for n, t in load_file(asked["base"]).items()}
    save_file(half, tmp_path / "half.safetensors")
    assert inputs.choose_offload(replace(request, base=tmp_path / "half.safetensors")) is None
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    assert inputs.choose_offload(replace(request, base=tmp_path / "torn.safetensors")) is None
    partial = replace(request, settings=parse_settings(["base.partial=true"]))
    assert inputs.choose_offload(partial) is None
    monkeypatch.setattr(inputs, "HELPER", "no_such_package")
    assert inputs.choose_offload(request) is None
    with pytest.raises(PlanError, match=r"base\.partial do not go together"):
        inputs.choose_offload(
            replace(partial, settings=parse_settings(["base.partial=true", STREAM]))
        )


def test_what_cannot_be_streamed_says_so(asked, tmp_path, monkeypatch):
    with pytest.raises(PlanError, match=r"only a \.safetensors file of weights can be offloaded"):
        warmstart.fit(asked["data"], settings=(STREAM,))
    with pytest.raises(PlanError, match="it is true, false, float32 or float16"):
        warmstart.fit(asked["data"], settings=("training.offload=int8",))
    half = {n: t.half() for n, t in load_file(asked["base"]).items()}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match=r"is float16.*save the weights as float32"):
        fit({**asked, "base": tmp_path / "half.safetensors"}, None, settings=(STREAM,))
    with pytest.raises(ModelError, match=r"gone\.safetensors: only a \.safetensors file"):
        fit({**asked, "base": tmp_path / "gone.safetensors"}, None, settings=(STREAM,))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError, match=r"run `pip install .*accelerate`, or use"):
        fit(asked, None, settings=(STREAM,))


PEAK = """
import re, sys, timm, torch
from pathlib import Path
from warmstart.network.ledger import take_digests
from warmstart.network.load import InputOptions, load
from warmstart.network.finished_run import partition_base
from warmstart.records.inputs import Preprocessing
import accelerate

def peak():  # of this process alone: what getrusage says begins at its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

prep = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
taken, before = [], peak()
for stream in ("float32", ""):
    wish = InputOptions(stream=stream)
    start = load(sys.argv[1], arch="timm:resnet50", preprocessing=prep, inputs=wish)
    take_digests(partition_base(start))
    taken.append(peak() - before)
print(*taken)
"""


def test_a_network_that_stays_in_its_file_takes_no_memory_to_be_cut(tmp_path):
    """As the operating system counts it: 94 MB of weights, and hardly any of it taken."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell the memory of one process")
    with torch.random.fork_rng(devices=[]):
        module = timm.create_model("resnet50", num_classes=2)
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    command = [sys.executable, "-c", PEAK, tmp_path / "a.safetensors"]
    job = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = [int(word) for word in job.stdout.split()]
    size = (tmp_path / "a.safetensors").stat().st_size
    assert taken[0] < 0.75 * size  # what the kernels want for a moment, hardly any weights
    assert taken[1] > taken[0] + 0.75 * size
