"""Measured speeds of engines on this machine, a JSON line each in the cache folder. Free of torch.

The first measurement of an engine stays until its versions, the machine or the network's size
change: a resumed run, or another one at the same time, then makes the same choice.
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
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from warmstart.features.cache_file import exclusive, read_lines
from warmstart.features.cache_key import EngineName, cpu_name, engine_version, installed_engines
from warmstart.planning.rules import EngineSpeed
from warmstart.records.run_folder import write_bytes

Pixels = NDArray[np.uint8]
Engine = Callable[[Pixels], list[NDArray[np.float32]]]

FILE = "engines.jsonl"  # not .json: the cache would take that for features, and evict it
BATCHES = 2  # run when an engine is measured
MAX_LINES = 1000  # the oldest are dropped
_FIGURES = ("setup_s", "per_second")  # of an `EngineSpeed`, in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """Everything that the speed of an engine depends on; `size` is the shape of an example."""

    macs: int
    parameters: int
    feature_layers: int
    size: tuple[int, ...]
    threads: int
    arithmetic: str = field(default_factory=lambda: os.environ.get("MKL_CBWR", ""))
    cpu: str = field(default_factory=cpu_name)


def measure(make: Callable[[], Engine], images: Pixels) -> tuple[Engine, EngineSpeed]:
    """Make an engine and run one batch of images twice; the faster run counts."""
    began = time.perf_counter()
    engine = make()
    setup = time.perf_counter() - began
    seconds = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        engine(images)
        seconds.append(time.perf_counter() - began)
    return engine, EngineSpeed(setup, len(images) / max(min(seconds), 1e-9))


def read(root: Path, work: EngineWork) -> dict[str, EngineSpeed]:
    """The stored speeds of the installed engines, in their installed versions."""
    lines = _lines(root)
    speeds = {name: _find(lines, _key(work, name)) for name in installed_engines()}
    return {name: speed for name, speed in speeds.items() if speed is not None}


def keep(root: Path, work: EngineWork, name: EngineName, speed: EngineSpeed) -> EngineSpeed:
    """Store a measurement if the file can be written; returns the stored or an earlier one."""
    key = _key(work, name)
    with suppress(OSError), exclusive(root / "lock"):
        lines = _lines(root)
        stored = _find(lines, key)
        if stored is not None:
            return stored
        lines = [*lines, {**key, **dict(zip(_FIGURES, speed, strict=True))}][-MAX_LINES:]
        write_bytes(root / FILE, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return speed


def clear(root: Path) -> None:
    with exclusive(root / "lock"):
        (root / FILE).unlink(missing_ok=True)


def _key(work: EngineWork, name: EngineName) -> dict[str, Any]:
    """The members of a line that identify it, as JSON holds them."""
    plain = {"engine": name, "version": engine_version(name), **asdict(work)}
    return cast(dict[str, Any], json.loads(json.dumps(plain)))


def _lines(root: Path) -> list[dict[str, Any]]:
    """The lines that are measurements, whose figures are positive numbers."""
    return [
        line
        for line in read_lines(root / FILE)
        if all(isinstance(line.get(name), float) for name in _FIGURES)
        if all(0 < line[name] < math.inf for name in _FIGURES)
    ]


def _find(lines: list[dict[str, Any]], key: dict[str, Any]) -> EngineSpeed | None:
    for line in lines:
        if {k: v for k, v in line.items() if k not in _FIGURES} == key:
            return EngineSpeed(*(line[name] for name in _FIGURES))
    return None
