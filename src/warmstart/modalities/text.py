"""Texts as bytes: one form for what reads alike, whichever system wrote it."""

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

WIDTH = 2048  # places of a bag of words
LONGEST = 12  # letters a word, on average, from which on there are no spaces between words
_WORD = re.compile(r"\w+")
_SPACES = re.compile(r"\s+")


def normal(text: str) -> str:
    """A text in Unicode's composed form (NFC), white space being single spaces.

    NUL and the replacement of what could not be decoded are left out; emoji, marks of direction
    and letters of any script stay.

    >>> normal("  cafe\\u0301\\n au  lait ")
    'café au lait'
    """
    text = unicodedata.normalize("NFC", text.replace("\0", ""))
    return _SPACES.sub(" ", text).strip()


def payload_of(text: str) -> bytes:
    """A text as the bytes that its example is known by: normal, in UTF-8.

    >>> payload_of(" naïve ").decode()
    'naïve'
    """
    return normal(text).encode("utf-8", "replace")


def decode_text(payload: bytes, name: str) -> str:
    """The text of an example, in its normal form.

    Raises: DataError "NAME is empty", or "NAME is not UTF-8".

    >>> decode_text(b"a\\r\\nb", "x.txt")
    'a b'
    """
    try:
        return normal_of(payload)
    except DataError as error:
        raise DataError(f"{name} {error}") from error


def normal_of(payload: bytes) -> str:
    """The same where the caller knows the name. Raises: DataError with a short reason."""
    try:
        text = normal(payload.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 (byte {error.start:,}); save it again as UTF-8") from None
    if not text:
        raise DataError("is empty")
    return text


def bare(text: str) -> str:
    """What is left of a text without case, marks and spaces: two that differ in these are copies.

    >>> bare("Don't PANIC!") == bare("dont panic")
    True
    """
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def near_copies(texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pairs of ids whose texts are the same but for case, marks and spaces; the same are none.

    Each further one is paired with the first, so that n copies give n - 1 pairs.

    >>> near_copies({"a": "Good film.", "b": "good film", "c": "bad film", "d": "good film"})
    (('a', 'b'), ('a', 'd'))
    """
    first: dict[str, str] = {}
    pairs = []
    for id, text in texts.items():
        key = bare(text)
        one = first.setdefault(key, id)
        if key and one != id and texts[one] != text:
            pairs.append((one, id))
    return tuple(pairs)


def word_counts(texts: Sequence[str], width: int = WIDTH) -> NDArray[np.float32]:
    """What a bag of words knows: how often words and pairs of words come. Shapes: (n, width).

    Words are sorted into `width` places by a hash (Weinberger et al. 2009, "Feature Hashing");
    of text written without spaces, neighbouring letters count as words. Counts are damped, 1 +
    ln of them, and rows brought to length 1.

    >>> counts = word_counts(["good film", "Good film", "bad"])
    >>> bool((counts[0] == counts[1]).all()), counts.shape
    (True, (3, 2048))
    """
    found = np.zeros((len(texts), width), np.float32)
    for row, text in enumerate(texts):
        for word in _words(text):
            found[row, zlib.crc32(word.encode()) % width] += 1
    np.log1p(found, out=found)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(norms, 1e-12), np.float32)


def _words(text: str) -> list[str]:
    words = _WORD.findall(text.casefold())
    if words and sum(map(len, words)) > LONGEST * len(words):  # no spaces between words
        letters = "".join(words)
        return [letters[i : i + n] for n in (1, 2) for i in range(len(letters) - n + 1)]
    return words + [f"{a} {b}" for a, b in pairwise(words)]


# ---- Tokenizers, each under the SHA-256 of its tokenizer.json.
#
# A description of inputs (`TextInputs`) names its tokenizer by that digest, so that it is a plain
# record and a complete part of a cache key. Whoever opens a start or a run keeps the tokenizer
# here; what stands under a digest never changes.


_kept: dict[str, str] = {}


def keep(payload: str) -> str:
    """Keep the text of a tokenizer.json; returns its digest.

    Raises: ModelError if it is no JSON object.

    >>> text_of(keep('{"model": {}}'))
    '{"model": {}}'
    """
    try:
        is_object = isinstance(json.loads(payload), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise ModelError("tokenizer.json is damaged (it is no JSON object); copy it again.")
    digest = hashlib.sha256(payload.encode()).hexdigest()
    _kept[digest] = payload
    return digest


def text_of(digest: str) -> str:
    """The tokenizer.json under a digest. Raises: ModelError where nobody has kept it."""
    if digest not in _kept:
        raise ModelError(
            f"the tokenizer {digest[:12]} is not at hand; load the start or the run that it "
            "belongs to first."
        )
    return _kept[digest]


def open_tokenizer(payload: str, length: int | None = None) -> Any:
    """A tokenizer that pads nothing and keeps at most `length` tokens (None: all).

    Raises: ModelError if the package is missing, or the file is none of its kind.
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
def _opened(digest: str, length: int | None) -> Any:
    return open_tokenizer(text_of(digest), length)


def token_numbers(text: str, inputs: TextInputs) -> NDArray[np.int32]:
    """The tokens of a text, filled up with `pad`. Shapes: (length,) int32. Thread-safe.

    A long text goes on in further windows, each with the special tokens around it.
    Raises: ModelError where the tokenizer is not at hand.
    """
    first = _opened(inputs.tokenizer, inputs.window).encode(text)
    row = np.full((inputs.n_windows, inputs.window), inputs.pad, np.int32)
    for place, found in zip(row, (first, *first.overflowing), strict=False):
        place[: len(found.ids)] = found.ids
    return row.reshape(-1)[: inputs.length]


def windows_for(n_tokens: int, inputs: TextInputs) -> int:
    """Windows of `inputs.most` places that a text takes whose `all_tokens` are so many.

    Raises: ModelError where the tokenizer is not at hand.
    """
    special: int = _opened(inputs.tokenizer, None).num_special_tokens_to_add(False)
    return max(-(-(n_tokens - special) // (inputs.most - special)), 1)


def is_cut(n_tokens: int, inputs: TextInputs) -> bool:
    """Whether the end of a text whose `all_tokens` are so many is not read.

    Raises: ModelError where the tokenizer is not at hand.
    """
    if inputs.length <= inputs.most:
        return n_tokens > inputs.length
    return windows_for(n_tokens, inputs) > inputs.n_windows


def all_tokens(text: str, tokenizer: str) -> list[int]:
    """Every token of a text, however long, the special ones included."""
    found: list[int] = _opened(tokenizer, None).encode(text).ids
    return found
