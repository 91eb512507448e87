"""Which engine passes the images: the one asked for, or the quickest on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast, get_args

from warmstart import events
from warmstart.data.dataset import Collection
from warmstart.errors import PlanError, install_command
from warmstart.events import Steps
from warmstart.features import engine_speeds
from warmstart.features.batches import noise
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import (
    BATCH,
    ENGINE_TITLES,
    EngineName,
    FeatureKey,
    engine_version,
    installed_engines,
)
from warmstart.features.engine import Engine, EngineError, make_engine
from warmstart.features.machine import threads_for
from warmstart.machine import default_root
from warmstart.modalities.preprocessing import decoder_name
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.finished_run import partition_base
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network
from warmstart.nouns import Nouns, nouns_of
from warmstart.planning import rules
from warmstart.planning.rules import EngineSpeed
from warmstart.planning.strategy import nearest
from warmstart.records.inputs import Inputs, Preprocessing, kind_of
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import Choice

SETTING = "training.engine"


def check_name(name: str, asked: str) -> EngineName:
    """The engine of that name; `asked` is how it was asked for.

    Raises: PlanError where there is none, or it is not installed.

    >>> check_name("torch", "--set training.engine=torch")
    'torch'
    """
    here = installed_engines()
    if name not in get_args(EngineName):
        like = nearest(name, here)
        cure = f"did you mean {like}?" if like else f"there are {', '.join(here)}."
        raise PlanError(f"{asked}: {name} is no engine; {cure}")
    if name not in here:
        cure = install_command("fast") if name == "openvino" else f"pip install {name}"
        raise PlanError(
            f"{asked}: {name} is not installed; run `{cure}`, or choose {', '.join(here)}."
        )
    return name


@dataclass(frozen=True, slots=True)
class EngineSurvey:
    """What a look will need: the network cut, and what the store lacks under each engine."""

    network: Network
    feature_layers: tuple[FeatureLayer, ...]
    prep: Inputs
    feature_cache: FeatureCache
    decoder: str
    n: int  # images, one a content, whether they can be read or not
    readable: tuple[str, ...]  # content hashes that are not known to be damaged
    keys: Mapping[EngineName, FeatureKey]  # of the engines that can run the network
    missing: Mapping[FeatureKey, list[str]]
    stream: str = ""  # the number format between parts, where the network is streamed

    @property
    def work(self) -> engine_speeds.EngineWork:
        """What an engine's speed depends on here."""
        return engine_work(self.network.record, self.prep, len(self.feature_layers))

    @property
    def nouns(self) -> Nouns:
        """What is passed."""
        return nouns_of(kind_of(self.prep))

    @property
    def counts(self) -> dict[str, int]:
        """Images that are missing under each engine."""
        return {name: len(self.missing[key]) for name, key in self.keys.items()}


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """The engine of a look, the key of its rows, and itself, where it has been made."""

    choice: Choice
    key: FeatureKey
    engine: Engine | None = None


def survey_engines(collection: Collection, base: PretrainedModel) -> EngineSurvey:
    """Cut the network and ask the store what it has of these images."""
    network = partition_base(base)
    wanted, prep = feature_layers(network.record), base.record.preprocessing
    feature_cache, decoder = FeatureCache(default_root()), decoder_name(prep)
    known = feature_cache.quarantined(decoder)
    hashes = tuple(example.sha256 for example in collection.record.examples)
    readable = tuple(sha256 for sha256 in hashes if sha256 not in known)
    runs: tuple[EngineName, ...] = ("torch",) if base.stream else _engines(prep)
    asked = {name: _key(base, network, wanted, decoder, name) for name in runs}
    keys = {name: key for name, key in asked.items() if feature_cache.resolve(key) == key}
    return EngineSurvey(
        network=network,
        feature_layers=wanted,
        prep=prep,
        feature_cache=feature_cache,
        decoder=decoder,
        n=len(set(hashes)),
        readable=readable,
        keys=keys,
        missing={key: _missing(feature_cache, key, readable) for key in keys.values()},
        stream=base.stream,
    )


def _engines(inputs: Inputs) -> tuple[EngineName, ...]:
    """Graphs are made for pictures alone: texts differ in length, rows take next to no time."""
    return installed_engines() if isinstance(inputs, Preprocessing) else ("torch",)


def engine_work(record: NetworkRecord, prep: Inputs, n_layers: int) -> engine_speeds.EngineWork:
    """What an engine's speed depends on, for a network and its images on this machine."""
    return engine_speeds.EngineWork(
        macs=sum(block.macs for block in record.blocks),
        parameters=sum(block.parameters for block in record.blocks),
        feature_layers=n_layers,
        size=prep.shape,
        threads=threads_for(record),
    )


def stored_speeds(root: Path, work: engine_speeds.EngineWork) -> dict[str, EngineSpeed]:
    """The paces that were measured on this machine, from the cache folder."""
    return {name: EngineSpeed(*timing) for name, timing in engine_speeds.read(root, work).items()}


def open_engine(seen: EngineSurvey, asked: Choice | None = None) -> Steps[ChosenEngine]:
    """Choose an engine, and make it where something is missing; one that fails is left out.

    None is made of a network that is streamed: its parts are run one by one.
    Raises: PlanError where the user's own engine is not there, or cannot run this network.
    """
    while True:
        seen, chosen = yield from _choose(seen, asked)
        if chosen.engine is not None or seen.stream or not seen.missing[chosen.key]:
            return chosen
        try:
            return replace(chosen, engine=_make(seen, chosen.key.engine))
        except EngineError as error:
            if chosen.choice.source == "user":
                raise PlanError(
                    f"{SETTING} {chosen.key.engine}: {error}; choose torch, or leave it away."
                ) from error
            seen, asked = (yield from _refuse(seen, chosen.key.engine, error)), None


def choose(seen: EngineSurvey, asked: Choice | None = None) -> Steps[ChosenEngine]:
    """Choose an engine, after measuring where that pays; it may have been made for that.

    Raises: PlanError where the user's own engine is not there, or cannot run this network.
    """
    return (yield from _choose(seen, asked))[1]


def _choose(seen: EngineSurvey, asked: Choice | None) -> Steps[tuple[EngineSurvey, ChosenEngine]]:
    kept = stored_speeds(seen.feature_cache.root, seen.work)
    made: dict[str, Engine] = {}
    if asked is None and not seen.stream:
        seen, made = yield from _measure(seen, kept)
    ruled = _ruled(seen, kept)
    choice = ruled if asked is None else _as_asked(asked, _fastest(seen, kept))
    name = check_name(str(choice.value), SETTING)
    if name not in seen.keys:  # known from an earlier look
        why = f"this network cannot be run by {ENGINE_TITLES[name]}"
        if choice.source == "user":
            raise PlanError(f"{SETTING} {name}: {why}; choose {', '.join(seen.keys)}.")
        choice, name = ruled, cast(EngineName, ruled.value)
        yield events.note("features", "Engine", f"{why}; {ENGINE_TITLES[name]} is used instead")
    return seen, ChosenEngine(choice, seen.keys[name], made.get(name))


def _as_asked(asked: Choice, fastest: str) -> Choice:
    """A plan's choice as it stands; the user's own with what the rule says of an empty store."""
    if asked.source == "user" and asked.rule is None:
        return replace(asked, rule=fastest)
    return asked


def _measure(
    seen: EngineSurvey, kept: dict[str, EngineSpeed]
) -> Steps[tuple[EngineSurvey, dict[str, Engine]]]:
    """Measure what is worth it; `kept` grows. Returns the engines that were made for it."""
    made: dict[str, Engine] = {}
    while (name := rules.engine_to_measure(seen.counts, kept, seen.work.macs)) is not None:
        engine = cast(EngineName, name)
        made.clear()  # two at a time would be the most memory of a run
        try:
            make = partial(_make, seen, engine)
            made[name], timing = engine_speeds.measure(make, noise(seen.prep, BATCH))
        except EngineError as error:
            seen = yield from _refuse(seen, engine, error)
            continue
        kept[name] = EngineSpeed(
            *engine_speeds.keep(seen.feature_cache.root, seen.work, engine, timing)
        )
    return seen, made


def _refuse(seen: EngineSurvey, name: EngineName, error: EngineError) -> Steps[EngineSurvey]:
    """Leave an engine out, now and in later looks with this network; say which one is next."""
    seen.feature_cache.redirect(seen.keys[name], seen.keys["torch"])
    keys = {other: key for other, key in seen.keys.items() if other != name}
    seen = replace(seen, keys=keys)
    found = rules.paces(stored_speeds(seen.feature_cache.root, seen.work), seen.work.macs)
    instead = ENGINE_TITLES[cast(EngineName, rules.choose_engine(seen.counts, found))]
    yield events.note("features", "Engine", f"{error}; {instead} is used instead")
    return seen


def _make(seen: EngineSurvey, name: EngineName) -> Engine:
    threads = threads_for(seen.network.record)
    return make_engine(
        name, FeatureExtractor(seen.network, seen.feature_layers), seen.prep, threads
    )


# ---- the choice in words -----------------------------------------------------------------


def _ruled(seen: EngineSurvey, kept: Mapping[str, EngineSpeed]) -> Choice:
    """What the rule says, in words that are the same when a stopped look goes on."""
    found, counts = rules.paces(kept, seen.work.macs), seen.counts
    value, fastest = rules.choose_engine(counts, found), _fastest(seen, kept)
    if len(counts) == 1:
        because = "the only engine here that can run this network"
    elif value != fastest and counts[value] < len(set(seen.readable)):
        title = ENGINE_TITLES[cast(EngineName, value)]
        because = (
            f"{title} has passed some of these {seen.nouns.many} before; another would begin anew"
        )
    else:
        seconds = {name: rules.engine_seconds(found[name], seen.n) for name in counts}
        because = _figures(value, seen.nouns.count(seen.n), seconds, value in kept)
    return Choice(
        value=value,
        because=because,
        rule=_fastest(seen, {}),
        source="measured" if value in kept else "rule",
    )


def _fastest(seen: EngineSurvey, kept: Mapping[str, EngineSpeed]) -> str:
    """The engine that would be chosen if nothing were in the store."""
    everything = dict.fromkeys(seen.counts, seen.n)
    return rules.choose_engine(everything, rules.paces(kept, seen.work.macs))


def _figures(value: str, all_of: str, seconds: Mapping[str, float], is_measured: bool) -> str:
    """`OpenVINO: 1,000 images in about 6.5 s here, torch 14 s`."""
    other = min((name for name in seconds if name != value), key=seconds.__getitem__)
    other = other if value == "torch" else "torch"
    ours, theirs = (ENGINE_TITLES[cast(EngineName, name)] for name in (value, other))
    where = "here" if is_measured else "as a rule"
    return f"{ours}: {all_of} in about {_s(seconds[value])} {where}, {theirs} {_s(seconds[other])}"


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


# ---- keys --------------------------------------------------------------------------------


def _key(
    base: PretrainedModel,
    network: Network,
    wanted: tuple[FeatureLayer, ...],
    decoder: str,
    engine: EngineName,
) -> FeatureKey:
    record = base.record
    return FeatureKey(
        network=record.sha256,
        arch=record.arch,
        blocks=tuple(block.name for block in network.record.blocks),
        feature_layers=wanted,
        preprocessing=record.preprocessing,
        decoder=decoder,
        engine=engine,
        engine_version=offload_version(engine, base.stream),
        threads=threads_for(network.record),
    )


def offload_version(engine: EngineName, stream: str) -> str:
    """An engine's version, and how what parts give is rounded between them, if it is."""
    rounded = f", {stream} between parts" if stream not in ("", "float32") else ""
    return engine_version(engine) + rounded


def _missing(feature_cache: FeatureCache, key: FeatureKey, hashes: Sequence[str]) -> list[str]:
    with feature_cache.cache_file(key) as cache_file:
        return cache_file.missing(hashes)
