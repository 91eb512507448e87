"""`warmstart studio`: the address is printed and opened; the rest happens in the page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from warmstart.cli.output import dumps, watcher
from warmstart.cli.parse import Call
from warmstart.cli.stop import say

if TYPE_CHECKING:
    from warmstart.data.labels import TaskOption


STOPPING = "Stopping; what was computed is kept."


def studio(call: Call) -> int:
    """Serve until a signal comes; returns 0 then. Raises: ServeError, DataError, RunFolderError."""
    from warmstart.request import DEFAULT_BASE
    from warmstart.run.fit import fit
    from warmstart.studio.studio import StudioOptions as Opening
    from warmstart.studio.studio import opened
    from warmstart.studio.studio import studio as steps

    values = call.values
    asked = Opening(
        data=call.places[0] if call.places else None,
        out=Path(values["--out"]) if "--out" in values else None,
        label=values.get("--label"),
        group=values.get("--group"),
        task=cast("TaskOption", values.get("--task", "auto")),
        base=values.get("--base", DEFAULT_BASE),
        port=int(values.get("--port", "8001")),
    )
    with watcher(call) as watch:
        project, n_lost = opened(asked, watch.show)
    if asked.data is not None and n_lost is None:
        print("Opened as it was left; add new pictures on the page.", file=sys.stderr)
    if n_lost:
        print(f"warning: {n_lost:,} files could not be read.", file=sys.stderr)
    steps(project, asked, fit, lambda address: _ready(call, address, project.path), _stop)
    return 0


def _ready(call: Call, address: str, place: Path) -> None:
    if "--json" in call.switches:
        print(dumps({"url": address, "folder": str(place)}), flush=True)
    else:
        print(f"Studio   {address}", flush=True)
        print(f"Folder   {place}  (Ctrl-C ends it; nothing is lost)", flush=True)
    if "--no-open" not in call.switches:
        _open(address, place)


def _open(address: str, place: Path) -> None:
    """Open the browser by way of a file: others on this computer see what it was called with."""
    import webbrowser

    way = place / "open.html"
    way.unlink(missing_ok=True)
    with open(os.open(way, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={address}">\n')
    webbrowser.open(way.as_uri())


def _stop() -> None:
    say(STOPPING)
