"""The twelve faults of fine-tuning, planted in real sets: reported, repaired, or let through?"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from bench import results, sets
from bench.alter import jpeg
from bench.small import copy_few
from warmstart import fit
from warmstart.errors import WarmstartError
from warmstart.network.load import load
from warmstart.records import Summary
from warmstart.stats.paired import mean_interval

SETS = ("ants_bees", "sign_digits", "wbc_cells", "vehicles", "textures10")
DRAWS = 3  # of each set, for the clean runs
CLEAN = ("auto", "head", "last:6", "last:4")  # strategies of the clean runs
RATE = 3e-4  # that the rule gives here
LIMIT = 1.0  # minutes a run
ELSEWHERE = {"wbc_cells": "wbc_cells_site2"}  # the same classes from another laboratory
# What may only be reported where something is wrong with the training, or with the data.
ALARMS = {
    "stuck", "diverged", "forgetting", "preprocessing", "drift", "leak", "duplicate", "conflict",
    "tiny-class", "shortcut", "unreadable", "no-signal",
}  # fmt: skip
# Looked at: one cell in two magnifications, on both sides; one bicycle in two colours.
TRUE = {"wbc_cells": {"duplicate", "leak"}, "vehicles": {"duplicate"}}

Draw = np.random.Generator


@dataclass(frozen=True)
class Outcome:
    """What a run said: kinds of guards and findings, its verdict, or the class of its error."""

    said: frozenset[str]
    sentence: str
    correct: Any = None  # (n_test,) whether each test image was answered rightly


@dataclass(frozen=True)
class Fault:
    """`plant` changes the folder and gives options of `fit`; any of `wanted` reports it."""

    plant: Callable[[Path, int, Draw], dict[str, Any]]
    wanted: frozenset[str]
    may_be_harmless: bool = False  # repaired: no worse on test images than the clean run


def add_options(parser: ArgumentParser) -> None:
    """--sets, --only."""
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--only", nargs="+", default=[], help="names of faults")


def measure(given: Namespace) -> dict[str, Any]:
    """Plant each fault in each set, one at a time; and run the sets as they are.

    With --only, the kept rows of all else stand beside the new ones.
    """
    root, rows = sets.root(given), []
    for name in given.sets:
        number = SETS.index(name)
        clean: dict[str, Outcome] = {}
        for fault in FAULTS:
            if given.only and fault not in given.only:
                continue
            rows.append(_planted(root, name, number, fault, clean))
            print(rows[-1], file=sys.stderr, flush=True)
    quiet = (
        [] if given.only else [_clean(root, name, d) for name in given.sets for d in range(DRAWS)]
    )
    rows += [row for found in quiet for row in found]
    if given.only:
        rows = _among_kept(rows)
    return {"summary": _summary(rows), "rows": rows}


def _among_kept(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kept rows, those of the same set and fault taken from `rows`."""
    new = {(row["set"], row["fault"]): row for row in rows}
    kept = results.read("faults")["rows"]
    return [new.pop((row["set"], row.get("fault", "")), row) for row in kept] + [*new.values()]


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    planted = [row for row in rows if "fault" in row]
    quiet = [row for row in rows if "fault" not in row]
    found = Counter(row["fault"] for row in planted if row["reported"] or row["repaired"])
    total = Counter(row["fault"] for row in planted)
    alarms = [(r["set"], ALARMS.intersection(r["said"]) - TRUE.get(r["set"], set())) for r in quiet]
    return {
        "reported or repaired": f"{sum(found.values())} of {len(planted)}",
        **{name: f"{found[name]} of {n}" for name, n in total.items()},
        "clean runs with a false alarm": f"{sum(bool(found) for _, found in alarms)} of {len(quiet)}",
        "false alarms": ", ".join(
            sorted({f"{name}: {w}" for name, found in alarms for w in found})
        ),
    }


def _planted(
    root: Path, name: str, number: int, fault: str, clean: dict[str, Outcome]
) -> dict[str, Any]:
    """One fault in one set; where it is not reported, whether it cost anything."""
    found, wanted = FAULTS[fault], FAULTS[fault].wanted
    with tempfile.TemporaryDirectory() as place:
        data = copy_few(root / name, Path(place))
        options = found.plant(data, number, np.random.default_rng([number, 11]))
        if ELSEWHERE.get(name) and fault == "test from another domain":
            shutil.rmtree(data / "test")
            options = {"test": copy_few(root / ELSEWHERE[name], Path(place)) / "test"}
        outcome = run(data, options)
    row = {
        "set": name, "fault": fault, "reported": sorted(wanted & outcome.said),
        "repaired": False, "said": sorted(outcome.said), "sentence": outcome.sentence,
    }  # fmt: skip
    if row["reported"] or not found.may_be_harmless or outcome.correct is None:
        return row
    strategy = options.get("strategy", "auto")
    if strategy not in clean:
        with tempfile.TemporaryDirectory() as place:
            clean[strategy] = run(copy_few(root / name, Path(place)), {"strategy": strategy})
    gap = clean[strategy].correct.astype(float) - outcome.correct
    cost, low, _ = mean_interval(gap, np.arange(len(gap)))
    return row | {"repaired": bool(low <= 0), "cost": round(cost, 4)}


def _clean(root: Path, name: str, draw: int) -> list[dict[str, Any]]:
    """Nothing planted: what is reported all the same."""
    rows = []
    for strategy in CLEAN:
        with tempfile.TemporaryDirectory() as place:
            data = copy_few(root / name, Path(place), seed=draw)
            outcome = run(data, {"strategy": strategy})
        rows.append({
            "set": name, "draw": draw, "strategy": strategy, "said": sorted(outcome.said),
        })  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def run(data: Path, options: dict[str, Any]) -> Outcome:
    """Fit a small set within a minute; an error is an outcome too."""
    usual: dict[str, Any] = {"settings": ["input.size=96"], "minutes": LIMIT}
    with tempfile.TemporaryDirectory() as place:
        try:
            done = fit(options.pop("data", data), out=Path(place) / "run", **{**usual, **options})
        except WarmstartError as error:
            return Outcome(frozenset({type(error).__name__}), str(error))
        return _outcome(done.summary, Path(place) / "run")


def _outcome(summary: Summary, folder: Path) -> Outcome:
    guards, findings = summary.guards, summary.findings
    said = {g.kind for g in guards} | {f.kind for f in findings} | {summary.verdict.kind}
    lines = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    right = {p["id"]: p["target"] == p["label"] for p in lines if p["split"] == "test"}
    correct = np.array([right[id] for id in sorted(right)])
    return Outcome(frozenset(said), summary.verdict.sentence, correct if len(right) else None)


# ---- the faults --------------------------------------------------------------------------


def too_fast(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A thousand times the rule's rate."""
    return {"strategy": "last:6", "lr": RATE * 1e3}


def too_slow(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A millionth of it."""
    return {"strategy": "last:6", "lr": RATE * 1e-6}


def shuffled(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Labels exchanged among the training images."""
    files = sorted((data / "train").rglob("*.jpg"))
    homes = [file.parent for file in files]
    moved = [file.rename(data / f"{i:05d}.jpg") for i, file in enumerate(files)]
    for file, home in zip(moved, draw.permutation(np.array(homes, dtype=object)), strict=True):
        file.rename(home / file.name)
    return {}


def wrong_moments(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A network of one's own, and somebody else's mean and spread: of 0..255, or none."""
    start = load("lite0")
    mean, std = ((0.0,) * 3, (1 / 255,) * 3) if number % 2 else ((0.0,) * 3, (1.0,) * 3)
    prep = replace(start.record.preprocessing, mean=mean, std=std)
    return {"start": start.module, "preprocessing": prep}


def swapped(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Blue and red exchanged in every file."""
    for file in data.rglob("*.jpg"):
        with Image.open(file) as image:
            red, green, blue = image.convert("RGB").split()
        file.write_bytes(jpeg(Image.merge("RGB", (blue, green, red)), 95))
    return {}


def one_class(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Nothing to tell apart."""
    folder, alone = min((data / "train").iterdir()), data.parent / "alone"
    alone.mkdir()
    folder.rename(alone / folder.name)
    return {"data": alone}


def tiny(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """One class of one or two images."""
    files = sorted(min((data / "train").iterdir()).iterdir())
    for file in files[1 + number % 2 :]:
        file.unlink()
    return {}


def broken(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A file of weights that is cut off, half of it missing, or spoilt."""
    state = {n: t.contiguous() for n, t in load("lite0").module.state_dict().items()}
    names, file = sorted(state), data.parent / "start.safetensors"
    half = names[: len(names) // 2]
    if number % 5 == 1:
        state = {name: state[name] for name in half}
    elif number % 5 == 2:
        state[names[40]] = torch.full_like(state[names[40]], float("nan"))
    elif number % 5 == 3:
        state = {f"other.{name}": tensor for name, tensor in state.items()}
    save_file(state, file)
    if number % 5 == 0:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif number % 5 == 4:
        file.write_bytes(draw.bytes(file.stat().st_size))
    return {"start": file, "arch": "timm:tf_efficientnet_lite0"}


def constant(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """The last convolution gives the same whatever it sees, and no gradient."""
    start = load("lite0")
    module: Any = copy.deepcopy(start.module)
    with torch.no_grad():
        module.conv_head.weight.zero_()
        module.bn2.weight.zero_()
        module.bn2.bias.fill_(-1.0)
    return {
        "start": module, "preprocessing": start.record.preprocessing, "strategy": "last:1",
    }  # fmt: skip


def copies(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A tenth of the training images in the test part too."""
    files = sorted((data / "train").rglob("*.jpg"))
    for file in draw.choice(np.array(files, dtype=object), len(files) // 10, replace=False):
        target = data / "test" / file.parent.name / f"copy-{file.name}"
        target.write_bytes(file.read_bytes())
    return {}


def shared_groups(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Tables in which the same persons stand on both sides."""
    for part in ("train", "test"):
        files = sorted((data / part).rglob("*.jpg"))
        rows = [f"{f.relative_to(data)},{f.parent.name},p{i % 30}" for i, f in enumerate(files)]
        (data / f"{part}.csv").write_text("\n".join(["path,label,person", *rows]) + "\n")
    return {
        "data": data / "train.csv", "test": data / "test.csv", "label": "label", "group": "person",
    }  # fmt: skip


def elsewhere(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Test images from another camera: grey, dark, coarse."""
    for file in (data / "test").rglob("*.jpg"):
        with Image.open(file) as image:
            grey = image.convert("L").point([level * level // 255 for level in range(256)])
        small = grey.resize((max(grey.width // 3, 16), max(grey.height // 3, 16)))
        file.write_bytes(jpeg(small.resize(grey.size).convert("RGB"), 40))
    return {}


FAULTS: dict[str, Fault] = {
    "rate x 1,000": Fault(too_fast, frozenset({"diverged", "stuck"}), may_be_harmless=True),
    "rate x 0.000001": Fault(too_slow, frozenset({"stuck"})),
    "shuffled labels": Fault(shuffled, frozenset({"no-signal"})),
    "wrong normalisation": Fault(wrong_moments, frozenset({"preprocessing"})),
    "swapped channels": Fault(swapped, frozenset({"preprocessing"}), may_be_harmless=True),
    "one class": Fault(one_class, frozenset({"DataError"})),
    "a class of 1 or 2": Fault(tiny, frozenset({"DataError", "tiny-class"})),
    "a broken start": Fault(broken, frozenset({"StartError"})),
    "a constant layer": Fault(constant, frozenset({"stuck", "no-signal"}), may_be_harmless=True),
    "copies across the split": Fault(copies, frozenset({"leak"})),
    "groups across the split": Fault(shared_groups, frozenset({"leak"})),
    "test from another domain": Fault(elsewhere, frozenset({"drift"})),
}
