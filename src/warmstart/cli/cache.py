"""`warmstart cache info|clear`: the features, and the speeds of engines, kept on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmstart.cli.output import dumps
from warmstart.cli.parse import Call
from warmstart.terminal import tables

if TYPE_CHECKING:
    from warmstart.features.cache import CacheInfo


def cache(call: Call) -> int:
    """`warmstart cache info|clear`."""
    clears = call.places[0] == "clear"
    info = clear() if clears else kept()
    if "--json" in call.switches:
        print(dumps(info, indent=2))
    else:
        print(tables.cleared_text(info) if clears else tables.cache_text(info))
    return 0


def kept() -> CacheInfo:
    """What is kept, where, and how large it may grow."""
    from warmstart.features.cache import FeatureCache
    from warmstart.machine import default_root

    return FeatureCache(default_root()).info()


def clear() -> CacheInfo:
    """Remove all that no running job uses; returns what was there before."""
    from warmstart.features import engine_speeds
    from warmstart.features.cache import FeatureCache
    from warmstart.features.offload import clear_belts
    from warmstart.machine import default_root

    store = FeatureCache(default_root())
    before = store.info()
    store.clear()
    clear_belts(store.root)
    engine_speeds.clear(store.root)
    return before
