"""8-bit ONNX: static quantisation by ONNX Runtime, with ranges seen on real images."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from warmstart.data.splits import group_numbers
from warmstart.errors import ExportError
from warmstart.events import Event, Steps
from warmstart.exporting.onnx import first_line
from warmstart.features.machine import n_threads
from warmstart.nouns import nouns_of
from warmstart.records.data import DataRecord, Example, Task
from warmstart.records.export import Gap, Quantized
from warmstart.run.reopened import Pixels, Reopened
from warmstart.stats.paired import Difference, difference, hits_difference
from warmstart.tasks.registry import target_of
from warmstart.tasks.regress import Regression
from warmstart.training.validation import spread

Inputs = NDArray[np.generic]
Floats = NDArray[np.float32]
# What takes the time. The rest (softmax, normalisation, sums) keeps 32 bits and its accuracy.
_OPERATORS = ("Conv", "MatMul", "Gemm")
# The first convolutions see every pixel and the output makes the decision: with them in 32 bits,
# 93 % of EfficientNet-Lite0's labels on clothing stay the same, with all in 8 bits 87 %.
_FIRST = 2
_SMALL = 8  # layers below which nothing is kept, for nothing would be left


def quantise(graph: bytes, batches: Sequence[Inputs], input_name: str) -> bytes:
    """The graph with 8-bit weights and activations where that takes the time.

    Weights have one scale a channel and 7 of the 8 bits: processors without VNNI add products
    in 16 bits, which 8 would overflow. `batches` are inputs as the graph takes them, real ones.
    Raises: ExportError where ONNX Runtime cannot do it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="warmstart-") as place, _quiet():
        plain, ready, small = (Path(place) / f"{n}.onnx" for n in ("plain", "ready", "small"))
        plain.write_bytes(graph)
        try:
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(small),
                _reader(batches, input_name),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_OPERATORS),
                nodes_to_exclude=_kept(ready),
            )
            return small.read_bytes()
        except Exception as error:  # it raises plain ones of many kinds
            raise ExportError(
                f"ONNX Runtime cannot make 8-bit numbers of this network ({first_line(error)}); "
                "leave --int8 away."
            ) from error


def _kept(path: Path) -> list[str]:
    """Names of the layers that keep 32 bits: the first convolutions, and the output."""
    import onnx

    nodes = onnx.load(path).graph.node
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    products = [node.name for node in nodes if node.op_type in ("Gemm", "MatMul")]
    is_small = len(convolutions) + len(products) < _SMALL
    return [] if is_small else [*convolutions[:_FIRST], *products[-1:]]


def session(graph: bytes, threads: int) -> Any:
    """The graph in ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(made: Any, inputs: Inputs) -> Floats:
    """Logits (n, K) of inputs, or numbers (n, 1): what a graph gives first."""
    name, first = made.get_inputs()[0].name, made.get_outputs()[0].name
    found: Floats = made.run([first], {name: inputs})[0]
    return found


def seconds_each(first: Any, second: Any, image: Inputs, rounds: int) -> tuple[float, float]:
    """Median seconds of one image in two sessions, taken in turns so that both meet the same
    neighbours on the machine. Shapes: image (1, …).
    """
    for made in (first, second):
        run(made, image)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for made, times in zip((first, second), taken, strict=True):
            began = time.perf_counter()
            run(made, image)
            times.append(time.perf_counter() - began)
    return float(np.median(taken[0])), float(np.median(taken[1]))


def _reader(batches: Sequence[Inputs], name: str) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch after the other."""

        def __init__(self) -> None:
            self._rest: Iterator[Inputs] = iter(batches)

        def get_next(self) -> dict[str, Inputs] | None:
            """The next inputs, or None at the end."""
            inputs = next(self._rest, None)
            return None if inputs is None else {name: inputs}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """It warns, through the root logger, that a graph could be prepared even more."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


# ---- Two forms of one model on the same labelled images, by the score of its task.


@dataclass(frozen=True, slots=True)
class GraphPair:
    """Scores of the first form and of the second, and the second less the first.

    `same`: share of answers that are the same in both; None for numbers. `metric`: the score,
    None for accuracy.
    """

    before: float
    after: float
    gap: Difference
    same: float | None
    metric: str | None


def judge_both(said: Floats, there: Sequence[Example], record: DataRecord) -> GraphPair:
    """Shapes: said (2, n, K), logits of both forms, or numbers (2, n, 1); n examples."""
    return _JUDGES[record.task](said, there, record)


def _classes(said: Floats, there: Sequence[Example], record: DataRecord) -> GraphPair:
    number = {label: index for index, label in enumerate(record.classes)}
    labels = np.array([number[example.label] for example in there])
    named = said.argmax(axis=2)
    hits = (named == labels).astype(float)
    gap = hits_difference(hits[1], hits[0], group_numbers(there, record.near_duplicates))
    same = float((named[0] == named[1]).mean())
    return GraphPair(float(hits[0].mean()), float(hits[1].mean()), gap, same, None)


def _others(said: Floats, there: Sequence[Example], record: DataRecord) -> GraphPair:
    """By what each image adds to the mean average precision, or to R²."""
    learnt = [example.label for example in record.examples if example.split != "test"]
    target = target_of(record.task, learnt)
    truth = target.read([example.label for example in there], record.classes)
    same: float | None = None
    if isinstance(target, Regression):
        answers = (said - target.mean) / target.spread
    else:
        answers, same = (
            expit(said.astype(np.float64)),
            float(((said[0] > 0) == (said[1] > 0)).mean()),
        )
    before, after = (target.credits(one.astype(np.float64), truth) for one in answers)
    gap = difference(
        after, before, group_numbers(there, record.near_duplicates), np.random.default_rng(0)
    )
    return GraphPair(float(before.mean()), float(after.mean()), gap, same, target.metric)


_JUDGES: dict[Task, Callable[[Floats, Sequence[Example], DataRecord], GraphPair]] = {
    "classify": _classes,
    "multilabel": _others,
    "regress": _others,
}


# ---- 8 bits instead of 32: made with the run's training images, measured on those held out.


CALIBRATED = 128  # training images that ranges are taken from
MEASURED = 2000  # images, at most, that both graphs answer
LOOKED_AT = 8  # images of a part, at most, that tell whether it is still there
ROUNDS = 30  # timed passes of one image each
TOO_MUCH = 0.02  # of accuracy lost; less, if it cannot be chance, is too much as well
Feed = Callable[[Pixels], Inputs]  # prepared images to what the graph takes


def shrink(
    graph: bytes, images: Reopened, feed: Feed, input_name: str
) -> Steps[tuple[bytes, Quantized]]:
    """The graph in 8 bits, and what that costs and brings.

    Raises: ExportError if the images that it takes are not there.
    """
    learn = images.of("train")
    chosen = [learn[place] for place in spread(np.arange(len(learn)), CALIBRATED)]
    batches = [feed(pixels) for _, pixels in images.batches(chosen)]
    n = sum(map(len, batches))
    if n < min(CALIBRATED, len(chosen)) / 2:
        many = nouns_of(images.record.kind).many
        raise ExportError(
            f"--int8 takes its ranges from the run's training {many}, and "
            f"{n:,} of {len(chosen):,} are where they were; name their place with --data, or "
            "leave --int8 away."
        )
    small = quantise(graph, batches, input_name)
    told = yield from _measured(graph, small, images, feed, n)
    return small, told


def _measured(
    graph: bytes, small: bytes, images: Reopened, feed: Feed, calibrated: int
) -> Steps[Quantized]:
    threads = n_threads()
    before, after = session(graph, threads), session(small, threads)
    which, examples = _held_out(images)
    there: list[Example] = []
    answers: list[NDArray[np.float32]] = []  # of both graphs, (2, m, K) each
    one: Inputs | None = None
    for batch, pixels in images.batches(examples):
        inputs = feed(pixels)
        one = inputs[:1] if one is None else one
        both = [run(made, inputs) for made in (before, after)]
        answers.append(np.stack(both))
        there += batch
        yield Event(stage="evaluate", kind="step", step=len(there), of=len(examples))
    if one is None:
        raise ExportError(
            f"--int8 is measured on {nouns_of(images.record.kind).many} of the run, and none is "
            "where it was; name their "
            "place with --data, or leave --int8 away."
        )
    said = np.concatenate(answers, axis=1)
    judged = judge_both(said, there, images.record)
    gap = judged.gap
    seconds_before, seconds = seconds_each(before, after, one, ROUNDS)
    found = Gap(value=gap.value, low=gap.low, high=gap.high, n=len(there))
    too_much = is_too_much(found)
    return Quantized(
        images=which,
        accuracy=judged.after,
        accuracy_before=judged.before,
        metric=judged.metric,
        gap=found,
        same_labels=judged.same,
        calibrated_on=calibrated,
        bytes=len(small),
        bytes_before=len(graph),
        seconds=seconds,
        seconds_before=seconds_before,
        is_too_much=too_much,
        sentence=_sentence(found, too_much),
    )


def _held_out(images: Reopened) -> tuple[Literal["test", "holdout", "train"], list[Example]]:
    """Images that nothing was learnt from, where the run has any."""
    splits: tuple[Literal["test", "holdout", "train"], ...] = ("test", "holdout", "train")
    for split in splits:
        found = images.of(split)
        if any(images.pixels(example) is not None for example in found[:LOOKED_AT]):
            return split, [found[row] for row in spread(np.arange(len(found)), MEASURED)]
    return "train", []


def is_too_much(gap: Gap) -> bool:
    """Whether 8 bits lose more accuracy than they should.

    >>> [is_too_much(Gap(value=v, low=-1, high=h, n=9)) for v, h in
    ...  ((-0.005, 0.01), (-0.03, 0.01), (-0.005, -0.001))]
    [False, True, True]
    """
    return gap.value <= -TOO_MUCH or gap.high < 0


def _sentence(gap: Gap, too_much: bool) -> str:
    if too_much:
        return "this loss is too large: use the export without --int8"
    if gap.low < -TOO_MUCH:
        return "no loss was seen, and one of more than 2 points is not ruled out by so few images"
    return "no loss that matters"
