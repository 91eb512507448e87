"""What calls have in common: progress on stderr, the result on stdout."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.cli.parse import Call
from warmstart.cli.request import request_of
from warmstart.cli.stop import stoppable
from warmstart.distributed import ProcessGroup, here
from warmstart.errors import ProcessError, UsageError, WarmstartError
from warmstart.events import Event, follow
from warmstart.records.run_folder import to_plain
from warmstart.terminal import progress, result_text

if TYPE_CHECKING:
    from warmstart.events import Steps
    from warmstart.run.deliver import Finished


NO_SIGNAL = 3
NOT_READY = 4  # with --strict


def settle_imports() -> None:
    """Collect garbage again; what the imports made is kept out of it, for it stays anyway."""
    gc.freeze()
    gc.enable()


def watcher(call: Call) -> progress.Watcher:
    """What shows the progress of a call."""
    return progress.Silent() if "--quiet" in call.switches else progress.watcher(sys.stderr)


def print_run(call: Call, finished: Finished, data: Sequence[str | None]) -> int:
    """Print a finished run, with an image of its data as example; returns the exit code."""
    if "--json" in call.switches:
        print(dumps(finished.summary, indent=2))
        if "--quiet" not in call.switches:
            print(f"Folder   {finished.path}", file=sys.stderr)
    else:
        print(result_text.result_text(finished.summary, finished.path, find_image(*data)))
    summary = finished.summary
    if summary.shipped.strategy == "none" or summary.verdict.kind == "no-signal":
        return NO_SIGNAL
    is_unfit = summary.readiness.level == "not-ready" and "--strict" in call.switches
    return NOT_READY if is_unfit else 0


def dumps(value: Any, indent: int | None = None) -> str:
    """Any record as JSON that the terminal's encoding can hold.

    >>> dumps({"a": (1, 2)})
    '{"a": [1, 2]}'
    """
    plain = to_plain(value)
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # an undecodable file name, or a terminal without UTF-8
        text = json.dumps(plain, indent=indent, ensure_ascii=True, allow_nan=False, default=str)
    return text


def find_image(*folders: str | None) -> str | None:
    """The first image in the first of these folders that holds one."""
    from warmstart.data.place import MEDIA_SUFFIXES

    for folder in filter(None, folders):
        for root, inside, names in os.walk(folder):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            for name in sorted(names):
                if os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES and name[0] != ".":
                    return os.path.join(root, name)
    return None


# ---- One command in several processes: the first works as ever, the others along in silence.


INTERRUPTED = 130


def check_processes(call: Call, world: ProcessGroup) -> None:
    """Raises: UsageError where --parallel asks for other processes than there are."""
    from warmstart.planning.machine import KIND, is_way, n_stages

    value = call.values.get("--parallel")
    if value is None:
        return
    if not is_way(value):
        raise UsageError(f"--parallel {value}: it takes {KIND}.")
    wanted = n_stages(value)
    if wanted not in (0, world.size):
        raise UsageError(
            f"--parallel {value} needs {wanted} processes, and {world.size} "
            f"{'runs' if world.size == 1 else 'run'}; start it with torchrun --nproc-per-node "
            f"{wanted} -m -- warmstart fit ..."
        )


def fit_along(call: Call) -> int:
    """`warmstart fit` in a process that is not the first."""
    from warmstart.run.fit import fit
    from warmstart.run.resume import fit_along as along

    return _silent(lambda: along(request_of(call), fit))


def resume_along(run: Path) -> int:
    """`warmstart resume` likewise."""
    from warmstart.run.fit import fit
    from warmstart.run.resume import resume_along as along

    return _silent(lambda: along(run, fit))


def _silent(steps: Callable[[], Steps[Finished]]) -> int:
    """Work to the end. What the first process says as well is not said again."""
    settle_imports()
    try:
        with stoppable(_unseen) as see:
            follow(steps(), see)
    except KeyboardInterrupt:
        return INTERRUPTED
    except WarmstartError as error:
        if error.exit_code != 1:
            return error.exit_code
        cause = error.__cause__ or error
        if not isinstance(cause, ProcessError):
            raise
        world = here()  # it may be the first that is gone, and cannot say so
        raise ProcessError(f"process {world.rank} of 0 to {world.size - 1}: {cause}") from error
    return 0


def _unseen(event: Event) -> None:
    """Progress is the first process's to show."""


def kind_of_run(run: Path) -> str:
    """What a run answers about, for the words of its figures."""
    from warmstart.records.answer import ModelRecord
    from warmstart.records.inputs import kind_of
    from warmstart.records.run_folder import read_json

    path = run / "model" / "config.json"
    return kind_of(read_json(path, ModelRecord).preprocessing) if path.is_file() else "image"
