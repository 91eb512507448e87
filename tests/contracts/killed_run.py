"""A run in a process of its own that kills itself: `python killed_run.py JSON`.

JSON: `fit`, the arguments of `warmstart.fit`, and one of `event`, the number of the event after
which, or `rename`, the number of the file written just before whose renaming it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import warmstart
from warmstart.cli.main import prepare
from warmstart.training import checkpoint


def main(told: dict[str, object]) -> None:
    """Fit until the moment comes; exit 0 if it never does."""
    prepare()
    # Trainings of a test are over before a checkpoint would be due.
    checkpoint.FIRST = checkpoint.EVERY = 0.0
    checkpoint.SHARE = float("inf")
    left = {"event": told.get("event"), "rename": told.get("rename")}

    def come(kind: str) -> None:
        if left[kind] is not None:
            left[kind] -= 1
            if left[kind] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    rename = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial") and path.name != ".latest.partial":
            come("rename")
        return rename(path, target)

    Path.replace = replace
    warmstart.fit(**told["fit"], on_event=lambda event: come("event"))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
