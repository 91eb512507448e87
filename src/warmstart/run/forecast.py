"""A short measurement on this machine, and what a plan will take there."""

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
from warmstart.distributed import foreseen
from warmstart.errors import DataError
from warmstart.events import Steps, note
from warmstart.features.batches import noise as make_noise
from warmstart.features.batches import to_tensor
from warmstart.features.cache_key import BATCH
from warmstart.features.engine import make_engine
from warmstart.features.engine_choice import kept_paces, work_of
from warmstart.features.extraction import ExtractedFeatures, load_same
from warmstart.features.machine import freed_memory_kept, n_threads
from warmstart.features.offload import links
from warmstart.machine import default_root, peak_rss_mb
from warmstart.modalities.preprocessing import encode
from warmstart.network.cut import stored_layers
from warmstart.network.feature_layers import FeatureExtractor, layer_width
from warmstart.network.ledger import take_digests
from warmstart.network.partition import Network
from warmstart.network.weight_file import is_mapped
from warmstart.planning.cached_activations import BYTES, with_store
from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.forecast import Allowance, Load, Speeds, forecast, hurries, within
from warmstart.planning.machine import DATA, kind_of
from warmstart.planning.rules import USUAL, EngineSpeed, paces
from warmstart.planning.schedule import Schedule, carried_out, schedule, stage_actions
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import Forecast, Plan
from warmstart.records.recording import Clock
from warmstart.request import Request
from warmstart.run import plan as run_plan
from warmstart.solve.ridge import Rows, inverse
from warmstart.training.attempt import TrainingAttempt
from warmstart.training.augmentations import view_of
from warmstart.training.cached_activations import views_of_plan
from warmstart.training.checkpoint import NoCheckpoints
from warmstart.training.dataset import LabelledRows, TrainingDataset
from warmstart.training.job import TrainingJob
from warmstart.training.linear_probe import HeadFit, blank
from warmstart.training.shared import TrainingContext
from warmstart.training.trainable import trainable
from warmstart.training.validation import TrainingEnd

STEPS = 4  # training steps that are measured; the first pays for what comes but once
DECODED = 16  # images decoded
ROWS = 300  # of the inverse that is the unit of linear algebra


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured on: the network, its taps, the images to learn from and to test on."""

    network: Network
    feature_layers: tuple[FeatureLayer, ...]
    collection: Collection
    labelled: LabelledRows
    prep: Inputs


def outlook(
    bench: Bench, plan: Plan, n_missing: int, is_close: bool, elapsed: float
) -> Callable[[Plan], Forecast]:
    """Measure for a few seconds: then a function of the plan that forecasts the whole run.

    For plans that differ in how long they train alone. `n_missing` images are not in the store;
    `elapsed` seconds have gone so far.
    Raises: PlanError where the plan cannot be followed, TrainingError where a step fails.
    """
    labelled, network, prep = bench.labelled, bench.network, bench.prep
    speeds = measure(bench, plan, elapsed)
    parameters = sum(p.numel() for p in network.backbone.parameters())
    load = Load(
        n=len(labelled.learn),
        n_test=len(labelled.test),
        n_missing=n_missing,
        n_classes=labelled.n_classes,
        holdout=labelled.holdout,
        width=sum(layer_width(network.record, layer) for layer in bench.feature_layers),
        image_bytes=math.prod(prep.shape) * np.dtype(prep.dtype).itemsize,
        model_bytes=4 * parameters,
        is_close=is_close,
        tail=tail_share(network, plan),
        stored=_stored(bench, plan),
        n_sharing=_sharing(plan),
        **_streamed(bench, plan),
    )
    return lambda other: forecast(other, load, speeds)


def _sharing(plan: Plan) -> int:
    """Processes among which the weights are shared while they are trained."""
    parallel = plan.training.parallel
    kind = kind_of(parallel.value) if parallel else DATA
    return 1 if kind == DATA else foreseen().size


def _streamed(bench: Bench, plan: Plan) -> dict[str, Any]:
    """Bytes in memory and on disk of a network that is streamed; nothing for any other."""
    stream, blocks = plan.training.offload, bench.network.record.blocks
    if stream is None:
        return {}
    widest = max(math.prod(block.shape_out) for block in blocks)
    n = len(bench.labelled.learn) + len(bench.labelled.test)
    between = n * BYTES[str(stream.value)]
    kept = math.prod(blocks[_cut(plan) - 1].shape_out) if _cut(plan) else 0
    return {
        "is_streamed": True,
        "belt_bytes": between * (2 * widest + kept),
        "is_kept": _cut(plan) > 0,
    }


def _stored(bench: Bench, plan: Plan) -> int:
    """Numbers that are stored of a view: what the frozen layers give, and their taps."""
    cut, record = _cut(plan), bench.network.record
    if not cut:
        return 0
    feature_layers = sum(
        layer_width(record, layer) for layer in stored_layers(bench.feature_layers, cut)
    )
    return math.prod(record.blocks[cut - 1].shape_out) + feature_layers


def _cut(plan: Plan) -> int:
    return int(plan.training.split_at.number) if plan.training.split_at else 0


def tail_share(network: Network, plan: Plan) -> float:
    """The share of a pass that lies above the stored outputs."""
    costs = [block.macs for block in network.record.blocks]
    return sum(costs[_cut(plan) :]) / max(sum(costs), 1)


def measure(bench: Bench, plan: Plan, elapsed: float) -> Speeds:
    """How fast this machine decodes, passes, inverts and trains."""
    torch.set_num_threads(n_threads())
    decode = _decoding(bench.collection, bench.labelled.learn[:DECODED], bench.prep)
    with freed_memory_kept():  # as in the run
        forward = passing(bench)
    passed_mb = peak_rss_mb()  # what a pass needs for a moment counts too
    with freed_memory_kept():
        step = _training(bench, plan) if plan.is_trained else 0.0
    pace = _pace(bench, plan, forward)
    return Speeds(
        elapsed=elapsed,
        forward=forward,
        decode=decode,
        step=step,
        algebra=_inverting(),
        setup=pace.setup,
        extracted=1 / pace.speed,
        view=_viewing(bench, plan) if plan.is_trained else 0.0,
        passed_mb=passed_mb,
        step_mb=peak_rss_mb() - passed_mb,
        threads=n_threads(),
    )


def _pace(bench: Bench, plan: Plan, forward: float) -> EngineSpeed:
    """The pace of the look's engine: as it was measured, else as usual beside torch's."""
    work = work_of(bench.network.record, bench.prep, len(bench.feature_layers))
    torch_now = {"torch": EngineSpeed(USUAL["torch"].setup, 1 / max(forward, 1e-9))}
    found = paces(torch_now, work.macs) | kept_paces(default_root(), work) | torch_now
    return found[str(plan.training.engine.value)]


def _timed(work: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of some times."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _decoding(collection: Collection, examples: Sequence[Example], prep: Inputs) -> float:
    began = time.perf_counter()
    for example in examples:
        with suppress(DataError):  # the run will list it and go on
            encode(load_same(collection, example), example.id, prep)
    return (time.perf_counter() - began) / max(len(examples), 1)


def passing(bench: Bench) -> float:
    """Seconds an image, passing the whole network."""
    if is_mapped(bench.network.backbone):
        return _passing_streamed(bench)
    engine = make_engine(
        "torch", FeatureExtractor(bench.network, bench.feature_layers), bench.prep, n_threads()
    )
    noise = make_noise(bench.prep, BATCH)
    return _timed(lambda: engine(noise), 3) / BATCH


def _passing_streamed(bench: Bench) -> float:
    """The same of a network that is streamed: a full batch through one part of each kind.

    Parts of one shape and size take the same time; many a large network repeats a few.
    """
    network, prep = bench.network, bench.prep
    blocks, records = (
        links(network, bench.feature_layers, len(network.blocks), prep),
        network.record.blocks,
    )
    kinds = [(p.shape_in, p.shape_out, p.parameters, p.macs) for p in records]
    total = 0.0
    for kind, count in Counter(kinds).items():
        at = kinds.index(kind)
        rows = make_noise(prep, BATCH) if at == 0 else np.zeros((BATCH, math.prod(kind[0])), "f4")
        total += count * _timed(partial(blocks[at].open(), rows), 2)
    return total / BATCH


def _viewing(bench: Bench, plan: Plan) -> float:
    policy, image = views_of_plan(schedule(plan)), make_noise(bench.prep, 1)[0]
    return _timed(lambda: view_of(image, "0" * 64, 1, policy, 0), 3)


def _inverting() -> float:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, ROWS + 100))
    kernel = rows @ rows.T / (ROWS + 100)
    return _timed(lambda: inverse(kernel, 1.0), 5)


def _training(bench: Bench, plan: Plan) -> float:
    """Seconds of a step; where parts join one after the other, between first and last stage."""
    chosen = schedule(plan)
    stages = stage_actions(chosen, {p.name: plan.action_of(p.name) for p in plan.blocks})
    first, last = stages[0], stages[-1]
    short = replace(chosen, n_steps=STEPS, joining=())
    found = [_steps(bench, plan, short)]
    if first != last:
        found.append(_steps(bench, carried_out(plan, 1), short))
    return sum(found) / len(found)


def _steps(bench: Bench, plan: Plan, chosen: Schedule) -> float:
    """Train on noise, on a copy that is thrown away; seconds of a step, the first left out.

    At a rate of nothing: no rate that the user set, however high, can end it.
    """
    rows = np.arange(chosen.batch_size)
    context = TrainingContext(
        source=_Noise(bench, chosen.split_at),
        labels=rows % bench.labelled.n_classes,
        groups=rows,
        before=take_digests(bench.network),
        checkpoints=NoCheckpoints(),
    )
    job = TrainingJob(
        make=lambda: trainable(bench.network, plan, _blank(bench), _unread(bench), 0),
        schedule=chosen,
        context=context,
        rows=rows,
        held=rows[:0],
        number=0,
        route=TrainingEnd(),
    )
    ends = [event.t for event in TrainingAttempt(job, 0.0, ()).run()]
    return float(np.min(np.diff(ends)))


@dataclass(frozen=True, slots=True)
class _Noise:
    """Inputs of the right shapes, the same for every row."""

    bench: Bench
    cut: int

    def batch(
        self, rows: Rows, numbers: NDArray[np.int64], feature_layers: Sequence[FeatureLayer]
    ) -> tuple[torch.Tensor, ...]:
        """Images, or what the frozen parts might give."""
        prep, record = self.bench.prep, self.bench.network.record
        if not self.cut:
            return (to_tensor(make_noise(prep, len(rows)), prep),)
        rng = torch.Generator().manual_seed(0)
        main = torch.randn(len(rows), *record.blocks[self.cut - 1].shape_out, generator=rng)
        if record.blocks[self.cut - 1].layout == "tokens":
            main[..., -1] = 1.0
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        below = stored_layers(feature_layers, self.cut)
        widths = [layer_width(record, layer) for layer in below]
        return (main, *(torch.randn(len(rows), width, generator=rng) for width in widths))


def _blank(bench: Bench) -> HeadFit:
    """A head of zeros on all taps: it costs what the widest costs."""
    labelled, width = (
        bench.labelled,
        sum(layer_width(bench.network.record, t) for t in bench.feature_layers),
    )
    return blank(bench.feature_layers, width, labelled.n_classes, len(labelled.learn))


def _unread(bench: Bench) -> Callable[[FeatureLayer], np.ndarray]:
    rng = np.random.default_rng(0)
    return lambda layer: rng.normal(size=(8, layer_width(bench.network.record, layer))).astype(
        np.float32
    )


# ---- --minutes: the plan cut down to the time there is, and the moment at which training ends.


DELIVERY = 3.0  # seconds for what comes after training, beside passing images


def hurried(request: Request, extracted: ExtractedFeatures, n: int) -> Steps[Request]:
    """The request with `--budget fast`, where the minutes are too few for a close look.

    A budget that was typed stays.
    """
    found = quicker(request, extracted.network.record, n)
    if found is not request:
        yield note("checks", "Hurry", "few minutes: --budget fast, without what the start knows")
    return found


def quicker(request: Request, network: NetworkRecord, n: int) -> Request:
    """The same without a word; the request itself where there is time."""
    minutes, is_ours = request.minutes, "budget" not in request.typed and request.budget != "fast"
    if minutes is None or not is_ours or not hurries(minutes, network, n):
        return request
    return replace(request, budget="fast", given=request.typed)


def make_plan(
    request: Request,
    training_data: TrainingDataset,
    facts: NetworkFacts,
    names: Sequence[str],
    clock: Clock,
) -> Plan:
    """The plan, cut down where the user has set minutes. Raises: PlanError as planning does."""
    plan = run_plan.make_plan(
        request, training_data.labelled.facts(), facts, names, training_data.extracted.engine
    )
    if request.minutes is None or not plan.is_trained:
        return plan
    elapsed = request.elapsed + clock.table()["total"]
    foreseen = outlook(_bench(training_data), plan, 0, False, elapsed)
    return cut(plan, request.minutes, foreseen, facts, training_data.labelled.facts())


def cut(
    plan: Plan,
    minutes: float,
    foreseen: Callable[[Plan], Forecast],
    facts: NetworkFacts,
    data: DataFacts,
) -> Plan:
    """The plan cut down to fit the minutes. `foreseen`: what following a plan takes."""

    def settled(other: Plan) -> Plan:
        return with_store(other, facts, data)  # fewer images passed need fewer views

    return settled(within(plan, 60 * minutes, lambda other: foreseen(settled(other)).total))


def allow(request: Request, training_data: TrainingDataset, plan: Plan, clock: Clock) -> Allowance:
    """The time for training: what is left, without what comes after it."""
    if request.minutes is None or not plan.is_trained:
        return Allowance()
    labelled, bench = training_data.labelled, _bench(training_data)
    images = len(labelled.test) + tail_share(bench.network, plan) * len(labelled.learn)
    after = DELIVERY + passing(bench) * images
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
