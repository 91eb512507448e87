"""`warmstart resume`: what it does before and after the work."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from warmstart.cli.output import print_run, resume_along, settle_imports, watcher
from warmstart.cli.parse import Call
from warmstart.cli.stop import stoppable
from warmstart.distributed import joined
from warmstart.events import Event, follow

ARITHMETIC = "MKL_CBWR"


def resume(call: Call) -> int:
    """`warmstart resume`: progress on stderr, the result on stdout; 3 without a signal."""
    run = Path(call.places[0])
    told = _told(run)
    _round_as_before(told)
    with joined() as world:
        if not world.is_first:
            return resume_along(run)
        world.gathered(None)  # the others have copied the folder
        code = _resume(call, run, told)
    return code if world.size == 1 else 0


def _resume(call: Call, run: Path, told: dict[str, Any]) -> int:
    is_done = (run / "DONE").exists()
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.fit import fit
        from warmstart.run.resume import resume as steps

        settle_imports()
        with stoppable(watch.show) as see:
            finished = follow(steps(run, fit), see)
    if is_done and "--quiet" not in call.switches:
        print(f"Nothing to do: {run} is done. Its result:", file=sys.stderr)
    return print_run(call, finished, _data(told))


def _told(run: Path) -> dict[str, Any]:
    """request.json, as far as it can be read without the libraries; nothing where it cannot."""
    try:
        told = json.loads((run / "request.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _round_as_before(told: dict[str, Any]) -> None:
    """MKL rounds as when the run began; it asks once, when torch is loaded."""
    around = told.get("around")
    before = around.get("arithmetic") if isinstance(around, dict) else None
    if isinstance(before, str):
        os.environ[ARITHMETIC] = before
        if not before:
            del os.environ[ARITHMETIC]


def _data(told: dict[str, Any]) -> list[str | None]:
    """Folders that may hold an image to name as an example."""
    asked = told.get("asked")
    found = [asked.get(name) for name in ("test", "data")] if isinstance(asked, dict) else []
    return [path for path in found if isinstance(path, str)]
