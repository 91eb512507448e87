"""The time, memory and disk that a plan takes here, from a measurement of a few seconds."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from warmstart.data.dataset import Collection
from warmstart.distributed import expected_group
from warmstart.errors import DataError
from warmstart.events import Steps, note
from warmstart.features.batches import noise as make_noise
from warmstart.features.batches import to_tensor
from warmstart.features.cache_key import BATCH
from warmstart.features.engine import make_engine
from warmstart.features.engine_choice import engine_work, stored_speeds
from warmstart.features.extraction import ExtractedFeatures, load_unchanged
from warmstart.features.machine import keep_freed_memory, n_threads
from warmstart.features.offload import offloaded_blocks
from warmstart.machine import default_root, peak_rss_mb
from warmstart.modalities.preprocessing import encode
from warmstart.network.cut import cached_layers
from warmstart.network.feature_layers import FeatureExtractor, layer_width
from warmstart.network.ledger import take_digests
from warmstart.network.partition import Network
from warmstart.network.weight_file import is_mapped
from warmstart.planning.cached_activations import BYTES, plan_cache
from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.forecast import (
    Allowance,
    Load,
    Speeds,
    fit_to_time,
    forecast,
    skips_controls,
)
from warmstart.planning.machine import DATA, parallel_mode
from warmstart.planning.rules import USUAL, EngineSpeed, estimate_speeds
from warmstart.planning.schedule import Schedule, as_followed, schedule, stage_actions
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import Forecast, Plan
from warmstart.records.recording import Clock
from warmstart.request import Request
from warmstart.run import plan as run_plan
from warmstart.solve.ridge import Rows, inverse
from warmstart.training.attempt import TrainingAttempt
from warmstart.training.augmentations import numbered_augmentation
from warmstart.training.cached_activations import augmentations_of
from warmstart.training.checkpoint import NoCheckpoints
from warmstart.training.dataset import LabelledRows, TrainingDataset
from warmstart.training.job import TrainingJob
from warmstart.training.linear_probe import zero_head
from warmstart.training.shared import TrainingContext
from warmstart.training.trainable import trainable
from warmstart.training.validation import TrainingEnd

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
    parallel = plan.training.parallel
    is_shared = parallel is not None and parallel_mode(parallel.value) != DATA
    load = Load(
        n=len(labelled.learn),
        n_test=len(labelled.test),
        n_missing=n_missing,
        n_classes=labelled.n_classes,
        holdout=labelled.holdout,
        width=sum(layer_width(network.record, layer) for layer in bench.feature_layers),
        image_bytes=math.prod(prep.shape) * np.dtype(prep.dtype).itemsize,
        model_bytes=4 * sum(p.numel() for p in network.backbone.parameters()),
        runs_controls=is_close,
        trained_share=unfrozen_share(network, plan),
        cached_values=_count_cached(bench, plan),
        n_sharing=expected_group().size if is_shared else 1,
        **_offload_sizes(bench, plan),
    )
    return lambda other: forecast(other, load, speeds)


def _offload_sizes(bench: Bench, plan: Plan) -> dict[str, Any]:
    """Bytes in memory and on disk of a network that is offloaded; empty for any other."""
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


def _count_cached(bench: Bench, plan: Plan) -> int:
    """Numbers cached per augmentation: output of the frozen prefix and its feature layers."""
    cut, record = _split_at(plan), bench.network.record
    if not cut:
        return 0
    layers = cached_layers(bench.feature_layers, cut)
    return math.prod(record.blocks[cut - 1].shape_out) + sum(
        layer_width(record, layer) for layer in layers
    )


def _split_at(plan: Plan) -> int:
    return int(plan.training.split_at.number) if plan.training.split_at else 0


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
    torch_speed = {"torch": EngineSpeed(USUAL["torch"].setup, 1 / max(forward, 1e-9))}
    speeds = (
        estimate_speeds(torch_speed, work.macs) | stored_speeds(default_root(), work) | torch_speed
    )
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
            encode(load_unchanged(collection, example), example.id, prep)
    return (time.perf_counter() - began) / max(len(examples), 1)


def time_forward(bench: Bench) -> float:
    """Seconds per image of a forward pass of the whole network."""
    if is_mapped(bench.network.backbone):
        return _time_offloaded_forward(bench)
    engine = make_engine(
        "torch", FeatureExtractor(bench.network, bench.feature_layers), bench.prep, n_threads()
    )
    noise = make_noise(bench.prep, BATCH)
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
        rows = make_noise(prep, BATCH) if at == 0 else np.zeros((BATCH, math.prod(kind[0])), "f4")
        total += count * _fastest(partial(blocks[at].open(), rows), 2)
    return total / BATCH


def _time_augmentation(bench: Bench, plan: Plan) -> float:
    policy, image = augmentations_of(schedule(plan)), make_noise(bench.prep, 1)[0]
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
        seconds.append(_time_steps(bench, as_followed(plan, 1), short))
    return sum(seconds) / len(seconds)


def _time_steps(bench: Bench, plan: Plan, short: Schedule) -> float:
    """Train a throw-away copy on noise; return seconds per step, without the first.

    The learning rate is 0: no rate that the user set, however high, can end the measurement.
    """
    rows, labelled, record = np.arange(short.batch_size), bench.labelled, bench.network.record
    width = sum(layer_width(record, layer) for layer in bench.feature_layers)
    # A head of zeros on all feature layers costs as much as the widest one.
    head = zero_head(bench.feature_layers, width, labelled.n_classes, len(labelled.learn))
    rng = np.random.default_rng(0)

    def read(layer: FeatureLayer) -> NDArray[np.float32]:
        return rng.normal(size=(8, layer_width(record, layer))).astype(np.float32)

    context = TrainingContext(
        source=_Noise(bench, short.split_at),
        labels=rows % labelled.n_classes,
        groups=rows,
        digests=take_digests(bench.network),
        checkpoints=NoCheckpoints(),
    )
    job = TrainingJob(
        make=lambda: trainable(bench.network, plan, head, read, 0),
        schedule=short,
        context=context,
        rows=rows,
        held=rows[:0],
        number=0,
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
        """Images, or activations as the frozen prefix might give."""
        prep, record = self.bench.prep, self.bench.network.record
        if not self.cut:
            return (to_tensor(make_noise(prep, len(rows)), prep),)
        rng = torch.Generator().manual_seed(0)
        main = torch.randn(len(rows), *record.blocks[self.cut - 1].shape_out, generator=rng)
        if record.blocks[self.cut - 1].layout == "tokens":
            main[..., -1] = 1.0
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        below = cached_layers(feature_layers, self.cut)
        widths = [layer_width(record, layer) for layer in below]
        return (main, *(torch.randn(len(rows), width, generator=rng) for width in widths))


# ---- --minutes: the plan shortened to fit, and the deadline of training.


def apply_minutes(request: Request, extracted: ExtractedFeatures, n: int) -> Steps[Request]:
    """The request with `--budget fast` where the minutes are too few for every check, and a note.

    A budget that the user set stays.
    """
    shortened = shorten_checks(request, extracted.network.record, n)
    if shortened is not request:
        yield note("checks", "Hurry", "few minutes: --budget fast, without the transfer gain")
    return shortened


def shorten_checks(request: Request, network: NetworkRecord, n: int) -> Request:
    """`apply_minutes` without the note; the request itself where there is time."""
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

    def with_cache(other: Plan) -> Plan:
        return plan_cache(other, facts, data)  # fewer epochs need fewer augmentations

    return with_cache(
        fit_to_time(plan, 60 * minutes, lambda other: forecaster(with_cache(other)).total)
    )


def training_allowance(
    request: Request, training_data: TrainingDataset, plan: Plan, clock: Clock
) -> Allowance:
    """The deadline of training: the minutes that are left, less the time for what follows."""
    if request.minutes is None or not plan.is_trained:
        return Allowance()
    labelled, bench = training_data.labelled, _bench(training_data)
    images = len(labelled.test) + unfrozen_share(bench.network, plan) * len(labelled.learn)
    after = DELIVERY + time_forward(bench) * images
    left = 60 * request.minutes - request.elapsed - clock.table()["total"] - after
    return Allowance(time.perf_counter() + left)


def _bench(training_data: TrainingDataset) -> Bench:
    extracted = training_data.extracted
    return Bench(
        extracted.network,
        extracted.feature_layers,
        training_data.collection,
        training_data.labelled,
        training_data.prep,
    )
