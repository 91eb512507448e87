"""The Hugging Face hub: published weights, cached or downloaded, and folders of its models.

Offline a download fails within seconds: the address is tried once, with a time limit, before the
hub's client, whose own retries take most of a minute.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.architectures import (
    IMAGENET,
    build,
    for_channels,
    preprocessing_from,
    split_arch,
)
from warmstart.network.weights import check_finite, check_match, read_weights
from warmstart.records.inputs import Preprocessing

PREFIX = "transformers:"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
_FILES = ("model.safetensors", "pytorch_model.bin")
_DAMAGE = (TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError)  # of settings
_PATIENCE_S = 6.0
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# The largest sizes that a config.json may name, by the ends of their names.
_MOST = {"_layers": 1_000, "hidden_size": 100_000, "intermediate_size": 1_000_000, "_heads": 10_000}


def find_weights(source: Mapping[str, Any]) -> Path | None:
    """Published weights, cached or downloaded; None where neither succeeds.

    `source` names them as a timm configuration does: by `hf_hub_id`, by `url` or by both.
    """
    repository, _, revision = str(source.get("hf_hub_id") or "").partition("@")
    file, version = source.get("hf_hub_filename"), revision or None
    names = ((str(file),) if file else _FILES) if repository else ()
    for name in names:
        cached = try_to_load_from_cache(repository, name, revision=version)
        if isinstance(cached, str):
            return Path(cached)
    url = str(source.get("url") or "")
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if url and path.is_file():
        return path
    if names and _answers(constants.ENDPOINT):
        for name in names:
            with contextlib.suppress(OSError, ValueError), _silenced():
                return Path(hf_hub_download(repository, name, revision=version))
    return path if url and _answers(url) and _download(url, path) else None


def _download(url: str, path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, _, digest = path.stem.rpartition("-")
    try:
        hash_prefix = digest if len(digest) == 8 and "-" in path.stem else None
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
    except (OSError, RuntimeError):
        return False
    return True


def _answers(url: str) -> bool:
    """Whether the host answers within `_PATIENCE_S`; an error page counts."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    answered = threading.Event()

    def request() -> None:
        head = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(head, timeout=_PATIENCE_S).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError):
            return
        answered.set()

    # In a thread: a name server that does not answer ignores the time limit.
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return answered.is_set()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub")
    level, is_hidden = logger.level, are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not is_hidden:
            enable_progress_bars()


# ---- Folders as timm and transformers write them: on disk, or a snapshot in the hub's cache.


def settings(path: Path) -> Mapping[str, Any]:
    """A JSON file of settings.

    Raises: ModelError where it is damaged, or names sizes, to be allocated, that no network has.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no settings; copy the folder again.")
    _check_sizes(path, content)
    return content


def damaged(path: Path, reason: object) -> ModelError:
    """The error for a damaged file of a folder."""
    return ModelError(f"{path} is damaged ({reason}); copy the folder again.")


def _check_sizes(path: Path, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _check_sizes(path, value)
        most = next((most for end, most in _MOST.items() if name.endswith(end)), None)
        if most is not None and type(value) is int and not 1 <= value <= most:
            raise ModelError(
                f"{path} says {name} {value:,}, which no network has (1 to {most:,}); copy the "
                "folder again."
            )


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, in one file or several. Raises: ModelError if one is damaged."""
    index = folder / "model.safetensors.index.json"
    names = [name for name in _FILES if (folder / name).is_file()][:1]
    if index.is_file():
        names = sorted(set(settings(index).get("weight_map", {}).values()))
    if not names:
        raise ModelError(f"{folder} has no {' or '.join(_FILES)}; copy the folder again.")
    weights: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{index} names {name!r}, outside the folder; copy the folder again.")
        shard = read_weights(folder / name)
        check_finite(shard, str(folder / name))
        weights |= shard
    return weights


def timm_folder_of(name: str) -> Path | None:
    """The folder of timm's that [timm:|transformers:]FOLDER names; None for another name."""
    folder = Path(name.removeprefix("timm:").removeprefix(PREFIX)).expanduser()
    try:
        is_timm = (folder / CONFIG).is_file() and "architecture" in settings(folder / CONFIG)
    except ModelError:
        return None
    return folder if is_timm else None


def open_timm(
    folder: Path, size: tuple[int, int] | None = None
) -> tuple[nn.Module, str, Preprocessing]:
    """The network of a folder that timm wrote, its architecture, and its preprocessing.

    `size` (height, width in px) replaces the folder's. Raises: ModelError if that is damaged.
    """
    config, weights = settings(folder / CONFIG), read_folder(folder)
    arch = f"timm:{config['architecture']}"
    split_arch(arch)
    try:
        prep = preprocessing_from(config.get("pretrained_cfg") or config)
    except _DAMAGE as error:
        raise damaged(folder / CONFIG, error) from error
    module = build(arch, weights, size or prep.size)
    check_match(module.state_dict(), weights, str(folder), "copy the folder again")
    module.load_state_dict(weights)
    return module, arch, for_channels(prep, module)


def read_processor(path: Path) -> Preprocessing:
    """Read a preprocessor_config.json of transformers. Raises: ModelError if it is damaged."""
    try:
        return from_processor(settings(path))
    except _DAMAGE as error:
        raise damaged(path, error) from error


def from_processor(config: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in the content of a preprocessor_config.json."""

    def does(step: str) -> bool:
        return config.get(f"do_{step}", True) is not False

    height, width, resize, squash = _sides(config)
    # Values become x * factor - offset, then (that - mean) / std; ours are of x / 255.
    scale = 255 * float(config.get("rescale_factor", 1 / 255)) if does("rescale") else 255
    offset = 1.0 if config.get("rescale_offset") else 0.0
    mean = config.get("image_mean", IMAGENET.mean) if does("normalize") else (0.0,) * 3
    std = config.get("image_std", IMAGENET.std) if does("normalize") else (1.0,) * 3
    return Preprocessing(
        size=(height, width),
        resize=resize,
        mean=tuple((float(m) + offset) / scale for m in mean),
        std=tuple(float(s) / scale for s in std),
        interpolation=_RESAMPLE.get(config.get("resample", 2), "bilinear"),  # type: ignore[arg-type]
        squash=squash,
    )


def _sides(config: Mapping[str, Any]) -> tuple[int, int, int, bool]:
    """Height and width of the input, the resized short side, and whether images are squashed."""
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    side = int(size.get("shortest_edge") or min(size.get("height", 224), size.get("width", 224)))
    if config.get("do_center_crop", False) and "height" in crop:
        return int(crop["height"]), int(crop["width"]), side, "shortest_edge" not in size
    if "height" in size:
        return int(size["height"]), int(size["width"]), side, True
    share = float(config.get("crop_pct") or 1.0)
    if share < 1 and side >= 384:  # ConvNeXt's own rule: large inputs are the whole picture
        return side, side, side, True
    return side, side, int(side / share), False


def folder_of(name: str) -> Path | None:
    """The folder of a name, or None where there is none of that name on this machine."""
    path = Path(name.removeprefix(PREFIX)).expanduser()
    if (path / CONFIG).is_file():
        return path
    if not name.startswith(PREFIX) or os.path.isabs(path) or len(path.parts) > 2:
        return None
    try:
        cached = try_to_load_from_cache(name.removeprefix(PREFIX), CONFIG)
    except ValueError:  # not a valid name of the hub
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def kind_of(folder: Path) -> str:
    """The `model_type` of a folder; "" where its config.json cannot be read."""
    try:
        return str(json.loads((folder / CONFIG).read_text("utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def fill(
    encoder: nn.Module, folder: Path, heads: Sequence[str], renamed: Mapping[str, str]
) -> None:
    """Load a folder's weights into an encoder, whatever prefix their names have.

    `heads`: prefixes of tensors that the encoder does not have; `renamed`: current names of parts
    of names. Raises: ModelError if a file or a tensor is missing.
    """
    own, weights = encoder.state_dict(), read_folder(folder)
    first = next(iter(own))  # all names share its prefix
    prefixes = (name.removesuffix(first) for name in weights if name.endswith(f".{first}"))
    prefix = "" if first in weights else next(prefixes, "")
    named = {}
    for name, tensor in weights.items():
        bare = name.removeprefix(prefix)
        for old, new in renamed.items() if bare not in own else ():
            bare = bare.replace(old, new)
        if bare in own or not bare.startswith(tuple(heads)):
            named[bare] = tensor
    check_match(own, named, str(folder), "copy the folder again")
    encoder.load_state_dict(named)
