"""The network itself in a format: what is written into the folder of an export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save as save_tensors
from torch import nn

from warmstart.errors import ExportError, UsageError, install_command
from warmstart.exporting import onnx
from warmstart.exporting.onnx import ExportedNetwork, first_line, serve, silent
from warmstart.exporting.predict_script import MODEL
from warmstart.network.single_layer_head import as_native, as_timm, is_native
from warmstart.network.surgery import WarmModel
from warmstart.records.answer import ModelRecord
from warmstart.records.export import ExportFormat
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.run_folder import write_bytes, write_json

# ---- Folders in the hub's formats: timm's, and transformers' for the same or its own networks.


_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
_KEPT = ("classifier", "first_conv", "pool_size", "fixed_input_size", "min_input_size")
WRAPPED = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDescription:
    """A network of timm: its design, and what `create_model` must be told beside it."""

    design: str
    labels: tuple[str, ...]
    prep: Preprocessing
    options: Mapping[str, object]


def write_timm(module: nn.Module, folder: Path, told: HubDescription) -> None:
    """A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads."""
    _save(module, folder, timm_folder(module, told))


def write_wrapped(module: nn.Module, folder: Path, told: HubDescription) -> None:
    """The same for `AutoModelForImageClassification`: transformers loads timm's networks."""
    _save(module, folder, timm_folder(module, told) | WRAPPED)


def _save(module: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    # Copies: safetensors refuses tensors that share memory.
    state = {name: t.detach().clone().contiguous() for name, t in module.state_dict().items()}
    write_bytes(folder / "model.safetensors", save_tensors(state, metadata={"format": "pt"}))
    write_json(folder / "config.json", config)


def timm_folder(module: nn.Module, told: HubDescription) -> dict[str, Any]:
    """config.json of timm's format for the hub."""
    own: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    kept = {name: own[name] for name in _KEPT if own.get(name) is not None}
    args = {name: value for name, value in told.options.items() if name != "num_classes"}
    return {
        "architecture": told.design,
        "num_classes": len(told.labels),
        "num_features": getattr(module, "num_features", None),
        "label_names": list(told.labels),
        **({"model_args": args} if args else {}),
        "pretrained_cfg": {**kept, **timm_config(told.prep), "num_classes": len(told.labels)},
    }


def timm_config(prep: Preprocessing) -> dict[str, Any]:
    """How images are prepared, in timm's words.

    >>> found = timm_config(Preprocessing(size=(224, 224), resize=256, mean=(0.5,), std=(0.5,)))
    >>> found["crop_pct"], found["input_size"], found["crop_mode"]
    (0.875, (1, 224, 224), 'center')
    """
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


def write_native(module: Any, folder: Path, labels: Sequence[str], prep: Preprocessing) -> None:
    """A network of transformers in its own format, with its image processor."""
    module.config.id2label = dict(enumerate(labels))
    module.config.label2id = {name: number for number, name in enumerate(labels)}
    module.save_pretrained(str(folder))
    write_json(folder / "preprocessor_config.json", processor(prep))


def processor(prep: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json of transformers for the same preparation.

    Raises: ExportError where both sides are squeezed to more than the network takes, or
    sides differ: no processor does that.

    >>> prep = Preprocessing(size=(32, 32), resize=36, mean=(0.5,), std=(0.5,))
    >>> found = processor(prep)
    >>> found["size"], found["crop_size"]
    ({'shortest_edge': 36}, {'height': 32, 'width': 32})
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
            f"no image processor of transformers squeezes to {prep.resize} px and cuts out "
            f"{height} x {width}; use --to onnx, torch or openvino."
        )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": prep.resize},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        **common,
    }


# ---- OpenVINO: the ONNX graph as its own representation, in float32.


def write_ir(graph: bytes, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `path` (.xml) and the .bin beside it. Weights stay float32.

    `openvino.convert_model` would report its use to its makers; reading a graph does not.
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
            f"OpenVINO cannot take the network ({first_line(error)}); try --to onnx."
        ) from error


# ---- torch.export: the network as one program, without any code of ours.


def to_program(served: ExportedNetwork) -> Any:
    """The network as an exported program, any batch size and length of text.

    Raises: ExportError where its forward depends on the values that it is given, or on how many.
    """
    example = served.example(2)
    axes = {
        axis: torch.export.Dim(
            name, min=1 if axis == 0 else 2, max=example.shape[axis] if axis else None
        )
        for axis, name in served.axes.items()
    }  # what is no batch is as long as the example at most
    try:
        with silent(), torch.no_grad():
            return torch.export.export(served, (example,), dynamic_shapes=(axes,), strict=False)
    except Exception as error:  # torch raises many kinds, some without a common base
        raise ExportError(
            f"the network cannot be written as one program ({first_line(error)}); where its "
            "forward branches on the values of an image, or on how many come at once, no format "
            "holds it."
        ) from error


def save_program(program: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a .pt2: a zip of graph, tensors and metadata; nothing in it is pickled."""
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(dict(metadata))})


FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
LINEAR = ("timm", "transformers")  # formats that hold one linear output on the last tap
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
    """What is exported: a model, its record, and the user's own network where there is one."""

    model: WarmModel
    record: ModelRecord
    network: nn.Module | None
    with_pixels: bool = False

    @property
    def prep(self) -> Preprocessing:
        """How images are fed in, of a format that is made for them."""
        return pictures(self.record.preprocessing)

    def served(self) -> ExportedNetwork:
        """The network with named outputs, in plain memory order."""
        return serve(self.model, self.record.preprocessing, self.with_pixels, self.record.task)


def check_asked(to: str, is_int8: bool, with_pixels: bool) -> ExportFormat:
    """The format of that name. Raises: UsageError if there is none, or it lacks what is asked.

    >>> check_asked("onnx", True, True)
    'onnx'
    """
    if to not in FORMATS:
        raise UsageError(f"--to {to} is not one of {', '.join(FORMATS)}.")
    if is_int8 and to != "onnx":
        raise UsageError(f"--int8 is made for --to onnx, not for {to}; leave one of them away.")
    if with_pixels and to in LINEAR:
        raise UsageError(
            f"--pixels puts preprocessing into the graph, and {to} has its own; leave it away."
        )
    return to


def check_installed(to: ExportFormat) -> None:
    """Raises: ExportError saying what to install where the format's library is not installed."""
    missing = [name for name in _LIBRARIES[to] if not is_installed(name)]
    if missing:
        extra = _EXTRAS[to]
        cure = install_command(extra) if extra else f"pip install {missing[0]}"
        raise ExportError(f"--to {to} needs {missing[0]}, which is not installed; run `{cure}`.")


def is_installed(name: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(name) is not None


def library_versions(to: ExportFormat) -> dict[str, str]:
    """Of what the export was made and checked with."""
    found = {}
    for name in dict.fromkeys(("torch", *_LIBRARIES[to])):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def check_possible(to: ExportFormat, source: ExportSource) -> None:
    """Refuse at once what a format cannot hold. Raises: ExportError with the alternatives."""
    arch, task = source.record.arch, source.record.task
    if to in LINEAR and task != "classify":
        what = "several labels" if task == "multilabel" else "a number"
        raise ExportError(
            f"{to} says of its outputs that they are classes, and this model answers {what}; use "
            "--to onnx, torch or openvino."
        )
    if to in LINEAR and source.record.preprocessing.kind == "text":
        raise ExportError(
            f"a model of texts has an output that {to} does not hold; use --to onnx, torch or "
            "openvino. The run's README.md rebuilds it in plain torch and transformers."
        )
    if to == "transformers" and is_native(source.network):
        return
    if to in LINEAR and not arch.startswith("timm:"):
        kind, _, name = arch.partition(":")
        whose = "your own network" if kind == "module" else f"a network of {kind}"
        raise ExportError(
            f"{name} is {whose}, which {to} cannot rebuild; use --to onnx, torch or openvino."
        )


def write_model(to: ExportFormat, folder: Path, source: ExportSource, title: str) -> None:
    """Write the network. Raises: ExportError where the format cannot hold it."""
    _WRITERS[to](folder, source, title)


def onnx_graph(source: ExportSource, title: str) -> bytes:
    """The network as ONNX. Raises: ExportError where it branches on the values of an image."""
    served = source.served()

    def judge() -> None:
        """A trace takes one branch for all images; what makes a program follows them."""
        if is_own:
            to_program(served)

    # The designs of a library ask for sizes, and assert them, but do not branch on values.
    is_own = source.record.arch.startswith("module:")
    if _is_whole(source.model):
        to_program(served)
    return onnx.to_onnx(served, metadata(source, served, title), judge)


def metadata(source: ExportSource, served: ExportedNetwork, title: str) -> dict[str, str]:
    """What the file says of itself."""
    return onnx.metadata_of(served, source.record.classes, title)


def _is_whole(model: WarmModel) -> bool:
    """Whether the network could not be cut: nobody has seen that its forward is a plain graph."""
    return any("" in step.modules for step in model.scan.steps.blocks)


def _write_onnx(folder: Path, source: ExportSource, title: str) -> None:
    write_bytes(folder / MODEL["onnx"], onnx_graph(source, title))


def _write_torch(folder: Path, source: ExportSource, title: str) -> None:
    served = source.served()
    told = metadata(source, served, title)
    save_program(to_program(served), folder / MODEL["torch"], told)


def _write_openvino(folder: Path, source: ExportSource, title: str) -> None:
    told = metadata(source, source.served(), title)
    write_ir(onnx_graph(source, title), folder / MODEL["openvino"], told)


def _write_timm(folder: Path, source: ExportSource, title: str) -> None:
    record = source.record
    module, options = as_timm(source.model, record.arch, source.prep)
    write_timm(module, folder, _hub(source, options))


def _write_transformers(folder: Path, source: ExportSource, title: str) -> None:
    record, network = source.record, source.network
    if network is not None and is_native(network):
        own = as_native(source.model, network, source.prep)
        write_native(own, folder, record.classes, source.prep)
        return
    module, options = as_timm(source.model, record.arch, source.prep)
    write_wrapped(module, folder, _hub(source, options))


def _hub(source: ExportSource, options: dict[str, object]) -> HubDescription:
    record = source.record
    return HubDescription(
        design=record.arch.partition(":")[2],
        labels=record.classes,
        prep=source.prep,
        options=options,
    )


_WRITERS: dict[ExportFormat, Callable[[Path, ExportSource, str], None]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "openvino": _write_openvino,
    "timm": _write_timm,
    "transformers": _write_transformers,
}
