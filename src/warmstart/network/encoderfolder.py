"""Folders in which transformers keeps an encoder: on disk, or a snapshot in its cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from warmstart.errors import StartError
from warmstart.network.hubfiles import settings
from warmstart.network.weights import check_finite, check_match, read_weights

PREFIX, CONFIG = "transformers:", "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def folder_of(name: str) -> Path | None:
    """The folder of a name, or None where nothing of that name is on this machine."""
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


def kind_of(folder: Path) -> str:
    """The `model_type` of a folder; nothing where its config.json cannot be read."""
    try:
        return str(json.loads((folder / CONFIG).read_text("utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def settings_in(folder: Path, name: str) -> dict[str, Any]:
    """What a file of settings holds. Raises: StartError where it is damaged."""
    return dict(settings(folder / name))


def fill(
    encoder: nn.Module, folder: Path, heads: Sequence[str], renamed: Mapping[str, str]
) -> None:
    """Put a folder's weights into an encoder, whatever stands before their names.

    `heads`: beginnings of names of output layers, for which the encoder has no place; `renamed`:
    what parts of names are called today. Raises: StartError if a file or a tensor is missing.
    """
    file = next((folder / f for f in _WEIGHTS if (folder / f).is_file()), None)
    if file is None:
        raise StartError(f"{folder} has no {' or '.join(_WEIGHTS)}; copy the folder again.")
    weights = _own(read_weights(file), encoder.state_dict(), heads, renamed)
    check_finite(weights, file.name)
    check_match(encoder.state_dict(), weights, file.name, "copy the folder again")
    encoder.load_state_dict(weights)


def _own(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], heads: Sequence[str],
    renamed: Mapping[str, str],
) -> dict[str, Tensor]:  # fmt: skip
    """The encoder's own tensors; those of output layers are left."""
    first = next(iter(wanted))  # whatever stands before its name stands before all others
    fronts = (name.removesuffix(first) for name in weights if name.endswith(f".{first}"))
    front = "" if first in weights else next(fronts, "")
    named = {}
    for name, tensor in weights.items():
        bare = name.removeprefix(front)
        for old, new in renamed.items() if bare not in wanted else ():
            bare = bare.replace(old, new)
        named[bare] = tensor
    return {
        name: tensor for name, tensor in named.items()
        if name in wanted or not name.startswith(tuple(heads))
    }  # fmt: skip
