"""`warmstart serve`: print the address, and a warning where others can reach it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import quote

from warmstart.cli.options import PLAIN, PORT, RUN, Call, Option, Verb
from warmstart.cli.output import dumps
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


VERB = Verb(
    words="serve RUN",
    needs=(RUN,),
    short="serve a finished model: a page and an HTTP API",
    about="""Serves on this computer only: a page to drop, paste or photograph an image on, and
    an HTTP API (documented at /docs). Ctrl-C stops it when all requests are answered. Needs
    fastapi; a message says so if it is missing.""",
    options=(
        Option(
            "--host H",
            "where to listen (default 127.0.0.1: this computer only; 0.0.0.0: everywhere)",
        ),
        Option("--port N", "port (default 8000; 0: any that is free)", rule=PORT),
        Option(
            "--token T",
            "secret that every request must carry; better in WARMSTART_TOKEN, where other "
            "users of this computer do not see it",
        ),
        Option(
            "--allow-host NAME", "host name of the server, such as models.example.org", is_many=True
        ),
        Option("--open", "open the page in the browser"),
        *PLAIN,
    ),
    examples=(
        "warmstart serve runs/photos --open",
        "warmstart serve runs/latest --host 0.0.0.0 --port 8080  # for other computers",
    ),
    run=serve,
)
