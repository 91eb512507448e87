"""Architectures by name, `timm:NAME` or `torchvision:NAME`: building them, their preprocessing."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import timm
import torch
import torchvision.models
from torch import Tensor, nn

from warmstart.errors import ModelError, first_line
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import Family

IMAGENET = Preprocessing(
    size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
_INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")


def split_arch(arch: str) -> tuple[str, str]:
    """Split `timm:resnet18` into library and name. Raises: ModelError if that has no such name."""
    library, _, name = arch.partition(":")
    if library not in ("timm", "torchvision") or not name:
        raise ModelError(
            f"architecture {arch!r} is not known; write timm:NAME or torchvision:NAME."
        )
    if library == "timm" and timm.is_model(name):
        return library, name
    is_timm, models = library == "timm", torchvision.models
    names: list[str] = timm.list_models() if is_timm else models.list_models(module=models)
    if name in names:
        return library, name
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {', '.join(f'{library}:{n}' for n in near)}?"
    hint = hint if near else f"see `{library}` for the names it knows."
    raise ModelError(f"{library} has no network {name!r}; {hint}")


def build(
    arch: str, weights: Mapping[str, Tensor] | None = None, size: tuple[int, int] | None = None
) -> nn.Module:
    """Build a network with random weights, its head as wide as the one in `weights`.

    `size` (height, width in px) matters only to networks made for one input size.
    The global random state is left unchanged.
    Raises: ModelError for an unknown architecture, TypeError where the size cannot be chosen.

    >>> build("timm:resnet18", {"fc.weight": torch.zeros(7, 512)}).num_classes
    7
    """
    library, name = split_arch(arch)
    options = size_option(arch, size)
    module = _create(library, name, options)
    own, weights, changes = module.state_dict(), weights or {}, dict[str, int]()
    head = f"{classifier_name(module)}.weight"
    stem = f"{config_of(module).get('first_conv')}.weight"
    if head in own and head in weights and weights[head].shape[:1] != own[head].shape[:1]:
        changes["num_classes"] = weights[head].shape[0]
    has_stem = stem in own and stem in weights and weights[stem].ndim == 4
    if library == "timm" and has_stem and weights[stem].shape[1] != own[stem].shape[1]:
        changes["in_chans"] = weights[stem].shape[1]
    return _create(library, name, options | changes) if changes else module


def build_pretrained(arch: str, weights: Mapping[str, Tensor], size: tuple[int, int]) -> nn.Module:
    """A timm network with published weights, all of them. Raises: ModelError if they do not fit."""
    _, name = split_arch(arch)
    options = size_option(arch, size)
    pretrained = {"pretrained_cfg_overlay": {"state_dict": dict(weights)}}
    try:
        module = _create("timm", name, options | {"pretrained": True, **pretrained})
    except (RuntimeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{arch}: the weights do not fit ({first_line(error)}); delete and fetch again."
        ) from error
    cast(Any, module).pretrained_cfg.pop("state_dict", None)  # a second copy of all weights
    before = dict(_create("timm", name, options).named_parameters())
    for tensor, parameter in module.named_parameters():
        initial = before[tensor]
        is_random = parameter.ndim > 1 and bool((initial != initial.flatten()[0]).any())
        if is_random and parameter.requires_grad and torch.equal(parameter, initial):
            raise ModelError(
                f"{arch}: {tensor} is not in the published weights and would stay random; "
                "choose another base model."
            )
    return module


def size_option(arch: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Options that set the input size (height, width in px); empty where none is needed.

    Only networks built for one size need them, and only for another size.

    >>> size_option("timm:resnet18", (96, 96)), size_option("torchvision:vit_b_16", (96, 96))
    ({}, {'image_size': 96})
    """
    library, name = split_arch(arch)
    if library == "torchvision":
        if size is None or size == IMAGENET.size:
            return {}
        vit = {"image_size": size[0]} if name.startswith("vit_") else {}
        return {"input_size": size} if name.startswith("maxvit") else vit
    config: Any = timm.get_pretrained_cfg(name)
    is_fixed = size is not None and config is not None and config.fixed_input_size
    return {"img_size": size} if is_fixed and tuple(config.input_size[1:]) != size else {}


def classifier_name(module: nn.Module) -> str | None:
    """Name of the classifier as the library records it, else of the last linear layer."""
    name = config_of(module).get("classifier")
    if name:
        return name[0] if isinstance(name, (tuple, list)) else str(name)
    linear = [n for n, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return linear[-1] if linear else None


def config_of(module: nn.Module) -> Mapping[str, Any]:
    """timm's configuration of a network, empty where it carries none."""
    for name in ("pretrained_cfg", "default_cfg"):
        config: Any = getattr(module, name, None)
        config = config.to_dict() if hasattr(config, "to_dict") else config
        if isinstance(config, Mapping) and "input_size" in config:
            return config
    return {}


def preprocessing_of(arch: str) -> Preprocessing:
    """Preprocessing of the named network, from the library's own record."""
    library, name = split_arch(arch)
    if library == "timm":
        return preprocessing_from(published_config(name))
    transforms: Any = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        size=(transforms.crop_size[0], transforms.crop_size[0]),
        resize=transforms.resize_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
    )


def published_config(name: str) -> Mapping[str, Any]:
    """timm's record of the published weights of a network, empty where there are none."""
    config: Any = timm.get_pretrained_cfg(name)
    return cast(Mapping[str, Any], config.to_dict()) if config and config.has_weights else {}


def preprocessing_from(config: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in a timm configuration; ImageNet's values are the defaults."""
    _, height, width = config.get("input_size", (3, 224, 224))
    interpolation = config.get("interpolation")
    return Preprocessing(
        size=(height, width),
        resize=math.floor(min(height, width) / (config.get("crop_pct") or 0.875)),
        mean=tuple(config.get("mean", IMAGENET.mean)),
        std=tuple(config.get("std", IMAGENET.std)),
        interpolation=interpolation if interpolation in _INTERPOLATIONS else "bicubic",
        squash=config.get("crop_mode") == "squash",
    )


def for_channels(
    preprocessing: Preprocessing, module: nn.Module, n_bands: int = 1
) -> Preprocessing:
    """The average mean and std for each channel where the first convolution takes 1 or n_bands."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    n = preprocessing.channels if first is None else first.in_channels
    if n == preprocessing.channels or preprocessing.channels == 1 or n not in (1, n_bands):
        return preprocessing
    mean, std = (sum(values) / len(values) for values in (preprocessing.mean, preprocessing.std))
    return replace(preprocessing, mean=(mean,) * n, std=(std,) * n)


def _create(library: str, name: str, options: Mapping[str, Any]) -> nn.Module:
    # Seeded, so that random initial values can be told from loaded ones.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        if library == "timm":
            return timm.create_model(name, **options)
        return cast(nn.Module, torchvision.models.get_model(name, weights=None, **options))


def find_family(module: nn.Module) -> Family:
    """Kind of network by its layers, which decides the learning rates where none is on record."""
    has_attention = any(
        isinstance(m, nn.MultiheadAttention) or "attention" in type(m).__name__.lower()
        for m in module.modules()
    )
    kernels = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    n_kernels = sum(m.weight.numel() for m in kernels)
    n_matrices = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
    if has_attention and n_matrices >= n_kernels:
        return "transformer"
    return "convnet" if kernels else "mlp"
