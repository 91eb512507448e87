"""Encoders of images as starts: a folder of transformers, or its cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.errors import StartError
from warmstart.network.encoderfolder import CONFIG, PREFIX, fill, folder_of, kind_of, settings_in
from warmstart.network.hubfiles import from_processor
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.network.vision import ENCODERS, build_vision, vision_arch
from warmstart.records import Preprocessing, StartRecord

_FEEDING = "preprocessor_config.json"
_LARGEST = 8192  # px of a side
# Models of images and texts, by the kind of their half that sees.
_HALVES = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
# Tensors of output layers and of the other half: the encoder has no place for them.
_HEADS = (
    "pooler.", "classifier.", "cls_classifier.", "distillation_classifier.", "decoder.",
    "text_model.", "logit_scale", "logit_bias", "visual_projection.", "text_projection.",
    "embeddings.position_ids", "embeddings.mask_token",
)  # fmt: skip


def is_vision_start(name: str) -> bool:
    """Whether a start is an encoder of images, by the config.json of its folder.

    >>> is_vision_start("lite0")
    False
    """
    folder = folder_of(name)
    return folder is not None and kind_of(folder) in {*ENCODERS, *_HALVES}


def load_vision(name: str, preprocessing: Preprocessing | None) -> tuple[Any, StartRecord]:
    """An encoder in eval mode, and its record; `preprocessing` replaces what the folder says.

    Raises: StartError if a file is missing or damaged, or a tensor of the encoder is.
    """
    folder = folder_of(name)
    if folder is None:
        raise StartError(f"{name} is not on this machine; name a folder that holds it.")
    config = _own(settings_in(folder, CONFIG))
    network = build_vision(arch := vision_arch(config))
    fill(network.encoder, folder, _HEADS, ENCODERS[network.kind].renamed)
    network.eval().requires_grad_(False)
    return network, StartRecord(
        name=name, title=Path(name.removeprefix(PREFIX)).name, arch=arch, source=str(folder),
        classes=0, sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=preprocessing or _preprocessing(folder, network),
    )  # fmt: skip


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(config.get("model_type"))
    if kind not in _HALVES:
        return dict(config)
    half = config.get("vision_config")
    return {**(half if isinstance(half, Mapping) else {}), "model_type": _HALVES[kind]}


def _preprocessing(folder: Path, network: Any) -> Preprocessing:
    """What preprocessor_config.json says; else the encoder's own size and usual scaling."""
    if (folder / _FEEDING).is_file():
        try:
            found = from_processor(settings_in(folder, _FEEDING))
            if not all(1 <= side <= _LARGEST for side in (*found.size, found.resize)):
                raise ValueError(f"images of {found.size} px")
            return found
        except (TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError) as error:
            raise StartError(
                f"{folder / _FEEDING} is damaged ({error}); copy the folder again."
            ) from error
    told, size = ENCODERS[network.kind], network.own_size
    return Preprocessing(
        size=size, resize=min(size), mean=told.mean, std=told.std, interpolation="bicubic",
    )  # fmt: skip
