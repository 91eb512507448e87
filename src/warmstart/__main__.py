"""`python -m warmstart` and the `warmstart` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn


def main() -> int:
    """Run the command of this process; Ctrl-C ends it with one line and exit code 130."""
    is_handled = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # `nohup`, `... &`
    if is_handled:
        signal.signal(signal.SIGINT, _end)  # loading the command line already takes a while
    from warmstart.cli.main import main as command
    from warmstart.cli.stop import INTERRUPTED, Interrupts

    interrupts = Interrupts(sys.argv[1:])
    if is_handled:
        interrupts.listen()
    try:
        code = command(interrupts=interrupts)
    except KeyboardInterrupt:  # a second one while the first was reported
        interrupts.leave()
    if code == INTERRUPTED:
        interrupts.leave()
    # Python removes its handlers as it ends, and would die of the signal after all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _end(*_: Any) -> NoReturn:
    os.write(2, b"Interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
