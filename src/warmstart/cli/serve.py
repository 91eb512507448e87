"""`warmstart serve`: print the address, and a warning where others can reach it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import quote

from warmstart.cli.output import dumps
from warmstart.cli.parse import Call
from warmstart.cli.stop import say

TOKEN = "WARMSTART_TOKEN"
STOPPING = "Answering the open requests, then stopping; press Ctrl-C again to stop at once."


def serve(call: Call) -> int:
    """Serve until a signal comes, then return 0. Raises: ServeError, RunFolderError."""
    from warmstart.serving.serve import ServeOptions
    from warmstart.serving.serve import serve as steps

    values = call.values
    token = values.get("--token", os.environ.get(TOKEN))
    serving = ServeOptions(
        host=values.get("--host", "127.0.0.1"),
        port=int(values.get("--port", "8000")),
        token=token,
        names=call.many.get("--allow-host", ()),
    )
    steps(
        Path(call.places[0]),
        serving,
        lambda address: _ready(call, serving.host, address, token),
        lambda: say(STOPPING),
    )
    return 0


def _ready(call: Call, host: str, address: str, token: str | None) -> None:
    from warmstart.serving.access import is_local

    run = call.places[0]
    if "--json" in call.switches:
        print(dumps({"url": address, "run": run}), flush=True)
    else:
        print(f"Serving   {run}  at {address}  (Ctrl-C stops it)", flush=True)
    if not token and not is_local(host):
        print(
            f"warning: anyone who can reach {host} can use this model. Set {TOKEN} to a secret, "
            "or omit --host.",
            file=sys.stderr,
        )
    if "--open" in call.switches:
        import webbrowser

        webbrowser.open(with_token(address, token))


def with_token(address: str, token: str | None) -> str:
    """The page's address with the token behind the #, which a browser does not send."""
    return f"{address}#token={quote(token, safe='')}" if token else address
