"""Encoders of transformers as base models: in a package, a folder, or the hub's cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.errors import ModelError
from warmstart.modalities import text
from warmstart.network.audio_encoders import (
    AUDIO_ENCODERS,
    DEFAULT_RATE,
    ClipEncoder,
    build_wave,
    wave_arch,
)
from warmstart.network.encoder import Encoder, Settings, design
from warmstart.network.hub import (
    CONFIG,
    PREFIX,
    PROCESSOR,
    damaged,
    fill,
    folder_of,
    kind_of,
    read_processor,
    settings,
)
from warmstart.network.image_encoders import (
    IMAGE_ENCODERS,
    VisionNetwork,
    build_vision,
)
from warmstart.network.image_encoders import PREFIX as VISION
from warmstart.network.registry import SHIPPED_TEXT, shipped_files
from warmstart.network.tensors import n_parameters, tensor_digest, unique_tensors
from warmstart.network.text_encoders import TEXT_KINDS, TextNetwork, arch_of, build_text
from warmstart.records.inputs import Inputs, Preprocessing, TextInputs, WaveInputs
from warmstart.records.network import BaseModelRecord

_TOKENIZER = "tokenizer.json"
_MOST_TOKENS = 512  # where the folder names no limit
_RENAMED_TEXT = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_LARGEST = 8192  # px of a side
# Models of images and texts, by the kind of their image encoder.
_IMAGE_TOWERS = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
_DEFAULT_SECONDS = 1.0  # until the length of the data's clips is known
# Types and ranges of the numbers in preprocessor_config.json.
_NUMBERS: dict[str, tuple[Any, float, float]] = {
    "sampling_rate": (int, 1_000, 768_000),
    "n_fft": (int, 16, 65_536),
    "hop_length": (int, 1, 65_536),
    "mean": ((int, float), -1e3, 1e3),
    "std": ((int, float), 1e-6, 1e6),
}
# Prefixes of tensors that encoders do not have: of output layers, of pretraining, and, for images,
# of the text encoder.
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


def is_encoder_base(name: str) -> bool:
    """Whether a base model is an encoder, by its name or by the config.json of its folder.

    transformers:FOLDER counts as one: loading reports what is wrong with it.

    >>> is_encoder_base("minilm"), is_encoder_base("lite0")
    (True, False)
    """
    if name in SHIPPED_TEXT:
        return True
    folder = folder_of(name)
    if folder is None:
        return False
    return name.startswith(PREFIX) or kind_of(folder) in {
        *TEXT_KINDS,
        *IMAGE_ENCODERS,
        *_IMAGE_TOWERS,
        *AUDIO_ENCODERS,
    }


def load_encoder(name: str, preprocessing: Preprocessing | None) -> tuple[Encoder, BaseModelRecord]:
    """An encoder in eval mode, and its record; `preprocessing` replaces that of an image encoder.

    Raises: ModelError if a file is missing or damaged, or a tensor of the encoder is.
    """
    shipped = SHIPPED_TEXT.get(name)
    folder = shipped_files(shipped)[0].parent if shipped else folder_of(name)
    if folder is None:
        raise ModelError(f"{name} is not on this machine; name a folder that holds it.")
    config = settings(folder / CONFIG)
    kind = str(config.get("model_type"))
    network: Encoder
    inputs: Inputs
    if kind in TEXT_KINDS:
        network, arch, inputs = _text_encoder(folder, config)
    elif kind in {*IMAGE_ENCODERS, *_IMAGE_TOWERS}:
        network, arch, inputs = _image_encoder(folder, config, preprocessing)
    elif kind in AUDIO_ENCODERS:
        network, arch, inputs = _audio_encoder(folder, config)
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
    return network, record


def _text_encoder(folder: Path, config: Settings) -> tuple[TextNetwork, str, TextInputs]:
    pooling = folder / "1_Pooling" / CONFIG  # by sentence-transformers; the mean without it
    is_first = pooling.is_file() and settings(pooling).get("pooling_mode_cls_token")
    arch = arch_of(config, "first" if is_first else "mean")
    network = build_text(arch, is_random=False)  # `fill` replaces every tensor, or raises
    fill(network.encoder, folder, _TEXT_HEADS, _RENAMED_TEXT)
    return network, arch, _text_inputs(folder, config, network)


def _text_inputs(folder: Path, config: Settings, network: Any) -> TextInputs:
    file = folder / _TOKENIZER
    if not file.is_file():
        raise ModelError(
            f"{folder} has no {_TOKENIZER}; save the tokenizer again with "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)."
        )
    payload = file.read_text("utf-8")
    tokenizer = text.open_tokenizer(payload)
    embeddings = network.encoder.embeddings
    vocabulary = embeddings.word_embeddings.num_embeddings
    if tokenizer.get_vocab_size() > vocabulary:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size():,} tokens, the network "
            f"{vocabulary:,}; they do not belong together."
        )
    positions = embeddings.position_embeddings.num_embeddings
    if config["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= network.pad + 1  # counted from behind the padding token's number
    limits = folder / "sentence_bert_config.json"
    limit = settings(limits).get("max_seq_length") if limits.is_file() else None
    most = int(min(positions, limit or _MOST_TOKENS))
    unknown = (tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
    return TextInputs(
        tokenizer=text.register_tokenizer(payload),
        length=most,
        most=most,
        pad=network.pad,
        vocabulary=vocabulary,
        unknown=next(filter(None, unknown), None),
    )


def _image_encoder(
    folder: Path, config: Settings, preprocessing: Preprocessing | None
) -> tuple[VisionNetwork, str, Preprocessing]:
    if (kind := str(config["model_type"])) in _IMAGE_TOWERS:
        kind, tower = _IMAGE_TOWERS[kind], config.get("vision_config")
        config = {**(tower if isinstance(tower, Mapping) else {}), "model_type": kind}
    architecture, arch = IMAGE_ENCODERS[kind], design(VISION, config, {})
    network, path = build_vision(arch), folder / PROCESSOR
    fill(network.encoder, folder, _IMAGE_HEADS, architecture.renamed)
    prep, size = preprocessing, network.size
    if prep is None and path.is_file():
        prep = read_processor(path)
        if not all(1 <= side <= _LARGEST for side in (*prep.size, prep.resize)):
            raise damaged(path, f"images of {prep.size} px")
    elif prep is None:
        mean, std = architecture.mean, architecture.std
        prep = Preprocessing(size=size, resize=min(size), mean=mean, std=std)
    return network, arch, prep


def _audio_encoder(folder: Path, config: Settings) -> tuple[ClipEncoder, str, WaveInputs]:
    path = folder / PROCESSOR
    processor = settings(path) if path.is_file() else {}
    for key, (number, low, high) in _NUMBERS.items():
        value = processor.get(key)
        if key in processor and not (isinstance(value, number) and low <= value <= high):
            raise ModelError(f"{path} has {key} {value!r}; copy the folder again.")
    kind = AUDIO_ENCODERS[str(config["model_type"])]
    is_scaled = kind.is_scaled is not None and bool(processor.get("do_normalize", kind.is_scaled))
    rate = processor.get("sampling_rate", DEFAULT_RATE)
    inputs = WaveInputs(sample_rate=rate, seconds=_DEFAULT_SECONDS, is_scaled=is_scaled)
    arch = wave_arch(config, processor)
    network = build_wave(arch)
    fill(network.encoder, folder, _AUDIO_HEADS, kind.renamed)
    return network, arch, inputs
