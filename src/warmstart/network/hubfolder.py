"""Folders with a config.json, as transformers and timm write them, and configs by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from warmstart.errors import StartError
from warmstart.extras import install_command
from warmstart.network.arch import (
    IMAGENET,
    build,
    classifier_name,
    for_channels,
    preprocessing_from,
    split_arch,
)
from warmstart.network.names import from_mapping, names_beside, parse_names, unique
from warmstart.network.outside import Feeding, Outside, from_module, said_by
from warmstart.network.weights import check_finite, check_match, read_weights
from warmstart.records import Preprocessing

PREFIX = "transformers:"
CONFIG = "config.json"
_FILES = ("model.safetensors", "pytorch_model.bin")
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a model as transformers, or timm for the hub, writes it.

    >>> is_hub_folder(Path("no/such/folder"))
    False
    """
    if not (path / CONFIG).is_file():
        return False
    return not {"architecture", "model_type"}.isdisjoint(_json(path / CONFIG))


def open_folder(folder: Path, feeding: Feeding) -> Outside:
    """A classifier from a folder that transformers, or timm for the hub, wrote.

    Raises: StartError if the folder is damaged, incomplete, or of another kind of model.
    """
    config = _json(folder / CONFIG)
    weights = read_folder(folder)
    if "architecture" in config:
        return _timm(folder, config, weights, feeding)
    return _transformers(folder, folder, weights, feeding)


def open_with(path: Path, name: str, feeding: Feeding) -> Outside:
    """A file of weights for the design `transformers:NAME`: a folder, or a name in the cache.

    Raises: StartError if the design is not on this machine, or the weights do not fit it.
    """
    weights = read_weights(path)
    check_finite(weights, path.name)
    return _transformers(path, Path(name), weights, feeding)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{path} is damaged ({error}); copy the folder again.") from error
    if not isinstance(found, dict):
        raise StartError(f"{path} holds no settings; copy the folder again.")
    return found


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All weights of such a folder, in one file or several.

    Raises: StartError if a file is missing or damaged.
    """
    index = folder / "model.safetensors.index.json"
    names = [name for name in _FILES if (folder / name).is_file()][:1]
    if index.is_file():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
    if not names:
        raise StartError(f"{folder} has no {' or '.join(_FILES)}; copy the folder again.")
    weights: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise StartError(f"{index} names {name!r}, outside the folder; copy the folder again.")
        weights |= read_weights(folder / name)
    check_finite(weights, str(folder))
    return weights


def _timm(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], feeding: Feeding
) -> Outside:
    arch = f"timm:{config['architecture']}"
    design = split_arch(arch)[1]
    module = build(arch, weights, feeding.size)
    check_match(module.state_dict(), weights, str(folder), "copy the folder again")
    module.load_state_dict(weights)
    usual = for_channels(preprocessing_from(config.get("pretrained_cfg") or config), module)
    title = f"{folder.resolve().name} ({design})"
    found = from_module(module, str(folder), title, feeding.over(usual), said_by(feeding, CONFIG))
    names = config.get("label_names") or ()
    labels = parse_names(json.dumps(names)) if names else names_beside(folder / CONFIG)
    where = "label_names in its config.json" if names else f"labels.json in {folder}"
    return replace(found, labels=unique(labels, where) if labels else (), labels_from=where)


def _transformers(
    where: Path, design: Path, weights: Mapping[str, Tensor], feeding: Feeding
) -> Outside:
    with _silenced():
        config = _config(str(design))
        module = _filled(where, config, weights)
    usual = for_channels(_preprocessing(design, config), module)
    title = f"{where.resolve().name} ({config.model_type})"
    source = "preprocessor_config.json" if _has_processor(design) else "ImageNet's habit"
    found = from_module(module, str(where), title, feeding.over(usual), said_by(feeding, source))
    names = from_mapping(config.id2label or {})
    if where == design and names and not all(name.startswith("LABEL_") for name in names):
        own = "id2label in its config.json"
        return replace(found, labels=unique(names, own), labels_from=own)
    beside = where / CONFIG if where.is_dir() else where
    return replace(found, labels=names_beside(beside), labels_from=f"labels.json beside {where}")


def _config(name: str) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise StartError(
            f"models of transformers need that package; run `{install_command('text')}`."
        ) from error
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise StartError(
            f"transformers:{name} is not on this machine, or its config.json is not one that "
            "transformers knows; name the folder that holds config.json."
        ) from error


def _filled(where: Path, config: Any, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network of a config with these weights, strictly; no file is opened here."""
    import torch
    import transformers

    classifiers: Any = transformers.AutoModelForImageClassification
    try:
        with torch.device("meta"):
            blank: Any = classifiers.from_config(config)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise StartError(
            f"{where}: transformers has no image classifier of type {config.model_type!r}; "
            "name a model that was made for images."
        ) from error
    rows = weights.get(f"{classifier_name(blank)}.weight")
    if rows is not None and len(rows) != config.num_labels:
        config.num_labels = len(rows)
    module: nn.Module
    module, info = type(blank).from_pretrained(
        None, config=config, state_dict=dict(weights), output_loading_info=True,
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    for kind, what in (("missing", "is missing"), ("unexpected", "is not in the network"),
                       ("mismatched", "is of another shape")):  # fmt: skip
        for name in sorted(info[f"{kind}_keys"], key=str)[:1]:
            shown = name if isinstance(name, str) else name[0]
            raise StartError(f"{where}: {shown} {what}; check --arch, or copy the folder again.")
    return module


def _has_processor(folder: Path) -> bool:
    return (folder / "preprocessor_config.json").is_file()


def _preprocessing(folder: Path, config: Any) -> Preprocessing:
    """What preprocessor_config.json says; else the size in the config, ImageNet's values."""
    if _has_processor(folder):
        return from_processor(_json(folder / "preprocessor_config.json"))
    side = getattr(config, "image_size", None)
    height, width = (side, side) if isinstance(side, int) else tuple(side or IMAGENET.size)
    resize = int(min(height, width) / 0.875)
    return replace(IMAGENET, size=(height, width), resize=resize)


def from_processor(config: Mapping[str, Any]) -> Preprocessing:
    """Read a preprocessor_config.json of transformers.

    >>> found = from_processor({"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3,
    ...                         "image_std": [0.5] * 3, "resample": 2})
    >>> found.size, found.squash, found.interpolation
    ((32, 32), True, 'bilinear')
    """
    height, width, resize, squash = _sides(config)
    # Values become x * factor - offset, then (that - mean) / std; ours are of x / 255.
    scale = 255 * float(config.get("rescale_factor", 1 / 255)) if _does(config, "rescale") else 255
    offset = 1.0 if config.get("rescale_offset") else 0.0
    is_normal = _does(config, "normalize")
    mean = config.get("image_mean", IMAGENET.mean) if is_normal else (0.0,) * 3
    std = config.get("image_std", IMAGENET.std) if is_normal else (1.0,) * 3
    return Preprocessing(
        size=(height, width),
        resize=resize,
        mean=tuple((float(m) + offset) / scale for m in mean),
        std=tuple(float(s) / scale for s in std),
        interpolation=_RESAMPLE.get(config.get("resample", 2), "bilinear"),  # type: ignore[arg-type]
        squash=squash,
    )


def _does(config: Mapping[str, Any], what: str) -> bool:
    return config.get(f"do_{what}", True) is not False


def _sides(config: Mapping[str, Any]) -> tuple[int, int, int, bool]:
    """Height and width seen, the resized short side, and whether both sides are squeezed."""
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    side = int(size.get("shortest_edge") or min(size.get("height", 224), size.get("width", 224)))
    does_crop = config.get("do_center_crop", False) and "height" in crop
    if does_crop:
        return int(crop["height"]), int(crop["width"]), side, "shortest_edge" not in size
    if "height" in size:
        return int(size["height"]), int(size["width"]), side, True
    share = float(config.get("crop_pct") or 1.0)
    if share < 1 and side >= 384:  # ConvNeXt's own rule: large inputs are the whole picture
        return side, side, side, True
    return side, side, int(side / share), False


@contextmanager
def _silenced() -> Iterator[None]:
    """No bars and no reports from transformers while it builds."""
    try:
        from transformers.utils import logging as its_logging
    except ImportError:
        yield  # what follows says so
        return
    reports: Any = its_logging
    level, has_bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.CRITICAL)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if has_bars:
            reports.enable_progress_bar()
