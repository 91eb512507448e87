"""Results as files: what was measured, where, when, and by which command."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The machine as far as it explains a number."""
    model = platform.processor()
    table = Path("/proc/cpuinfo")
    if table.exists():
        names = [line for line in table.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm", "numpy", "onnxruntime")},
    }


def keep(name: str, measured: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """Write results/<name>.json and return it."""
    shown = [Path(a).name if os.sep in a else a for a in argv]  # no path of a machine
    stored = {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "command": "python -m bench " + shlex.join(shown),
        **measured,
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{_file(name, measured)}.json").write_text(json.dumps(stored, indent=1) + "\n")
    return stored


def _file(name: str, measured: dict[str, Any]) -> str:
    """One file for each budget, where a bench has several."""
    budget = measured.get("budget", "fast")
    return name if budget == "fast" else f"{name}-{budget}"


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a measurement that is made in pieces; none where it has not begun."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def add(path: Path, row: dict[str, Any]) -> None:
    """Keep one more row of it."""
    print(row, file=sys.stderr, flush=True)
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def read(name: str) -> dict[str, Any]:
    """A kept result."""
    result: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return result


def as_text(stored: dict[str, Any]) -> str:
    """The summary lines and the rows of a result."""
    lines = [f"{stored['date']}  {stored['machine']['cpu']}, {stored['machine']['cores']} cores"]
    lines += [f"{key}: {value}" for key, value in stored.get("summary", {}).items()]
    for row in stored.get("rows", []):
        lines.append("  ".join(f"{k}={_short(v)}" for k, v in row.items() if k != "correct"))
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
