"""The look: a start, its parts, and every example's features at all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from warmstart.data.collection import Collection
from warmstart.data.prepare import load_image
from warmstart.errors import DataError, StartError
from warmstart.events import Steps
from warmstart.features.engine import EngineError, make_engine
from warmstart.features.extract import (
    Engine,
    Features,
    Pixels,
    Source,
    Vanished,
    extract,
    first_of_each,
)
from warmstart.features.key import EngineName, FeatureKey, engine_version
from warmstart.features.store import Store, default_root
from warmstart.joints import notes
from warmstart.network.load import Start
from warmstart.network.parts import Network, cut
from warmstart.network.taps import Tapped, taps
from warmstart.planning import rules
from warmstart.records import Choice, Example, Preprocessing, StartRecord, Tap

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
        """A function from tap to the features of these examples, (n, d).

        Raises (the function): StartError where a feature is not a finite number.
        """

        def read(tap: Tap) -> Any:
            values = self.features.read(examples, tap)
            lost = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(lost):
                raise StartError(
                    f"the start gives values that are not numbers for {len(lost):,} of "
                    f"{len(examples):,} images (first: {examples[lost[0]].id}, at part "
                    f"{tap.part}); check its preprocessing, or choose another start."
                )
            return values

        return read


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
    store, decoder = Store(default_root()), f"pillow {version('pillow')}"
    keys = {
        engine: store.resolve(_key(start.record, network, wanted, decoder, engine))
        for engine in ENGINES
    }
    examples = collection.record.examples
    known = store.quarantined(decoder)
    readable = [example.sha256 for example in examples if example.sha256 not in known]
    missing: dict[str, list[str]] = {e: _missing(store, key, readable) for e, key in keys.items()}
    asked = rules.choose_engine({name: len(hashes) for name, hashes in missing.items()})
    chosen, engine = asked, None
    if missing[asked]:
        try:
            engine = _make(asked, network, wanted, start)
        except EngineError as error:
            yield notes.note("look", "Engine", f"{error}; torch is used instead")
            store.redirect(keys["onnxruntime"], keys["torch"])
            chosen, engine = "torch", _make("torch", network, wanted, start)
    todo = first_of_each(examples, missing[chosen])
    key = keys["torch" if chosen == "torch" else "onnxruntime"]
    source = Source(
        shelf=store.shelf(key), store=store, decoder=decoder, todo=todo,
        decode=_decoder(collection, start.record.preprocessing), engine=engine,
    )  # fmt: skip
    features = yield from extract(examples, source)
    because = "the engine with the least work left for these images on this machine"
    choice = Choice(value=key.engine, source="rule", because=because)
    return Look(network, wanted, features, choice, n_threads())


def _key(
    start: StartRecord, network: Network, wanted: tuple[Tap, ...], decoder: str, engine: EngineName
) -> FeatureKey:
    return FeatureKey(
        network=start.sha256,
        arch=start.arch,
        parts=tuple(part.name for part in network.record.parts),
        taps=wanted,
        preprocessing=start.preprocessing,
        decoder=decoder,
        engine=engine,
        engine_version=engine_version(engine),
        threads=n_threads(),
    )


def _make(name: str, network: Network, wanted: tuple[Tap, ...], start: Start) -> Engine:
    engine: EngineName = "torch" if name == "torch" else "onnxruntime"
    return make_engine(engine, Tapped(network, wanted), start.record.preprocessing, n_threads())


def _decoder(collection: Collection, prep: Preprocessing) -> Callable[[Example], Pixels]:
    """From example to pixels; bytes that are gone or changed are told from bad ones."""

    def decode(example: Example) -> Pixels:
        try:
            payload = collection.load(example.id)
        except (DataError, OSError) as error:
            raise Vanished(f"{example.id} can no longer be read: {error}") from error
        if hashlib.sha256(payload).hexdigest() != example.sha256:
            raise Vanished(f"{example.id} changed while the run was going on")
        return load_image(payload, example.id, prep)

    return decode


def _missing(store: Store, key: FeatureKey, hashes: Sequence[str]) -> list[str]:
    with store.shelf(key) as shelf:
        return shelf.missing(hashes)
