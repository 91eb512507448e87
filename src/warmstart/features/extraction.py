"""The look: a start, its parts, and every example's features at all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from warmstart.data import thumbnails
from warmstart.data.dataset import Collection
from warmstart.data.thumbnails import FileFigures, Thumbnails, concatenate
from warmstart.distributed import here
from warmstart.errors import DataError, ProcessError, UsageError
from warmstart.events import Steps
from warmstart.features.batches import in_order
from warmstart.features.cache import StoredFeatures
from warmstart.features.cache_key import EngineName, ThumbnailKey, main_key
from warmstart.features.engine import Pixels
from warmstart.features.engine_choice import ChosenEngine, EngineSurvey, open_engine, survey
from warmstart.features.extract import (
    ExampleSource,
    ExtractedRows,
    Prefetch,
    ThumbnailWriter,
    Vanished,
    extract,
    first_of_each,
)
from warmstart.features.machine import freed_memory_kept, n_threads
from warmstart.features.offload import KeptRows, extract_streamed, links
from warmstart.machine import default_root
from warmstart.modalities.audio import as_wanted, decode_sound
from warmstart.modalities.preprocessing import (
    as_picture,
    clip_picture,
    draft_side,
    encode,
    open_image,
    prepare,
)
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, Preprocessing, WaveInputs
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Choice

TRIES = 3  # passes over what is missing before the disk is blamed


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """What one look gave, and how it was taken."""

    network: Network
    feature_layers: tuple[FeatureLayer, ...]
    features: ExtractedRows
    book: ThumbnailWriter
    unreadable: Mapping[str, str]  # example ids that could not be read, with the reason
    engine: Choice
    threads: int
    glanced: bool = True  # False for what cannot be drawn: rows and texts

    def glances(self, examples: Sequence[Example]) -> Thumbnails:
        """These examples at a glance."""
        return thumbnails.unpack(self.book.read([example.sha256 for example in examples]))

    def reader(self, examples: Sequence[Example]) -> StoredFeatures:
        """A function from tap to the features of these examples, (n, d).

        Raises (the function): ModelError where a feature is not a finite number.
        """
        return self.features.reader(examples)


def extract_features(
    collection: Collection,
    base: PretrainedModel,
    asked: Choice | None = None,
    tell: Callable[[Choice], None] = lambda choice: None,
    kept: int = 0,
) -> Steps[ExtractedFeatures]:
    """Cut the network, choose the engine, pass what is missing.

    `asked` is the engine of the user, of a plan that is followed, or of the run that goes on.
    `tell` hears which it is before an image is passed. Of a network that is streamed, what part
    `kept` gives stays in the store.
    What the store loses meanwhile is passed again.
    Raises: PlanError where the user's own engine is not there, or cannot run this network;
    UsageError where the store keeps losing rows.
    """
    with freed_memory_kept():
        for _ in range(TRIES):
            extracted = yield from _take(collection, base, asked, tell, kept)
            if not here().gathered(_lost(extracted, collection.record.examples))[0]:
                return extracted
    raise UsageError(
        f"the feature cache {default_root()} loses what is written to it; set WARMSTART_CACHE to a "
        "folder on another disk"
    )


def _lost(extracted: ExtractedFeatures, examples: Sequence[Example]) -> list[str]:
    """The contents whose rows, passed or stored before, are damaged or gone."""
    rest = [e.sha256 for e in examples if e.id not in extracted.unreadable]
    return extracted.features.cache_file.missing(rest) or (
        extracted.book.missing(rest) if extracted.glanced else []
    )


def _take(
    collection: Collection,
    base: PretrainedModel,
    asked: Choice | None,
    tell: Callable[[Choice], None],
    kept: int,
) -> Steps[ExtractedFeatures]:
    prep, seen = base.record.preprocessing, survey(collection, base)
    examples = collection.record.examples
    chosen, todo = yield from _open(seen, asked)
    tell(chosen.choice)
    is_seen = isinstance(prep, (Preprocessing, WaveInputs))  # only what can be drawn is glanced at
    draft = draft_side(prep) if isinstance(prep, Preprocessing) else 0
    glance_key = ThumbnailKey(decoder=seen.decoder, draft=draft, version=thumbnails.VERSION)
    book = ThumbnailWriter(seen.store, glance_key)
    decode_one = _decoder(
        collection, prep, book, set(book.missing(seen.readable)) if is_seen else set()
    )
    source = ExampleSource(
        cache_file=seen.store.cache_file(chosen.key),
        store=seen.store,
        decoder=seen.decoder,
        todo=in_order(first_of_each(examples, todo), collection, prep),
        decode=decode_one,
        engine=chosen.engine,
    )
    try:
        if base.stream:
            blocks = links(seen.network, seen.feature_layers, len(seen.network.blocks), prep)
            beside = (
                KeptRows(kept, seen.store.cache_file(main_key(chosen.key, kept))) if kept else None
            )
            features = yield from extract_streamed(examples, source, blocks, base.stream, beside)
        else:
            features = yield from extract(examples, source)
        book.flush()
        features = _together(features, examples)
        book.refresh()
        rest = [e for e in examples if is_seen and e.id not in features.unreadable]
        gone = _glance_rest(rest, book, decode_one)
    finally:
        book.flush()
    return ExtractedFeatures(
        network=seen.network,
        feature_layers=seen.feature_layers,
        features=features,
        book=book,
        unreadable={**features.unreadable, **gone},
        engine=chosen.choice,
        threads=n_threads(),
        glanced=is_seen,
    )


def _open(seen: EngineSurvey, asked: Choice | None) -> Steps[tuple[ChosenEngine, Sequence[str]]]:
    """The engine, and the contents that this process is to pass.

    Of several processes the first decides: what one finds missing later, another may be
    passing already.
    """
    world = here()
    chosen = (yield from open_engine(seen, asked)) if world.is_first else None
    told = None if chosen is None else (chosen.choice, seen.missing[chosen.key])
    choice, missing = cast(tuple[Choice, list[str]], world.gathered(told)[0])
    if chosen is None:
        key = seen.keys[cast(EngineName, str(choice.value))]
        seen = replace(seen, missing={**seen.missing, key: missing})
        chosen = yield from open_engine(seen, choice)
    return chosen, world.share(missing)


def _together(features: ExtractedRows, examples: Sequence[Example]) -> ExtractedRows:
    """What all processes found. Raises: ProcessError where they do not keep it in one place."""
    world = here()
    if world.size == 1:
        return features
    found = world.gathered((dict(features.unreadable), features.passed, features.decoded))
    unreadable = {id: why for lost, _, _ in found for id, why in lost.items()}
    features.cache_file.refresh()
    if features.cache_file.absent(e.sha256 for e in examples if e.id not in unreadable):
        raise ProcessError(
            "the processes of this job do not find each other's features; set WARMSTART_CACHE to "
            "a folder that all of them share"
        )
    return replace(
        features,
        unreadable=unreadable,
        passed=sum(n for _, n, _ in found),
        decoded=sum(n for _, _, n in found),
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
    collection: Collection, prep: Inputs, book: ThumbnailWriter, wants_glance: set[str]
) -> Callable[[Example], Pixels]:
    """From example to pixels, noting a glance; bytes that are gone are told from bad ones."""

    def decode_one(example: Example) -> Pixels:
        payload = load_same(collection, example)
        if isinstance(prep, WaveInputs):
            wave, rate = decode_sound(payload, example.id)
            if example.sha256 in wants_glance:
                book.put(example.sha256, thumbnails.make_thumbnail(payload, clip_picture(wave, rate)))
            return as_wanted(wave, rate, prep)
        if not isinstance(prep, Preprocessing):
            return encode(payload, example.id, prep)
        image = open_image(payload, example.id, prep)
        if example.sha256 in wants_glance:
            book.put(example.sha256, thumbnails.make_thumbnail(payload, as_picture(image)))
        return prepare(image, prep)

    return decode_one


def _glance_rest(
    examples: Sequence[Example], book: ThumbnailWriter, decode_one: Callable[[Example], Pixels]
) -> dict[str, str]:
    """Glance at images whose features are stored but that no one has glanced at."""
    lost = here().gathered(book.missing(e.sha256 for e in examples))[0]
    missing = first_of_each(examples, here().share(lost))
    prefetch = Prefetch(missing, decode_one, threads=n_threads())
    try:
        found = {e.sha256: str(pixels) for e, pixels in prefetch if isinstance(pixels, DataError)}
    finally:
        prefetch.close()
    if lost:
        book.flush()
        found = {content: why for own in here().gathered(found) for content, why in own.items()}
        book.refresh()
    return {e.id: found[e.sha256] for e in examples if e.sha256 in found}


# ---- Glances at some examples, read from the store when they are asked for.


KEPT = 2000  # examples, at most, whose glances are kept in memory; a glance takes 5 KB
_ROWS = 500  # read at a time


class StoredThumbnails:
    """What `Thumbnails` holds, of examples that may be too many for memory.

    `grey` and `colour` are asked for some rows at a time: `album.grey[rows]`.
    """

    def __init__(self, extracted: ExtractedFeatures, examples: Sequence[Example]) -> None:
        self._look, self._examples = extracted, examples
        self._all = extracted.glances(examples) if len(examples) <= KEPT else None
        self.grey, self.colour = _Column(self, "grey"), _Column(self, "colour")

    def __len__(self) -> int:
        return len(self._examples)

    def of(self, rows: NDArray[np.intp]) -> Thumbnails:
        """The glances of some rows, in memory."""
        if self._all is not None:
            return self._all.of(rows)
        return self._look.glances([self._examples[row] for row in rows])

    @cached_property
    def files(self) -> FileFigures:
        """The figures of all files."""
        if self._all is not None:
            return self._all.files()
        models = range(0, len(self), _ROWS)
        return concatenate([self.of(np.arange(len(self))[s : s + _ROWS]).files() for s in models])


@dataclass(frozen=True, slots=True)
class _Column:
    """One array of the glances, by rows."""

    album: StoredThumbnails
    name: str

    def __len__(self) -> int:
        return len(self.album)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = getattr(self.album.of(np.arange(len(self))[rows]), self.name)
        return found
