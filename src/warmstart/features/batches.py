"""Encoded examples to the tensor that a network takes, for every kind of data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart.data.dataset import Collection
from warmstart.errors import DataError, ModelError
from warmstart.modalities import text as modalities_text
from warmstart.modalities.text import decode_utf8, near_duplicate_texts
from warmstart.network.inputs import InputOptions
from warmstart.network.load import PretrainedModel
from warmstart.records.data import Example
from warmstart.records.inputs import (
    WINDOWS,
    Inputs,
    Preprocessing,
    TableInputs,
    TensorInputs,
    TextInputs,
    WaveInputs,
)

Encoded = NDArray[Any]
# Rows of texts are padded to one of these lengths, so that a text has the same number of tokens,
# and its row the same rounding, whichever texts are in its batch.
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def to_tensor(batch: Encoded, inputs: Inputs) -> Tensor:
    """A batch of encoded examples as the network's input.

    Shapes: pictures (n, H, W, C) uint8 to (n, C, H, W) float32 in channels_last order; texts
    (n, length) int32 to (n, L) int64, cut to the longest of the batch, L one of `LENGTHS` or
    whole windows; rows of tables, tensors and waveforms unchanged.
    """
    if isinstance(inputs, TextInputs):
        longest = int(lengths(batch, inputs).max(initial=1))
        return torch.from_numpy(batch[:, : padded_length(longest, inputs.window)]).long()
    if isinstance(inputs, Preprocessing):
        return normalised(batch, inputs)
    return torch.from_numpy(batch)


def normalised(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """(n, H, W, C) uint8 to (n, C, H, W) float32 whose memory is channels_last.

    >>> prep = Preprocessing(size=(1, 1), resize=1, mean=(0.5,), std=(0.5,))
    >>> normalised(np.array([[[[255]]]], np.uint8), prep).item()
    1.0
    """
    scale = 1 / (255 * torch.tensor(preprocessing.std))
    shift = torch.tensor(preprocessing.mean) / torch.tensor(preprocessing.std)
    values = torch.from_numpy(images).float().mul_(scale).sub_(shift)
    return values.permute(0, 3, 1, 2)


def noise(inputs: Inputs, n: int) -> Encoded:
    """`n` examples of noise from a fixed seed."""
    rng = np.random.default_rng(0)
    if isinstance(inputs, TextInputs):
        rows = rng.integers(0, inputs.vocabulary, (n, inputs.length), dtype=np.int32)
        rows[rows == inputs.pad] = (inputs.pad + 1) % inputs.vocabulary
        return rows
    if isinstance(inputs, TensorInputs) and "int" in inputs.dtype:
        low, high = int(inputs.low), int(inputs.high)
        return rng.integers(low, high + 1, (n, *inputs.shape)).astype(inputs.dtype)
    if isinstance(inputs, (TableInputs, TensorInputs, WaveInputs)):
        return rng.standard_normal((n, *inputs.shape)).astype(np.float32)
    return rng.integers(0, 256, (n, *inputs.shape), dtype=np.uint8)


def sub_batches(batch: Encoded, inputs: Inputs, size: int) -> list[NDArray[np.int64]]:
    """The rows of each sub-batch, at most `size`, that runs through the network.

    Texts of one padded length, so that there is little padding and no row depends on its
    neighbours; of long ones as many as have `size` windows in all.
    """
    if not isinstance(inputs, TextInputs):
        return chunked(np.arange(len(batch)), size)
    padded = padded_lengths(batch, inputs)
    return [
        rows
        for length in np.unique(padded)
        for rows in chunked(
            np.flatnonzero(padded == length), texts_per_batch(int(length), inputs, size)
        )
    ]


def texts_per_batch(length: int, inputs: TextInputs, n_windows: int) -> int:
    """Texts of one padded length that have `n_windows` windows in all, at least one."""
    return max(n_windows * inputs.window // max(length, inputs.window), 1)


def chunked(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Rows in order, `size` at a time."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def lengths(batch: Encoded, inputs: TextInputs) -> NDArray[np.int64]:
    """Tokens of each text, padding between windows included. Shapes: (n, length) to (n,)."""
    positions = np.arange(1, batch.shape[1] + 1)
    last: NDArray[np.int64] = np.where(batch != inputs.pad, positions, 0).max(axis=1, initial=0)
    return last


def padded_lengths(batch: Encoded, inputs: TextInputs) -> NDArray[np.int64]:
    """The padded length of each text. Shapes: (n,)."""
    padded = [padded_length(int(n), inputs.window) for n in lengths(batch, inputs)]
    return np.array(padded, np.int64)


def padded_length(n_tokens: int, window: int) -> int:
    """The padded length of a text of `n_tokens`: several windows are whole."""
    if n_tokens > window:
        return window * -(-n_tokens // window)
    enough = next((length for length in LENGTHS if length >= n_tokens), None)
    return min(enough or 512 * -(-n_tokens // 512), window)


# ---- Prefetching: the next batch is prepared while the network works on this one.

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int, depth: int = 2
) -> Iterator[Result]:
    """The results of `make` for each item, in order, with up to `depth` computed ahead.

    `workers` threads compute them, each with torch on one thread; 0: they are computed here, on
    demand. Items are consumed here, one by one. An error is raised in its place, after the
    results before it; a consumer that stops waits for those being computed.

    >>> list(prefetch(str, range(3), workers=1))
    ['0', '1', '2']
    """
    if workers == 0:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(workers, "prefetch", initializer=partial(torch.set_num_threads, 1))
    futures = _submit(pool, make, items)
    pending: deque[Future[Result]] = deque()
    try:
        while True:
            while len(pending) <= depth and (future := next(futures, None)):
                pending.append(future)
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # The workers' setting is also the default of threads that start later.
        torch.set_num_threads(torch.get_num_threads())


def _submit(
    pool: ThreadPoolExecutor, make: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Future[Result]]:
    """A future for each item; if the items fail, so does the last one."""
    try:
        for item in items:
            yield pool.submit(make, item)
    except Exception as error:
        failed: Future[Result] = Future()
        failed.set_exception(error)
        yield failed


# ---- Inputs of the base model that depend on the data: the length of texts and clips.

# Clips become spectrograms for a base model of images.
_TAKES = {"image": ("image",), "audio": ("image", "audio"), "text": ("text",), "table": ("table",)}
_REMEDIES = {"text": "such as minilm", "table": "such as a run that learnt from one"}


def fit_inputs(
    base: PretrainedModel, collection: Collection, options: InputOptions | None
) -> PretrainedModel:
    """The base model with inputs as long as the texts or clips need; others are unchanged.

    Raises: ModelError if the base model takes another kind of data.
    """
    record, inputs, kind = base.record, base.record.preprocessing, collection.record.kind
    if inputs.kind not in _TAKES[kind]:
        its, ours = ("clip" if one == "audio" else one for one in (inputs.kind, kind))
        raise ModelError(
            f"{record.name} takes {its}s, {collection.record.name} holds {ours}s; choose a base "
            f"model for {ours}s, {_REMEDIES.get(kind, 'such as lite0')}."
        )
    if isinstance(inputs, WaveInputs) and options is not None and options.sound is not None:
        new = replace(record, preprocessing=replace(inputs, seconds=options.sound.seconds))
        return replace(base, record=new, unchanged=base.origin)
    if not isinstance(inputs, TextInputs) or (options is not None and options.size is not None):
        return base
    longest = max((len(tokens) for tokens in all_tokens(collection, inputs)), default=1)
    if longest <= inputs.most:
        length = min(next((n for n in _STEPS if n >= longest), inputs.most), inputs.most)
    else:
        n_windows = modalities_text.windows_for(longest, inputs)
        length = inputs.most * min(next((n for n in _WINDOWS if n >= n_windows), WINDOWS), WINDOWS)
    new = replace(record, preprocessing=replace(inputs, length=length))
    return replace(base, record=new, unchanged=base.origin)


# Few lengths, so that a few more texts seldom need another one, and cached rows stay valid.
_STEPS = tuple(n for n in LENGTHS if n & (n - 1) == 0)
_WINDOWS = (2, 4)


def all_tokens(collection: Collection, inputs: TextInputs) -> list[list[int]]:
    texts = texts_of(collection, collection.record.examples)
    return [modalities_text.all_tokens(text, inputs.tokenizer) for _, text in texts]


def sort_by_length(
    examples: Sequence[Example], collection: Collection, inputs: Inputs
) -> list[Example]:
    """Examples in the best order for batches: texts by number of tokens, to save padding."""
    if not isinstance(inputs, TextInputs):
        return list(examples)
    sizes = {
        id: len(modalities_text.all_tokens(text, inputs.tokenizer))
        for id, text in texts_of(collection, examples)
    }
    return sorted(examples, key=lambda example: sizes.get(example.id, 0))


def find_text_duplicates(collection: Collection) -> tuple[tuple[str, str], ...]:
    """Near-duplicates among all splits: pairs of ids. Exact copies are not listed."""
    return near_duplicate_texts(dict(texts_of(collection, collection.record.examples)))


def texts_of(collection: Collection, examples: Sequence[Example]) -> Iterator[tuple[str, str]]:
    """Id and text of each example that can still be read."""
    for example in examples:
        try:
            yield example.id, decode_utf8(collection.load(example.id))
        except (DataError, OSError):
            continue
