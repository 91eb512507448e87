"""How fast engines were when they were measured on this machine: kept in the cache folder.

One file of JSON lines, one line a measurement, written whole beside and renamed. The first
measurement of an engine stays until its versions, the machine or the network's size change:
what was decided once is then decided alike, by a run that goes on and by one beside it.
Lines that are not understood go when the next one is written. Free of torch.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warmstart.features.cache_file import exclusive
from warmstart.features.cache_key import EngineName, cpu_name, engine_version, installed_engines
from warmstart.records.run_folder import write_bytes

Pixels = NDArray[np.uint8]
Engine = Callable[[Pixels], list[NDArray[np.float32]]]

FILE = "engines.jsonl"  # not .json: the store takes that for a shelf, and evicts it
BATCHES = 2  # passed when an engine is measured
MOST_LINES = 1000  # beyond them the oldest go


class Timing(NamedTuple):
    """What one engine took."""

    setup_s: float  # seconds until it ran
    per_second: float  # images


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """What an engine's speed depends on beside itself: the network's size, the machine.

    `size` is (height, width, channels) of an image in px, or the shape of another encoded example.
    """

    macs: int
    parameters: int
    feature_layers: int
    size: tuple[int, ...]
    threads: int
    arithmetic: str = field(default_factory=lambda: os.environ.get("MKL_CBWR", ""))
    cpu: str = field(default_factory=cpu_name)


def measure(make: Callable[[], Engine], images: Pixels) -> tuple[Engine, Timing]:
    """Make an engine and let it pass one batch of images twice; the faster pass counts."""
    began = time.perf_counter()
    engine = make()
    setup = time.perf_counter() - began
    passes = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        engine(images)
        passes.append(time.perf_counter() - began)
    return engine, Timing(setup, len(images) / max(min(passes), 1e-9))


def read(root: Path, work: EngineWork) -> dict[EngineName, Timing]:
    """What is known of the engines installed here, in the versions installed here."""
    lines = _lines(root)
    found = {name: _find(lines, _about(work, name)) for name in installed_engines()}
    return {name: timing for name, timing in found.items() if timing is not None}


def keep(root: Path, work: EngineWork, name: EngineName, timing: Timing) -> Timing:
    """Keep a measurement; returns what is kept, which is another's where that was first.

    Where the file cannot be written nothing is kept: no reason to stop a run.
    """
    about = _about(work, name)
    with suppress(OSError), exclusive(root / "lock"):
        lines = _lines(root)
        known = _find(lines, about)
        if known is not None:
            return known
        lines = [*lines, {**about, **timing._asdict()}][-MOST_LINES:]
        write_bytes(root / FILE, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return timing


def clear(root: Path) -> None:
    """Forget all measurements."""
    with exclusive(root / "lock"):
        (root / FILE).unlink(missing_ok=True)


def _about(work: EngineWork, name: EngineName) -> dict[str, Any]:
    """The members of a line by which it is found, as JSON gives them back."""
    plain = {"engine": name, "version": engine_version(name), **asdict(work)}
    about: dict[str, Any] = json.loads(json.dumps(plain))
    return about


def _lines(root: Path) -> list[dict[str, Any]]:
    """The lines that are measurements; others are not ours, or torn."""
    try:
        lines = (root / FILE).read_bytes().splitlines()
    except OSError:
        return []
    return [line for line in map(_parse, lines) if line is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(found, dict) and all(
        isinstance(found.get(name), float) and math.isfinite(found[name]) and found[name] > 0
        for name in Timing._fields
    )
    return found if is_ours else None


def _find(lines: list[dict[str, Any]], about: dict[str, Any]) -> Timing | None:
    for line in lines:
        if {k: v for k, v in line.items() if k not in Timing._fields} == about:
            return Timing(line["setup_s"], line["per_second"])
    return None
