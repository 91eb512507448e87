"""Texts: one normal form for the same text, whichever system wrote it, and its tokens."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError, ModelError, install_command
from warmstart.modalities.modality import (
    Encoded,
    Form,
    Modality,
    Payloads,
    input_choice,
    suffixes_of,
    with_version,
)
from warmstart.nouns import Nouns
from warmstart.records.inputs import WINDOWS, Inputs, Kind, Sound, TextInputs
from warmstart.records.plan import InputPlan, by_rule

WIDTH = 2048  # slots of a bag of words
MAX_MEAN_LETTERS = 12  # a word; above, the text has no spaces between words
_WORD = re.compile(r"\w+")
_SPACES = re.compile(r"\s+")


def normal(text: str) -> str:
    """A text in Unicode's composed form (NFC), with single spaces for white space.

    NUL is removed; emoji, direction marks and letters of any script stay.
    """
    text = unicodedata.normalize("NFC", text.replace("\0", ""))
    return _SPACES.sub(" ", text).strip()


def payload_of(text: str) -> bytes:
    """A text as the bytes of its example: its normal form in UTF-8."""
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


def letters_of(text: str) -> str:
    """What is the same where texts differ only in case, punctuation and spaces."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def word_counts(texts: Sequence[str], width: int = WIDTH) -> NDArray[np.float32]:
    """A bag of words: counts of words and pairs of words. Shapes: returns (n, width).

    Words are hashed into `width` slots (Weinberger et al. 2009, "Feature Hashing"); in text
    without spaces, neighbouring letters count as words. Counts are damped by ln(1 + count),
    and rows have length 1.
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


# ---- Batches: texts are padded to few lengths, in windows where the network is too short.

# Rows of texts are padded to one of these lengths, so that a text has the same number of tokens,
# and its row the same rounding, whichever texts are in its batch.
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Few lengths, so that a few more texts seldom need another one, and cached rows stay valid.
_STEPS = tuple(n for n in LENGTHS if n & (n - 1) == 0)
_WINDOW_STEPS = (2, 4)


def texts_of(payloads: Payloads) -> Iterator[tuple[str, str]]:
    """Id and text of each example that is one."""
    for id, payload in payloads:
        with suppress(DataError):
            yield id, decode_utf8(payload)


def lengths(rows: Encoded, inputs: TextInputs) -> NDArray[np.int64]:
    """Tokens of each text, padding between windows included. Shapes: (n, length) to (n,)."""
    positions = np.arange(1, rows.shape[1] + 1)
    last: NDArray[np.int64] = np.where(rows != inputs.pad, positions, 0).max(axis=1, initial=0)
    return last


def padded_length(n_tokens: int, window: int) -> int:
    """The padded length of a text of `n_tokens`: several windows are whole."""
    if n_tokens > window:
        return window * -(-n_tokens // window)
    enough = next((length for length in LENGTHS if length >= n_tokens), None)
    return min(enough or 512 * -(-n_tokens // 512), window)


class TextModality(Modality[TextInputs]):
    """Texts, as token ids."""

    kind: Kind = "text"
    input_name = "tokens"
    hub_name = "text"
    example = "text"
    networks = ("text",)
    default_base = base_example = "minilm"
    file = "tokenizer.json"
    form: Form = "texts"
    suffixes = suffixes_of("txt")
    augmentations = (
        by_rule(1.0, "texts are not cropped: half a sentence may mean the opposite"),
        by_rule(False, "a text backwards is no text"),
        by_rule(0.0, "texts have no light to vary"),
    )
    is_ragged = has_tokens = learns_from_pairs = fixes_few_shot_head = True
    nouns = Nouns(
        one="text",
        picture="text",
        an="a text",
        plain="plain words",
        changed="the same but for case, marks or spaces",
        typed="'a text'",
        quoted='"a text"',
        new="'a new text'",
        several="new.csv",
        labelled="more.csv",
        accept=".txt,text/plain",
    )

    def encode(self, payload: bytes, name: str, inputs: TextInputs) -> NDArray[np.int32]:
        try:
            text = decode_utf8(payload)
        except DataError as error:
            raise DataError(f"{name} {error}") from error
        return token_numbers(text, inputs)

    def decoder(self, inputs: TextInputs) -> str:
        return with_version("tokenizers")

    def fitted(
        self, inputs: TextInputs, payloads: Payloads | None, sound: Sound | None
    ) -> TextInputs:
        if payloads is None:
            return inputs
        longest = max(self.lengths(payloads, inputs).values(), default=1)
        if longest <= inputs.most:
            length = min(next((n for n in _STEPS if n >= longest), inputs.most), inputs.most)
        else:
            n_windows = windows_for(longest, inputs)
            n_windows = next((n for n in _WINDOW_STEPS if n >= n_windows), WINDOWS)
            length = inputs.most * min(n_windows, WINDOWS)
        return replace(inputs, length=length)

    def resized(self, inputs: TextInputs, size: int, network: str) -> TextInputs:
        n_windows = -(-size // inputs.most)
        if n_windows > WINDOWS:
            raise ModelError(
                f"{network} reads at most {WINDOWS} windows of {inputs.most} tokens of a text, not "
                f"{size:,}; ask for fewer."
            )
        return replace(inputs, length=size if n_windows == 1 else n_windows * inputs.most)

    def file_text(self, inputs: TextInputs) -> str:
        return tokenizer_json(inputs.tokenizer)

    def load_file(self, text: str, inputs: TextInputs) -> None:
        if register_tokenizer(text) != inputs.tokenizer:
            raise ModelError("it is not the tokenizer that the model was trained with")

    def lengths(self, payloads: Payloads, inputs: TextInputs) -> dict[str, int]:
        return {id: len(all_tokens(text, inputs.tokenizer)) for id, text in texts_of(payloads)}

    def batch(self, rows: Encoded, inputs: TextInputs) -> NDArray[np.int64]:
        """Shapes: (n, length) int32 to (n, L), L one of `LENGTHS` or whole windows."""
        longest = int(lengths(rows, inputs).max(initial=1))
        return rows[:, : padded_length(longest, inputs.window)].astype(np.int64)

    def padded_lengths(self, rows: Encoded, inputs: TextInputs) -> NDArray[np.int64]:
        padded = [padded_length(int(n), inputs.window) for n in lengths(rows, inputs)]
        return np.array(padded, np.int64)

    def rows_at_once(self, length: int, inputs: TextInputs, size: int) -> int:
        """Texts that have `size` windows in all, at least one."""
        return max(size * inputs.window // max(length, inputs.window), 1)

    def window(self, inputs: TextInputs) -> int:
        return inputs.window

    def metadata(self, inputs: TextInputs) -> dict[str, Any]:
        return {"tokens": inputs.length}

    def network_input(self, inputs: TextInputs) -> str:
        length = f"L up to {inputs.length}" if 1 in self.axes(inputs) else f"L = {inputs.length}"
        return f"tokens of {self.file} (N, L) int64, {length}, as `prepare` in predict.py does"

    def axes(self, inputs: TextInputs) -> dict[int, str]:
        # A row of one window may be as short as its text.
        return {0: "batch"} if inputs.n_windows > 1 else {0: "batch", 1: "length"}

    def integers(self, inputs: TextInputs) -> tuple[int, int]:
        return 0, inputs.vocabulary - 1

    def plan(self, inputs: TextInputs, base: Inputs) -> InputPlan:
        (length,) = base.shape
        why = f"your longest texts need no more; the network takes {length}"
        if inputs.length > inputs.most:
            why = f"your longest texts are read in {inputs.n_windows} windows of {inputs.window}"
        return InputPlan(
            size=input_choice(inputs.length, length, why),
            channels=input_choice(1, 1, "texts have one"),
        )

    def noise(self, n: int, inputs: TextInputs) -> NDArray[np.int32]:
        rng, shape = np.random.default_rng(0), (n, inputs.length)
        rows = rng.integers(0, inputs.vocabulary, shape, dtype=np.int32)
        rows[rows == inputs.pad] = (inputs.pad + 1) % inputs.vocabulary
        return rows

    def fingerprints(self, payloads: Payloads) -> dict[str, str]:
        return {id: letters for id, text in texts_of(payloads) if (letters := letters_of(text))}

    def plain_features(self, payloads: Payloads) -> dict[str, NDArray[np.float32]]:
        return {"words": word_counts([text for _, text in texts_of(payloads)])}


TEXT = TextModality()
