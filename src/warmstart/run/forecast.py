"""`warmstart fit DATA --dry-run`: the plan, and the time, memory and disk that it takes here."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from warmstart.data.dataset import Collection
from warmstart.distributed import expected_group
from warmstart.errors import DataError, UsageError
from warmstart.events import Steps
from warmstart.features import engine_choice
from warmstart.features.batches import to_tensor
from warmstart.features.cache_key import BATCH
from warmstart.features.engine import make_engine
from warmstart.features.engine_choice import engine_work
from warmstart.features.extraction import load_unchanged
from warmstart.features.machine import keep_freed_memory, n_threads
from warmstart.features.offload import offloaded_blocks
from warmstart.machine import default_root, peak_rss_mb
from warmstart.modalities.registry import modality_of
from warmstart.network.cut import cached_layers
from warmstart.network.feature_layers import FeatureExtractor, layer_width
from warmstart.network.ledger import take_digests
from warmstart.network.partition import Network
from warmstart.network.surgery import make_block
from warmstart.network.weights import is_mapped
from warmstart.planning.facts import DATA, DataFacts, NetworkFacts, parallel_mode
from warmstart.planning.fine_tuning import BYTES, plan_cache
from warmstart.planning.forecast import (
    Load,
    Speeds,
    fit_to_time,
    forecast,
    skips_controls,
)
from warmstart.planning.plan_file import write_plan
from warmstart.planning.rules import REFERENCE, EngineSpeed, estimate_speeds, probe_layers
from warmstart.planning.schedule import Schedule, as_followed, schedule, stage_actions
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import DryRun, Forecast, Plan
from warmstart.records.run_folder import Clock, write_bytes
from warmstart.request import Request
from warmstart.run import plan as run_plan
from warmstart.run.base_model import base_note, inherit, read_and_choose
from warmstart.run.deliver import surgery_of
from warmstart.solve.ridge import Rows, inverse
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.training.augmentations import augmentations_of, numbered_augmentation
from warmstart.training.batches import BatchSource
from warmstart.training.dataset import LabelledRows, TrainingDataset, arrange
from warmstart.training.early_stopping import TrainingEnd
from warmstart.training.linear_probe import zero_head
from warmstart.training.loop import TrainingAttempt, TrainingJob
from warmstart.training.trainable import trainable

STEPS = 4  # training steps that are measured; the first includes one-time costs
DECODED = 16  # images decoded
ROWS = 300  # of the inverse that is the unit of linear algebra
DELIVERY = 3.0  # seconds after training, besides passing images


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured: the network, its feature layers, the images of training and test set."""

    network: Network
    feature_layers: tuple[FeatureLayer, ...]
    collection: Collection
    labelled: LabelledRows
    prep: Inputs


def make_forecaster(
    bench: Bench, plan: Plan, n_missing: int, is_close: bool, elapsed: float
) -> Callable[[Plan], Forecast]:
    """Measure for a few seconds; return the function that forecasts the whole run of a plan.

    It holds for plans that differ only in how long they train. `n_missing` images are not in the
    feature cache; `elapsed` seconds have passed so far.
    Raises: PlanError where the plan cannot be followed, TrainingError where a step fails.
    """
    labelled, network, prep = bench.labelled, bench.network, bench.prep
    speeds = measure(bench, plan, elapsed)
    parallel, cut = plan.training.parallel, _split_at(plan)
    is_shared = parallel is not None and parallel_mode(parallel.value) != DATA
    cached = 0
    if cut:  # the output of the frozen prefix and its feature layers, per augmentation
        layers = cached_layers(bench.feature_layers, cut)
        cached = math.prod(network.record.blocks[cut - 1].shape_out) + _width(bench, layers)
    load = Load(
        n=len(labelled.learn),
        n_test=len(labelled.test),
        n_missing=n_missing,
        n_classes=labelled.n_classes,
        holdout=labelled.holdout,
        width=_width(bench, bench.feature_layers),
        image_bytes=math.prod(prep.shape) * np.dtype(prep.dtype).itemsize,
        model_bytes=4 * sum(p.numel() for p in network.backbone.parameters()),
        runs_controls=is_close,
        trained_share=unfrozen_share(network, plan),
        cached_values=cached,
        n_sharing=expected_group().size if is_shared else 1,
        **_offload_sizes(bench, plan),
    )
    return lambda other: forecast(other, load, speeds)


def _offload_sizes(bench: Bench, plan: Plan) -> dict[str, Any]:
    """The load of a network that is offloaded; empty for any other."""
    offload, blocks = plan.training.offload, bench.network.record.blocks
    if offload is None:
        return {}
    widest = max(math.prod(block.shape_out) for block in blocks)
    n = len(bench.labelled.learn) + len(bench.labelled.test)
    cut = _split_at(plan)
    cached = math.prod(blocks[cut - 1].shape_out) if cut else 0
    return {
        "is_streamed": True,
        "offload_bytes": n * BYTES[str(offload.value)] * (2 * widest + cached),
        "caches_plain": cut > 0,
    }


def _split_at(plan: Plan) -> int:
    return int(plan.training.split_at.number) if plan.training.split_at else 0


def _width(bench: Bench, layers: Sequence[FeatureLayer]) -> int:
    return sum(layer_width(bench.network.record, layer) for layer in layers)


def unfrozen_share(network: Network, plan: Plan) -> float:
    """The share of a forward pass (MACs) above the cached outputs."""
    costs = [block.macs for block in network.record.blocks]
    return sum(costs[_split_at(plan) :]) / max(sum(costs), 1)


def measure(bench: Bench, plan: Plan, elapsed: float) -> Speeds:
    """How fast this machine decodes, passes, inverts and trains."""
    torch.set_num_threads(n_threads())
    decode = _time_decoding(bench.collection, bench.labelled.learn[:DECODED], bench.prep)
    with keep_freed_memory():  # as in the run
        forward = time_forward(bench)
    passed_mb = peak_rss_mb()  # the short-lived memory of a pass counts too
    with keep_freed_memory():
        step = _time_training(bench, plan) if plan.is_trained else 0.0
    pace = _engine_speed(bench, plan, forward)
    return Speeds(
        elapsed=elapsed,
        forward=forward,
        decode=decode,
        step=step,
        algebra=_time_inverse(),
        setup=pace.setup,
        extracted=1 / pace.speed,
        augment=_time_augmentation(bench, plan) if plan.is_trained else 0.0,
        forward_mb=passed_mb,
        step_mb=peak_rss_mb() - passed_mb,
        threads=n_threads(),
    )


def _engine_speed(bench: Bench, plan: Plan, forward: float) -> EngineSpeed:
    """The extraction engine's speed: as measured, else the usual one relative to torch's."""
    work = engine_work(bench.network.record, bench.prep, len(bench.feature_layers))
    torch_speed = {"torch": EngineSpeed(REFERENCE["torch"].setup, 1 / max(forward, 1e-9))}
    measured = engine_choice.read_speeds(default_root(), work)
    speeds = estimate_speeds(torch_speed, work.macs) | measured | torch_speed
    return speeds[str(plan.training.engine.value)]


def _fastest(work: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _time_decoding(collection: Collection, examples: Sequence[Example], prep: Inputs) -> float:
    began = time.perf_counter()
    for example in examples:
        with suppress(DataError):  # the run will report it
            modality_of(prep).encode(load_unchanged(collection, example), example.id, prep)
    return (time.perf_counter() - began) / max(len(examples), 1)


def time_forward(bench: Bench) -> float:
    """Seconds per image of a forward pass of the whole network."""
    if is_mapped(bench.network.backbone):
        return _time_offloaded_forward(bench)
    extractor = FeatureExtractor(bench.network, bench.feature_layers)
    engine = make_engine("torch", extractor, bench.prep, n_threads())
    noise = modality_of(bench.prep).noise(BATCH, bench.prep)
    return _fastest(lambda: engine(noise), 3) / BATCH


def _time_offloaded_forward(bench: Bench) -> float:
    """Seconds per image of an offloaded network: one full batch through a block of each kind.

    Blocks of equal shape and size take equal time, and a large network repeats a few kinds.
    """
    network, prep = bench.network, bench.prep
    blocks = offloaded_blocks(network, bench.feature_layers, len(network.blocks), prep)
    kinds = [(b.shape_in, b.shape_out, b.parameters, b.macs) for b in network.record.blocks]
    total = 0.0
    for kind, count in Counter(kinds).items():
        at = kinds.index(kind)
        rows = (
            modality_of(prep).noise(BATCH, prep)
            if at == 0
            else np.zeros((BATCH, math.prod(kind[0])), "f4")
        )
        total += count * _fastest(partial(blocks[at].open(), rows), 2)
    return total / BATCH


def _time_augmentation(bench: Bench, plan: Plan) -> float:
    policy, image = (
        augmentations_of(schedule(plan)),
        modality_of(bench.prep).noise(1, bench.prep)[0],
    )
    return _fastest(lambda: numbered_augmentation(image, "0" * 64, 1, policy, 0), 3)


def _time_inverse() -> float:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, ROWS + 100))
    kernel = rows @ rows.T / (ROWS + 100)
    return _fastest(lambda: inverse(kernel, 1.0), 5)


def _time_training(bench: Bench, plan: Plan) -> float:
    """Seconds per step; under gradual unfreezing, the mean of the first and the last stage."""
    full = schedule(plan)
    stages = stage_actions(full, {p.name: plan.action_of(p.name) for p in plan.blocks})
    short = replace(full, n_steps=STEPS, joining=())
    seconds = [_time_steps(bench, plan, short)]
    if stages[0] != stages[-1]:
        seconds.append(_time_steps(bench, as_followed(plan, full, 1), short))
    return sum(seconds) / len(seconds)


def _time_steps(bench: Bench, plan: Plan, short: Schedule) -> float:
    """Train a throw-away copy on noise, at a learning rate of 0; seconds per step but the first."""
    rows, labelled, layers = np.arange(short.batch_size), bench.labelled, bench.feature_layers
    # A head of zeros on all feature layers costs as much as the widest one.
    head = zero_head(layers, _width(bench, layers), labelled.n_classes, len(labelled.learn))
    rng = np.random.default_rng(0)

    def read(layer: FeatureLayer) -> NDArray[np.float32]:
        return rng.normal(size=(8, _width(bench, [layer]))).astype(np.float32)

    noise = replace(
        labelled,
        labels=rows % labelled.n_classes,
        group_rows=tuple(rows[:, None]),
        target=CLASSIFICATION,
    )
    job = TrainingJob(
        make=lambda: trainable(bench.network, plan, head, read, 0),
        schedule=short,
        source=BatchSource(short.split_at, _Noise(bench, short.split_at).batch, noise),
        digests=take_digests(bench.network),
        rows=rows,
        held=rows[:0],
        end=TrainingEnd(),
    )
    ends = [event.t for event in TrainingAttempt(job, 0.0, ()).run()]
    return float(np.min(np.diff(ends)))


@dataclass(frozen=True, slots=True)
class _Noise:
    """Inputs of the right shapes, equal for every row."""

    bench: Bench
    cut: int

    def batch(
        self, rows: Rows, numbers: NDArray[np.int64], feature_layers: Sequence[FeatureLayer]
    ) -> tuple[torch.Tensor, ...]:
        prep, record = self.bench.prep, self.bench.network.record
        if not self.cut:
            return (to_tensor(modality_of(prep).noise(len(rows), prep), prep),)
        rng = torch.Generator().manual_seed(0)
        main = torch.randn(len(rows), *record.blocks[self.cut - 1].shape_out, generator=rng)
        if record.blocks[self.cut - 1].layout == "tokens":
            main[..., -1] = 1.0
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        below = cached_layers(feature_layers, self.cut)
        widths = [layer_width(record, layer) for layer in below]
        return (main, *(torch.randn(len(rows), width, generator=rng) for width in widths))


# ---- The dry run.


def dry_run(request: Request) -> Steps[DryRun]:
    """Read the data, load the base model, make the plan, measure this machine for some seconds.

    With `out`, the plan is written there as a file to edit and follow.
    Raises: as `fit` does; UsageError where `out` is no new FILE.toml.
    """
    clock = Clock()
    plan_file = request.out
    if plan_file is not None:
        _check_plan_file(plan_file)
    request, collection, base = yield from read_and_choose(replace(request, out=None), clock)
    yield base_note(base.record)
    survey = engine_choice.survey_engines(collection, base)
    inherited = yield from inherit(base, survey.network.record, collection.record)
    labelled = arrange(collection.record)
    elapsed = request.elapsed + clock.table()["total"]  # a run measures engines in `features`
    chosen = yield from engine_choice.choose(survey, run_plan.engine_of(request))
    facts, record = labelled.facts(), survey.network.record
    request = shorten_checks(request, record, len(collection.record.examples))
    tries = run_plan.may_fine_tune(request, record, facts)
    network = run_plan.network_facts(request, base, survey.network, None, tries)
    names = inherited.names(tuple(probe_layers(survey.feature_layers)))
    plan = run_plan.make_plan(request, facts, network, names, chosen.choice)
    with threadpool_limits(limits=1, user_api="blas"):
        prep = base.record.preprocessing
        bench = Bench(survey.network, survey.feature_layers, collection, labelled, prep)
        is_close, n_missing = request.budget != "fast", len(survey.missing[chosen.key])
        forecaster = make_forecaster(bench, plan, n_missing, is_close, elapsed)
        if request.minutes is not None and plan.is_trained:
            plan = shorten(plan, request.minutes, forecaster, network, facts)
    if plan_file is not None:
        write_bytes(plan_file, write_plan(plan).encode())
    kind = collection.record.kind
    return DryRun(
        data=collection.record.name,
        title=base.record.title,
        n=len(labelled.learn),
        n_test=len(labelled.test),
        classes=collection.record.classes,
        plan=plan,
        forecast=forecaster(plan),
        parameters=_count_parameters(plan, record),
        surgery=surgery_of(base),
        follows_verdict=run_plan.follows_verdict(request),
        plan_file=str(plan_file) if plan_file else None,
        kind=kind,
    )


def _count_parameters(plan: Plan, network: NetworkRecord) -> dict[str, int]:
    counts = {block.name: block.parameters for block in network.blocks}
    for block in plan.blocks:
        if block.behaviour.place == "above":
            added = make_block(network.blocks[-1], torch.Generator())
            counts[block.name] = sum(parameter.numel() for parameter in added.parameters())
    return counts


def _check_plan_file(out: Path) -> None:
    if out.suffix != ".toml":
        raise UsageError(
            f"--out {out}: with --dry-run it names the file for the plan, such as plan.toml."
        )
    if out.exists():
        raise UsageError(f"--out {out} exists; nothing was changed. Choose another name.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first.")


# ---- --minutes: the plan shortened to fit, and the deadline of training.


def shorten_checks(request: Request, network: NetworkRecord, n: int) -> Request:
    """The request with `--budget fast` where the minutes are too few for every check.

    A budget that the user set stays; the request itself comes back where there is time.
    """
    minutes, is_ours = request.minutes, "budget" not in request.typed and request.budget != "fast"
    if minutes is None or not is_ours or not skips_controls(minutes, network, n):
        return request
    return replace(request, budget="fast", given=request.typed)


def make_plan(
    request: Request,
    training_data: TrainingDataset,
    facts: NetworkFacts,
    names: Sequence[str],
    clock: Clock,
) -> Plan:
    """The plan, shortened where the user set minutes. Raises: PlanError as planning does."""
    data = training_data.labelled.facts()
    plan = run_plan.make_plan(request, data, facts, names, training_data.extracted.engine)
    if request.minutes is None or not plan.is_trained:
        return plan
    elapsed = request.elapsed + clock.table()["total"]
    forecaster = make_forecaster(_bench(training_data), plan, 0, False, elapsed)
    return shorten(plan, request.minutes, forecaster, facts, data)


def shorten(
    plan: Plan,
    minutes: float,
    forecaster: Callable[[Plan], Forecast],
    facts: NetworkFacts,
    data: DataFacts,
) -> Plan:
    """The plan, shortened to fit the minutes by the forecasts of `make_forecaster`."""

    def seconds(other: Plan) -> float:  # fewer epochs need fewer augmentations
        return forecaster(plan_cache(other, facts, data)).total

    return plan_cache(fit_to_time(plan, 60 * minutes, seconds), facts, data)


def training_deadline(
    request: Request, training_data: TrainingDataset, plan: Plan, clock: Clock
) -> float | None:
    """When training ends, by `time.perf_counter`: the minutes left, less time for what follows."""
    if request.minutes is None or not plan.is_trained:
        return None
    labelled, bench = training_data.labelled, _bench(training_data)
    images = len(labelled.test) + unfrozen_share(bench.network, plan) * len(labelled.learn)
    after = DELIVERY + time_forward(bench) * images
    left = 60 * request.minutes - request.elapsed - clock.table()["total"] - after
    return time.perf_counter() + left


def _bench(training_data: TrainingDataset) -> Bench:
    extracted = training_data.extracted
    return Bench(
        extracted.network,
        extracted.feature_layers,
        training_data.collection,
        training_data.labelled,
        training_data.prep,
    )
