"""Encoded examples to the tensor that a network takes, for every kind of data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart.data.dataset import Collection
from warmstart.errors import DataError, ModelError
from warmstart.modalities.modality import Encoded
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.network.inputs import InputOptions
from warmstart.network.load import PretrainedModel
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, Preprocessing, pictures


def to_tensor(batch: Encoded, inputs: Inputs) -> Tensor:
    """A batch of encoded examples as the network's input.

    Shapes: pictures (n, H, W, C) uint8 to (n, C, H, W) float32 in channels_last order; others
    as their modality batches them.
    """
    modality = modality_of(inputs)
    if modality.has_pixels:
        return normalised(batch, pictures(inputs))
    return torch.from_numpy(modality.batch(batch, inputs))


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


def sub_batches(batch: Encoded, inputs: Inputs, size: int) -> list[NDArray[np.int64]]:
    """The rows of each sub-batch, at most `size`, that runs through the network.

    Those of one padded length, so that there is little padding and no row depends on its
    neighbours; of long ones fewer.
    """
    modality = modality_of(inputs)
    padded = modality.padded_lengths(batch, inputs)
    batches = list[NDArray[np.int64]]()
    for length in np.unique(padded):
        rows, n = np.flatnonzero(padded == length), modality.rows_at_once(int(length), inputs, size)
        batches += [rows[at : at + n] for at in range(0, len(rows), n)]
    return batches


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


def fit_inputs(
    base: PretrainedModel, collection: Collection, options: InputOptions | None
) -> PretrainedModel:
    """The base model with inputs as long as the texts or clips need; others are unchanged.

    Raises: ModelError if the base model takes another kind of data.
    """
    record, inputs = base.record, base.record.preprocessing
    modality = MODALITIES[collection.record.kind]
    if inputs.kind not in modality.networks:
        its, ours = MODALITIES[inputs.kind].example, modality.example
        raise ModelError(
            f"{record.name} takes {its}s, {collection.record.name} holds {ours}s; choose a base "
            f"model for {ours}s, such as {modality.base_example}."
        )
    options = options or InputOptions()
    payloads = readable(collection, collection.record.examples) if options.size is None else None
    new = modality_of(inputs).fitted(inputs, payloads, options.sound)
    if new is inputs:
        return base
    return replace(base, record=replace(record, preprocessing=new), unchanged=base.origin)


def sort_by_length(
    examples: Sequence[Example], collection: Collection, inputs: Inputs
) -> list[Example]:
    """Examples in the best order for batches: texts by number of tokens, to save padding."""
    sizes = modality_of(inputs).lengths(readable(collection, examples), inputs)
    return sorted(examples, key=lambda example: sizes.get(example.id, 0))


def readable(collection: Collection, examples: Sequence[Example]) -> Iterator[tuple[str, bytes]]:
    """Id and bytes of each example that can still be read."""
    for example in examples:
        with suppress(DataError, OSError):
            yield example.id, collection.load(example.id)
