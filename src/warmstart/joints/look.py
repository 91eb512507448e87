"""The look: a start, its parts, and every example's features at all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from warmstart.data import glance
from warmstart.data.collection import Collection
from warmstart.data.glance import Glances
from warmstart.data.prepare import as_picture, decoder_name, draft_side, open_image, prepare
from warmstart.errors import DataError
from warmstart.events import Steps
from warmstart.features.engine import EngineError, make_engine
from warmstart.features.extract import (
    Engine,
    Features,
    Pixels,
    Prefetch,
    Source,
    Vanished,
    extract,
    first_of_each,
)
from warmstart.features.glances import GlanceBook
from warmstart.features.key import EngineName, FeatureKey, GlanceKey, engine_version
from warmstart.features.store import Store, default_root
from warmstart.features.stored import StoredTaps
from warmstart.joints import notes
from warmstart.network.load import Start
from warmstart.network.parts import Network
from warmstart.network.revive import cut_start
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
    book: GlanceBook
    unreadable: Mapping[str, str]  # example ids that could not be read, with the reason
    engine: Choice
    threads: int

    def glances(self, examples: Sequence[Example]) -> Glances:
        """These examples at a glance."""
        return glance.unpack(self.book.read([example.sha256 for example in examples]))

    def reader(self, examples: Sequence[Example]) -> StoredTaps:
        """A function from tap to the features of these examples, (n, d).

        Raises (the function): StartError where a feature is not a finite number.
        """
        return self.features.reader(examples)


def n_threads() -> int:
    """Processors this process may use.

    >>> n_threads() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look will need: the network cut, and what the store lacks under each engine."""

    network: Network
    taps: tuple[Tap, ...]
    store: Store
    decoder: str
    readable: tuple[str, ...]  # content hashes that are not known to be damaged
    missing: Mapping[FeatureKey, list[str]]

    def key(self, engine: str | None = None) -> FeatureKey:
        """The key of an engine; without one, that with the least work left."""
        keys = {key.engine: key for key in self.missing}
        work = {name: len(self.missing[key]) for name, key in keys.items()}
        chosen: str = engine or rules.choose_engine({str(n): count for n, count in work.items()})
        return {str(name): key for name, key in keys.items()}[chosen]


def survey(collection: Collection, start: Start) -> Survey:
    """Cut the network and ask the store what it has of these images."""
    network = cut_start(start)
    wanted = taps(network.record)
    store, decoder = Store(default_root()), decoder_name(start.record.preprocessing)
    known = store.quarantined(decoder)
    hashes = (example.sha256 for example in collection.record.examples)
    readable = tuple(sha256 for sha256 in hashes if sha256 not in known)
    keys = [store.resolve(_key(start.record, network, wanted, decoder, e)) for e in ENGINES]
    missing = {key: _missing(store, key, readable) for key in keys}
    return Survey(network, wanted, store, decoder, readable, missing)


def take_look(collection: Collection, start: Start, asked_engine: str | None = None) -> Steps[Look]:
    """Cut the network, choose the engine with the least work left, pass what is missing.

    `asked_engine` is that of a plan that is followed.
    """
    prep, seen = start.record.preprocessing, survey(collection, start)
    examples = collection.record.examples
    key, engine = yield from _open_engine(seen, prep, asked_engine)
    glance_key = GlanceKey(decoder=seen.decoder, draft=draft_side(prep), version=glance.VERSION)
    book = GlanceBook(seen.store, glance_key)
    decode_one = _decoder(collection, prep, book, set(book.missing(seen.readable)))
    source = Source(
        shelf=seen.store.shelf(key), store=seen.store, decoder=seen.decoder,
        todo=first_of_each(examples, seen.missing[key]), decode=decode_one, engine=engine,
    )  # fmt: skip
    try:
        features = yield from extract(examples, source)
        rest = [e for e in examples if e.id not in features.unreadable]
        gone = _glance_rest(rest, book, decode_one)
    finally:
        book.flush()
    because = "the engine with the least work left for these images on this machine"
    return Look(
        network=seen.network, taps=seen.taps, features=features, book=book,
        unreadable={**features.unreadable, **gone},
        engine=Choice(value=key.engine, source="rule", because=because), threads=n_threads(),
    )  # fmt: skip


def _open_engine(
    seen: Survey, prep: Preprocessing, asked: str | None
) -> Steps[tuple[FeatureKey, Engine | None]]:
    """The key to look under, and an engine for it where something is missing."""
    key, tapped = seen.key(asked), Tapped(seen.network, seen.taps)
    if not seen.missing[key]:
        return key, None
    try:
        return key, make_engine(key.engine, tapped, prep, n_threads())
    except EngineError as error:
        yield notes.note("look", "Engine", f"{error}; torch is used instead")
        other = seen.key("torch")
        seen.store.redirect(key, other)
        return other, make_engine("torch", tapped, prep, n_threads())


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


def load_same(collection: Collection, example: Example) -> bytes:
    """The bytes that were read before. Raises: Vanished where they are gone or have changed."""
    try:
        payload = collection.load(example.id)
    except (DataError, OSError) as error:
        raise Vanished(f"{example.id} can no longer be read: {error}") from error
    if hashlib.sha256(payload).hexdigest() != example.sha256:
        raise Vanished(f"{example.id} changed while the run was going on")
    return payload


def _decoder(
    collection: Collection, prep: Preprocessing, book: GlanceBook, wants_glance: set[str]
) -> Callable[[Example], Pixels]:
    """From example to pixels, noting a glance; bytes that are gone are told from bad ones."""

    def decode_one(example: Example) -> Pixels:
        payload = load_same(collection, example)
        image = open_image(payload, example.id, prep)
        if example.sha256 in wants_glance:
            book.put(example.sha256, glance.glance(payload, as_picture(image)))
        return prepare(image, prep)

    return decode_one


def _glance_rest(
    examples: Sequence[Example], book: GlanceBook, decode_one: Callable[[Example], Pixels]
) -> dict[str, str]:
    """Glance at images whose features are stored but that no one has glanced at."""
    missing = first_of_each(examples, book.missing(e.sha256 for e in examples))
    prefetch = Prefetch(missing, decode_one, threads=n_threads())
    try:
        found = {e.sha256: str(pixels) for e, pixels in prefetch if isinstance(pixels, DataError)}
    finally:
        prefetch.close()
    return {e.id: found[e.sha256] for e in examples if e.sha256 in found}


def _missing(store: Store, key: FeatureKey, hashes: Sequence[str]) -> list[str]:
    with store.shelf(key) as shelf:
        return shelf.missing(hashes)
