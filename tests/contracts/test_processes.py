"""Several processes at one job give what one gives; one that dies ends it where it can go on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from hue_images import fill

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("several_processes.py")
SETTINGS = (
    "training.engine=torch",
    "training.epochs=2.6667",
    "training.batch_size=7",
    "training.folds=1",
    "training.augmentations=2",
    "input.size=32",
)
OPTIONS = ["--budget", "fast", "--lr", "3e-4"]
OPTIONS += [word for one in SETTINGS for word in ("--set", one)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, a start, and the run of one process."""
    root = tmp_path_factory.mktemp("world")
    fill(root / "pictures", {"blue": 12, "red": 12})
    tiny.weights(root, tiny.CONVNEXT)
    jobs = start(root, 1, "alone", "fit", {})
    assert [job.wait(300) for job in jobs] == [0], jobs[0].stderr.read()
    return root


def asked(root, out):
    base = ["--base", str(root / "test_convnext.safetensors"), "--arch", tiny.CONVNEXT]
    return ["fit", str(root / "pictures"), *base, *OPTIONS, "--out", str(root / out)]


def start(root, size, out, verb, told, more=()):
    """One process for each rank, as a launcher starts them; the shared cache has their name."""
    more = more if "--strategy" in more else (*more, "--strategy", "last:1")
    words = [*asked(root, out), *more] if verb == "fit" else ["resume", str(root / out)]
    return launched([str(SCRIPT), json.dumps(told), *words], size, root / f"{out}c")


def launched(words, size, cache):
    """Python in several processes that can find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = []
    for rank in range(size):
        env = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WARMSTART_CACHE": str(cache),
        }
        found.append(
            subprocess.Popen(
                [sys.executable, *words],
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return found


def ended(jobs):
    """Exit codes, and what each said."""
    said = [job.communicate(timeout=300) for job in jobs]
    return [job.returncode for job in jobs], said


def check_same(root, out, alone="alone", is_same_plan=True):
    """The same decisions, and numbers that differ by rounding alone."""
    ours, theirs = root / out, root / alone
    scores = [
        np.array([[*line["scores"].values()] for line in tiny.lines(run, "predictions.jsonl")])
        for run in (ours, theirs)
    ]
    np.testing.assert_allclose(*scores, atol=1e-4)
    models = [load_file(run / "model" / "model.safetensors") for run in (ours, theirs)]
    for name, tensor in models[1].items():
        scale = float(tensor.abs().double().max()) or 1.0
        assert torch.allclose(models[0][name], tensor, atol=1e-4 * scale), name
    plans = [(run / "plan.toml").read_text() for run in (ours, theirs)]
    assert plans[0] == plans[1] or not is_same_plan


def decoded(run):
    """Images that the first process decoded in the look."""
    events = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    return next(
        e["values"]["decoded"] for e in events if e["stage"] == "features" and e["kind"] == "end"
    )


def test_processes_share_the_work_and_give_the_same_run(world):
    codes, said = ended(start(world, 2, "both", "fit", {}))
    assert codes == [0, 0], said
    assert said[1][0] == ""
    assert "Verdict" not in said[1][1]
    check_same(world, "both")
    assert json.loads((world / "both" / "summary.json").read_text())["guards"] == []
    assert decoded(world / "both") == 12
    assert decoded(world / "alone") == 24


def gone_on_with(world, size, out, told, more=()):
    """A job that loses a process, and then by `size` processes; what was said."""
    codes, said = ended(start(world, 2, out, "fit", {**told, "due": True}, more))
    assert sorted(codes) == [-9, 1], said
    assert (world / out / "INTERRUPTED").exists() or codes[0] == -9
    codes, again = ended(start(world, size, out, "resume", {}))
    assert codes == [0] * size, again
    return said


def test_a_process_that_dies_while_it_writes_a_checkpoint_leaves_the_one_before(world):
    said = gone_on_with(world, 2, "torn", {"torn": [0, 3]})
    assert "process 1 of 0 to 1: another process of this job has died" in said[1][1]
    check_same(world, "torn")


@pytest.mark.parametrize(("stage", "number"), [("features", 1), ("fine_tune", 9)])
def test_a_process_that_dies_ends_the_job_which_then_goes_on(world, stage, number):
    out = f"{stage}{number}"
    codes, said = ended(start(world, 2, out, "fit", {"die": [1, stage, number], "due": True}))
    assert codes[1] == -9
    assert codes[0] == 1, said[0]
    line = said[0][1].strip().splitlines()[-1]
    assert "another process of this job has died" in said[0][1].replace("\n", " ")
    assert "resume" in line
    assert (world / out / "INTERRUPTED").exists()
    again = 1 if stage == "fine_tune" else 2
    codes, said = ended(start(world, again, out, "resume", {}))
    assert codes == [0] * again, said
    check_same(world, out)


OWN = """
import sys, warmstart
base, arch, data, out = sys.argv[1:]
run = warmstart.fit(data, base=base, arch=arch, strategy="head", budget="fast", out=out,
                    settings={"training.engine": "torch", "input.size": 32},
                    on_event=lambda event: print(event.stage))
again = warmstart.resume(run.path)
assert again.summary == run.summary
print(run.path, run.estimate.value)
"""


def test_a_script_of_ones_own_shares_its_work_and_all_are_handed_the_run(world):
    weights = str(world / "test_convnext.safetensors")
    words = ["-c", OWN, weights, tiny.CONVNEXT, str(world / "pictures"), str(world / "script")]
    codes, said = ended(launched(words, 2, world / "scriptc"))
    assert codes == [0, 0], said
    first, second = (lines.splitlines() for lines, _ in said)
    assert second == [first[-1]]  # events are the first one's
    assert first[-1].startswith(str(world / "script"))
    assert decoded(world / "script") == 12


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two GPUs, between which NCCL exchanges gradients"
)
@pytest.mark.parametrize("word", ["data", "fsdp", "pipeline:2"])
def test_two_processes_on_two_gpus_give_the_same_run(world, word):
    more = ("--device", "cuda", "--parallel", word)
    codes, said = ended(start(world, 2, f"gpus{word[:4]}", "fit", {}, more))
    assert codes == [0, 0], said
    summary = json.loads((world / f"gpus{word[:4]}" / "summary.json").read_text())
    assert summary["guards"] == []


PIPED = ("--set", "training.split_at=0", "--strategy", "last:3")


@pytest.fixture(scope="module")
def piped(world):
    """One process that passes the same parts of a batch as two stages do."""
    jobs = start(world, 1, "plain", "fit", {}, (*PIPED, "--set", "training.micro_batch=1"))
    assert ended(jobs)[0] == [0]
    return world


@pytest.mark.parametrize("word", ["pipeline:2", "fsdp"])
def test_shared_weights_give_what_one_process_gives(piped, word):
    out = word[:5]
    codes, said = ended(start(piped, 2, out, "fit", {}, (*PIPED, "--parallel", word)))
    assert codes == [0, 0], said
    check_same(piped, out, "plain", is_same_plan=False)
    assert f'value = "{word}"' in (piped / out / "plan.toml").read_text()
    losses = [
        [
            event["values"]["loss"]
            for event in tiny.lines(piped / run, "progress.jsonl")
            if event["stage"] == "fine_tune" and event["kind"] == "step"
        ]
        for run in (out, "plain")
    ]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_a_pipeline_that_lost_a_process_is_gone_on_with_by_one(piped):
    more = (*PIPED, "--parallel", "pipeline:2")
    gone_on_with(piped, 1, "lost", {"die": [1, "fine_tune", 9]}, more)
    check_same(piped, "lost", "plain", is_same_plan=False)


def test_shared_weights_of_which_a_process_could_not_write_its_share_are_gone_on_with(piped):
    more = (*PIPED, "--parallel", "fsdp")
    gone_on_with(piped, 2, "shares", {"torn": [1, 3]}, more)
    check_same(piped, "shares", "plain", is_same_plan=False)
