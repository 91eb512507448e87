"""One run of `python -m bench same` in a process of its own: `python -m bench.same_job NAME`.

It works in the current directory and leaves `trace.json` and `trace.safetensors` there. Only what
users can use is used: the command line and the public names of `warmstart`.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import warmstart
from bench import same, same_data

RUN = "run"
KEPT = 65_536  # numbers of a tensor that is kept whole, beside its digest
WINDOW = 32  # px that a module of one's own for pictures sees


def main(words: Sequence[str]) -> int:
    """Make the run of that name; with `DATA NETWORK` after it, be the process that is killed."""
    if len(words) == 3:
        _fit_until_killed(same.BY_NAME[words[0]], *words[1:])
        return 1
    job = same.BY_NAME[words[0]]
    made, network = _prepared(job)
    if job.killed_at is not None:
        _kill_and_resume(job, made.data, network)
    elif job.processes > 1:
        _fit_in_processes(job, made.data)
    else:
        _fit(job, made.data, network)
    trace, tensors = traced(Path(RUN), made.inputs, network)
    _check_purpose(job, trace)
    trace["processor_seconds"] = sum(os.times()[:4])  # its children's too
    Path("trace.json").write_text(json.dumps(trace), "utf-8")
    save_file(tensors, "trace.safetensors")
    return 0


def _prepared(job: same.Job) -> tuple[same_data.Made, Any]:
    """Data and network; the base model of a run that needs one is trained first."""
    made = same_data.DATA[job.data]()
    if job.after is not None:
        base = same.BY_NAME[job.after]
        _command("fit", *_words(base, made.data, same_data.network(base.network or ""), "base"))
        return made, "base"
    return made, same_data.network(job.network) if job.network else None


# ---- fitting -------------------------------------------------------------------------------


def _fit(job: same.Job, data: Any, network: Any) -> None:
    if job.is_python:
        warmstart.fit(data, **_keywords(job, network))
    else:
        _command("fit", *_words(job, data, network, RUN))


def _command(*words: str) -> None:
    """`python -m warmstart ...`, in this process: importing torch again would take seconds."""
    before, sys.argv = sys.argv, ["warmstart", *words]
    try:
        runpy.run_module("warmstart", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (0, 3):  # 3: done, and there is no signal
            raise
    finally:
        sys.argv = before


def _options(job: same.Job, network: Any, out: str) -> dict[str, Any]:
    """Options by the names of today."""
    result = {**job.options, "out": out}
    if network is not None:
        result["base"] = network
    if isinstance(network, str) and network.endswith(".safetensors"):
        result["arch"] = f"timm:{Path(network).stem}"
    return {same.OPTIONS[name]: value for name, value in result.items()}


def _words(job: same.Job, data: Any, network: Any, out: str) -> list[str]:
    words = [str(data)]
    for name, value in _options(job, network, out).items():
        words += [f"--{name}", str(value)]
    for name, value in job.plan.items():
        words += [f"--{same.SETTINGS[0]}", f"{same.PLAN[name]}={value}"]
    return [*words, "--quiet"]


def _keywords(job: same.Job, network: Any) -> dict[str, Any]:
    words = _options(job, network, RUN)
    words[same.SETTINGS[1]] = {same.PLAN[name]: value for name, value in job.plan.items()}
    if isinstance(network, nn.Module) and job.kind == "image":
        half = (0.5, 0.5, 0.5)
        words[same.OPTIONS["preprocessing"]] = warmstart.Preprocessing(
            size=(WINDOW, WINDOW), resize=WINDOW, mean=half, std=half
        )
    return words


def _fit_in_processes(job: same.Job, data: Any) -> None:
    """As a launcher starts them."""
    words = _words(job, data, same_data.network(job.network or ""), RUN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    jobs = []
    for rank in range(job.processes):
        output = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(job.processes),
            "LOCAL_WORLD_SIZE": str(job.processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "-m", "warmstart", "fit", *words]
        jobs.append(subprocess.Popen(command, env={**os.environ, **output}))
    codes = [one.wait() for one in jobs]
    if any(codes):
        raise SystemExit(f"the processes ended with exit codes {codes}")


def _kill_and_resume(job: same.Job, data: str, network: str) -> None:
    command = [sys.executable, "-m", "bench.same_job", job.name, data, network]
    ended = subprocess.run(command, check=False)
    if ended.returncode != -signal.SIGKILL:
        raise SystemExit(f"it was to be killed, and ended with exit code {ended.returncode}")
    if not any(Path(RUN, same.CHECKPOINTS).glob("*")):
        raise SystemExit("it was killed before a checkpoint was written")
    _command("resume", RUN, "--quiet")


def _fit_until_killed(job: same.Job, data: str, network: str) -> None:
    """Learn until an update is done; two updates before, wait until a checkpoint is due."""
    stage, kind, value = same.TRAINING_STEP
    done = 0

    def see(event: Any) -> None:
        nonlocal done
        if event.stage != stage or event.kind != kind or value not in event.values:
            return
        done += 1
        if job.killed_at is not None and done == job.killed_at - 2:
            time.sleep(same.CHECKPOINT_AFTER)
        if done == job.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    warmstart.fit(data, **_keywords(job, network), on_event=see)


# ---- what it left --------------------------------------------------------------------------


def traced(run: Path, inputs: Sequence[Any], network: Any) -> tuple[same.Trace, dict[str, Tensor]]:
    """The trace of a run folder, and its small tensors."""
    digests, small = {}, {}
    for path in sorted((run / same.MODEL).glob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            known = f"{path.stem}:{_recorded(name, same.TENSORS)}"
            digests[known] = digest(tensor)
            if tensor.numel() <= KEPT:
                small[known] = tensor
    summary = json.loads((run / same.SUMMARY).read_text("utf-8"))
    trace: same.Trace = {"tensors": digests}
    for name, place in same.OUTCOME.items():
        result = summary
        for key in place.split("."):
            result = result and result[key]
        trace[name] = exact(result)
    for name in ("verdict", "shipped"):
        trace[name] = same.WORDS[name].get(trace[name], trace[name])
    named = {one.pop("name"): one for one in trace["evidence"]}
    trace["evidence"] = {same.WORDS["evidence"].get(name, name): one for name, one in named.items()}
    trace["predictions"] = exact(_lines(run / same.PREDICTIONS))
    model = warmstart.load(run, network) if isinstance(network, nn.Module) else warmstart.load(run)
    trace["answers"] = exact([asdict(answer) for answer in model.predict(inputs)])
    return trace, small


def digest(tensor: Tensor) -> dict[str, Any]:
    """The SHA-256 of a tensor's bytes, its shape and its dtype."""
    payload = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {
        "sha256": hashlib.sha256(payload).hexdigest(),
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }


def exact(value: Any) -> Any:
    """The same with every fraction as a hexadecimal text, and names as records have them."""
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return {
            _recorded(str(key), same.KEYS): exact(below)
            for key, below in value.items()
            if key not in same.UNTOLD
        }
    if isinstance(value, list | tuple):
        return [exact(below) for below in value]
    return str(value)


def _recorded(name: str, words: Mapping[str, str]) -> str:
    """A name of today as records have it: its first word is another one there."""
    first, dot, rest = name.partition(".")
    return f"{words.get(first, first)}{dot}{rest}"


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _check_purpose(job: same.Job, trace: same.Trace) -> None:
    """A run that does not show any more what it is there for would hold nothing."""
    wanted = job.ships or job.options["strategy"]
    if trace["shipped"] != wanted:
        raise SystemExit(f"it ships {trace['shipped']} and is there to ship {wanted}")
    progress = (Path(RUN) / "progress.jsonl").read_text("utf-8")
    if job.says is not None and job.says not in progress:
        raise SystemExit(f"its progress does not say {job.says!r}, which it is there for")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
