"""A model as a graph for any batch size: named outputs, as ONNX or a torch.export program."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from warmstart.errors import ExportError, first_line
from warmstart.exporting.torch import TorchExport
from warmstart.modalities.registry import modality_of
from warmstart.network.segments import probe
from warmstart.network.surgery import WarmModel
from warmstart.records.answer import ModelRecord
from warmstart.records.data import Task
from warmstart.records.inputs import Inputs, Preprocessing, pictures
from warmstart.records.run_folder import to_plain
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS

PIXELS = "pixels"  # the input, where scaling is inside


class ExportedNetwork(nn.Module):
    """Normalised images (B, C, H, W) float32 to logits and probabilities, (B, K) each.

    A regression model returns values (B, 1) alone; rows, tensors and clips need no normalisation.
    """

    def __init__(
        self, model: nn.Module, preprocessing: Inputs, task: Task = CLASSIFICATION.task
    ) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.input_name = modality_of(preprocessing).input_name
        self.task: Task = task
        self.eval()

    @property
    def axes(self) -> Mapping[int, str]:
        """Names of the input's dynamic axes."""
        return modality_of(self.preprocessing).axes(self.preprocessing)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Calibrated logits and their probabilities, or values."""
        logits = self.model(self.prepare(inputs))
        target = TASKS[self.task]
        return (logits,) if target.has_numbers else (logits, target.activate(logits))

    def prepare(self, inputs: Tensor) -> Tensor:
        """Preprocess inside the graph."""
        return inputs

    def example(self, n: int) -> Tensor:
        """Inputs of the right dtype and shape for tracing, always the same."""
        return probe(self.preprocessing, n)


class ExportedPixels(ExportedNetwork):
    """Takes uint8 images of the prepared size, (B, H, W, C); scaling is inside."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, task: Task = CLASSIFICATION.task
    ) -> None:
        super().__init__(model, preprocessing, task)
        self.input_name = PIXELS
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std), persistent=False)

    def prepare(self, inputs: Tensor) -> Tensor:
        values = (inputs.float() / 255 - self.mean) / self.std
        return values.permute(0, 3, 1, 2).contiguous()

    def example(self, n: int) -> Tensor:
        rng, shape = torch.Generator().manual_seed(0), (n, *self.preprocessing.shape)
        return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


def wrap_model(
    model: nn.Module,
    preprocessing: Inputs,
    with_pixels: bool = False,
    task: Task = CLASSIFICATION.task,
) -> ExportedNetwork:
    """Give a model named outputs; `with_pixels` takes uint8 images (B, H, W, C)."""
    if with_pixels:
        return ExportedPixels(model, pictures(preprocessing), task)
    return ExportedNetwork(model, preprocessing, task)


def scaled(pixels: NDArray[Any], prep: Inputs) -> NDArray[Any]:
    """Prepared images (N, H, W, C) as predict.py normalises them, (N, C, H, W), to the last bit.

    8-bit graphs need that: the least difference may round an activation another way. Rows and
    tensors are returned unchanged.
    """
    if not modality_of(prep).has_pixels:
        return pixels
    scaling = pictures(prep).mean, pictures(prep).std
    mean, std = (np.array(values, np.float32) for values in scaling)
    values = (pixels.astype(np.float32) / 255 - mean) / std
    inputs: NDArray[np.float32] = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return inputs


OPSET = 17


def to_onnx(
    network: ExportedNetwork,
    metadata: Mapping[str, str],
    on_constant: Callable[[], object] = lambda: None,
) -> bytes:
    """The network as ONNX, dynamic in the batch, with `metadata` inside.

    `on_constant` is called where tracing turned a value or a size into a constant, which the graph
    holds for all inputs.
    Raises: ExportError where an operator has no ONNX form; what `on_constant` raises.
    """
    import onnx

    name, outputs, buffer = network.input_name, TASKS[network.task].outputs, io.BytesIO()
    axes = {name: dict(network.axes), **{output: {0: "batch"} for output in outputs}}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        # torch's fused encoder layer has no form in ONNX, its single operations have.
        torch.backends.mha.set_fastpath_enabled(False)
        with silent() as warned, torch.inference_mode():
            torch.onnx.export(
                network,
                (network.example(2),),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=[name],
                output_names=list(outputs),
                dynamic_axes=axes,
            )
        graph = onnx.load_from_string(buffer.getvalue())
        onnx.checker.check_model(graph)
    except Exception as error:  # the exporter raises whatever an operator raises
        raise ExportError(
            f"the network has no form in ONNX ({first_line(error)}); try --to {TorchExport.name}."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    if any(issubclass(one.category, TracerWarning) for one in warned):
        on_constant()
    graph.producer_name = "warmstart"
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    payload: bytes = graph.SerializeToString()
    return payload


def to_program(network: ExportedNetwork) -> Any:
    """The network by torch.export, for any batch size and length of text.

    Raises: ExportError where its forward depends on the values or the number of inputs.
    """
    example = network.example(2)
    axes = {
        axis: torch.export.Dim(
            name, min=1 if axis == 0 else 2, max=example.shape[axis] if axis else None
        )
        for axis, name in network.axes.items()
    }  # axes other than the batch are at most as long as the example
    try:
        with silent(), torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=(axes,), strict=False)
    except Exception as error:  # torch raises many kinds, some without a common base
        raise ExportError(
            f"torch.export cannot capture the network ({first_line(error)}); if its forward "
            "branches on the values of an image or on the batch size, no format can hold it."
        ) from error


@dataclass(frozen=True, slots=True)
class ExportSource:
    """What is exported: a model, its record, and the user's own network if there is one."""

    model: WarmModel
    record: ModelRecord
    network: nn.Module | None
    with_pixels: bool = False

    def exported(self) -> ExportedNetwork:
        """The network with named outputs."""
        record = self.record
        return wrap_model(self.model, record.preprocessing, self.with_pixels, record.task)

    def metadata(self, title: str) -> dict[str, str]:
        """Metadata of the graph: class names, preprocessing, the meaning of the outputs."""
        record, prep = self.record, self.record.preprocessing
        metadata = {
            "name": title,
            "task": record.task,
            "labels": json.dumps(list(record.classes), ensure_ascii=False),
            "preprocessing": json.dumps(to_plain(prep)),
            "outputs": TASKS[record.task].output_meaning,
        }
        if modality_of(prep).has_pixels and not self.with_pixels:
            prep = pictures(prep)
            metadata |= {"mean": json.dumps(list(prep.mean)), "std": json.dumps(list(prep.std))}
        return metadata


def onnx_graph(source: ExportSource, title: str) -> bytes:
    """The network as ONNX. Raises: ExportError where it branches on the values of an image."""
    network = source.exported()

    def check_branches() -> None:
        """Tracing records one branch for all images; torch.export notices the others."""
        # The architectures of a library read sizes, and assert them, but do not branch on values.
        if source.record.arch.startswith("module:"):
            to_program(network)

    if any("" in step.modules for step in source.model.scan.steps.blocks):
        to_program(network)  # a network that could not be cut may not be a plain graph
    return to_onnx(network, source.metadata(title), check_branches)


@contextmanager
def silent() -> Iterator[list[warnings.WarningMessage]]:
    """Silence torch's exporters, which print graphs, log and warn; yields their warnings."""
    level, sink = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            redirect_stdout(sink),
            redirect_stderr(sink),
        ):
            warnings.simplefilter("always")
            yield warned
    finally:
        logging.disable(level)
