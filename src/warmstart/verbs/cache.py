"""`warmstart cache info|clear`: the features, and the speeds of engines, kept on this machine."""

from __future__ import annotations

from warmstart.features import calibration
from warmstart.features.belt import clear_belts
from warmstart.features.store import Store, StoreInfo, default_root


def info() -> StoreInfo:
    """What is kept, where, and how large it may grow."""
    return Store(default_root()).info()


def clear() -> StoreInfo:
    """Remove all that no running job uses; returns what was there before."""
    store = Store(default_root())
    before = store.info()
    store.clear()
    clear_belts(store.root)
    calibration.clear(store.root)
    return before
