"""Published weights: found in the local caches, or downloaded where the network allows.

Offline this fails within seconds: the address is tried once, with a time limit, before the
hub's client, whose own retries take most of a minute.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
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

_PATIENCE_S = 6.0
_FILES = ("model.safetensors", "pytorch_model.bin")


def find_published(source: Mapping[str, Any]) -> Path | None:
    """Weights named by a timm configuration (`hf_hub_id`, `url`), without network access."""
    repository, revision, names = _hub_files(source)
    for name in names:
        path = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str):
            return Path(path)
    return find_url(str(source.get("url") or ""))


def find_url(url: str) -> Path | None:
    """Weights of this address in torch's hub cache, if they are there."""
    path = _checkpoint(url)
    return path if url and path.is_file() else None


def download_published(source: Mapping[str, Any]) -> Path | None:
    """Download the weights named by a timm configuration; None where that fails."""
    repository, revision, names = _hub_files(source)
    if names and _answers(constants.ENDPOINT):
        for name in names:
            with contextlib.suppress(OSError, ValueError), _silenced():
                return Path(hf_hub_download(repository, name, revision=revision))
    return download_url(str(source.get("url") or ""))


def download_url(url: str) -> Path | None:
    """Download one file into torch's hub cache; None where that fails."""
    if not url or not _answers(url):
        return None
    path = _checkpoint(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem.rsplit("-", 1)
    hash_base = stem[1] if len(stem) == 2 and len(stem[1]) == 8 else None
    try:
        torch.hub.download_url_to_file(url, str(path), hash_base, progress=False)
    except (OSError, RuntimeError):
        return None
    return path


def _checkpoint(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _hub_files(source: Mapping[str, Any]) -> tuple[str, str | None, tuple[str, ...]]:
    """Repository, revision, and the files to try; no files where no repository is named."""
    repository, _, revision = str(source.get("hf_hub_id") or "").partition("@")
    name = source.get("hf_hub_filename")
    names = (str(name),) if name else _FILES
    return repository, revision or None, names if repository else ()


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
