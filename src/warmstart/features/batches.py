"""Encoded examples to the tensor that a network takes: the one place where kinds differ."""

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
from warmstart.modalities.text import near_copies, normal_of
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
# Rows of texts are filled up to one of these lengths, so that a text is given the same number of
# tokens, and its row the same rounding, whichever texts stand beside it.
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def to_tensor(batch: Encoded, inputs: Inputs) -> Tensor:
    """A batch of encoded examples as the network's input.

    Shapes: pictures (n, H, W, C) uint8 to (n, C, H, W) float32 in channels_last order; texts
    (n, length) int32 to (n, L) int64, cut to the longest of the batch, L one of `LENGTHS` or
    so many windows; rows of tables, tensors and waveforms as they are.
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
    """`n` examples of noise, always the same."""
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


def passes(batch: Encoded, inputs: Inputs, most: int) -> list[NDArray[np.int64]]:
    """Which rows of a batch pass the network together, at most so many.

    Texts of one padded length, so that little is filled up and none depends on its neighbours;
    of long ones as many as have `most` windows together.
    """
    if not isinstance(inputs, TextInputs):
        return pieces(np.arange(len(batch)), most)
    sizes = padded_lengths(batch, inputs)
    return [
        rows
        for size in np.unique(sizes)
        for rows in pieces(np.flatnonzero(sizes == size), together(int(size), inputs, most))
    ]


def together(size: int, inputs: TextInputs, most: int) -> int:
    """Texts of one padded length that have `most` windows together, at least one."""
    return max(most * inputs.window // max(size, inputs.window), 1)


def pieces(rows: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    """Rows in order, some at a time.

    >>> [piece.tolist() for piece in pieces(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    return [rows[at : at + most] for at in range(0, len(rows), most)]


def lengths(batch: Encoded, inputs: TextInputs) -> NDArray[np.int64]:
    """Tokens of each text, those between fillings counted too. Shapes: (n, length) to (n,)."""
    places = np.arange(1, batch.shape[1] + 1)
    found: NDArray[np.int64] = np.where(batch != inputs.pad, places, 0).max(axis=1, initial=0)
    return found


def padded_lengths(batch: Encoded, inputs: TextInputs) -> NDArray[np.int64]:
    """How long the row of each text is made when it passes the network. Shapes: (n,)."""
    found = [padded_length(int(n), inputs.window) for n in lengths(batch, inputs)]
    return np.array(found, np.int64)


def padded_length(n_tokens: int, window: int) -> int:
    """How long the row of so many tokens is made: windows are whole where there are several.

    >>> padded_length(9, 256), padded_length(200, 250), padded_length(600, 256)
    (16, 250, 768)
    """
    if n_tokens > window:
        return window * -(-n_tokens // window)
    fitting = next((length for length in LENGTHS if length >= n_tokens), None)
    return min(fitting or 512 * -(-n_tokens // 512), window)


# ---- Results made ahead of need: the next batch is prepared while the network works on this one.


Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int, depth: int = 2
) -> Iterator[Result]:
    """What `make` gives for each item, in order; up to `depth` are made beyond the one at work.

    `workers` threads make them, each of which runs torch on one thread; 0: they are made here,
    when they are asked for. Items are taken here, one by one. What goes wrong is raised in its
    place, after the results before it; a consumer that stops waits for those being made.

    >>> list(ahead(str, range(3), workers=1))
    ['0', '1', '2']
    """
    if workers == 0:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(workers, "ahead", initializer=partial(torch.set_num_threads, 1))
    waiting = _submitted(pool, make, items)
    flying: deque[Future[Result]] = deque()
    try:
        while True:
            while len(flying) <= depth and (future := next(waiting, None)):
                flying.append(future)
            if not flying:
                return
            yield flying.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # The workers' number is also what threads begin with that are born later.
        torch.set_num_threads(torch.get_num_threads())


def _submitted(
    pool: ThreadPoolExecutor, make: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Future[Result]]:
    """A future for each item; the last one fails where the items do."""
    try:
        for item in items:
            yield pool.submit(make, item)
    except Exception as error:
        lost: Future[Result] = Future()
        lost.set_exception(error)
        yield lost


# ---- What texts and clips ask of a start: how long they are, and whether it reads the language.


# Clips are drawn for a start that looks at pictures.
_TAKES = {"image": ("image",), "audio": ("image", "audio"), "text": ("text",), "table": ("table",)}
_CURES = {"text": "such as minilm", "table": "such as a run that learnt from one"}


def fitted(
    base: PretrainedModel, collection: Collection, wish: InputOptions | None
) -> PretrainedModel:
    """A start for texts or clips, as long as these need; another start as it is.

    Raises: ModelError where the start takes another kind of data.
    """
    record, inputs, kind = base.record, base.record.preprocessing, collection.record.kind
    if inputs.kind not in _TAKES[kind]:
        taken, held = ("clip" if one == "audio" else one for one in (inputs.kind, kind))
        raise ModelError(
            f"{record.name} takes {taken}s, {collection.record.name} holds {held}s; choose a "
            f"start for {held}s, {_CURES.get(kind, 'such as lite0')}."
        )
    if isinstance(inputs, WaveInputs) and wish is not None and wish.sound is not None:
        described = replace(record, preprocessing=replace(inputs, seconds=wish.sound.seconds))
        return replace(base, record=described, unchanged=base.origin)
    if not isinstance(inputs, TextInputs) or (wish is not None and wish.size is not None):
        return base
    longest = max((len(found) for found in all_tokens(collection, inputs)), default=1)
    described = replace(record, preprocessing=replace(inputs, length=_length(longest, inputs)))
    return replace(base, record=described, unchanged=base.origin)


def _length(longest: int, inputs: TextInputs) -> int:
    """Places of a row for texts of at most so many tokens."""
    if longest <= inputs.most:
        return min(next((n for n in _STEPS if n >= longest), inputs.most), inputs.most)
    n_windows = modalities_text.windows_for(longest, inputs)
    return inputs.most * min(next((n for n in _WINDOWS if n >= n_windows), WINDOWS), WINDOWS)


# Few lengths, so that a few more texts seldom ask for another one, and stored rows stay of use.
_STEPS = tuple(n for n in LENGTHS if n & (n - 1) == 0)
_WINDOWS = (2, 4)


def all_tokens(collection: Collection, inputs: TextInputs) -> list[list[int]]:
    """The tokens of every text that can be read, however long."""
    texts = texts_of(collection, collection.record.examples)
    return [modalities_text.all_tokens(text, inputs.tokenizer) for _, text in texts]


def in_order(examples: Sequence[Example], collection: Collection, inputs: Inputs) -> list[Example]:
    """Examples as they pass best: texts by their number of tokens, so that little is filled up."""
    if not isinstance(inputs, TextInputs):
        return list(examples)
    sizes = {
        id: len(modalities_text.all_tokens(text, inputs.tokenizer))
        for id, text in texts_of(collection, examples)
    }
    return sorted(examples, key=lambda example: sizes.get(example.id, 0))


def text_copies(collection: Collection) -> tuple[tuple[str, str], ...]:
    """Near copies among all parts: pairs of ids. Exact copies are no news here."""
    return near_copies(dict(texts_of(collection, collection.record.examples)))


def texts_of(collection: Collection, examples: Sequence[Example]) -> Iterator[tuple[str, str]]:
    """Id and text of each example that can still be read."""
    for example in examples:
        try:
            yield example.id, normal_of(collection.load(example.id))
        except (DataError, OSError):
            continue
