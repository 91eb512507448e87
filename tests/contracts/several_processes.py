"""A command in one process of several: `python several_processes.py JSON ARGUMENTS`.

JSON: `die`, after which event of which process that process is killed: [rank, stage, number];
`due`, whether every step leaves a checkpoint; `torn`, the process that is killed while it forces
its part of a checkpoint to disk, and in which of them: [rank, number].
"""

from __future__ import annotations

import json
import os
import signal
import sys

from warmstart.cli import output
from warmstart.cli.main import main
from warmstart.training import checkpoint


def die_at(stage, number):
    """A watcher that ends its process at an event."""
    left = [number]

    def see(event):
        left[0] -= event.stage == stage and event.kind == "step"
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return see


def die_in_writing(number):
    """End this process when it forces a file of a checkpoint to disk for so many times."""
    left, sync = [number], os.fsync

    def see(handle):
        name = os.readlink(f"/proc/self/fd/{handle}")
        left[0] -= "/checkpoints/" in name and ".safetensors" in name
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    return see


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    if told.get("due"):
        checkpoint.FIRST = checkpoint.EVERY = 0.0
        checkpoint.SHARE = float("inf")
    rank, stage, number = told.get("die", (-1, "", 0))
    if os.environ["RANK"] == str(rank):
        output._ignore = die_at(stage, number)
    rank, number = told.get("torn", (-1, 0))
    if os.environ["RANK"] == str(rank):
        os.fsync = die_in_writing(number)
    sys.exit(main(sys.argv[2:]))
