"""Folders for the hub, as timm and transformers write them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.architectures import (
    IMAGENET,
    build,
    for_channels,
    preprocessing_from,
    split_arch,
)
from warmstart.network.weights import check_finite, check_match, read_weights
from warmstart.records.inputs import Preprocessing

PREFIX = "transformers:"
CONFIG = "config.json"
_FILES = ("model.safetensors", "pytorch_model.bin")
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


# The largest sizes that a config.json may name, by the ends of their names.
_MOST = {"_layers": 1_000, "hidden_size": 100_000, "intermediate_size": 1_000_000, "_heads": 10_000}


def settings(path: Path) -> Mapping[str, Any]:
    """A JSON file of settings.

    Raises: ModelError where it is damaged, or names sizes that no network has: those would be
    allocated before the weights could be compared with them.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged ({error}); copy the folder again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no settings; copy the folder again.")
    _check_sizes(path, content)
    return content


def _check_sizes(path: Path, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _check_sizes(path, value)
        most = next((most for end, most in _MOST.items() if name.endswith(end)), None)
        is_size = isinstance(value, int) and not isinstance(value, bool)
        if most is not None and is_size and not 1 <= value <= most:
            raise ModelError(
                f"{path} says {name} {value:,}, which no network has (1 to {most:,}); copy the "
                "folder again."
            )


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All weights of such a folder, in one file or several.

    Raises: ModelError if a file is missing or damaged.
    """
    index = folder / "model.safetensors.index.json"
    names = [name for name in _FILES if (folder / name).is_file()][:1]
    if index.is_file():
        names = sorted(set(settings(index).get("weight_map", {}).values()))
    if not names:
        raise ModelError(f"{folder} has no {' or '.join(_FILES)}; copy the folder again.")
    weights: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{index} names {name!r}, outside the folder; copy the folder again.")
        weights |= read_weights(folder / name)
    check_finite(weights, str(folder))
    return weights


def is_timm_folder(name: str) -> bool:
    """Whether a base model is a folder that timm, or transformers of timm's network, wrote."""
    folder = timm_folder_of(name)
    try:
        return (folder / CONFIG).is_file() and "architecture" in settings(folder / CONFIG)
    except ModelError:
        return False


def timm_folder_of(name: str) -> Path:
    """The folder in `FOLDER`, `timm:FOLDER` or `transformers:FOLDER`."""
    return Path(name.removeprefix("timm:").removeprefix(PREFIX)).expanduser()


def open_timm(
    folder: Path, size: tuple[int, int] | None = None
) -> tuple[nn.Module, str, Preprocessing]:
    """The network of a folder that timm wrote, its architecture, and its preprocessing.

    `size`: height and width in px that replace the folder's.
    Raises: ModelError if the folder is damaged, incomplete, or not of a timm architecture.
    """
    config, weights = settings(folder / CONFIG), read_folder(folder)
    arch = f"timm:{config['architecture']}"
    split_arch(arch)
    try:
        usual = preprocessing_from(config.get("pretrained_cfg") or config)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(
            f"{folder / CONFIG} is damaged ({error}); copy the folder again."
        ) from error
    module = build(arch, weights, size or usual.size)
    check_match(module.state_dict(), weights, str(folder), "copy the folder again")
    module.load_state_dict(weights)
    return module, arch, for_channels(usual, module)


def from_processor(config: Mapping[str, Any]) -> Preprocessing:
    """Read a preprocessor_config.json of transformers.

    >>> prep = from_processor({"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3,
    ...                        "image_std": [0.5] * 3, "resample": 2})
    >>> prep.size, prep.squash, prep.interpolation
    ((32, 32), True, 'bilinear')
    """

    def does(step: str) -> bool:
        return config.get(f"do_{step}", True) is not False

    height, width, resize, squash = _sides(config)
    # Values become x * factor - offset, then (that - mean) / std; ours are of x / 255.
    scale = 255 * float(config.get("rescale_factor", 1 / 255)) if does("rescale") else 255
    offset = 1.0 if config.get("rescale_offset") else 0.0
    mean = config.get("image_mean", IMAGENET.mean) if does("normalize") else (0.0,) * 3
    std = config.get("image_std", IMAGENET.std) if does("normalize") else (1.0,) * 3
    return Preprocessing(
        size=(height, width),
        resize=resize,
        mean=tuple((float(m) + offset) / scale for m in mean),
        std=tuple(float(s) / scale for s in std),
        interpolation=_RESAMPLE.get(config.get("resample", 2), "bilinear"),  # type: ignore[arg-type]
        squash=squash,
    )


def _sides(config: Mapping[str, Any]) -> tuple[int, int, int, bool]:
    """Height and width of the input, the resized short side, and whether images are squashed."""
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    side = int(size.get("shortest_edge") or min(size.get("height", 224), size.get("width", 224)))
    if config.get("do_center_crop", False) and "height" in crop:
        return int(crop["height"]), int(crop["width"]), side, "shortest_edge" not in size
    if "height" in size:
        return int(size["height"]), int(size["width"]), side, True
    share = float(config.get("crop_pct") or 1.0)
    if share < 1 and side >= 384:  # ConvNeXt's own rule: large inputs are the whole picture
        return side, side, side, True
    return side, side, int(side / share), False


# ---- Folders of transformers encoders: on disk, or a snapshot in the hub's cache.


def folder_of(name: str) -> Path | None:
    """The folder of a name, or None where there is none of that name on this machine."""
    path = Path(name.removeprefix(PREFIX)).expanduser()
    if (path / CONFIG).is_file():
        return path
    if not name.startswith(PREFIX) or os.path.isabs(path) or len(path.parts) > 2:
        return None
    try:
        cached = try_to_load_from_cache(name.removeprefix(PREFIX), CONFIG)
    except ValueError:  # not a valid name of the hub
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def kind_of(folder: Path) -> str:
    """The `model_type` of a folder; "" where its config.json cannot be read."""
    try:
        return str(json.loads((folder / CONFIG).read_text("utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def fill(
    encoder: nn.Module, folder: Path, heads: Sequence[str], renamed: Mapping[str, str]
) -> None:
    """Load a folder's weights into an encoder, whatever prefix their names have.

    `heads`: prefixes of tensors that the encoder does not have; `renamed`: today's names of parts
    of names. Raises: ModelError if a file or a tensor is missing.
    """
    file = next((folder / f for f in _FILES if (folder / f).is_file()), None)
    if file is None:
        raise ModelError(f"{folder} has no {' or '.join(_FILES)}; copy the folder again.")
    own = encoder.state_dict()
    weights = read_weights(file)
    first = next(iter(own))  # all names share its prefix
    prefixes = (name.removesuffix(first) for name in weights if name.endswith(f".{first}"))
    prefix = "" if first in weights else next(prefixes, "")
    named = {}
    for name, tensor in weights.items():
        bare = name.removeprefix(prefix)
        for old, new in renamed.items() if bare not in own else ():
            bare = bare.replace(old, new)
        if bare in own or not bare.startswith(tuple(heads)):
            named[bare] = tensor
    check_finite(named, file.name)
    check_match(own, named, file.name, "copy the folder again")
    encoder.load_state_dict(named)
