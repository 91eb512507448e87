"""ONNX: one graph for any number of images, which says itself what it is."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from warmstart.errors import ExportError
from warmstart.records.data import Task
from warmstart.records.inputs import Inputs, Kind, Preprocessing, TensorInputs, TextInputs, pictures
from warmstart.records.run_folder import to_plain

# ---- The network as it is exported: named outputs, and its preprocessing inside on request.


OUTPUTS: dict[Task, tuple[str, ...]] = {
    "classify": ("logits", "probabilities"),
    "multilabel": ("logits", "probabilities"),
    "regress": ("value",),
}
PIXELS = "pixels"  # the one input, where scaling is inside
_NAMES: dict[Kind, str] = {
    "image": "images",
    "audio": "clips",
    "text": "tokens",
    "table": "rows",
    "tensor": "tensors",
}


class ExportedNetwork(nn.Module):
    """Normalised images (B, C, H, W) float32 to logits and probabilities, (B, K) each.

    Of a model of numbers to values (B, 1) alone; of rows, tensors and clips from these as they are.
    """

    def __init__(self, model: nn.Module, preprocessing: Inputs, task: Task = "classify") -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.input_name = _NAMES[preprocessing.kind]
        self.task: Task = task
        self.eval()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        return OUTPUTS[self.task]

    @property
    def axes(self) -> Mapping[int, str]:
        """Names of the input's axes that may have any length."""
        return {0: "batch"}

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Calibrated logits, and the probabilities that they stand for; or values."""
        logits = self.model(self.prepared(inputs))
        if self.task == "regress":
            return (logits,)
        return logits, logits.sigmoid() if self.task == "multilabel" else logits.softmax(dim=1)

    def prepared(self, inputs: Tensor) -> Tensor:
        """The inputs as the network wants them."""
        return inputs

    def example(self, n: int) -> Tensor:
        """Inputs of the right kind and shape for tracing, always the same."""
        drawn, prep = torch.Generator().manual_seed(0), self.preprocessing
        if isinstance(prep, TensorInputs) and "int" in prep.dtype:
            low, high, kind = int(prep.low), int(prep.high) + 1, getattr(torch, prep.dtype)
            return torch.randint(low, high, (n, *prep.shape), generator=drawn, dtype=kind)
        shape = (prep.channels, *prep.size) if isinstance(prep, Preprocessing) else prep.shape
        return torch.randn(n, *shape, generator=drawn)


class ExportedPixels(ExportedNetwork):
    """The same from uint8 images of the prepared size, (B, H, W, C): scaling is inside."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, task: Task = "classify"
    ) -> None:
        super().__init__(model, preprocessing, task)
        self.input_name = PIXELS
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std), persistent=False)

    def prepared(self, inputs: Tensor) -> Tensor:
        """Scaled to 0..1, then (x - mean) / std, channels first."""
        values = (inputs.float() / 255 - self.mean) / self.std
        return values.permute(0, 3, 1, 2).contiguous()

    def example(self, n: int) -> Tensor:
        """Pixels drawn at random, always the same."""
        drawn = torch.Generator().manual_seed(0)
        shape = (n, *self.preprocessing.shape)
        return torch.randint(0, 256, shape, generator=drawn, dtype=torch.uint8)


class ExportedTokens(ExportedNetwork):
    """The same from the tokens of texts, (B, L) int64, filled up with the number of no token."""

    def __init__(self, model: nn.Module, inputs: TextInputs, task: Task = "classify") -> None:
        super().__init__(model, inputs, task)
        self.inputs = inputs

    @property
    def axes(self) -> Mapping[int, str]:
        """A row of one window may be as short as its text."""
        return {0: "batch"} if self.inputs.n_windows > 1 else {0: "batch", 1: "length"}

    def example(self, n: int) -> Tensor:
        """Tokens drawn at random, always the same: rows as long as the longest text."""
        drawn, pad = torch.Generator().manual_seed(0), self.inputs.pad
        rows = torch.randint(self.inputs.vocabulary, (n, self.inputs.length), generator=drawn)
        return torch.where(rows == pad, (pad + 1) % self.inputs.vocabulary, rows)


def serve(
    model: nn.Module, preprocessing: Inputs, with_pixels: bool = False, task: Task = "classify"
) -> ExportedNetwork:
    """The network with named outputs; `with_pixels` takes uint8 images (B, H, W, C).

    >>> prep = Preprocessing(size=(2, 2), resize=2, mean=(0.5,), std=(0.5,))
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> served = serve(net, prep, with_pixels=True)
    >>> [tuple(out.shape) for out in served(served.example(5))]
    [(5, 3), (5, 3)]
    """
    if with_pixels:
        return ExportedPixels(model, pictures(preprocessing), task)
    if isinstance(preprocessing, TextInputs):
        return ExportedTokens(model, preprocessing, task)
    return ExportedNetwork(model, preprocessing, task)


def scaled(pixels: NDArray[Any], prep: Inputs) -> NDArray[Any]:
    """What predict.py makes of prepared images (N, H, W, C): inputs (N, C, H, W), to the last bit.

    Numbers of 8 bits need that: the least difference may round an activation another way. Rows
    and tensors are inputs as they are.
    """
    if not isinstance(prep, Preprocessing):
        return pixels
    mean, std = (np.array(values, np.float32) for values in (prep.mean, prep.std))
    values = (pixels.astype(np.float32) / 255 - mean) / std
    found: NDArray[np.float32] = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return found


OPSET = 17


def to_onnx(
    served: ExportedNetwork, metadata: Mapping[str, str], doubt: Callable[[], object] = lambda: None
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


def metadata_of(served: ExportedNetwork, labels: tuple[str, ...], name: str) -> dict[str, str]:
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
