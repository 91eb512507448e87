"""Measured speeds of engines on this machine, stored in the cache folder.

One file of JSON lines, one line a measurement, written to a temporary file and renamed. The
first measurement of an engine stays until its versions, the machine or the network's size
change: a resumed run, or another one at the same time, then makes the same choice. Invalid lines
are dropped when the next one is written. Free of torch.
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

FILE = "engines.jsonl"  # not .json: the cache would take that for features, and evict it
BATCHES = 2  # run when an engine is measured
MAX_LINES = 1000  # the oldest are dropped


class Timing(NamedTuple):
    """The measured speed of one engine."""

    setup_s: float  # seconds until it is ready
    per_second: float  # images


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """Everything that the speed of an engine depends on: the network's size, the machine.

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
    """Make an engine and run one batch of images twice; the faster run counts."""
    began = time.perf_counter()
    engine = make()
    setup = time.perf_counter() - began
    seconds = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        engine(images)
        seconds.append(time.perf_counter() - began)
    return engine, Timing(setup, len(images) / max(min(seconds), 1e-9))


def read(root: Path, work: EngineWork) -> dict[EngineName, Timing]:
    """The stored timings of the installed engines, in their installed versions."""
    lines = _lines(root)
    timings = {name: _find(lines, _key(work, name)) for name in installed_engines()}
    return {name: timing for name, timing in timings.items() if timing is not None}


def keep(root: Path, work: EngineWork, name: EngineName, timing: Timing) -> Timing:
    """Store a measurement; returns the stored one, which may be an earlier one.

    A file that cannot be written is no reason to stop a run.
    """
    key = _key(work, name)
    with suppress(OSError), exclusive(root / "lock"):
        lines = _lines(root)
        stored = _find(lines, key)
        if stored is not None:
            return stored
        lines = [*lines, {**key, **timing._asdict()}][-MAX_LINES:]
        write_bytes(root / FILE, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return timing


def clear(root: Path) -> None:
    """Delete all measurements."""
    with exclusive(root / "lock"):
        (root / FILE).unlink(missing_ok=True)


def _key(work: EngineWork, name: EngineName) -> dict[str, Any]:
    """The members of a line that identify it, as JSON holds them."""
    plain = {"engine": name, "version": engine_version(name), **asdict(work)}
    key: dict[str, Any] = json.loads(json.dumps(plain))
    return key


def _lines(root: Path) -> list[dict[str, Any]]:
    """The lines that are measurements; others are torn or foreign."""
    try:
        lines = (root / FILE).read_bytes().splitlines()
    except OSError:
        return []
    return [line for line in map(_parse, lines) if line is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(values, dict) and all(
        isinstance(values.get(name), float) and math.isfinite(values[name]) and values[name] > 0
        for name in Timing._fields
    )
    return values if is_ours else None


def _find(lines: list[dict[str, Any]], key: dict[str, Any]) -> Timing | None:
    for line in lines:
        if {k: v for k, v in line.items() if k not in Timing._fields} == key:
            return Timing(line["setup_s"], line["per_second"])
    return None
