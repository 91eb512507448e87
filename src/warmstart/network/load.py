"""A base model by name, file or module → a frozen network in eval mode, and its record."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torchvision.models
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
from warmstart.network.audio_encoders import AUDIO_ENCODERS, load_wave
from warmstart.network.encoder import Encoder
from warmstart.network.hub import CONFIG, PREFIX, folder_of, kind_of, settings
from warmstart.network.image_encoders import IMAGE_ENCODERS, IMAGE_TOWERS, load_vision
from warmstart.network.inputs import InputOptions, change_inputs
from warmstart.network.partial_load import load_matching
from warmstart.network.registry import DEFAULT, SHIPPED, SHIPPED_TEXT, shipped_files
from warmstart.network.text_encoders import TEXT_KINDS, load_text
from warmstart.network.weights import (
    STATISTICS,
    SUFFIXES,
    assign_weights,
    check_finite,
    check_match,
    map_weights,
    match_by_order,
    n_parameters,
    read_weights,
    tensor_digest,
    unique_tensors,
)
from warmstart.records.inputs import Inputs, Preprocessing
from warmstart.records.network import BaseModelRecord, InputChange


def _build_filled(
    arch: str, path: Path, preprocessing: Preprocessing | None, inputs: InputOptions
) -> tuple[nn.Module, Mapping[str, Tensor], tuple[InputChange, ...]]:
    """Build `arch` and load a file's weights into it: strictly, or those that fit."""
    size = preprocessing.size if preprocessing else None
    if size is None and arch.startswith("torchvision:"):  # one ViT is published for 518 px
        size = preprocessing_of(arch).size
    weights = map_weights(path) if inputs.stream else read_weights(path)
    check_finite(weights, path.name)
    with _empty_weights() if inputs.stream else nullcontext():
        module = build(arch, weights, size)
    if inputs.stream:
        check_match(module.state_dict(), weights, path.name)
        assign_weights(module, weights)
    elif inputs.is_partial:
        return module, weights, load_matching(module, weights, path.name)
    else:
        cure = "check --arch, or load what fits with --set base.partial=true"
        check_match(module.state_dict(), weights, path.name, cure)
        module.load_state_dict(weights)
    return module, weights, ()


def _empty_weights() -> AbstractContextManager[Any]:
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise ModelError(
            "a network is streamed from its file with accelerate; run "
            f"`{install_command('scale')}`, or use --set training.offload=false."
        ) from error
    context: AbstractContextManager[Any] = init_empty_weights(include_buffers=False)
    return context  # without buffers, as some are in no file


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedModel:
    """A pretrained network, ready to be partitioned: eval mode, nothing requires a gradient.

    `changes`: the tensors that surgery at the input made. `random_tensors`: names of those with
    random values, where only part of a file fitted. `unchanged`: the record before any surgery.
    `stream`: weights stay in their file, and block outputs are stored in this number format.
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
    loaded = _load(base, arch, preprocessing, inputs or InputOptions())
    if inputs is None:
        return loaded
    module, record, changes = change_inputs(loaded.module, loaded.record, inputs)
    every, origin = (*loaded.changes, *changes), loaded.origin
    return replace(loaded, module=module, record=record, changes=every, unchanged=origin)


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
    if (folder := hub.timm_folder_of(name)) is not None:
        module, own_arch, prep = hub.open_timm(
            folder, preprocessing.size if preprocessing else None
        )
        title = f"{folder.resolve().name} ({own_arch.partition(':')[2]})"
        return _pretrained(module, preprocessing or prep, name, title, own_arch, str(folder))
    if is_encoder_base(name):
        return _from_encoder(name, preprocessing)
    if name.startswith(("timm:", "torchvision:")):
        return _from_library(name, preprocessing)
    if Path(name).suffix in SUFFIXES:
        return _from_file(Path(name), arch, preprocessing, inputs)
    near = [f"timm:{name}"]
    if not timm.is_model(name):
        names = [*SHIPPED, *SHIPPED_TEXT, *(f"timm:{n}" for n in timm.list_models())]
        near = difflib.get_close_matches(name, names, n=3)
    if near:
        raise ModelError(f"base model {name!r} is not known; did you mean {', '.join(near)}?")
    raise ModelError(
        f"base model {name!r} is not known; use {', '.join([*SHIPPED, *SHIPPED_TEXT])}, "
        "timm:NAME, torchvision:NAME, transformers:NAME or a weights file."
    )


def _from_package(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    shipped = SHIPPED[name]
    (path,) = shipped_files(shipped)
    module = build(shipped.arch)
    module.load_state_dict(match_by_order(module.state_dict(), read_weights(path), shipped.package))
    prep, source = preprocessing or shipped.preprocessing, f"pip package {shipped.package}"
    return _pretrained(module, prep, name, shipped.title, shipped.arch, source)


def _from_library(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    library, network = split_arch(name)
    if is_timm := library == "timm":
        source = published_config(network)
    else:
        source = {"url": torchvision.models.get_model_weights(network).DEFAULT.url}
    if not source:
        raise ModelError(
            f"{name} has no published weights; pass a file with --base FILE --arch {name}."
        )
    path = hub.find_weights(source)
    if path is None:
        raise ModelError(
            f"{name} is not on this machine and cannot be downloaded. Use the default base model, "
            f"or save its weights as {network}.safetensors and pass "
            f"--base {network}.safetensors --arch {name}."
        )
    prep, title = preprocessing or preprocessing_of(name), f"{network} ({library})"
    if is_timm:
        weights = read_weights(path)
        check_finite(weights, path.name)
        module = build_pretrained(name, weights, prep.size)
    else:
        module, _, _ = _build_filled(name, path, preprocessing, InputOptions())
    return _pretrained(module, prep, name, title, arch=name, source=str(path))


def _from_file(
    path: Path, arch: str | None, preprocessing: Preprocessing | None, inputs: InputOptions
) -> PretrainedModel:
    if arch is None:
        raise ModelError(
            f"{path.name} holds weights but not the network they belong to; "
            "add --arch timm:NAME or --arch torchvision:NAME."
        )
    split_arch(arch)
    module, weights, changes = _build_filled(arch, path, preprocessing, inputs)
    prep = preprocessing or for_channels(preprocessing_of(arch), module, inputs.channels or 1)
    title = f"{path.name} ({arch.partition(':')[2]})"
    base = _pretrained(module, prep, str(path), title, arch, source=str(path))
    if not changes:
        return replace(base, stream=inputs.stream)
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
    prep = preprocessing_from(config) if config else IMAGENET
    if inputs.channels is not None or not config:
        prep = for_channels(prep, clone, inputs.channels or 1)
    name, prep = f"module:{kind}", preprocessing or prep
    return _pretrained(clone, prep, name, title=kind, arch=name, source="passed in Python")


def _pretrained(
    module: nn.Module, preprocessing: Preprocessing, name: str, title: str, arch: str, source: str
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


# ---- Encoders of transformers: in a package, a folder, or the hub's cache.


def is_encoder_base(name: str) -> bool:
    """Whether a base model is an encoder, by its name or by the config.json of its folder.

    transformers:FOLDER counts as one: loading reports what is wrong with it.
    """
    folder = folder_of(name)
    kinds = {*TEXT_KINDS, *IMAGE_ENCODERS, *IMAGE_TOWERS, *AUDIO_ENCODERS}
    is_known = folder is not None and (name.startswith(PREFIX) or kind_of(folder) in kinds)
    return name in SHIPPED_TEXT or is_known


def _from_encoder(name: str, preprocessing: Preprocessing | None) -> PretrainedModel:
    shipped = SHIPPED_TEXT.get(name)
    folder = shipped_files(shipped)[0].parent if shipped else folder_of(name)
    if folder is None:
        raise ModelError(f"{name} is not on this machine; name a folder that holds it.")
    config = settings(folder / CONFIG)
    kind = str(config.get("model_type"))
    network: Encoder
    inputs: Inputs
    if kind in TEXT_KINDS:
        network, arch, inputs = load_text(folder, config)
    elif kind in {*IMAGE_ENCODERS, *IMAGE_TOWERS}:
        network, arch, inputs = load_vision(folder, config, preprocessing)
    elif kind in AUDIO_ENCODERS:
        network, arch, inputs = load_wave(folder, config)
    else:
        raise ModelError(
            f"{folder} holds a {config.get('model_type')}; supported encoders are, of texts, "
            f"{', '.join(TEXT_KINDS)}, of images {', '.join(IMAGE_ENCODERS)}, and of sounds "
            f"{', '.join(AUDIO_ENCODERS)}."
        )
    network.eval().requires_grad_(False)
    record = BaseModelRecord(
        name=name,
        title=shipped.title if shipped else Path(name.removeprefix(PREFIX)).name,
        arch=arch,
        source=f"pip package {shipped.package}" if shipped else str(folder),
        classes=0,
        sha256=tensor_digest(unique_tensors(network)),
        parameters=n_parameters(network),
        preprocessing=inputs,
    )
    return PretrainedModel(module=network, record=record)
