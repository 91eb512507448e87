"""What the verbs have in common: progress on stderr, the result on stdout, several processes."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.cli.options import Call
from warmstart.cli.stop import INTERRUPTED, stoppable
from warmstart.distributed import ProcessGroup, here
from warmstart.errors import ProcessError, UsageError, WarmstartError
from warmstart.events import Event, Stage, follow
from warmstart.records.run_folder import to_plain
from warmstart.terminal import progress, result_text
from warmstart.terminal.text import highlighted

if TYPE_CHECKING:
    from warmstart.events import Steps
    from warmstart.run.deliver import Finished

LOADING = "Loading PyTorch"
NO_SIGNAL = 3
NOT_READY = 4  # with --strict


def settle_imports() -> None:
    """Collect garbage again, but not the objects of the imports, which stay anyway."""
    gc.freeze()
    gc.enable()


@contextmanager
def watched(call: Call, stage: Stage | None = "read") -> Iterator[Callable[[Event], None]]:
    """Show the progress of a call, from `stage` on: the libraries take seconds to load."""
    is_quiet = "--quiet" in call.switches
    with progress.Watcher() if is_quiet else progress.watcher(sys.stderr) as watch:
        if stage is not None:
            values: dict[str, Any] = {} if "torch" in sys.modules else {"title": LOADING}
            watch.show(Event(stage=stage, kind="begin", values=values))
        yield watch.show


def print_result(call: Call, record: Any, text: Callable[[], str]) -> None:
    """Print a record as JSON with --json, else as `text`."""
    is_json = "--json" in call.switches
    print(dumps(record, indent=2) if is_json else highlighted(text(), sys.stdout))


def print_run(call: Call, finished: Finished, data: Sequence[str | None]) -> int:
    """Print a finished run, with an image of its data as example; returns the exit code."""
    summary = finished.summary
    print_result(
        call, summary, lambda: result_text.result_text(summary, finished.path, find_image(*data))
    )
    if "--json" in call.switches and "--quiet" not in call.switches:
        print(f"Folder    {finished.path}", file=sys.stderr)
    if summary.shipped.strategy == "none" or summary.verdict.kind == "no-signal":
        return NO_SIGNAL
    is_unfit = summary.readiness.level == "not-ready" and "--strict" in call.switches
    return NOT_READY if is_unfit else 0


def dumps(value: Any, indent: int | None = None) -> str:
    """Any record as JSON that the terminal's encoding can represent.

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
    """The first image in the first of these folders that contains one."""
    from warmstart.data.place import is_media

    for folder in filter(None, folders):
        for root, inside, names in os.walk(folder):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            for name in sorted(names):
                if is_media(name) and name[0] != ".":
                    return os.path.join(root, name)
    return None


def kind_of_run(run: Path) -> str:
    """The kind of data of a run: "image", "text" …"""
    from warmstart.modalities.image import IMAGE
    from warmstart.modalities.registry import modality_of
    from warmstart.records.answer import ModelRecord
    from warmstart.records.run_folder import read_json

    path = run / "model" / "config.json"
    return (
        modality_of(read_json(path, ModelRecord).preprocessing).kind
        if path.is_file()
        else IMAGE.kind
    )


# ---- One command in several processes: the first shows everything, the others are silent.


def check_processes(call: Call, world: ProcessGroup) -> None:
    """Raises: UsageError where --parallel needs another number of processes than there are."""
    from warmstart.planning.facts import PARALLEL_MODES, is_parallel_mode, n_stages

    value = call.values.get("--parallel")
    if value is None:
        return
    if not is_parallel_mode(value):
        raise UsageError(f"--parallel {value}: it takes {PARALLEL_MODES}.")
    n = n_stages(value)
    if n not in (0, world.size):
        raise UsageError(
            f"--parallel {value} needs {n} processes, and {world.size} "
            f"{'runs' if world.size == 1 else 'run'}; start it with torchrun --nproc-per-node "
            f"{n} -m -- warmstart fit ..."
        )


def work_along(steps: Steps[Finished]) -> int:
    """Work in a process that is not the first: without output, and without its errors."""
    settle_imports()
    try:
        with stoppable(_ignore) as see:
            follow(steps, see)
    except KeyboardInterrupt:
        return INTERRUPTED
    except WarmstartError as error:
        if error.exit_code != 1:
            return error.exit_code
        cause = error.__cause__ or error
        if not isinstance(cause, ProcessError):
            raise
        world = here()  # the first process may be gone, and cannot say so
        raise ProcessError(f"process {world.rank} of 0 to {world.size - 1}: {cause}") from error
    return 0


def _ignore(event: Event) -> None:
    """The first process shows the progress."""
