"""`warmstart resume`: continue a run that was stopped."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from warmstart.cli.options import COMMON, Call, Verb
from warmstart.cli.output import print_run, settle_imports, watched, work_along
from warmstart.cli.stop import stoppable
from warmstart.distributed import join_group
from warmstart.events import follow

ARITHMETIC = "MKL_CBWR"


def resume(call: Call) -> int:
    """Run `warmstart resume`: progress on stderr, the result on stdout; 3 without a signal."""
    run = Path(call.places[0])
    request = _read_request(run)
    _restore_arithmetic(request)
    with join_group() as world:
        if not world.is_first:
            from warmstart.run.resume import resume_along

            return work_along(resume_along(run))
        world.gather(None)  # the others have copied the folder
        is_done = (run / "DONE").exists()
        with watched(call) as show:
            from warmstart.run.resume import resume as steps

            settle_imports()
            with stoppable(show) as see:
                finished = follow(steps(run), see)
        if is_done and "--quiet" not in call.switches:
            print(f"Nothing to do: {run} is done. Its result:", file=sys.stderr)
        options = request.get("request")
        places = [options.get(key) for key in ("test", "data")] if isinstance(options, dict) else []
        code = print_run(call, finished, [path for path in places if isinstance(path, str)])
    return code if world.size == 1 else 0


def _read_request(run: Path) -> dict[str, Any]:
    """request.json, read without the libraries; empty where that fails."""
    try:
        request = json.loads((run / "request.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return request if isinstance(request, dict) else {}


def _restore_arithmetic(request: dict[str, Any]) -> None:
    """Let MKL round as when the run began; it reads the setting once, when torch is loaded."""
    around = request.get("environment")
    before = around.get("arithmetic") if isinstance(around, dict) else None
    if isinstance(before, str):
        os.environ[ARITHMETIC] = before
        if not before:
            del os.environ[ARITHMETIC]


VERB = Verb(
    words="resume RUN",
    needs=("the folder of a run that was stopped",),
    short="continue a run that was stopped or killed",
    about="""Continues RUN from where it stopped. The result is identical, to the last digit, to
    that of a run that was never stopped; images, weights and package versions must be the same.
    A finished run is shown again.""",
    options=COMMON,
    examples=("warmstart resume runs/photos", "warmstart resume runs/latest"),
    run=resume,
    is_shared=True,
    settles=True,
)
