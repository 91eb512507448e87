"""`warmstart cache info|clear`: features and engine speeds cached on this computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmstart.cli.options import PLAIN, Call, Verb
from warmstart.cli.output import print_result
from warmstart.formatting import size
from warmstart.modalities.nouns import IMAGES
from warmstart.nouns import count
from warmstart.terminal.text import column, lead

if TYPE_CHECKING:
    from warmstart.features.cache import CacheInfo


def cache_text(info: CacheInfo) -> str:
    """Size and content of the feature cache."""
    total = f"{size(info.bytes)} of at most {size(info.limit_bytes)}"
    rows = f"features of {IMAGES.count(info.rows)}, {count(info.feature_sets, 'set')}"
    lines = [lead("Cache") + str(info.path)]
    lines.append(column("Size", f"{total}: {rows}." if info.rows else f"{total}."))
    return "\n".join([*lines, column("Clear", "warmstart cache clear")])


def cleared_text(info: CacheInfo) -> str:
    if not info.bytes:
        return f"The cache was empty: nothing was removed from {info.path}."
    return f"Removed {size(info.bytes)} from {info.path}."


def cache(call: Call) -> int:
    """Run `warmstart cache`."""
    if call.places[0] == "clear":
        cleared = clear()
        print_result(call, cleared, lambda: cleared_text(cleared))
    else:
        now = info()
        print_result(call, now, lambda: cache_text(now))
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
