"""An external classifier as an ONNX file, run by ONNX Runtime; its metadata is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from warmstart.errors import ModelError
from warmstart.network.architectures import IMAGENET
from warmstart.network.class_names import names_beside, parse_names, unique
from warmstart.network.segments import probe
from warmstart.network.trained_elsewhere import (
    Array,
    ExternalClassifier,
    InputHandling,
    check_outputs,
    preprocessing_source,
)
from warmstart.records.inputs import Preprocessing

SUFFIX = ".onnx"
_NAMES = ("names", "labels", "classes", "class_names", "id2label")  # keys of metadata
_SIZES = ("imgsz", "input_size", "image_size", "size")
_KINDS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(double)": np.float64,
}
_CHANNELS = (1, 3, 4)
_TINY = 1e-12  # in place of a probability of zero


@dataclass(frozen=True, slots=True)
class _Input:
    """The image input of a graph. `batch` is None where any number of images will do."""

    name: str
    kind: type[np.generic]
    batch: int | None
    channels: int
    size: tuple[int, int] | None  # height, width; None where any will do
    is_last: bool  # channels come last


def open_onnx(path: Path, handling: InputHandling, threads: int = 1) -> ExternalClassifier:
    """A classifier from an ONNX file.

    Preprocessing comes from the metadata and the options, else ImageNet's mean and std.
    Raises: ModelError if there is no such file, it cannot be run, or is no classifier of images.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; check the path of the model.")
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise ModelError(
            f"{path.name} cannot be run by ONNX Runtime ({_reason(error)}); export it again."
        ) from error
    metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    entry = _image_input(session, path.name)
    usual, source = _usual(entry, metadata)
    prep = handling.over(usual)
    if entry.size is not None and prep.size != entry.size:
        raise ModelError(
            f"{path.name} takes images of {entry.size[0]} x {entry.size[1]} px only; omit --size."
        )
    number, probe_scores = _scores_output(session, entry, prep, path.name)
    check_outputs(path.name, probe_scores.shape[1])
    labels, where = _labels(path, metadata)
    sums = probe_scores.astype(np.float64).sum(axis=1)
    are_probabilities = bool((probe_scores >= 0).all() and np.allclose(sums, 1, atol=1e-3))

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        values = _run(session, entry, inputs)[number]
        scores: Array = values.reshape(len(values), -1).astype(np.float32)
        if are_probabilities:
            scores = np.log(np.maximum(scores, _TINY, dtype=np.float32))
        return scores, scores

    return ExternalClassifier(
        name=str(path),
        title=f"{path.name} (ONNX)",
        answer=answer,
        outputs=probe_scores.shape[1],
        preprocessing=prep,
        preprocessing_from=preprocessing_source(handling, source),
        labels=labels,
        labels_from=where,
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _image_input(session: Any, name: str) -> _Input:
    """The one input of a graph, if it can be an image."""
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    kind = _KINDS.get(inputs[0].type) if len(inputs) == 1 else None
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape]
    if kind is None or len(sides) != 4:
        raise ModelError(
            f"{name} does not take one batch of images (N, C, H, W); audit reads classifiers of "
            "images."
        )
    is_last = sides[3] in _CHANNELS and sides[1] not in _CHANNELS
    batch, first, second, third = sides
    channels, height, width = (third, first, second) if is_last else (first, second, third)
    if channels not in (None, *_CHANNELS):
        raise ModelError(f"{name} takes {channels} channels; pictures have 1, 3 or 4.")
    size = None if height is None or width is None else (height, width)
    return _Input(inputs[0].name, kind, batch, channels or 3, size, is_last)


def _usual(entry: _Input, metadata: Mapping[str, str]) -> tuple[Preprocessing, str]:
    """The default preprocessing, and its source."""
    size = entry.size or _size(metadata) or IMAGENET.size
    prep = replace(IMAGENET, size=size, resize=int(min(size) / 0.875))
    own = {name: _numbers(metadata.get(name, "")) for name in ("mean", "std")}
    if all(len(values) in (1, entry.channels) for values in own.values()):
        mean, std = (values * (entry.channels // len(values)) for values in own.values())
        return replace(prep, mean=mean, std=std), "its metadata"
    if entry.kind is np.uint8:  # the network scales
        n = entry.channels
        return replace(prep, mean=(0.0,) * n, std=(1 / 255,) * n), "8-bit inputs"
    if entry.channels != 3:
        mean, std = ((sum(x) / 3,) * entry.channels for x in (IMAGENET.mean, IMAGENET.std))
        prep = replace(prep, mean=mean, std=std)
    return prep, "ImageNet's defaults"


def _size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    for key in _SIZES:
        sides = [int(x) for x in _numbers(metadata.get(key, "")) if x >= 1]
        if sides:
            return (sides[-2], sides[-1]) if len(sides) > 1 else (sides[0], sides[0])
    return None


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers in a text such as "[0.5, 0.5]"; none where it holds anything else."""
    try:
        numbers = tuple(float(x) for x in text.strip("[]() \n").replace(",", " ").split())
    except ValueError:
        return ()
    return numbers if all(math.isfinite(x) for x in numbers) else ()


def _scores_output(
    session: Any, entry: _Input, prep: Preprocessing, name: str
) -> tuple[int, Array]:
    """Number of the output with the scores, and the scores of three images of noise."""
    try:
        outputs = _run(session, entry, probe(prep))
    except Exception as error:  # as above
        raise ModelError(
            f"{name} cannot take images of {prep.size[0]} x {prep.size[1]} px "
            f"({_reason(error)}); give its own with --size."
        ) from error
    for number, values in enumerate(outputs):
        has_rows = values.ndim > 1 and len(values) == 3 and values.dtype.kind == "f"
        if has_rows and values.size == 3 * values.shape[1]:
            return number, values.reshape(3, -1).astype(np.float32)
    raise ModelError(f"{name} has no output of one score a class; audit reads classifiers.")


def _run(session: Any, entry: _Input, inputs: Tensor) -> list[NDArray[np.generic]]:
    """All outputs for some images, in batches of the graph's size."""
    values = inputs.contiguous().numpy()
    if entry.is_last:
        values = values.transpose(0, 2, 3, 1)
    if entry.kind is np.uint8:
        values = np.rint(values).clip(0, 255)
    values = np.ascontiguousarray(values.astype(entry.kind))
    n, size = len(values), entry.batch or len(values)
    results = []
    for begin in range(0, n, size):
        batch = values[begin : begin + size]
        short = size - len(batch)
        if short:
            batch = np.concatenate([batch, np.zeros_like(batch[:1]).repeat(short, axis=0)])
        outputs = session.run(None, {entry.name: batch})
        results.append([x[: size - short] if np.ndim(x) else x for x in outputs])
    return [np.concatenate(x) if np.ndim(x[0]) else x[0] for x in zip(*results, strict=True)]


def _labels(path: Path, metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    for key in _NAMES:
        names = parse_names(metadata.get(key, ""))
        if len(names) == 1 and "," in names[0]:
            names = tuple(name.strip() for name in names[0].split(","))
        if names:
            where = f"{key!r} in its metadata"
            return unique(names, where), where
    return names_beside(path), f"labels.json beside {path}"
