"""The engine that extracts features: the requested one, or the fastest on this machine."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast, get_args

from warmstart import events
from warmstart.data.dataset import Collection
from warmstart.errors import PlanError, install_command
from warmstart.events import Steps
from warmstart.features.cache import FeatureCache, exclusive, read_lines
from warmstart.features.cache_key import (
    BATCH,
    ENGINE_TITLES,
    EngineName,
    FeatureKey,
    cpu_name,
    engine_version,
    installed_engines,
)
from warmstart.features.engine import Engine, EngineError, Pixels, make_engine
from warmstart.features.machine import threads_for
from warmstart.machine import default_root
from warmstart.modalities.registry import modality_of
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.finished_run import partition_base
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network
from warmstart.nouns import Nouns
from warmstart.planning import rules
from warmstart.planning.rules import EngineSpeed
from warmstart.planning.strategy import nearest
from warmstart.records.inputs import Inputs
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import Choice
from warmstart.records.run_folder import write_bytes

# ---- Measured speeds on this machine, a JSON line each in the cache folder.
#
# The first measurement of an engine stays until its versions, the machine or the network's size
# change: a resumed run, or another one at the same time, then makes the same choice.

SPEEDS_FILE = "engines.jsonl"  # not .json: the cache would take that for features, and evict it
BATCHES = 2  # run when an engine is measured
MAX_LINES = 1000  # the oldest are dropped
_FIGURES = ("setup_s", "per_second")  # of an `EngineSpeed`, in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """Everything that the speed of an engine depends on; `size` is the shape of an example."""

    macs: int
    parameters: int
    feature_layers: int
    size: tuple[int, ...]
    threads: int
    arithmetic: str = field(default_factory=lambda: os.environ.get("MKL_CBWR", ""))
    cpu: str = field(default_factory=cpu_name)


def measure_speed(make: Callable[[], Engine], images: Pixels) -> tuple[Engine, EngineSpeed]:
    """Make an engine and run one batch of images twice; the faster run counts."""
    began = time.perf_counter()
    engine = make()
    setup = time.perf_counter() - began
    seconds = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        engine(images)
        seconds.append(time.perf_counter() - began)
    return engine, EngineSpeed(setup, len(images) / max(min(seconds), 1e-9))


def read_speeds(root: Path, work: EngineWork) -> dict[str, EngineSpeed]:
    """The stored speeds of the installed engines, in their installed versions."""
    speeds = _speeds(root)
    keys = {name: _speed_key(work, name) for name in installed_engines()}
    return {name: speeds[key] for name, key in keys.items() if key in speeds}


def keep_speed(root: Path, work: EngineWork, name: EngineName, speed: EngineSpeed) -> EngineSpeed:
    """Store a measurement if the file can be written; returns the stored or an earlier one."""
    key = _speed_key(work, name)
    with suppress(OSError), exclusive(root / "lock"):
        speeds = _speeds(root)
        if key in speeds:
            return speeds[key]
        lines = [
            json.dumps(json.loads(key) | dict(zip(_FIGURES, speed, strict=True)))
            for key, speed in [*speeds.items(), (key, speed)][-MAX_LINES:]
        ]
        write_bytes(root / SPEEDS_FILE, "".join(line + "\n" for line in lines).encode())
    return speed


def clear_speeds(root: Path) -> None:
    with exclusive(root / "lock"):
        (root / SPEEDS_FILE).unlink(missing_ok=True)


def _speed_key(work: EngineWork, name: EngineName) -> str:
    """The members of a line that identify it, as JSON."""
    return json.dumps({"engine": name, "version": engine_version(name), **asdict(work)})


def _speeds(root: Path) -> dict[str, EngineSpeed]:
    """The measurements in the file, those with positive figures; of one key the first."""
    speeds: dict[str, EngineSpeed] = {}
    for line in read_lines(root / SPEEDS_FILE):
        figures = [line.pop(name, None) for name in _FIGURES]
        if all(isinstance(value, float) and 0 < value < math.inf for value in figures):
            speeds.setdefault(json.dumps(line), EngineSpeed(*figures))
    return speeds


# ---- The choice.

SETTING = "training.engine"


def check_name(name: str, setting: str) -> EngineName:
    """The engine of that name, set by `setting`.

    Raises: PlanError if there is no such engine, or it is not installed.
    """
    installed = installed_engines()
    if name not in get_args(EngineName):
        close = nearest(name, installed)
        remedy = f"did you mean {close}?" if close else f"there are {', '.join(installed)}."
        raise PlanError(f"{setting}: {name} is not an engine; {remedy}")
    if name not in installed:
        command = install_command("fast") if name == "openvino" else f"pip install {name}"
        raise PlanError(
            f"{setting}: {name} is not installed; run `{command}`, or choose "
            f"{', '.join(installed)}."
        )
    return name


@dataclass(frozen=True, slots=True)
class EngineSurvey:
    """The partitioned network, and what the cache lacks under each engine."""

    network: Network
    feature_layers: tuple[FeatureLayer, ...]
    prep: Inputs
    feature_cache: FeatureCache
    decoder: str
    n: int  # images, one a content, whether they can be read or not
    readable: tuple[str, ...]  # content hashes except those known to be damaged
    keys: Mapping[EngineName, FeatureKey]  # of the engines that can run the network
    missing: Mapping[FeatureKey, list[str]]
    stream: str = ""  # the number format between blocks, if the network is streamed

    @property
    def work(self) -> EngineWork:
        return engine_work(self.network.record, self.prep, len(self.feature_layers))

    @property
    def nouns(self) -> Nouns:
        return modality_of(self.prep).nouns

    @property
    def counts(self) -> dict[str, int]:
        """The number of missing images under each engine."""
        return {name: len(self.missing[key]) for name, key in self.keys.items()}


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """The choice of the engine, the key of its rows, and the engine if it is loaded already."""

    choice: Choice
    key: FeatureKey
    engine: Engine | None = None


def survey_engines(collection: Collection, base: PretrainedModel) -> EngineSurvey:
    """Partition the network and list what the cache lacks of these images."""
    network = partition_base(base)
    layers, prep = feature_layers(network.record), base.record.preprocessing
    feature_cache, decoder = FeatureCache(default_root()), modality_of(prep).decoder(prep)
    quarantined = feature_cache.quarantined(decoder)
    hashes = tuple(example.sha256 for example in collection.record.examples)
    readable = tuple(sha256 for sha256 in hashes if sha256 not in quarantined)
    # Graphs are made for pictures alone: texts differ in length, rows take hardly any time.
    has_graphs = modality_of(prep).has_pixels and not base.stream
    engines: tuple[EngineName, ...] = installed_engines() if has_graphs else ("torch",)
    all_keys = {name: _key(base, network, layers, decoder, name) for name in engines}
    keys = {name: key for name, key in all_keys.items() if feature_cache.resolve(key) == key}
    return EngineSurvey(
        network=network,
        feature_layers=layers,
        prep=prep,
        feature_cache=feature_cache,
        decoder=decoder,
        n=len(set(hashes)),
        readable=readable,
        keys=keys,
        missing={key: _missing(feature_cache, key, readable) for key in keys.values()},
        stream=base.stream,
    )


def engine_work(record: NetworkRecord, prep: Inputs, n_layers: int) -> EngineWork:
    """Everything that the speed of an engine depends on, on this machine."""
    return EngineWork(
        macs=sum(block.macs for block in record.blocks),
        parameters=sum(block.parameters for block in record.blocks),
        feature_layers=n_layers,
        size=prep.shape,
        threads=threads_for(record),
    )


def open_engine(survey: EngineSurvey, request: Choice | None = None) -> Steps[ChosenEngine]:
    """Choose an engine, and load it if anything is missing; one that fails is left out.

    A streamed network needs none: its blocks are run one by one.
    Raises: PlanError if the user's engine is not installed, or cannot run this network.
    """
    while True:
        survey, chosen = yield from _choose(survey, request)
        if chosen.engine is not None or survey.stream or not survey.missing[chosen.key]:
            return chosen
        try:
            return replace(chosen, engine=_make(survey, chosen.key.engine))
        except EngineError as error:
            if chosen.choice.source == "user":
                raise PlanError(
                    f"{SETTING} {chosen.key.engine}: {error}; choose torch, or drop it."
                ) from error
            survey, request = (yield from _refuse(survey, chosen.key.engine, error)), None


def choose(survey: EngineSurvey, request: Choice | None = None) -> Steps[ChosenEngine]:
    """Choose an engine, after measuring if that pays; it may have been loaded for that.

    Raises: PlanError if the user's engine is not installed, or cannot run this network.
    """
    return (yield from _choose(survey, request))[1]


def _choose(
    survey: EngineSurvey, request: Choice | None
) -> Steps[tuple[EngineSurvey, ChosenEngine]]:
    speeds = read_speeds(survey.feature_cache.root, survey.work)
    loaded: dict[str, Engine] = {}
    if request is None and not survey.stream:
        survey, loaded = yield from _measure(survey, speeds)
    rule = choice = _rule(survey, speeds)
    if request is not None:
        # The user's choice is recorded with that of the rule for an empty cache.
        is_new = request.source == "user" and request.rule is None
        choice = replace(request, rule=_fastest(survey, speeds)) if is_new else request
    name = check_name(str(choice.value), SETTING)
    if name not in survey.keys:  # refused by an earlier extraction
        why = f"this network cannot be run by {ENGINE_TITLES[name]}"
        if choice.source == "user":
            raise PlanError(f"{SETTING} {name}: {why}; choose {', '.join(survey.keys)}.")
        choice, name = rule, cast(EngineName, rule.value)
        yield events.note("features", "Engine", f"{why}; {ENGINE_TITLES[name]} is used instead")
    return survey, ChosenEngine(choice, survey.keys[name], loaded.get(name))


def _measure(
    survey: EngineSurvey, speeds: dict[str, EngineSpeed]
) -> Steps[tuple[EngineSurvey, dict[str, Engine]]]:
    """Measure engines if that pays, and add to `speeds`. Returns the last one measured."""
    loaded: dict[str, Engine] = {}
    while (name := rules.engine_to_measure(survey.counts, speeds, survey.work.macs)) is not None:
        engine = cast(EngineName, name)
        loaded.clear()  # two at a time would be the peak memory of a run
        try:
            make = partial(_make, survey, engine)
            loaded[name], speed = measure_speed(
                make, modality_of(survey.prep).noise(BATCH, survey.prep)
            )
        except EngineError as error:
            survey = yield from _refuse(survey, engine, error)
            continue
        root, work = survey.feature_cache.root, survey.work
        speeds[name] = keep_speed(root, work, engine, speed)
    return survey, loaded


def _refuse(survey: EngineSurvey, name: EngineName, error: EngineError) -> Steps[EngineSurvey]:
    """Leave an engine out, now and in later extractions with this network."""
    survey.feature_cache.redirect(survey.keys[name], survey.keys["torch"])
    keys = {other: key for other, key in survey.keys.items() if other != name}
    survey = replace(survey, keys=keys)
    stored = read_speeds(survey.feature_cache.root, survey.work)
    speeds = rules.estimate_speeds(stored, survey.work.macs)
    instead = ENGINE_TITLES[cast(EngineName, rules.choose_engine(survey.counts, speeds))]
    yield events.note("features", "Engine", f"{error}; {instead} is used instead")
    return survey


def _make(survey: EngineSurvey, name: EngineName) -> Engine:
    threads = threads_for(survey.network.record)
    return make_engine(
        name, FeatureExtractor(survey.network, survey.feature_layers), survey.prep, threads
    )


def _rule(survey: EngineSurvey, speeds: Mapping[str, EngineSpeed]) -> Choice:
    """The choice of the rule; its words do not change when an extraction is resumed."""
    estimate_speeds, counts = rules.estimate_speeds(speeds, survey.work.macs), survey.counts
    value, fastest = rules.choose_engine(counts, estimate_speeds), _fastest(survey, speeds)
    if len(counts) == 1:
        because = "the only engine here that can run this network"
    elif value != fastest and counts[value] < len(set(survey.readable)):
        title = ENGINE_TITLES[cast(EngineName, value)]
        because = (
            f"the cache holds some of these {survey.nouns.many} from {title}; another engine would "
            "start over"
        )
    else:
        seconds = {name: rules.engine_seconds(estimate_speeds[name], survey.n) for name in counts}
        because = _comparison(value, survey.nouns.count(survey.n), seconds, value in speeds)
    return Choice(
        value=value,
        because=because,
        rule=_fastest(survey, {}),
        source="measured" if value in speeds else "rule",
    )


def _fastest(survey: EngineSurvey, speeds: Mapping[str, EngineSpeed]) -> str:
    """The engine that would be chosen if the cache were empty."""
    counts = dict.fromkeys(survey.counts, survey.n)
    return rules.choose_engine(counts, rules.estimate_speeds(speeds, survey.work.macs))


def _comparison(value: str, all_of: str, seconds: Mapping[str, float], is_measured: bool) -> str:
    """`OpenVINO: 1,000 images in about 6.5 s here, torch 14 s`."""
    other = min((name for name in seconds if name != value), key=seconds.__getitem__)
    other = other if value == "torch" else "torch"
    ours, theirs = (ENGINE_TITLES[cast(EngineName, name)] for name in (value, other))
    where = "here" if is_measured else "typically"
    return f"{ours}: {all_of} in about {_s(seconds[value])} {where}, {theirs} {_s(seconds[other])}"


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


def _key(
    base: PretrainedModel,
    network: Network,
    layers: tuple[FeatureLayer, ...],
    decoder: str,
    engine: EngineName,
) -> FeatureKey:
    record = base.record
    return FeatureKey(
        network=record.sha256,
        arch=record.arch,
        blocks=tuple(block.name for block in network.record.blocks),
        feature_layers=layers,
        preprocessing=record.preprocessing,
        decoder=decoder,
        engine=engine,
        engine_version=offload_version(engine, base.stream),
        threads=threads_for(network.record),
    )


def offload_version(engine: EngineName, stream: str) -> str:
    """An engine's version, and the rounding of outputs between blocks, if any."""
    rounded = f", {stream} between parts" if stream not in ("", "float32") else ""
    return engine_version(engine) + rounded


def _missing(feature_cache: FeatureCache, key: FeatureKey, hashes: Sequence[str]) -> list[str]:
    with feature_cache.cache_file(key) as cache_file:
        return cache_file.missing(hashes)
