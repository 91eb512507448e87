"""The export formats: how the network is written into the folder of an export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save as save_tensors
from torch import nn

from warmstart.errors import (
    ExportError,
    UsageError,
    first_line,
    install_command,
    installed_version,
)
from warmstart.exporting import onnx
from warmstart.exporting.onnx import ExportedNetwork, silent, wrap_model
from warmstart.exporting.predict_script import MODEL
from warmstart.modalities.registry import modality_of
from warmstart.network.single_layer_head import as_native, as_timm, is_native
from warmstart.network.surgery import WarmModel
from warmstart.records.answer import ModelRecord
from warmstart.records.export import ExportFormat
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.run_folder import write_bytes, write_json

# ---- Folders in the formats of the Hugging Face hub.

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
_COPIED = ("classifier", "first_conv", "pool_size", "fixed_input_size", "min_input_size")
WRAPPED = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}


def write_timm(
    module: nn.Module,
    folder: Path,
    *,
    arch: str,
    labels: Sequence[str],
    prep: Preprocessing,
    options: Mapping[str, object],
    is_wrapped: bool = False,
) -> None:
    """A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    `options`: further arguments of `create_model`. `is_wrapped`: and
    `AutoModelForImageClassification` of transformers.
    """
    # Copies: safetensors refuses tensors that share memory.
    state = {name: t.detach().clone().contiguous() for name, t in module.state_dict().items()}
    write_bytes(folder / "model.safetensors", save_tensors(state, metadata={"format": "pt"}))
    pretrained: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    copied = {name: pretrained[name] for name in _COPIED if pretrained.get(name) is not None}
    args = {name: value for name, value in options.items() if name != "num_classes"}
    config = {
        "architecture": arch,
        "num_classes": len(labels),
        "num_features": getattr(module, "num_features", None),
        "label_names": list(labels),
        **({"model_args": args} if args else {}),
        "pretrained_cfg": {**copied, **timm_config(prep), "num_classes": len(labels)},
        **(WRAPPED if is_wrapped else {}),
    }
    write_json(folder / "config.json", config)


def timm_config(prep: Preprocessing) -> dict[str, Any]:
    """The preprocessing in timm's terms."""
    share = min(prep.size) / prep.resize
    if math.floor(min(prep.size) / share) != prep.resize:  # timm rounds down
        share = min(prep.size) / (prep.resize + 1e-6)
    return {
        "input_size": (prep.channels, *prep.size),
        "mean": prep.mean,
        "std": prep.std,
        "interpolation": prep.interpolation,
        "crop_pct": share,
        "crop_mode": "squash" if prep.squash else "center",
    }


def processor(prep: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json of transformers for the same preprocessing.

    Raises: ExportError where both sides are squashed to more than the network takes, or the sides
    differ: no processor does that.
    """
    height, width = prep.size
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": _RESAMPLE[prep.interpolation],
        "image_mean": list(prep.mean),
        "image_std": list(prep.std),
    }
    if prep.squash and prep.resize == height == width:
        size = {"height": height, "width": width}
        return {"image_processor_type": "ViTImageProcessor", "size": size, **common}
    if prep.squash:
        raise ExportError(
            f"no image processor of transformers squashes to {prep.resize} px and crops "
            f"{height} x {width}; use --to onnx, torch or openvino."
        )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": prep.resize},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        **common,
    }


# ---- Graphs.


def write_ir(graph: bytes, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX graph in OpenVINO's format: `path` (.xml) and the .bin beside it, in float32.

    `openvino.convert_model` would send telemetry; reading a graph does not.
    Raises: ExportError where OpenVINO cannot read the graph.
    """
    import openvino

    try:
        model = openvino.Core().read_model(graph)
        for key, value in metadata.items():
            model.set_rt_info(value, ["warmstart", key])
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except Exception as error:  # openvino raises plain RuntimeErrors
        raise ExportError(
            f"OpenVINO cannot read the network ({first_line(error)}); try --to onnx."
        ) from error


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


def save_program(program: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a .pt2: a zip of graph, tensors and metadata; nothing in it is pickled."""
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(dict(metadata))})


# ---- The formats.

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
LINEAR = ("timm", "transformers")  # formats that hold one linear layer on the last features
_EXTRAS = {"openvino": "fast", "transformers": "text", "onnx": "", "torch": "", "timm": ""}
_LIBRARIES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "torch": ("torch",),
    "timm": ("timm",),
    "transformers": ("transformers",),
    "openvino": ("openvino",),
}


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


def check_format(to: str, is_int8: bool, with_pixels: bool) -> ExportFormat:
    """The format of that name. Raises: UsageError if there is none, or it lacks an option."""
    if to not in FORMATS:
        raise UsageError(f"--to {to} is not one of {', '.join(FORMATS)}.")
    if is_int8 and to != "onnx":
        raise UsageError(f"--int8 needs --to onnx, not {to}; remove one of them.")
    if with_pixels and to in LINEAR:
        raise UsageError(
            f"--pixels puts preprocessing into the graph, and {to} has its own; remove it."
        )
    return to


def check_installed(to: ExportFormat) -> None:
    """Raises: ExportError with the command to run where the format's library is missing."""
    missing = [name for name in _LIBRARIES[to] if find_spec(name) is None]
    if missing:
        extra = _EXTRAS[to]
        cure = install_command(extra) if extra else f"pip install {missing[0]}"
        raise ExportError(f"--to {to} needs {missing[0]}, which is not installed; run `{cure}`.")


def library_versions(to: ExportFormat) -> dict[str, str]:
    """Versions of the libraries that write and check the export."""
    names = dict.fromkeys(("torch", *_LIBRARIES[to]))
    return {name: installed_version(name) or "unknown" for name in names}


def check_possible(to: ExportFormat, source: ExportSource) -> None:
    """Raises: ExportError with the alternatives where the format cannot hold the model."""
    arch, task = source.record.arch, source.record.task
    if to in LINEAR and task != "classify":
        what = "several labels" if task == "multilabel" else "a number"
        raise ExportError(
            f"{to} holds classifiers, and this model predicts {what}; use --to onnx, torch or "
            "openvino."
        )
    if to in LINEAR and modality_of(source.record.preprocessing).has_tokens:
        raise ExportError(
            f"{to} cannot hold the head of a text model; use --to onnx, torch or openvino. The "
            "run's README.md rebuilds it in plain torch and transformers."
        )
    if to == "transformers" and is_native(source.network):
        return
    if to in LINEAR and not arch.startswith("timm:"):
        kind, _, name = arch.partition(":")
        what = "your own network" if kind == "module" else f"a {kind} network"
        raise ExportError(
            f"{name} is {what}, which {to} cannot rebuild; use --to onnx, torch or openvino."
        )


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
    return onnx.to_onnx(network, _metadata(source, title), check_branches)


def _metadata(source: ExportSource, title: str) -> dict[str, str]:
    return onnx.metadata_of(source.exported(), source.record.classes, title)


def _write_onnx(folder: Path, source: ExportSource, title: str) -> None:
    write_bytes(folder / MODEL["onnx"], onnx_graph(source, title))


def _write_torch(folder: Path, source: ExportSource, title: str) -> None:
    program = to_program(source.exported())
    save_program(program, folder / MODEL["torch"], _metadata(source, title))


def _write_openvino(folder: Path, source: ExportSource, title: str) -> None:
    write_ir(onnx_graph(source, title), folder / MODEL["openvino"], _metadata(source, title))


def _write_timm(folder: Path, source: ExportSource, title: str, is_wrapped: bool = False) -> None:
    record, prep = source.record, pictures(source.record.preprocessing)
    module, options = as_timm(source.model, record.arch, prep)
    write_timm(
        module,
        folder,
        arch=record.arch.partition(":")[2],
        labels=record.classes,
        prep=prep,
        options=options,
        is_wrapped=is_wrapped,
    )


def _write_transformers(folder: Path, source: ExportSource, title: str) -> None:
    if source.network is None or not is_native(source.network):
        _write_timm(folder, source, title, is_wrapped=True)
        return
    labels, prep = source.record.classes, pictures(source.record.preprocessing)
    module: Any = as_native(source.model, source.network, prep)
    module.config.id2label = dict(enumerate(labels))
    module.config.label2id = {name: number for number, name in enumerate(labels)}
    module.save_pretrained(str(folder))
    write_json(folder / "preprocessor_config.json", processor(prep))


# Each raises ExportError where the format cannot hold the network.
WRITERS: dict[ExportFormat, Callable[[Path, ExportSource, str], None]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "openvino": _write_openvino,
    "timm": _write_timm,
    "transformers": _write_transformers,
}
