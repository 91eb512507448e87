"""The look: a start, its parts, and every example's features at all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

from warmstart.data.collection import Collection
from warmstart.data.prepare import load_image
from warmstart.events import Steps
from warmstart.features.extract import Engine, Features, Pixels, Prefetch, extract, first_of_each
from warmstart.features.key import EngineName, FeatureKey, engine_version
from warmstart.features.store import Store, default_root
from warmstart.network.load import Start
from warmstart.network.parts import Network, cut
from warmstart.network.taps import Tapped, taps
from warmstart.planning import rules
from warmstart.records import Choice, Example, Tap

ENGINES: tuple[EngineName, ...] = ("torch", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look gave, and how it was taken."""

    network: Network
    taps: tuple[Tap, ...]
    features: Features
    engine: Choice
    threads: int

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Example ids that could not be read, with the reason."""
        return self.features.unreadable

    def reader(self, examples: Sequence[Example]) -> Callable[[Tap], Any]:
        """A function from tap to the features of these examples, (n, d)."""
        return lambda tap: self.features.read(examples, tap)


def n_threads() -> int:
    """Processors this process may use.

    >>> n_threads() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def take_look(collection: Collection, start: Start) -> Steps[Look]:
    """Cut the network, choose the engine with the least work left, pass what is missing."""
    network = cut(start.module, start.record.preprocessing)
    wanted = taps(network.record)
    store = Store(default_root())
    decoder = f"pillow {version('pillow')}"
    keys = {
        engine: FeatureKey(
            network=start.record.sha256,
            arch=start.record.arch,
            parts=tuple(part.name for part in network.record.parts),
            taps=wanted,
            preprocessing=start.record.preprocessing,
            decoder=decoder,
            engine=engine,
            engine_version=engine_version(engine),
            threads=n_threads(),
        )
        for engine in ENGINES
    }
    examples = collection.record.examples
    known = store.quarantined(decoder)
    readable = [example.sha256 for example in examples if example.sha256 not in known]
    missing = {engine: _missing(store, key, readable) for engine, key in keys.items()}
    chosen = rules.choose_engine({engine: len(hashes) for engine, hashes in missing.items()})
    name = cast(EngineName, chosen)
    prep = start.record.preprocessing

    def decode(example: Example) -> Pixels:
        return load_image(collection.load(example.id), example.id, prep)

    def make() -> Engine:
        from warmstart.features.engine import make_engine

        return make_engine(name, Tapped(network, wanted), prep, n_threads())

    todo = first_of_each(examples, missing[name])
    prefetch = Prefetch(todo, decode) if todo else None
    shelf = store.shelf(keys[name])
    features = yield from extract(examples, prefetch, len(todo), make, store, shelf, decoder)
    choice = Choice(
        value=name,
        source="rule",
        because=f"{len(todo):,} images to pass; the engine with the least work left",
    )
    return Look(network, wanted, features, choice, n_threads())


def _missing(store: Store, key: FeatureKey, hashes: Sequence[str]) -> list[str]:
    with store.shelf(key) as shelf:
        return shelf.missing(hashes)
