"""`python -m warmstart` and the `warmstart` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn


def main() -> int:
    """The command of this process; returns its exit code.

    However often and whenever Ctrl-C is pressed, it ends in one line and code 130.
    """
    is_heeded = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # `nohup`, `... &`
    if is_heeded:
        signal.signal(signal.SIGINT, _end)  # loading the command line takes a while already
    from warmstart.cli.main import main as command
    from warmstart.cli.stop import INTERRUPTED, Interrupts

    interrupts = Interrupts(sys.argv[1:])
    if is_heeded:
        interrupts.listen()
    try:
        code = command(interrupts=interrupts)
    except KeyboardInterrupt:  # a second one, while the first was being reported
        interrupts.leave()
    if code == INTERRUPTED:
        interrupts.leave()
    # Python takes its own handlers away as it ends, and would die of the signal after all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _end(*_: Any) -> NoReturn:
    os.write(2, b"Interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
