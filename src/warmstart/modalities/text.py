"""Texts: one normal form for the same text, whichever system wrote it, and its tokens."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError, ModelError, install_command
from warmstart.records.inputs import TextInputs

WIDTH = 2048  # slots of a bag of words
MAX_MEAN_LETTERS = 12  # a word; above, the text has no spaces between words
_WORD = re.compile(r"\w+")
_SPACES = re.compile(r"\s+")


def normal(text: str) -> str:
    """A text in Unicode's composed form (NFC), with single spaces for white space.

    NUL is removed; emoji, direction marks and letters of any script stay.

    >>> normal("  cafe\\u0301\\n au  lait ")
    'café au lait'
    """
    text = unicodedata.normalize("NFC", text.replace("\0", ""))
    return _SPACES.sub(" ", text).strip()


def payload_of(text: str) -> bytes:
    """A text as the bytes of its example: its normal form in UTF-8.

    >>> payload_of(" naïve ").decode()
    'naïve'
    """
    return normal(text).encode("utf-8", "replace")


def decode_utf8(payload: bytes) -> str:
    """The normal form of a text. Raises: DataError with a short reason, without a name."""
    try:
        text = normal(payload.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 (byte {error.start:,}); save it again as UTF-8") from None
    if not text:
        raise DataError("is empty")
    return text


def near_duplicate_texts(texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pairs of ids whose texts differ only in case, punctuation and spaces; equal texts do not.

    Each copy is paired with the first, so n copies make n - 1 pairs.

    >>> near_duplicate_texts({"a": "Good film.", "b": "good film", "c": "bad film"})
    (('a', 'b'),)
    """
    first: dict[str, str] = {}
    pairs = []
    for id, text in texts.items():
        letters = "".join(letter for letter in text.casefold() if letter.isalnum())
        original = first.setdefault(letters, id)
        if letters and original != id and texts[original] != text:
            pairs.append((original, id))
    return tuple(pairs)


def word_counts(texts: Sequence[str], width: int = WIDTH) -> NDArray[np.float32]:
    """A bag of words: counts of words and pairs of words. Shapes: returns (n, width).

    Words are hashed into `width` slots (Weinberger et al. 2009, "Feature Hashing"); in text
    without spaces, neighbouring letters count as words. Counts are damped by ln(1 + count),
    and rows have length 1.

    >>> counts = word_counts(["good film", "Good film", "bad"])
    >>> bool((counts[0] == counts[1]).all()), counts.shape
    (True, (3, 2048))
    """
    counts = np.zeros((len(texts), width), np.float32)
    for row, text in enumerate(texts):
        for word in _words(text):
            counts[row, zlib.crc32(word.encode()) % width] += 1
    np.log1p(counts, out=counts)
    norms = np.linalg.norm(counts, axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(norms, 1e-12), np.float32)


def _words(text: str) -> list[str]:
    words = _WORD.findall(text.casefold())
    if words and sum(map(len, words)) > MAX_MEAN_LETTERS * len(words):  # no spaces between words
        letters = "".join(words)
        return [letters[i : i + n] for n in (1, 2) for i in range(len(letters) - n + 1)]
    return words + [f"{a} {b}" for a, b in pairwise(words)]


# ---- Tokenizers, each under the SHA-256 of its tokenizer.json.
#
# `TextInputs` names its tokenizer by that digest, so that it is a plain record and complete as a
# member of a cache key. Opening a base model or a run registers its tokenizer here; the entry
# of a digest never changes.

_tokenizers: dict[str, str] = {}


def register_tokenizer(payload: str) -> str:
    """Register the text of a tokenizer.json; returns its digest.

    Raises: ModelError if it is not a JSON object.

    >>> tokenizer_json(register_tokenizer('{"model": {}}'))
    '{"model": {}}'
    """
    try:
        is_object = isinstance(json.loads(payload), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise ModelError("tokenizer.json is damaged (not a JSON object); copy it again.")
    digest = hashlib.sha256(payload.encode()).hexdigest()
    _tokenizers[digest] = payload
    return digest


def tokenizer_json(digest: str) -> str:
    """The tokenizer.json with this digest. Raises: ModelError if it is not registered."""
    if digest not in _tokenizers:
        raise ModelError(
            f"the tokenizer {digest[:12]} is not loaded; load the base model or the run that "
            "it belongs to first."
        )
    return _tokenizers[digest]


def open_tokenizer(payload: str, length: int | None = None) -> Any:
    """A tokenizer without padding that returns at most `length` tokens (None: all).

    Raises: ModelError if the package is missing or the file is damaged.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ModelError(
            f"texts need the package tokenizers; run `{install_command('text')}`."
        ) from None
    try:
        tokenizer: Any = Tokenizer.from_str(payload)
    except Exception as error:  # the package raises bare exceptions
        reason = str(error).partition("\n")[0][:160]
        raise ModelError(f"tokenizer.json is damaged ({reason}); copy it again.") from error
    tokenizer.no_padding()
    if length is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length=length)
    return tokenizer


@lru_cache(maxsize=16)
def _tokenizer(digest: str, length: int | None) -> Any:
    return open_tokenizer(tokenizer_json(digest), length)


def token_numbers(text: str, inputs: TextInputs) -> NDArray[np.int32]:
    """The tokens of a text, padded with `pad`. Shapes: (length,) int32. Thread-safe.

    A long text continues in further windows, each with its special tokens.
    Raises: ModelError if the tokenizer is not loaded.
    """
    first = _tokenizer(inputs.tokenizer, inputs.window).encode(text)
    windows = np.full((inputs.n_windows, inputs.window), inputs.pad, np.int32)
    for window, encoding in zip(windows, (first, *first.overflowing), strict=False):
        window[: len(encoding.ids)] = encoding.ids
    return windows.reshape(-1)[: inputs.length]


def windows_for(n_tokens: int, inputs: TextInputs) -> int:
    """Windows of `inputs.most` tokens that a text of `n_tokens` from `all_tokens` takes."""
    special: int = _tokenizer(inputs.tokenizer, None).num_special_tokens_to_add(False)
    return max(-(-(n_tokens - special) // (inputs.most - special)), 1)


def is_cut(n_tokens: int, inputs: TextInputs) -> bool:
    """Whether a text of `n_tokens` from `all_tokens` is truncated."""
    if inputs.length <= inputs.most:
        return n_tokens > inputs.length
    return windows_for(n_tokens, inputs) > inputs.n_windows


def all_tokens(text: str, tokenizer: str) -> list[int]:
    """Every token of a text, however long, special tokens included."""
    ids: list[int] = _tokenizer(tokenizer, None).encode(text).ids
    return ids
