"""`warmstart cache info|clear`: features and engine speeds cached on this computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmstart.cli.options import PLAIN, Call, Verb
from warmstart.cli.output import print_result
from warmstart.terminal import tables

if TYPE_CHECKING:
    from warmstart.features.cache import CacheInfo


def cache(call: Call) -> int:
    """Run `warmstart cache`."""
    if call.places[0] == "clear":
        cleared = clear()
        print_result(call, cleared, lambda: tables.cleared_text(cleared))
    else:
        size = info()
        print_result(call, size, lambda: tables.cache_text(size))
    return 0


def info() -> CacheInfo:
    """Path, size and limit of the cache."""
    from warmstart.features.cache import FeatureCache
    from warmstart.machine import default_root

    return FeatureCache(default_root()).info()


def clear() -> CacheInfo:
    """Remove everything that no running job uses; returns what was there before."""
    from warmstart.features.cache import FeatureCache
    from warmstart.features.engine_choice import clear_speeds
    from warmstart.features.offload import clear_queues
    from warmstart.machine import default_root

    feature_cache = FeatureCache(default_root())
    before = feature_cache.info()
    feature_cache.clear()
    clear_queues(feature_cache.root)
    clear_speeds(feature_cache.root)
    return before


VERB = Verb(
    words="cache info|clear",
    needs=("what to do",),
    short="show or clear the feature cache",
    about="""The features of an image are computed once and cached, so that the next run on the
    same images is fast. info shows the size of the cache; clear deletes it. No run folder needs
    it.""",
    options=PLAIN,
    examples=("warmstart cache info", "warmstart cache clear"),
    run=cache,
)
