"""The tutorials: a run as base model, beside scratch, wrong blocks and wrong learning rates."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import results, sets
from bench.story_sets import STORIES, Story, make

KEPT = results.FOLDER / "stories.jsonl"
KEYS = ("story", "arm", "seed", "machine")
Row = dict[str, Any]


def add_options(parser: ArgumentParser) -> None:
    """--stories, --seed, --arms, --place."""
    parser.add_argument("--stories", nargs="+", default=list(STORIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", help="only these, besides what they need")
    parser.add_argument("--place", type=Path, required=True, help="where folders and runs are kept")


def measure(args: Namespace) -> dict[str, Any]:
    """Each run by its command line, in a process of its own with an empty cache.

    What is kept is not run again, unless its run folder is gone and a later one needs it.
    """
    for name in args.stories:
        _tell(STORIES[name], args)
    return {"summary": summary(stored())}


def stored() -> list[Row]:
    """Every row measured so far."""
    return results.lines(KEPT)


def summary(rows: list[Row]) -> dict[str, Any]:
    """Test accuracy of each run, and how much better the warm start is."""
    result: dict[str, Any] = {}
    for row in rows:
        name = f"{row['story']} {row['arm']} {row['seed']}"
        if row.get("test"):
            result[name] = round(row["test"]["accuracy"], 4)
    return result


# ---- one story -----------------------------------------------------------------------------


def _tell(story: Story, args: Namespace) -> None:
    place = args.place / f"{story.name}-{args.seed}"
    place.mkdir(parents=True, exist_ok=True)
    make(story, sets.root(args), place)
    commands = story.commands()
    for arm, typed in commands.items():
        if args.arms and arm not in (*args.arms, "source"):
            continue
        if not _is_there(story, arm, args.seed, place):
            command = typed if arm == "as-is" else f"{typed} --seed {args.seed}"
            out = typed.partition(" --out ")[2]
            if out:  # left by a run that was killed
                shutil.rmtree(place / out, ignore_errors=True)
            _keep(story, arm, args.seed, command, _run(command, place))
    runs = [f"runs/{arm}" for arm in commands if (place / f"runs/{arm}/DONE").exists()]
    if len(runs) > 1:
        command = " ".join(["warmstart compare", *runs])
        _keep(story, "compare", args.seed, command, _run(command, place))


def _is_there(story: Story, arm: str, seed: int, place: Path) -> bool:
    """Whether a run is kept; the run folder is needed too where it is the base model of others."""
    key = [story.name, arm, seed, results.machine()["cpu"]]
    is_kept = any([row[name] for name in KEYS] == key for row in stored())
    return is_kept and (arm != "source" or (place / f"runs/{story.source}/DONE").exists())


def _run(command: str, place: Path) -> Row:
    """Type it, and what it said."""
    with tempfile.TemporaryDirectory() as cache:
        words = [sys.executable, "-m", *shlex.split(command), "--json"]
        began = time.perf_counter()
        env = os.environ | {"WARMSTART_CACHE": cache}
        done = subprocess.run(
            words, cwd=place, env=env, capture_output=True, text=True, check=False
        )
        seconds = round(time.perf_counter() - began, 1)
    if done.returncode not in (0, 3):
        sys.exit(f"{command}: {done.stderr.strip()[-800:]}")
    return {"seconds": seconds, **_told(json.loads(done.stdout), shlex.split(command), place)}


def _told(reported: Mapping[str, Any], words: list[str], place: Path) -> Row:
    """What the tables need of an answer in JSON."""
    verb = words[1]
    if verb == "evaluate":
        return {"test": dict(reported)}
    if verb == "compare":
        keys = ("name", "updates", "near_end_updates", "near_end_seconds")
        return {
            "runs": [{key: run[key] for key in keys} for run in reported["runs"]],
            "pairs": [pair for pair in reported["pairs"] if "warm" in (pair["a"], pair["b"])],
        }
    output = {
        "verdict": reported["verdict"]["kind"],
        "sentence": reported["verdict"]["sentence"],
        "evidence": [
            {key: one[key] for key in ("name", "value", "low", "high")}
            for one in reported["verdict"]["evidence"]
        ],
        "findings": [one["sentence"] for one in reported["findings"]],
        "train": reported["data"]["train"],
        "classes": reported["data"]["classes"],
    }
    if verb == "fit":
        output |= {key: reported[key] for key in ("test", "estimate", "shipped", "guards")}
        output["accuracy_held_out"] = list(
            _held_out(place / words[words.index("--out") + 1] / "progress.jsonl")
        )
    return output


def _held_out(log: Path) -> Iterator[list[float]]:
    """Of the training that holds rows out: attempt, update, accuracy on these rows."""
    attempt = 0
    for event in map(json.loads, log.read_text().splitlines()):
        values = event["values"]
        attempt += event["stage"] == "fine_tune" and event["kind"] == "guard"
        if event["kind"] == "step" and values.get("job") == 1 and "val" in values:
            yield [attempt, event["step"], values["val"]]


def _keep(story: Story, arm: str, seed: int, command: str, measured: Row) -> None:
    """Write a row in the place of an older one of the same key."""
    about = {
        "story": story.name,
        "arm": arm,
        "seed": seed,
        "machine": results.machine()["cpu"],
        "date": datetime.date.today().isoformat(),
        "command": command,
    }
    key = [about[name] for name in KEYS]
    rows = [row for row in stored() if [row[name] for name in KEYS] != key]
    rows.append({**about, **measured})
    KEPT.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = {k: measured.get(k) for k in ("seconds", "verdict", "guards")}
    test = (measured.get("test") or {}).get("accuracy")
    print(story.name, arm, seed, test, shown, file=sys.stderr, flush=True)
