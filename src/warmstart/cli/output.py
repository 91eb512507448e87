"""What calls have in common: progress on stderr, the result on stdout."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from warmstart import show
from warmstart.cli.parse import Call
from warmstart.folder import to_plain

if TYPE_CHECKING:
    from warmstart.joints.deliver import Finished

NO_SIGNAL = 3
NOT_READY = 4  # with --strict


def settle_imports() -> None:
    """Collect garbage again; what the imports made is kept out of it, for it stays anyway."""
    gc.freeze()
    gc.enable()


def watcher(call: Call) -> show.Watcher:
    """What shows the progress of a call."""
    return show.Silent() if "--quiet" in call.switches else show.watcher(sys.stderr)


def print_run(call: Call, finished: Finished, data: Sequence[str | None]) -> int:
    """Print a finished run, with an image of its data as example; returns the exit code."""
    if "--json" in call.switches:
        print(dumps(finished.summary, indent=2))
        if "--quiet" not in call.switches:
            print(f"Folder   {finished.path}", file=sys.stderr)
    else:
        print(show.result_text(finished.summary, finished.path, find_image(*data)))
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
