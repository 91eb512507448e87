"""8-bit ONNX: static quantization by ONNX Runtime, calibrated on real images."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from warmstart.data.splits import group_numbers
from warmstart.errors import ExportError, first_line
from warmstart.events import Event, Steps
from warmstart.features.machine import n_threads
from warmstart.modalities.registry import MODALITIES
from warmstart.records.answer import Gap, Quantized
from warmstart.records.data import DataRecord, Example
from warmstart.run.reopened import Pixels, Reopened
from warmstart.stats.paired import Difference, difference, hits_difference
from warmstart.tasks.registry import TASKS, target_of
from warmstart.training.early_stopping import spread

Inputs = NDArray[np.generic]
Floats = NDArray[np.float32]
# The costly operators. The rest (softmax, normalisation, sums) keeps 32 bits and its accuracy.
_OPERATORS = ("Conv", "MatMul", "Gemm")
# The first convolutions see every pixel and the output makes the decision: with them in 32 bits,
# 93 % of EfficientNet-Lite0's labels on clothing stay the same, with all in 8 bits 87 %.
_FIRST = 2
_SMALL = 8  # layers of a network that gets 8 bits throughout, or nothing would be left


def quantize_graph(graph: bytes, batches: Sequence[Inputs], input_name: str) -> bytes:
    """The graph with 8-bit weights and activations in its costly operators.

    Weights have one scale per channel and 7 of the 8 bits: processors without VNNI add products
    in 16 bits, which 8 would overflow. `batches` are real inputs of the graph.
    Raises: ExportError where ONNX Runtime cannot do it.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        rest: Iterator[Inputs] = iter(batches)

        def get_next(self) -> dict[str, Inputs] | None:
            inputs = next(self.rest, None)
            return None if inputs is None else {input_name: inputs}

    level = logging.root.manager.disable
    with tempfile.TemporaryDirectory(prefix="warmstart-") as folder:
        plain, ready, small = (Path(folder) / f"{n}.onnx" for n in ("plain", "ready", "small"))
        plain.write_bytes(graph)
        try:
            logging.disable(logging.WARNING)  # its hint that a graph could be prepared even more
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(small),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_OPERATORS),
                nodes_to_exclude=_full_precision(ready),
            )
            return small.read_bytes()
        except Exception as error:  # it raises plain ones of many kinds
            raise ExportError(
                f"ONNX Runtime cannot quantize this network to 8 bits ({first_line(error)}); "
                "remove --int8."
            ) from error
        finally:
            logging.disable(level)


def _full_precision(path: Path) -> list[str]:
    """Names of the layers that keep 32 bits: the first convolutions, and the output."""
    import onnx

    nodes = onnx.load(path).graph.node
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    products = [node.name for node in nodes if node.op_type in ("Gemm", "MatMul")]
    is_small = len(convolutions) + len(products) < _SMALL
    return [] if is_small else [*convolutions[:_FIRST], *products[-1:]]


def session(graph: bytes) -> Any:
    """The graph in ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(graph: Any, inputs: Inputs) -> Floats:
    """The first output of a session: logits (n, K), or numbers (n, 1)."""
    name, first = graph.get_inputs()[0].name, graph.get_outputs()[0].name
    outputs: Floats = graph.run([first], {name: inputs})[0]
    return outputs


def seconds_each(first: Any, second: Any, image: Inputs, rounds: int) -> tuple[float, float]:
    """Median seconds of one image in two sessions, timed in turns for the same load on the machine.

    Shapes: image (1, …).
    """
    for graph in (first, second):
        run(graph, image)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for graph, seconds in zip((first, second), times, strict=True):
            began = time.perf_counter()
            run(graph, image)
            seconds.append(time.perf_counter() - began)
    return float(np.median(times[0])), float(np.median(times[1]))


# ---- Two graphs of one model on the same labelled images, by the score of its task.


def _compare_graphs(
    outputs: Floats, examples: Sequence[Example], record: DataRecord
) -> tuple[float, float, Difference, float | None, str | None]:
    """Compare outputs (2, n, K) of two graphs, logits or numbers, on n examples.

    Returns the scores, the second minus the first, the share of equal answers (None for numbers),
    and the metric (None for accuracy).
    """
    groups = group_numbers(examples, record.near_duplicates)
    if TASKS[record.task].has_classes:
        number = {label: index for index, label in enumerate(record.classes)}
        labels = np.array([number[example.label] for example in examples])
        predicted = outputs.argmax(axis=2)
        hits = (predicted == labels).astype(float)
        gap = hits_difference(hits[1], hits[0], groups)
        equal = float((predicted[0] == predicted[1]).mean())
        return float(hits[0].mean()), float(hits[1].mean()), gap, equal, None
    # By each image's share of the mean average precision, or of R².
    training = [example.label for example in record.examples if example.split != "test"]
    target = target_of(record.task, training)
    truth = target.read([example.label for example in examples], record.classes)
    same: float | None = None
    if target.has_numbers:
        answers = target.standardised(outputs)
    else:
        answers = expit(outputs.astype(np.float64))
        same = float(((outputs[0] > 0) == (outputs[1] > 0)).mean())
    before, after = (target.credits(one.astype(np.float64), truth) for one in answers)
    gap = difference(after, before, groups, np.random.default_rng(0))
    return float(before.mean()), float(after.mean()), gap, same, target.metric


# ---- Quantize with the run's training images, and measure on its held-out images.

CALIBRATED = 128  # training images that ranges are calibrated on
MEASURED = 2000  # images, at most, that both graphs answer
TRIED = 8  # images of a split, at most, that are looked for to see whether it still exists
ROUNDS = 30  # timed runs of one image each
TOO_MUCH = 0.02  # of accuracy lost; less, if it is significant, is too much as well
Feed = Callable[[Pixels], Inputs]  # prepared images to inputs of the graph


def quantize(
    graph: bytes, images: Reopened, feed: Feed, input_name: str
) -> Steps[tuple[bytes, Quantized]]:
    """The graph in 8 bits, and what that costs and gains.

    Raises: ExportError if the images for it are missing.
    """
    train, nouns = images.of("train"), MODALITIES[images.record.kind].nouns
    chosen = [train[row] for row in spread(np.arange(len(train)), CALIBRATED)]
    batches = [feed(pixels) for _, pixels in images.batches(chosen)]
    n = sum(map(len, batches))
    if n < min(CALIBRATED, len(chosen)) / 2:
        raise ExportError(
            f"--int8 is calibrated on the run's training {nouns.many}, and only {n:,} of "
            f"{len(chosen):,} are where they were; name their folder with --data, or remove --int8."
        )
    small = quantize_graph(graph, batches, input_name)
    before, after = session(graph), session(small)
    split, examples = _held_out(images)
    answered: list[Example] = []
    outputs: list[NDArray[np.float32]] = []  # of both graphs, (2, m, K) each
    one: Inputs | None = None
    for batch, pixels in images.batches(examples):
        inputs = feed(pixels)
        one = inputs[:1] if one is None else one
        outputs.append(np.stack([run(before, inputs), run(after, inputs)]))
        answered += batch
        yield Event(stage="evaluate", kind="step", step=len(answered), of=len(examples))
    if one is None:
        raise ExportError(
            f"--int8 is measured on {nouns.many} of the run, and none is where it was; name their "
            "folder with --data, or remove --int8."
        )
    accuracy_before, accuracy, change, same_labels, metric = _compare_graphs(
        np.concatenate(outputs, axis=1), answered, images.record
    )
    seconds_before, seconds = seconds_each(before, after, one, ROUNDS)
    gap = Gap(value=change.value, low=change.low, high=change.high, n=len(answered))
    return small, Quantized(
        images=split,
        accuracy=accuracy,
        accuracy_before=accuracy_before,
        metric=metric,
        gap=gap,
        same_labels=same_labels,
        calibrated_on=n,
        bytes=len(small),
        bytes_before=len(graph),
        seconds=seconds,
        seconds_before=seconds_before,
        is_too_much=is_too_much(gap),
        sentence=loss_sentence(gap),
    )


def _held_out(images: Reopened) -> tuple[Literal["test", "holdout", "train"], list[Example]]:
    """Held-out images, or training images where the run has no others."""
    splits: tuple[Literal["test", "holdout", "train"], ...] = ("test", "holdout", "train")
    for split in splits:
        examples = images.of(split)
        if any(images.pixels(example) is not None for example in examples[:TRIED]):
            return split, [examples[row] for row in spread(np.arange(len(examples)), MEASURED)]
    return "train", []


def is_too_much(gap: Gap) -> bool:
    """Whether 8 bits lose more accuracy than they should."""
    return gap.value <= -TOO_MUCH or gap.high < 0


def loss_sentence(gap: Gap) -> str:
    """Whether the loss matters, in words."""
    if is_too_much(gap):
        return "this loss is too large: use the export without --int8"
    if gap.low < -TOO_MUCH:
        return "no measurable loss, but so few images do not rule out more than 2 points"
    return "no loss that matters"
