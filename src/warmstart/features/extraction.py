"""Extract the features of every example at all feature layers of a base model."""

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
from warmstart.features.batches import sort_by_length
from warmstart.features.cache import StoredFeatures
from warmstart.features.cache_key import EngineName, ThumbnailKey, main_key
from warmstart.features.engine import Pixels
from warmstart.features.engine_choice import (
    ChosenEngine,
    EngineSurvey,
    open_engine,
    survey_engines,
)
from warmstart.features.extract import (
    ExampleSource,
    ExtractedRows,
    MissingExample,
    Prefetch,
    ThumbnailWriter,
    extract,
    first_of_each,
)
from warmstart.features.machine import keep_freed_memory, n_threads
from warmstart.features.offload import extract_streamed, offloaded_blocks
from warmstart.machine import default_root
from warmstart.modalities.image import draft_side
from warmstart.modalities.registry import modality_of
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, pictures
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Choice

TRIES = 3  # extractions of what is missing before the disk is blamed


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """The features of a data set, and how they were extracted."""

    network: Network
    feature_layers: tuple[FeatureLayer, ...]
    features: ExtractedRows
    thumbnail_writer: ThumbnailWriter
    unreadable: Mapping[str, str]  # example ids that could not be read, with the reason
    engine: Choice
    threads: int
    has_thumbnails: bool = True  # False for rows and texts

    def thumbnails(self, examples: Sequence[Example]) -> Thumbnails:
        """The thumbnails of these examples."""
        return thumbnails.unpack(self.thumbnail_writer.read([e.sha256 for e in examples]))

    def reader(self, examples: Sequence[Example]) -> StoredFeatures:
        """A function from a feature layer to the features of these examples, (n, d).

        Raises (the function): ModelError if a feature is not a finite number.
        """
        return self.features.reader(examples)


def extract_features(
    collection: Collection,
    base: PretrainedModel,
    engine: Choice | None = None,
    on_engine: Callable[[Choice], None] = lambda choice: None,
    saved_block: int = 0,
) -> Steps[ExtractedFeatures]:
    """Partition the network, choose the engine, extract what is missing.

    `engine` is the choice of the user, of the plan, or of the run that is resumed. `on_engine`
    is called with the choice before extraction. If the network is streamed, the output of
    `saved_block` (0: none) stays in the cache. What the cache loses meanwhile is extracted again.
    Raises: PlanError if the user's engine is not installed, or cannot run this network;
    UsageError if the cache keeps losing rows.
    """
    examples = collection.record.examples
    with keep_freed_memory():
        for _ in range(TRIES):
            extracted = yield from _extract_once(collection, base, engine, on_engine, saved_block)
            readable = [e.sha256 for e in examples if e.id not in extracted.unreadable]
            lost = extracted.features.cache_file.missing(readable)
            if not lost and extracted.has_thumbnails:
                lost = extracted.thumbnail_writer.missing(readable)
            if not here().gather(lost)[0]:
                return extracted
    raise UsageError(
        f"the feature cache {default_root()} loses what is written to it; set WARMSTART_CACHE to a "
        "folder on another disk"
    )


def _extract_once(
    collection: Collection,
    base: PretrainedModel,
    engine: Choice | None,
    on_engine: Callable[[Choice], None],
    saved_block: int,
) -> Steps[ExtractedFeatures]:
    prep, survey = base.record.preprocessing, survey_engines(collection, base)
    examples = collection.record.examples
    chosen, todo = yield from _open(survey, engine)
    on_engine(chosen.choice)
    modality = modality_of(prep)
    has_thumbnails = modality.has_thumbnails
    draft = draft_side(pictures(prep)) if modality.has_pixels else 0
    key = ThumbnailKey(decoder=survey.decoder, draft=draft, version=thumbnails.VERSION)
    writer = ThumbnailWriter(survey.feature_cache, key)
    without_thumbnail = set(writer.missing(survey.readable)) if has_thumbnails else set()
    decode_one = _decoder(collection, prep, writer, without_thumbnail)
    source = ExampleSource(
        cache_file=survey.feature_cache.cache_file(chosen.key),
        feature_cache=survey.feature_cache,
        decoder=survey.decoder,
        todo=sort_by_length(first_of_each(examples, todo), collection, prep),
        decode=decode_one,
        engine=chosen.engine,
    )
    try:
        if base.stream:
            n_blocks, saved = len(survey.network.blocks), None
            blocks = offloaded_blocks(survey.network, survey.feature_layers, n_blocks, prep)
            if saved_block:
                file = survey.feature_cache.cache_file(main_key(chosen.key, saved_block))
                saved = saved_block, file
            features = yield from extract_streamed(examples, source, blocks, base.stream, saved)
        else:
            features = yield from extract(examples, source)
        writer.flush()
        features = _gather(features, examples)
        writer.refresh()
        readable = [e for e in examples if has_thumbnails and e.id not in features.unreadable]
        unreadable = _make_missing_thumbnails(readable, writer, decode_one)
    finally:
        writer.flush()
    return ExtractedFeatures(
        network=survey.network,
        feature_layers=survey.feature_layers,
        features=features,
        thumbnail_writer=writer,
        unreadable={**features.unreadable, **unreadable},
        engine=chosen.choice,
        threads=n_threads(),
        has_thumbnails=has_thumbnails,
    )


def _open(survey: EngineSurvey, engine: Choice | None) -> Steps[tuple[ChosenEngine, Sequence[str]]]:
    """The engine, chosen by the first process, and the contents that this one extracts."""
    world = here()
    chosen = (yield from open_engine(survey, engine)) if world.is_first else None
    decision = None if chosen is None else (chosen.choice, survey.missing[chosen.key])
    choice, missing = cast(tuple[Choice, list[str]], world.gather(decision)[0])
    if chosen is None:
        key = survey.keys[cast(EngineName, str(choice.value))]
        survey = replace(survey, missing={**survey.missing, key: missing})
        chosen = yield from open_engine(survey, choice)
    return chosen, world.share(missing)


def _gather(features: ExtractedRows, examples: Sequence[Example]) -> ExtractedRows:
    """The results of all processes. Raises: ProcessError unless they share one cache."""
    world = here()
    if world.size == 1:
        return features
    results = world.gather((dict(features.unreadable), features.n_extracted, features.n_decoded))
    unreadable = {id: why for reasons, _, _ in results for id, why in reasons.items()}
    features.cache_file.refresh()
    if features.cache_file.absent(e.sha256 for e in examples if e.id not in unreadable):
        raise ProcessError(
            "the processes of this job do not find each other's features; set WARMSTART_CACHE to "
            "a folder that all of them share"
        )
    return replace(
        features,
        unreadable=unreadable,
        n_extracted=sum(n for _, n, _ in results),
        n_decoded=sum(n for _, _, n in results),
    )


def load_unchanged(collection: Collection, example: Example) -> bytes:
    """The bytes that were read before. Raises: MissingExample if they are gone or changed."""
    try:
        payload = collection.load(example.id)
    except (DataError, OSError) as error:
        raise MissingExample(f"{example.id} can no longer be read: {error}") from error
    if hashlib.sha256(payload).hexdigest() != example.sha256:
        raise MissingExample(f"{example.id} changed while the run was going on")
    return payload


def _decoder(
    collection: Collection, prep: Inputs, writer: ThumbnailWriter, without_thumbnail: set[str]
) -> Callable[[Example], Pixels]:
    """From example to pixels, writing its thumbnail."""
    modality = modality_of(prep)

    def decode_one(example: Example) -> Pixels:
        payload, sha256 = load_unchanged(collection, example), example.sha256
        opened = modality.open(payload, example.id, prep)
        if sha256 in without_thumbnail:
            thumbnail = thumbnails.make_thumbnail(payload, modality.picture(opened))
            writer.put(sha256, thumbnail)
        return modality.prepare(opened, prep)

    return decode_one


def _make_missing_thumbnails(
    examples: Sequence[Example], writer: ThumbnailWriter, decode_one: Callable[[Example], Pixels]
) -> dict[str, str]:
    """Make thumbnails of images whose features are cached; returns what is unreadable."""
    missing = here().gather(writer.missing(e.sha256 for e in examples))[0]
    todo = first_of_each(examples, here().share(missing))
    prefetch = Prefetch(todo, decode_one, threads=n_threads())
    try:
        reasons = {e.sha256: str(pixels) for e, pixels in prefetch if isinstance(pixels, DataError)}
    finally:
        prefetch.close()
    if missing:
        writer.flush()
        reasons = {sha: why for each in here().gather(reasons) for sha, why in each.items()}
        writer.refresh()
    return {e.id: reasons[e.sha256] for e in examples if e.sha256 in reasons}


# ---- Thumbnails of some examples, read from the cache on demand.

MAX_IN_MEMORY = 2000  # examples whose thumbnails fit in memory, 5 KB each
_ROWS = 500  # read at a time


class StoredThumbnails:
    """`Thumbnails` of examples that may be too many for memory.

    `grey` and `colour` are indexed by rows: `stored.grey[rows]`.
    """

    def __init__(self, extracted: ExtractedFeatures, examples: Sequence[Example]) -> None:
        self._extracted, self._examples = extracted, examples
        self._all = extracted.thumbnails(examples) if len(examples) <= MAX_IN_MEMORY else None
        self.grey, self.colour = _Column(self, "grey"), _Column(self, "colour")

    def __len__(self) -> int:
        return len(self._examples)

    def of(self, rows: NDArray[np.intp]) -> Thumbnails:
        """The thumbnails of some rows, in memory."""
        if self._all is not None:
            return self._all.of(rows)
        return self._extracted.thumbnails([self._examples[row] for row in rows])

    @cached_property
    def files(self) -> FileFigures:
        """Size and format of all files."""
        if self._all is not None:
            return self._all.files()
        rows = np.arange(len(self))
        chunks = [rows[at : at + _ROWS] for at in range(0, len(self), _ROWS)]
        return concatenate([self.of(chunk).files() for chunk in chunks])


@dataclass(frozen=True, slots=True)
class _Column:
    """One array of the thumbnails, by rows."""

    stored: StoredThumbnails
    name: str

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        all_rows = self.stored.of(np.arange(len(self))[rows])
        column: NDArray[np.uint8] = getattr(all_rows, self.name)
        return column
