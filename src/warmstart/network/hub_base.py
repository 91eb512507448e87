"""External classifiers in folders with a config.json, as transformers and timm write them."""

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

_PROCESSOR = "preprocessor_config.json"


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a model as transformers, or timm for the hub, writes it.

    >>> is_hub_folder(Path("no/such/folder"))
    False
    """
    if not (path / CONFIG).is_file():
        return False
    return not {"architecture", "model_type"}.isdisjoint(settings(path / CONFIG))


def open_folder(folder: Path, handling: InputHandling) -> ExternalClassifier:
    """A classifier from a folder that transformers, or timm for the hub, wrote.

    Raises: ModelError if the folder is damaged, incomplete, or of another kind of model.
    """
    config = settings(folder / CONFIG)
    if "architecture" not in config:
        return _open_transformers(folder, folder, read_folder(folder), handling)
    module, arch, usual = open_timm(folder, handling.size)
    title = f"{folder.resolve().name} ({arch.partition(':')[2]})"
    source = preprocessing_source(handling, CONFIG)
    classifier = from_module(module, str(folder), title, handling.over(usual), source)
    names = config.get("label_names") or ()
    labels = parse_names(json.dumps(names)) if names else names_beside(folder / CONFIG)
    where = "label_names in its config.json" if names else f"labels.json in {folder}"
    return replace(classifier, labels=unique(labels, where) if labels else (), labels_from=where)


def open_with(path: Path, name: str, handling: InputHandling) -> ExternalClassifier:
    """Weights of a file in the architecture `transformers:NAME`: a folder, or a cached name.

    Raises: ModelError if the architecture is not on this machine, or the weights do not fit it.
    """
    weights = read_weights(path)
    check_finite(weights, path.name)
    return _open_transformers(path, Path(name), weights, handling)


def _open_transformers(
    where: Path, folder: Path, weights: Mapping[str, Tensor], handling: InputHandling
) -> ExternalClassifier:
    with _silenced():
        config = _config(str(folder))
        module = _build_filled(where, config, weights)
    if (folder / _PROCESSOR).is_file():
        usual, source = from_processor(settings(folder / _PROCESSOR)), _PROCESSOR
    else:
        side = getattr(config, "image_size", None)
        height, width = (side, side) if isinstance(side, int) else tuple(side or IMAGENET.size)
        resize = int(min(height, width) / 0.875)
        usual = replace(IMAGENET, size=(height, width), resize=resize)
        source = "ImageNet's defaults"
    title = f"{where.resolve().name} ({config.model_type})"
    prep = handling.over(for_channels(usual, module))
    source = preprocessing_source(handling, source)
    classifier = from_module(module, str(where), title, prep, source)
    names = from_mapping(config.id2label or {})
    if where == folder and names and not all(name.startswith("LABEL_") for name in names):
        own = "id2label in its config.json"
        return replace(classifier, labels=unique(names, own), labels_from=own)
    labels = names_beside(where / CONFIG if where.is_dir() else where)
    return replace(classifier, labels=labels, labels_from=f"labels.json beside {where}")


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


def _build_filled(where: Path, config: Any, weights: Mapping[str, Tensor]) -> nn.Module:
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
    for kind, problem in (
        ("missing", "is missing"),
        ("unexpected", "is not in the network"),
        ("mismatched", "is of another shape"),
    ):
        for key in sorted(info[f"{kind}_keys"], key=str)[:1]:
            name = key if isinstance(key, str) else key[0]
            raise ModelError(f"{where}: {name} {problem}; check --arch, or copy the folder again.")
    return module


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress progress bars and reports of transformers."""
    try:
        from transformers.utils import logging as library_logging
    except ImportError:
        yield  # the body raises the error
        return
    reports: Any = library_logging
    level, has_bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.CRITICAL)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if has_bars:
            reports.enable_progress_bar()
