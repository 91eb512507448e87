"""`warmstart serve`: where it listens is printed, a warning where others can reach it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import quote

from warmstart.cli.output import dumps
from warmstart.cli.parse import Call
from warmstart.cli.stop import say

TOKEN = "WARMSTART_TOKEN"
STOPPING = "Answering what has come, then stopping; press Ctrl-C again to stop at once."


def serve(call: Call) -> int:
    """Serve until a signal comes; returns 0 then. Raises: ServeError, RunFolderError."""
    from warmstart.serving.serve import Serving
    from warmstart.serving.serve import serve as steps

    values = call.values
    token = values.get("--token", os.environ.get(TOKEN))
    asked = Serving(
        host=values.get("--host", "127.0.0.1"),
        port=int(values.get("--port", "8000")),
        token=token,
        names=call.many.get("--allow-host", ()),
    )
    steps(Path(call.places[0]), asked, lambda where: _ready(call, asked.host, where, token), _stop)
    return 0


def _ready(call: Call, host: str, where: str, token: str | None) -> None:
    from warmstart.serving.access import is_local

    run = call.places[0]
    if "--json" in call.switches:
        print(dumps({"url": where, "run": run}), flush=True)
    else:
        print(f"Serving  {run}  at {where}  (Ctrl-C ends it)", flush=True)
    if not token and not is_local(host):
        print(
            f"warning: whoever reaches {host} can use this model. Set {TOKEN} to a secret, "
            "or leave --host away.",
            file=sys.stderr,
        )
    if "--open" in call.switches:
        import webbrowser

        webbrowser.open(with_token(where, token))


def with_token(where: str, token: str | None) -> str:
    """The page's address; its token stands behind the #, a part that a browser keeps to itself.

    >>> with_token("http://127.0.0.1:8000/", "a+b")
    'http://127.0.0.1:8000/#token=a%2Bb'
    """
    return f"{where}#token={quote(token, safe='')}" if token else where


def _stop() -> None:
    say(STOPPING)
