"""Sixteen small runs, compared bit by bit before and after a change: record, then check.

    python -m bench same record          # before a change: makes the runs, keeps what came out
    python -m bench same check           # after it: makes them again, prints what differs

A change that should leave all results as they were is checked with it. Each run has a process, a
working directory and a feature cache of its own, one thread and a fixed environment; what it
leaves is in `bench/same_job.py`, data and networks are in `bench/same_data.py`. Bits differ
between processors and versions of torch, so that a record stays on its machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import results

# ---- what users write, and what they read --------------------------------------------------
# Left: what this bench calls it, in the table of runs and in records; never changed, so that a
# record made before a renaming is read after it. Right: how the package spells it today. A
# renaming in the package is followed here, and nowhere else in this bench.

OPTIONS = {  # of `fit`: `--base` on the command line is `base=` in Python
    "base": "base",
    "arch": "arch",
    "strategy": "strategy",
    "budget": "budget",
    "test": "test",
    "label": "label",
    "task": "task",
    "text": "text",
    "out": "out",
    "parallel": "parallel",
    "lr": "lr",
    "minutes": "minutes",
    "preprocessing": "preprocessing",
}
SETTINGS = ("set", "settings")  # single values of the plan: on the command line, in Python
PLAN = {
    "size": "input.size",
    "epochs": "training.epochs",
    "folds": "training.folds",
    "batch": "training.batch_size",
    "cut": "training.split_at",
}
# The event of an update: stage, kind, one of its values.
TRAINING_STEP = ("fine_tune", "step", "loss")
CHECKPOINTS = "checkpoints"  # folder in the run folder of what a killed training goes on from
CHECKPOINT_AFTER = 3.5  # seconds of training after which the first one is written, and some
MODEL = "model"  # folder in the run folder of the tensors that are shipped
PREDICTIONS = "predictions.jsonl"
SUMMARY = "summary.json"
# Paths in summary.json.
OUTCOME = {
    "verdict": "verdict.kind",
    "evidence": "verdict.evidence",
    "shipped": "shipped.strategy",
    "estimate": "estimate",
    "test": "test",
}
# Names of today that records do not have: today's on the left.
KEYS: dict[str, str] = {}  # of predictions, answers, evidence; where there are dots, first words
WORDS: dict[str, dict[str, str]] = {"verdict": {}, "shipped": {}, "evidence": {}}
TENSORS: dict[str, str] = {}  # first words of the names of tensors
UNTOLD = ("meaning",)  # keys whose sentences may be reworded


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One small run and what it is there for.

    `network` and `data` are makers in `bench/same_data.py`; without a network the default base
    model is taken, or, for a table, none. `is_python`: through `warmstart.fit`, not the command.
    """

    name: str
    kind: str
    task: str
    data: str
    options: Mapping[str, Any]
    plan: Mapping[str, Any] = field(default_factory=dict)
    network: str | None = None
    is_python: bool = False
    ships: str | None = None  # where it is not the strategy; a run that ships another fails
    says: str | None = None  # words of a note that its progress must hold
    after: str | None = None  # the run that is its base model
    killed_at: int | None = None  # update after which it is killed, to be resumed
    like: str | None = None  # the run whose outcome it must have
    processes: int = 1


_QUICK = {"budget": "fast"}
_FEW = {"epochs": 10, "batch": 16, "folds": 2}
JOBS = (
    Job(
        name="image-head",
        kind="image",
        task="classify",
        data="shapes_in_folders",
        options={"strategy": "head", "budget": "balanced"},
        plan={"size": 64},
    ),
    Job(
        name="image-last",
        kind="image",
        task="classify",
        data="shapes_in_folders",
        network="convnext",
        options={"strategy": "last:2", **_QUICK},
        plan=_FEW,
    ),
    Job(
        name="image-labels",
        kind="image",
        task="multilabel",
        data="shapes_in_arrays",
        network="vit",
        options={"strategy": "full", **_QUICK},
        plan=_FEW,
        is_python=True,
    ),
    Job(
        name="image-scratch",
        kind="image",
        task="regress",
        data="angles_in_a_table",
        network="convnext",
        plan=_FEW,
        options={"strategy": "scratch", "label": "angle", "task": "regress", **_QUICK},
    ),
    Job(
        name="image-add",
        kind="image",
        task="classify",
        data="shapes_in_folders",
        network="resnet",
        options={"strategy": "head+add", **_QUICK},
        plan=_FEW,
    ),
    Job(
        name="image-gradual",
        kind="image",
        task="classify",
        data="digits",
        network="own_pixels",
        options={"strategy": "full+gradual", **_QUICK},
        plan=_FEW,
        is_python=True,
    ),
    Job(
        name="image-ensemble",
        kind="image",
        task="classify",
        data="grainy_shapes",
        options={"budget": "balanced"},
        plan={**_FEW, "size": 64},
        ships="ensemble",
    ),
    Job(
        name="image-soup",
        kind="image",
        task="classify",
        data="shapes_in_folders",
        network="convnext",
        plan=_FEW,
        says="mean of 3 trainings",
        # With minutes, ever so many, no network is trained from nothing beside it: that takes long.
        options={"strategy": "last:2", "budget": "thorough", "minutes": 600},
    ),
    Job(
        name="image-from-run",
        kind="image",
        task="classify",
        data="shapes_in_folders",
        after="image-last",
        options={"strategy": "last:1", **_QUICK},
        plan=_FEW,
    ),
    Job(
        name="image-killed",
        kind="image",
        task="classify",
        data="shapes_in_folders",
        network="convnext",
        options={"strategy": "last:2", **_QUICK},
        plan=_FEW,
        killed_at=9,
        like="image-last",
    ),
    Job(
        name="image-pipeline",
        kind="image",
        task="classify",
        data="shapes_in_folders",
        network="convnext",
        plan={**_FEW, "cut": 0},
        processes=2,
        options={"strategy": "last:3", "parallel": "pipeline:2", **_QUICK},
    ),
    Job(
        name="text-lora",
        kind="text",
        task="classify",
        data="texts",
        network="bert",
        options={"strategy": "full+lora", "budget": "balanced"},
        plan=_FEW,
    ),
    Job(
        name="text-labels",
        kind="text",
        task="multilabel",
        data="texts_of_many_topics",
        network="distilbert",
        plan=_FEW,
        options={"strategy": "last:1", "task": "multilabel", **_QUICK},
    ),
    Job(
        name="sound-last",
        kind="audio",
        task="classify",
        data="sounds",
        network="wav2vec2",
        options={"strategy": "last:1", "lr": 1e-3, **_QUICK},
        plan=_FEW,
    ),
    Job(
        name="table-number",
        kind="table",
        task="regress",
        data="prices",
        options={"label": "price", "task": "regress", "strategy": "scratch", **_QUICK},
        plan={"epochs": 50, "folds": 2},
    ),
    Job(
        name="tensor-full",
        kind="tensor",
        task="classify",
        data="signals",
        network="own_signals",
        options={"strategy": "full", **_QUICK},
        plan=_FEW,
        is_python=True,
    ),
)
BY_NAME = {job.name: job for job in JOBS}

# ---- the command ---------------------------------------------------------------------------

RECORD = Path("build/same")
SHOWN = 6  # differences of one kind of one run that are printed
LIBRARIES = (
    "numpy",
    "onnxruntime",
    "pillow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)
# Nothing else of the caller's environment reaches a run.
PASSED_ON = ("PATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
FIXED = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_CBWR": "AVX2,STRICT",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}

Trace = dict[str, Any]  # what one run left, as bench/same_job.py writes it
Tensors = dict[str, Any]  # those small enough to be kept, by their names


def add_verbs(parser: ArgumentParser) -> None:
    """record and check."""
    verbs = parser.add_subparsers(dest="same", required=True)
    for verb, does in (
        ("record", "make the runs and keep what came out"),
        ("check", "make them again and print what differs"),
    ):
        own = verbs.add_parser(verb, help=does)
        about = f"folder, or .json file, of the record (default {RECORD})"
        own.add_argument("record", type=Path, nargs="?", default=RECORD, help=about)
        own.add_argument("--only", nargs="+", choices=BY_NAME, metavar="RUN", help="some runs")
        own.add_argument(
            "--jobs",
            type=int,
            default=len(os.sched_getaffinity(0)),
            help="runs at a time (default: as many as there are cores)",
        )


def main(args: Namespace) -> int:
    """0: recorded, or the same · 1: a run failed, or differs · 2: there is no record."""
    names = [job.name for job in JOBS if not args.only or job.name in args.only]
    path = args.record if args.record.suffix == ".json" else args.record / "record.json"
    if args.same == "check" and not path.exists():
        print(f"{path} is not there; python -m bench same record makes it.", file=sys.stderr)
        return 2
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-same-") as place:
        code = (_record if args.same == "record" else _check)(names, path, Path(place), args.jobs)
    print(f"{len(names)} runs in {time.perf_counter() - began:.0f} s")
    return code


def _record(names: Sequence[str], path: Path, place: Path, n_jobs: int) -> int:
    runs: dict[str, Trace] = {}
    stored: Tensors = {}
    is_whole = True
    for name, trace, tensors, seconds in _made(names, place, n_jobs):
        print(f"{name:15s} {seconds}  {trace.get('error', 'done')}", flush=True)
        is_whole &= "error" not in trace
        runs[name] = trace
        stored |= {f"{name}/{key}": tensor for key, tensor in tensors.items()}
    pairs = unlike(runs)
    print("\n".join(pairs), end="\n" if pairs else "")
    if not is_whole or pairs:
        print("nothing was recorded", file=sys.stderr)
        return 1
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, path.with_suffix(".safetensors"))
    record = {"format": 1, "machine": machine(), "runs": runs}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
    print(f"recorded in {path}")
    return 0


def _check(names: Sequence[str], path: Path, place: Path, n_jobs: int) -> int:
    from safetensors.torch import load_file

    record, stored = (
        json.loads(path.read_text("utf-8")),
        load_file(path.with_suffix(".safetensors")),
    )
    here, runs, n_differing = machine(), {}, 0
    for line in other_machine(record["machine"], here):
        print(f"not comparable: {line}; record anew here", flush=True)
    for name, trace, tensors, seconds in _made(names, place, n_jobs):
        begin = f"{name}/"
        before = {k.removeprefix(begin): t for k, t in stored.items() if k.startswith(begin)}
        lines = differences(record["runs"].get(name), trace, before, tensors)
        print(f"{name:15s} {seconds}  {'DIFFERS' if lines else 'same'}")
        print("\n".join(f"    {line}" for line in lines), end="\n" if lines else "", flush=True)
        runs[name], n_differing = trace, n_differing + bool(lines)
    pairs = unlike(runs)
    print("\n".join(pairs), end="\n" if pairs else "")
    print(f"{len(runs) - n_differing} of {len(runs)} are the same as in {path}")
    return int(n_differing > 0 or bool(pairs))


# ---- making the runs -----------------------------------------------------------------------


def _made(
    names: Sequence[str], place: Path, n_jobs: int
) -> Iterator[tuple[str, Trace, Tensors, str]]:
    """Each run's name, trace, small tensors and what it took, in the order of names."""
    with ThreadPoolExecutor(n_jobs) as pool:
        for name, (trace, tensors, seconds) in zip(
            names, pool.map(lambda name: make(name, place / name), names), strict=True
        ):
            yield name, trace, tensors, seconds


def make(name: str, folder: Path) -> tuple[Trace, Tensors, str]:
    """Make one run in a process of its own; its trace is {"error": ...} where it failed.

    What it took is in seconds, and in those of a processor, which a busy machine changes less.
    """
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    began = time.perf_counter()
    job = subprocess.run(
        [sys.executable, "-m", "bench.same_job", name],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if job.returncode != 0:
        summary = (job.stderr.strip() or job.stdout.strip()).splitlines()
        error = f"exit code {job.returncode}: {' / '.join(summary[-3:])}"
        return {"error": error}, {}, f"{seconds:4.0f} s"
    trace: Trace = json.loads((folder / "trace.json").read_text("utf-8"))
    took = f"{seconds:4.0f} s, {trace.pop('processor_seconds'):3.0f} of a processor"
    return trace, load_file(folder / "trace.safetensors"), took


def environment(folder: Path) -> dict[str, str]:
    """What every process of a run finds: the caller's Python path, its own cache."""
    own = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    here = str(Path(__file__).parents[1])
    paths = [os.path.abspath(path) for path in (here, *sys.path) if path]
    return {
        **own,
        **FIXED,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "WARMSTART_CACHE": str(folder / "cache"),
    }


def machine() -> dict[str, Any]:
    """What bits depend on beside the code. Many processors share one name: hence the numbers."""
    import torch

    table, numbers = Path("/proc/cpuinfo"), ("cpu family", "model", "stepping")
    lines = table.read_text("utf-8").splitlines() if table.exists() else []
    pairs = [[word.strip() for word in line.split(":", 1)] for line in lines if ":" in line]
    result = {key: value for key, value in reversed(pairs) if key in numbers}
    return {
        **results.machine(),
        **{f"cpu {key.removeprefix('cpu ')}": result[key] for key in result},
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **{name: version(name) for name in LIBRARIES},
    }


def other_machine(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what the machine of a record is another one than this."""
    return [
        f"the record's {key} is {before.get(key)}, here it is {here.get(key)}"
        for key in sorted({*before, *here})
        if before.get(key) != here.get(key)
    ]


# ---- comparing -----------------------------------------------------------------------------


def unlike(runs: Mapping[str, Trace]) -> list[str]:
    """Which runs have not the outcome of the run that they must be like."""
    return [
        f"{job.name} is not like {job.like}: {line}"
        for job in JOBS
        if job.like is not None and {job.name, job.like} <= runs.keys()
        for line in differences(runs[job.like], runs[job.name], {}, {})
    ]


def differences(
    before: Trace | None, now: Trace, tensors_before: Tensors, tensors_now: Tensors
) -> list[str]:
    """What differs between two traces of one run, a line each."""
    if before is None:
        return ["it is not in the record"]
    if "error" in now or "error" in before:
        return [f"it failed: {now.get('error', before.get('error'))}"]
    lines = _of_tensors(before["tensors"], now["tensors"], tensors_before, tensors_now)
    for block in sorted({*before, *now} - {"tensors"}):
        ours, theirs = (dict(leaves(trace.get(block), block)) for trace in (now, before))
        lines += _short(
            [
                f"{path}: {_gap(theirs.get(path), ours.get(path))}"
                for path in dict.fromkeys([*theirs, *ours])
                if theirs.get(path) != ours.get(path)
            ],
            block,
        )
    return lines


def leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """All plain values below one, by where they stand."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}")
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from leaves(below, f"{path}[{place}]")
    else:
        yield path, str(value)


def _gap(before: str | None, now: str | None) -> str:
    """`0.75 → 0.7500001 (+1e-07)`, or two texts."""
    shown = ["nothing" if one is None else one for one in (before, now)]
    try:
        old, new = (float.fromhex(one) for one in shown if "0x" in one)
    except ValueError:
        return " → ".join(shown)
    return f"{old!r} → {new!r} ({new - old:+.2g})"


def _of_tensors(
    before: Mapping[str, Any], now: Mapping[str, Any], stored: Tensors, made: Tensors
) -> list[str]:
    lines = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if old is None or new is None:
            there, other = (now, before) if old is None else (before, now)
            near_duplicates = [n for n in sorted({*other} - {*there}) if other[n] == there[name]]
            is_new = "is new" if old is None else "is gone"
            lines.append(
                f"tensor {name} {is_new}"
                + (f"; same bytes: {near_duplicates[0]}" if near_duplicates else "")
            )
        elif (old["shape"], old["dtype"]) != (new["shape"], new["dtype"]):
            form = [f"{one['dtype']} {one['shape']}" for one in (old, new)]
            lines.append(f"tensor {name}: {' → '.join(form)}")
        elif name in stored and name in made:
            gap = (made[name].double() - stored[name].double()).abs()
            lines.append(
                f"tensor {name}: max abs difference {float(gap.max()):.3g}, "
                f"{int((gap > 0).sum())} of {gap.numel()} numbers"
            )
        else:
            lines.append(f"tensor {name}: other bytes ({old['shape']})")
    return _short(lines, "tensors")


def _short(lines: list[str], what: str) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"... and {more} more of {what}"] if more > 0 else lines
