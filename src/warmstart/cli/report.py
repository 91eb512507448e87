"""`warmstart report RUN`: write the report of a run again from its folder."""

from __future__ import annotations

import sys
from pathlib import Path

from warmstart.cli.options import PLAIN, RUN, Call, Option, Verb
from warmstart.cli.output import dumps


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


VERB = Verb(
    words="report RUN",
    needs=(RUN,),
    short="write the report of a run again, and open it",
    about="""Writes RUN/report.html from the files in RUN: one self-contained page. fit has
    written it already; writing it again is for runs of an older version. Shows pictures of
    images that have not moved or changed.""",
    options=(Option("--open", "open it in the browser"), *PLAIN),
    examples=(
        "warmstart report runs/latest --open",
        "warmstart report runs/photos --json  # its path as JSON",
    ),
    run=report,
)
