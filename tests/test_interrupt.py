"""The command as a process of its own: Ctrl-C, kill and a full disk, and then `resume`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
import warmstart
from hue_images import fill
from warmstart.errors import RunFolderError, TrainingError

pytestmark = pytest.mark.slow

WARMSTART = [sys.executable, "-m", "warmstart"]
PATIENCE = 120  # seconds after which a test gives up; nothing is measured by it


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Pictures that keep the network busy for some batches, and the start."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "pictures", {"blue": 50, "green": 50, "red": 50})
    tiny.weights(tmp_path)
    return tmp_path


FIT = [
    *WARMSTART,
    "fit",
    "pictures",
    "--base",
    "start.safetensors",
    "--arch",
    tiny.ARCH,
    "--budget",
    "fast",
]
SAME = {"base": "start.safetensors", "arch": tiny.ARCH, "budget": "fast"}


def start(command: list[str], log: Path) -> subprocess.Popen[str]:
    """A child whose network has passed a batch."""
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + PATIENCE
    while not (log.exists() and '"features", "kind": "step"' in log.read_text("utf-8", "replace")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.005)
    return child


def test_ctrl_c_ends_the_step_and_resume_goes_on(place):
    child = start(FIT, place / "runs" / "pictures" / "progress.jsonl")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130, err
    assert out == ""
    lines = err.splitlines()
    assert "Stopping after this step; press Ctrl-C again to stop at once." in lines
    assert lines[-1] == (
        "Interrupted; what was computed is kept. Continue with: warmstart resume runs/pictures"
    )
    assert (place / "runs" / "pictures" / "INTERRUPTED").exists()
    job = subprocess.run(
        [*WARMSTART, "resume", "runs/pictures"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert job.returncode == 0, job.stderr
    assert "Resumed   goes on after" in job.stderr
    assert job.stdout.startswith("Usable with review: something other than the subject")
    assert "\nAccuracy  100 %" in job.stdout
    assert (place / "runs" / "pictures" / "DONE").exists()


def test_a_run_at_work_is_left_alone_and_a_killed_one_goes_on(place):
    child = start([*FIT, "--out", "run", "-q"], place / "run" / "progress.jsonl")
    with pytest.raises(RunFolderError, match="another process works on"):
        warmstart.resume("run")
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(RunFolderError, match="Run `warmstart resume run` to continue it"):
        warmstart.fit("pictures", out="run", **SAME)
    assert warmstart.resume("run").estimate.n == 150


# ---- Ctrl-C twice ------------------------------------------------------------------------

PRESSED = """
import os, signal, sys

class Press:
    # Presses Ctrl-C twice as a module begins to load.
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["PRESS_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
"""


def pressed(place, module, command):
    """A command in a process that is interrupted twice as it begins to load a module."""
    (place / "press").mkdir(exist_ok=True)
    (place / "press" / "sitecustomize.py").write_text(PRESSED)
    paths = os.pathsep.join([str(place / "press"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths, "PRESS_AT": module},
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(
    "module",
    ["warmstart.cli", "warmstart.cli.parse", "numpy", "torch", "torch.nn", "warmstart.run.fit"],
)
def test_two_interrupts_while_libraries_load_are_one_line(place, module):
    job = pressed(place, module, FIT)
    assert (job.returncode, job.stdout) == (130, "")
    said = [line for line in job.stderr.splitlines() if line.startswith("Interrupted")]
    assert len(said) == 1, job.stderr
    assert job.stderr.endswith(said[0] + "\n")
    assert "Traceback" not in job.stderr
    assert "Exception ignored" not in job.stderr


@pytest.mark.parametrize("verb", ["check", "models", "--help"])
def test_two_interrupts_end_every_verb_so(place, verb):
    words = {"check": ["check", *FIT[4:-2]]}.get(verb, [verb])
    module = {"check": "scipy", "models": "warmstart.cli.models"}.get(verb, "warmstart.cli.main")
    job = pressed(place, module, [*WARMSTART, *words])
    assert (job.returncode, job.stdout) == (130, "")
    assert job.stderr.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in job.stderr


@pytest.mark.parametrize("presses", [2, 3, 5])
def test_interrupts_in_a_row_amid_the_work_are_one_line(place, presses):
    """As a hand presses them, or faster than anything could be said between them."""
    child = start(FIT, place / "runs" / "pictures" / "progress.jsonl")
    for _ in range(presses):
        child.send_signal(signal.SIGINT)
        time.sleep(0.02 * (presses - 2))
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    said = [line for line in err.splitlines() if line.startswith("Interrupted")]
    assert said == [
        "Interrupted; what was computed is kept. Continue with: warmstart resume runs/pictures"
    ]
    assert warmstart.resume("runs/pictures").estimate.n == 150


LOST = """
import os, signal, warmstart.cli.main

class Swallowing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def help_that_loses_an_interrupt():
    made = Swallowing()
    del made
    while True:
        pass

warmstart.cli.main.root_help = help_that_loses_an_interrupt
import sys
from warmstart.__main__ import main
sys.argv = ["warmstart", "--help"]
sys.exit(main())
"""


def test_an_interrupt_where_python_lets_no_error_out_ends_the_work_as_well():
    job = subprocess.run(
        [sys.executable, "-c", LOST],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (job.returncode, job.stderr) == (130, "Interrupted.\n")


IGNORING = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a job in the background
sys.exit(subprocess.run([sys.executable, "-m", "warmstart", *sys.argv[1:]]).returncode)
"""


def test_a_command_that_was_told_to_ignore_ctrl_c_does(place):
    job = pressed(place, "warmstart.run.fit", [sys.executable, "-c", IGNORING, *FIT[3:], "-q"])
    assert job.returncode == 0, job.stderr


# ---- full disks --------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own of a few megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def leave(disk: Path, room: int) -> Path:
    """Fill a disk but for some bytes; returns what to remove to make room."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - room, 0)))
    return ballast


@pytest.mark.parametrize("room", [20_000, 1_000_000])
def test_a_full_disk_leaves_a_run_to_go_on_with(place, small_disk, room):
    """Full amid the records, and amid the model."""
    ballast = leave(small_disk, room)
    run = small_disk / "run"
    with pytest.raises(TrainingError) as caught:
        warmstart.fit("pictures", out=run, **SAME)
    assert str(caught.value).startswith("the disk is full (")
    assert str(caught.value).endswith(
        f"what was computed is kept. Make room, then run `warmstart resume {run}` to continue."
    )
    assert caught.value.exit_code == 1
    assert (run / "INTERRUPTED").exists()
    assert not list(run.rglob("*.partial"))
    ballast.unlink()
    finished = warmstart.resume(run)
    whole = warmstart.fit("pictures", out=place / "whole" / "run", **SAME)
    assert finished.estimate == whole.estimate
    assert tiny.bytes_of(run / "model") == tiny.bytes_of(whole.path / "model")


def test_a_disk_too_full_for_anything_is_left_to_the_same_command(place, small_disk):
    ballast = leave(small_disk, 0)
    with pytest.raises(TrainingError, match="then run the same command again to continue"):
        warmstart.fit("pictures", out=small_disk / "run", **SAME)
    ballast.unlink()
    assert warmstart.fit("pictures", out=small_disk / "run", **SAME).estimate.n == 150


def test_a_full_cache_is_no_failure_of_the_run(place, small_disk, monkeypatch):
    monkeypatch.setenv("WARMSTART_CACHE", str(small_disk / "cache"))
    ballast = leave(small_disk, 200_000)
    with pytest.raises(TrainingError, match="run `warmstart resume run` to continue") as caught:
        warmstart.fit("pictures", out="run", **SAME)
    assert f"the disk is full ({small_disk / 'cache'}" in str(caught.value)
    assert Path("run/INTERRUPTED").exists()
    ballast.unlink()
    assert warmstart.resume("run").estimate.n == 150
