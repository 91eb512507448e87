"""`warmstart studio`: print and open the address; the rest happens in the page."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from warmstart.cli.options import BASE, GROUP, LABEL, PLAIN, PORT, TASK, Call, Option, Verb
from warmstart.cli.output import dumps, watched
from warmstart.cli.stop import say

STOPPING = "Stopping; what was computed is kept."


def studio(call: Call) -> int:
    """Serve until a signal comes, then return 0. Raises: ServeError, DataError, RunFolderError."""
    from warmstart.request import DEFAULT_BASE

    # By its name: the studio is a package beside, and nothing in this one imports it.
    beside = import_module("warmstart_studio.studio")
    values = call.values
    options = beside.StudioOptions(
        data=call.places[0] if call.places else None,
        out=call.path("--out"),
        label=values.get("--label"),
        group=values.get("--group"),
        task=values.get("--task", "auto"),
        base=values.get("--base", DEFAULT_BASE),
        port=int(values.get("--port", "8001")),
    )
    with watched(call, None) as show:
        project, n_unreadable = beside.open_project(options, show)
    if options.data is not None and n_unreadable is None:
        print("Reopened as you left it; add new pictures on the page.", file=sys.stderr)
    if n_unreadable:
        print(f"warning: {n_unreadable:,} files could not be read.", file=sys.stderr)
    beside.studio(
        project, options, lambda address: _ready(call, address, project.path), lambda: say(STOPPING)
    )
    return 0


def _ready(call: Call, address: str, folder: Path) -> None:
    if "--json" in call.switches:
        print(dumps({"url": address, "folder": str(folder)}), flush=True)
    else:
        print(f"Studio    {address}", flush=True)
        print(f"Folder    {folder}  (Ctrl-C stops it; nothing is lost)", flush=True)
    if "--no-open" not in call.switches:
        _open(address, folder)


def _open(address: str, folder: Path) -> None:
    """Open the browser through a file: its command line is visible to others on this computer."""
    import webbrowser

    page = folder / "open.html"
    page.unlink(missing_ok=True)
    with open(os.open(page, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={address}">\n')
    webbrowser.open(page.as_uri())


VERB = Verb(
    words="studio [DATA]",
    needs=(),
    short="label, fine-tune and correct in the browser",
    about="""Opens a page in the browser: drop pictures on it, fine-tune, see the mistakes and
    the label issues, correct them, fine-tune again, download the model. DATA, laid out as for
    fit, is copied into the studio's folder; your files are never changed. The same command
    reopens the studio as you left it. Only this computer can reach it. Needs fastapi; a message
    says so if it is missing.""",
    options=(
        Option("--out FOLDER", "the studio's folder (default studio/<name>)"),
        BASE,
        LABEL,
        TASK,
        GROUP,
        Option("--port N", "port (default 8001; 0: any that is free)", rule=PORT),
        Option("--no-open", "do not open the browser"),
        *PLAIN,
    ),
    examples=(
        "warmstart studio photos/",
        "warmstart studio  # begin without images",
        "warmstart studio --out studio/untitled  # reopen it",
    ),
    run=studio,
)
