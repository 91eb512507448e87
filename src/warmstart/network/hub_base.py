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

from warmstart.errors import ModelError, install_command
from warmstart.network.architectures import IMAGENET, classifier_name, for_channels
from warmstart.network.class_names import from_mapping, names_beside, parse_names, unique
from warmstart.network.hub_folder import CONFIG, from_processor, open_timm, read_folder, settings
from warmstart.network.trained_elsewhere import (
    ExternalClassifier,
    InputHandling,
    from_module,
    preprocessing_source,
)
from warmstart.network.weights import check_finite, read_weights
from warmstart.records.inputs import Preprocessing


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a model as transformers, or timm for the hub, writes it.

    >>> is_hub_folder(Path("no/such/folder"))
    False
    """
    if not (path / CONFIG).is_file():
        return False
    return not {"architecture", "model_type"}.isdisjoint(settings(path / CONFIG))


def open_folder(folder: Path, feeding: InputHandling) -> ExternalClassifier:
    """A classifier from a folder that transformers, or timm for the hub, wrote.

    Raises: ModelError if the folder is damaged, incomplete, or of another kind of model.
    """
    config = settings(folder / CONFIG)
    if "architecture" in config:
        return _timm(folder, config, feeding)
    return _transformers(folder, folder, read_folder(folder), feeding)


def open_with(path: Path, name: str, feeding: InputHandling) -> ExternalClassifier:
    """A file of weights for the design `transformers:NAME`: a folder, or a name in the cache.

    Raises: ModelError if the design is not on this machine, or the weights do not fit it.
    """
    weights = read_weights(path)
    check_finite(weights, path.name)
    return _transformers(path, Path(name), weights, feeding)


def _timm(folder: Path, config: Mapping[str, Any], feeding: InputHandling) -> ExternalClassifier:
    module, arch, usual = open_timm(folder, feeding.size)
    title = f"{folder.resolve().name} ({arch.partition(':')[2]})"
    found = from_module(module, str(folder), title, feeding.over(usual), preprocessing_source(feeding, CONFIG))
    names = config.get("label_names") or ()
    labels = parse_names(json.dumps(names)) if names else names_beside(folder / CONFIG)
    where = "label_names in its config.json" if names else f"labels.json in {folder}"
    return replace(found, labels=unique(labels, where) if labels else (), labels_from=where)


def _transformers(
    where: Path, design: Path, weights: Mapping[str, Tensor], feeding: InputHandling
) -> ExternalClassifier:
    with _silenced():
        config = _config(str(design))
        module = _filled(where, config, weights)
    usual = for_channels(_preprocessing(design, config), module)
    title = f"{where.resolve().name} ({config.model_type})"
    source = "preprocessor_config.json" if _has_processor(design) else "ImageNet's habit"
    found = from_module(module, str(where), title, feeding.over(usual), preprocessing_source(feeding, source))
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
        raise ModelError(
            f"models of transformers need that package; run `{install_command('text')}`."
        ) from error
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
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
        raise ModelError(
            f"{where}: transformers has no image classifier of type {config.model_type!r}; "
            "name a model that was made for images."
        ) from error
    rows = weights.get(f"{classifier_name(blank)}.weight")
    if rows is not None and len(rows) != config.num_labels:
        config.num_labels = len(rows)
    module: nn.Module
    module, info = type(blank).from_pretrained(
        None,
        config=config,
        state_dict=dict(weights),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    for kind, what in (
        ("missing", "is missing"),
        ("unexpected", "is not in the network"),
        ("mismatched", "is of another shape"),
    ):
        for name in sorted(info[f"{kind}_keys"], key=str)[:1]:
            shown = name if isinstance(name, str) else name[0]
            raise ModelError(f"{where}: {shown} {what}; check --arch, or copy the folder again.")
    return module


def _has_processor(folder: Path) -> bool:
    return (folder / "preprocessor_config.json").is_file()


def _preprocessing(folder: Path, config: Any) -> Preprocessing:
    """What preprocessor_config.json says; else the size in the config, ImageNet's values."""
    if _has_processor(folder):
        return from_processor(settings(folder / "preprocessor_config.json"))
    side = getattr(config, "image_size", None)
    height, width = (side, side) if isinstance(side, int) else tuple(side or IMAGENET.size)
    resize = int(min(height, width) / 0.875)
    return replace(IMAGENET, size=(height, width), resize=resize)


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
