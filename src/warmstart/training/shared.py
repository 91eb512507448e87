"""What all trainings of a run share, and where the inputs of a step come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart.features.batches import to_tensor
from warmstart.network.cut import cached_layers
from warmstart.network.text_encoders import longest
from warmstart.planning.schedule import Schedule
from warmstart.records.inputs import Inputs as Described
from warmstart.records.network import FeatureLayer
from warmstart.solve.ridge import Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.augmentations import Augmentations, numbered_augmentation
from warmstart.training.checkpoint import Checkpoints, NoCheckpoints
from warmstart.training.live import PixelFile

Inputs = tuple[Tensor, ...]
Numbers = NDArray[np.int64]


class BatchSource(Protocol):
    """Inputs of the tail: what it maps to logits, for chosen rows."""

    @property
    def cut(self) -> int:
        """How many parts have been run already."""
        ...

    def batch(self, rows: Rows, numbers: Numbers, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """View number `numbers` of each row, (b,); 0 is the image as it is.

        `feature_layers` are those that the head listens to. Shapes: main (b, …), then one (b, d) for
        each of them that lies below the cut.
        """
        ...


@dataclass(frozen=True, slots=True)
class LiveBatches:
    """The whole network is run: inputs are images, (b, C, H, W), or what `to_tensor` makes."""

    pixels: PixelFile
    contents: tuple[str, ...]  # sha256 of each row's bytes
    augmentations: Augmentations
    seed: int
    prep: Described
    cut: int = 0

    def batch(self, rows: Rows, numbers: Numbers, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Made when asked for."""
        images = self.pixels.rows(rows)
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            if number:
                content = self.contents[row]
                images[place] = numbered_augmentation(images[place], content, int(number), self.augmentations, self.seed)
        return (to_tensor(images, self.prep),)


class Fetch(Protocol):
    """A shelf of stored rows: see `features.cache_file`."""

    def fetch(self, hashes: Sequence[str]) -> NDArray[np.floating]:
        """Rows by content, (b, width). Raises: KeyError for one that is not there, or damaged."""
        ...


@dataclass(frozen=True, slots=True)
class CachedBatches:
    """The frozen parts have been run: inputs are what they gave, once for each view.

    `cache_files` by view number; a row holds what part `cut` gave, of `shape`, then `columns`.
    `again` gives the row of a view of an image, (width,), where its shelf does not.
    """

    cache_files: tuple[Fetch, ...]
    contents: tuple[str, ...]
    cut: int
    shape: tuple[int, ...]
    columns: dict[FeatureLayer, slice]
    again: Callable[[int, str], NDArray[np.floating]]
    is_ragged: bool = False  # rows of tokens, filled up: cut to the longest of a batch

    def batch(self, rows: Rows, numbers: Numbers, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Read from disk; what is damaged there is made again."""
        found: NDArray[np.floating] | None = None
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            got = self._fetch(int(number), [self.contents[row] for row in rows[places]])
            if found is None:
                found = np.empty((len(rows), got.shape[1]), np.float32)
            found[places] = got
        values = torch.from_numpy(found if found is not None else np.empty((0, 0), np.float32))
        main = values[:, : int(np.prod(self.shape))].reshape(len(rows), *self.shape)
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        if self.is_ragged:
            main = main[:, : longest(main)].contiguous()
        wanted = cached_layers(feature_layers, self.cut)
        return (main, *(values[:, self.columns[layer]].contiguous() for layer in wanted))

    def _fetch(self, number: int, contents: Sequence[str]) -> NDArray[np.floating]:
        try:
            return self.cache_files[number].fetch(contents)
        except KeyError:
            return np.stack([self._row(number, content) for content in contents])

    def _row(self, number: int, content: str) -> NDArray[np.floating]:
        try:
            row: NDArray[np.floating] = self.cache_files[number].fetch([content])[0]
        except KeyError:
            row = self.again(number, content)
        return row


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """Shapes: labels and blocks (n,) over the learning rows."""

    source: BatchSource
    labels: Truth
    groups: NDArray[np.int64]
    digests: Mapping[str, str]  # digests of the start's tensors
    checkpoints: Checkpoints | NoCheckpoints
    steps: tuple[int, ...] = ()  # updates of each training, where there are several
    target: Target = CLASSIFICATION

    def targets(self, rows: Rows) -> Tensor:
        """Class numbers (b,), or what else the loss takes for the truth."""
        return torch.from_numpy(self.labels[rows])

    def plain(self, rows: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Inputs of images as they are."""
        return self.source.batch(rows, np.zeros(len(rows), np.int64), feature_layers)


def augmentation_numbers(visits: Numbers, chosen: Schedule) -> Numbers:
    """Which view of an image stands for its `visits`-th time, from 0; 0 where all are alike.

    Views 1, 2, … come in turn, and again from 1 where the plan has a number of them.

    >>> from dataclasses import replace
    >>> plain = Schedule(optimizer="adamw", weight_decay=0.0, n_steps=8, batch_size=8, warmup=0.1,
    ...                  crop=1.0, flip=True, folds=1, seed=0, augmentations=2)
    >>> augmentation_numbers(np.arange(4), plain).tolist()
    [1, 2, 1, 2]
    >>> augmentation_numbers(np.arange(4), replace(plain, flip=False)).tolist()
    [0, 0, 0, 0]
    """
    if not chosen.is_varied:
        return np.zeros_like(visits)
    return 1 + (visits % chosen.augmentations if chosen.augmentations else visits)
