"""`warmstart cache info|clear`: the features, and the speeds of engines, kept on this machine."""

from __future__ import annotations

from warmstart.features import engine_speeds
from warmstart.features.cache import CacheInfo, FeatureCache
from warmstart.features.offload import clear_belts
from warmstart.machine import default_root


def info() -> CacheInfo:
    """What is kept, where, and how large it may grow."""
    return FeatureCache(default_root()).info()


def clear() -> CacheInfo:
    """Remove all that no running job uses; returns what was there before."""
    store = FeatureCache(default_root())
    before = store.info()
    store.clear()
    clear_belts(store.root)
    engine_speeds.clear(store.root)
    return before
