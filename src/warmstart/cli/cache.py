"""`warmstart cache info|clear`: the features, and the speeds of engines, kept on this machine."""

from __future__ import annotations

from warmstart.cli.output import dumps
from warmstart.cli.parse import Call
from warmstart.terminal import tables


def cache(call: Call) -> int:
    """`warmstart cache info|clear`."""
    from warmstart.run import cache as store

    clears = call.places[0] == "clear"
    info = store.clear() if clears else store.info()
    if "--json" in call.switches:
        print(dumps(info, indent=2))
    else:
        print(tables.cleared_text(info) if clears else tables.cache_text(info))
    return 0
