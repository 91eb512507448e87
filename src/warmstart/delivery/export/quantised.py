"""8-bit ONNX: static quantisation by ONNX Runtime, with ranges seen on real images."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.delivery.export.graph import first_line
from warmstart.errors import ExportError

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
                str(ready), str(small), _reader(batches, input_name),
                quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_OPERATORS), nodes_to_exclude=_kept(ready),
            )  # fmt: skip
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
