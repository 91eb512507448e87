"""Tokenizers, each under the SHA-256 of its tokenizer.json.

A description of inputs (`TextInputs`) names its tokenizer by that digest, so that it is a plain
record and a complete part of a cache key. Whoever opens a start or a run keeps the tokenizer
here; what stands under a digest never changes.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import StartError
from warmstart.extras import install_command
from warmstart.records import TextInputs

_kept: dict[str, str] = {}


def keep(payload: str) -> str:
    """Keep the text of a tokenizer.json; returns its digest.

    Raises: StartError if it is no JSON object.

    >>> text_of(keep('{"model": {}}'))
    '{"model": {}}'
    """
    try:
        is_object = isinstance(json.loads(payload), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise StartError("tokenizer.json is damaged (it is no JSON object); copy it again.")
    digest = hashlib.sha256(payload.encode()).hexdigest()
    _kept[digest] = payload
    return digest


def text_of(digest: str) -> str:
    """The tokenizer.json under a digest. Raises: StartError where nobody has kept it."""
    if digest not in _kept:
        raise StartError(
            f"the tokenizer {digest[:12]} is not at hand; load the start or the run that it "
            "belongs to first."
        )
    return _kept[digest]


def open_tokenizer(payload: str, length: int | None = None) -> Any:
    """A tokenizer that pads nothing and keeps at most `length` tokens (None: all).

    Raises: StartError if the package is missing, or the file is none of its kind.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise StartError(
            f"texts need the package tokenizers; run `{install_command('text')}`."
        ) from None
    try:
        tokenizer: Any = Tokenizer.from_str(payload)
    except Exception as error:  # the package raises bare exceptions
        reason = str(error).partition("\n")[0][:160]
        raise StartError(f"tokenizer.json is damaged ({reason}); copy it again.") from error
    tokenizer.no_padding()
    if length is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length=length)
    return tokenizer


@lru_cache(maxsize=16)
def _opened(digest: str, length: int | None) -> Any:
    return open_tokenizer(text_of(digest), length)


def token_numbers(text: str, inputs: TextInputs) -> NDArray[np.int32]:
    """The tokens of a text, filled up with `pad`. Shapes: (length,) int32. Thread-safe.

    A long text goes on in further windows, each with the special tokens around it.
    Raises: StartError where the tokenizer is not at hand.
    """
    first = _opened(inputs.tokenizer, inputs.window).encode(text)
    row = np.full((inputs.n_windows, inputs.window), inputs.pad, np.int32)
    for place, found in zip(row, (first, *first.overflowing), strict=False):
        place[: len(found.ids)] = found.ids
    return row.reshape(-1)[: inputs.length]


def windows_for(n_tokens: int, inputs: TextInputs) -> int:
    """Windows of `inputs.most` places that a text takes whose `all_tokens` are so many.

    Raises: StartError where the tokenizer is not at hand.
    """
    special: int = _opened(inputs.tokenizer, None).num_special_tokens_to_add(False)
    return max(-(-(n_tokens - special) // (inputs.most - special)), 1)


def is_cut(n_tokens: int, inputs: TextInputs) -> bool:
    """Whether the end of a text whose `all_tokens` are so many is not read.

    Raises: StartError where the tokenizer is not at hand.
    """
    if inputs.length <= inputs.most:
        return n_tokens > inputs.length
    return windows_for(n_tokens, inputs) > inputs.n_windows


def all_tokens(text: str, tokenizer: str) -> list[int]:
    """Every token of a text, however long, the special ones included."""
    found: list[int] = _opened(tokenizer, None).encode(text).ids
    return found
