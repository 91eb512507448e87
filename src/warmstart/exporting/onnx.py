"""ONNX: one graph for any number of images, which says itself what it is."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch.jit._trace import TracerWarning

from warmstart.errors import ExportError
from warmstart.exporting.network import Served
from warmstart.records.codec import to_plain
from warmstart.records.data import Task
from warmstart.records.inputs import Preprocessing

OPSET = 17


def to_onnx(
    served: Served, metadata: Mapping[str, str], doubt: Callable[[], object] = lambda: None
) -> bytes:
    """The network as ONNX, dynamic in the batch, with `metadata` inside.

    `doubt` is called where its forward read a value or a size as a number of Python while it was
    traced: the graph holds that number for all inputs.
    Raises: ExportError where an operator of the network has no ONNX form; what `doubt` does.
    """
    import onnx

    name, buffer = served.input_name, io.BytesIO()
    axes = {name: dict(served.axes), **{output: {0: "batch"} for output in served.outputs}}
    try:
        with silent() as warned, _unfused(), torch.inference_mode():
            torch.onnx.export(
                served,
                (served.example(2),),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=[name],
                output_names=list(served.outputs),
                dynamic_axes=axes,
            )
        graph = onnx.load_from_string(buffer.getvalue())
        onnx.checker.check_model(graph)
    except Exception as error:  # the exporter raises whatever an operator raises
        raise ExportError(
            f"the network has no form in ONNX ({first_line(error)}); try --to torch."
        ) from error
    if any(issubclass(one.category, TracerWarning) for one in warned):
        doubt()
    graph.producer_name = "warmstart"
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    found: bytes = graph.SerializeToString()
    return found


MEANT: dict[Task, str] = {
    "classify": "logits: calibrated; probabilities: their softmax",
    "multilabel": "logits: calibrated; probabilities: their sigmoid, a label each",
    "regress": "value: the number, in the unit of the data",
}


def metadata_of(served: Served, labels: tuple[str, ...], name: str) -> dict[str, str]:
    """What the graph says of itself: class names, preprocessing, how outputs are meant."""
    prep = served.preprocessing
    told = {
        "name": name,
        "task": served.task,
        "labels": json.dumps(list(labels), ensure_ascii=False),
        "preprocessing": json.dumps(to_plain(prep)),
        "outputs": MEANT[served.task],
    }
    is_inside = served.input_name == "pixels"
    if isinstance(prep, Preprocessing) and not is_inside:
        told |= {"mean": json.dumps(list(prep.mean)), "std": json.dumps(list(prep.std))}
    return told


def first_line(error: Exception, most: int = 160) -> str:
    """What an error of another library says, on one line.

    >>> first_line(RuntimeError("no such operator\\n  at line 3"))
    'no such operator'
    """
    text = str(error).strip().partition("\n")[0][:most].rstrip(" .")
    return text or type(error).__name__


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention as its single operations: torch's fused encoder layer has no form in ONNX."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def silent() -> Iterator[list[warnings.WarningMessage]]:
    """torch's exporters print graphs, log, and warn of their own future; gives the warnings."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            warnings.simplefilter("always")
            yield warned
    finally:
        logging.disable(before)
