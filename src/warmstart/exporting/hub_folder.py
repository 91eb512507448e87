"""Folders in the hub's formats: timm's, and transformers' for the same or its own networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors
from torch import nn

from warmstart.errors import ExportError
from warmstart.records.inputs import Preprocessing
from warmstart.records.run_folder import write_bytes, write_json

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
_KEPT = ("classifier", "first_conv", "pool_size", "fixed_input_size", "min_input_size")
WRAPPED = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A network of timm: its design, and what `create_model` must be told beside it."""

    design: str
    labels: tuple[str, ...]
    prep: Preprocessing
    options: Mapping[str, object]


def write_timm(module: nn.Module, folder: Path, told: Described) -> None:
    """A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads."""
    _save(module, folder, timm_folder(module, told))


def write_wrapped(module: nn.Module, folder: Path, told: Described) -> None:
    """The same for `AutoModelForImageClassification`: transformers loads timm's networks."""
    _save(module, folder, timm_folder(module, told) | WRAPPED)


def _save(module: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    # Copies: safetensors refuses tensors that share memory.
    state = {name: t.detach().clone().contiguous() for name, t in module.state_dict().items()}
    write_bytes(folder / "model.safetensors", save_tensors(state, metadata={"format": "pt"}))
    write_json(folder / "config.json", config)


def timm_folder(module: nn.Module, told: Described) -> dict[str, Any]:
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
