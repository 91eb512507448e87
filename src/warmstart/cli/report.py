"""`warmstart report RUN`: write the report of a run again from its folder."""

from __future__ import annotations

import sys
from pathlib import Path

from warmstart.cli.output import dumps
from warmstart.cli.parse import Call


def report(call: Call) -> int:
    """Run `warmstart report`; `--open` shows the page in the browser."""
    from warmstart.reporting.report import report as write

    path = write(Path(call.places[0]))
    print(dumps({"path": str(path)}) if "--json" in call.switches else path)
    if "--open" in call.switches:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            print("No browser was found; open that file in one.", file=sys.stderr)
    return 0
