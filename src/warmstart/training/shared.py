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
from warmstart.records.inputs import Inputs as Preprocessing
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
    """Inputs of the blocks above the cut, for chosen rows."""

    @property
    def cut(self) -> int:
        """How many blocks have been run already."""
        ...

    def batch(self, rows: Rows, numbers: Numbers, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Augmentation number `numbers` of each row, (b,); 0 is the image without augmentation.

        `feature_layers` are those of the head. Shapes: main (b, …), then one (b, d) for each of
        them below the cut.
        """
        ...


@dataclass(frozen=True, slots=True)
class LiveBatches:
    """Inputs of the whole network: images, (b, C, H, W), or what `to_tensor` returns."""

    pixels: PixelFile
    contents: tuple[str, ...]  # sha256 of each row's bytes
    augmentations: Augmentations
    seed: int
    prep: Preprocessing
    cut: int = 0

    def batch(self, rows: Rows, numbers: Numbers, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        images = self.pixels.rows(rows)
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            if number:
                images[place] = numbered_augmentation(
                    images[place], self.contents[row], int(number), self.augmentations, self.seed
                )
        return (to_tensor(images, self.prep),)


class Fetch(Protocol):
    """Cached rows: see `features.cache_file`."""

    def fetch(self, hashes: Sequence[str]) -> NDArray[np.floating]:
        """Rows by content, (b, width). Raises: KeyError for one that is missing or damaged."""
        ...


@dataclass(frozen=True, slots=True)
class CachedBatches:
    """Cached outputs of the frozen blocks, one row per image and augmentation.

    `cache_files` by augmentation number; a row holds the output of block `cut`, of `shape`, then
    `columns`. `recompute` returns the row of an augmentation number and a content, (width,), where
    its cache file does not.
    """

    cache_files: tuple[Fetch, ...]
    contents: tuple[str, ...]
    cut: int
    shape: tuple[int, ...]
    columns: dict[FeatureLayer, slice]
    recompute: Callable[[int, str], NDArray[np.floating]]
    is_ragged: bool = False  # padded rows of tokens: cut to the longest of a batch

    def batch(self, rows: Rows, numbers: Numbers, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Read from disk; damaged rows are computed again."""
        joined = np.empty((0, 0), np.float32)
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            values = self._fetch(int(number), [self.contents[row] for row in rows[places]])
            if not joined.size:
                joined = np.empty((len(rows), values.shape[1]), np.float32)
            joined[places] = values
        tensors = torch.from_numpy(joined)
        main = tensors[:, : int(np.prod(self.shape))].reshape(len(rows), *self.shape)
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        if self.is_ragged:
            main = main[:, : longest(main)].contiguous()
        layers = cached_layers(feature_layers, self.cut)
        return (main, *(tensors[:, self.columns[layer]].contiguous() for layer in layers))

    def _fetch(self, number: int, contents: Sequence[str]) -> NDArray[np.floating]:
        try:
            return self.cache_files[number].fetch(contents)
        except KeyError:
            return np.stack([self._row(number, content) for content in contents])

    def _row(self, number: int, content: str) -> NDArray[np.floating]:
        try:
            row: NDArray[np.floating] = self.cache_files[number].fetch([content])[0]
        except KeyError:
            row = self.recompute(number, content)
        return row


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """Shapes: labels and groups (n,) over the training rows."""

    source: BatchSource
    labels: Truth
    groups: NDArray[np.int64]
    digests: Mapping[str, str]  # of the base model's tensors
    checkpoints: Checkpoints | NoCheckpoints
    steps: tuple[int, ...] = ()  # updates of each training, where there are several
    target: Target = CLASSIFICATION

    def targets(self, rows: Rows) -> Tensor:
        """Class numbers (b,), or the truth of another task's loss."""
        return torch.from_numpy(self.labels[rows])

    def plain(self, rows: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Inputs without augmentation."""
        return self.source.batch(rows, np.zeros(len(rows), np.int64), feature_layers)


def augmentation_numbers(visits: Numbers, schedule: Schedule) -> Numbers:
    """The augmentation number of an image on its `visits`-th visit, from 0; 0 without augmentation.

    Augmentations 1, 2, … come in turn, and again from 1 where the plan limits their number.

    >>> from dataclasses import replace
    >>> plain = Schedule(optimizer="adamw", weight_decay=0.0, n_steps=8, batch_size=8, warmup=0.1,
    ...                  crop=1.0, flip=True, folds=1, seed=0, augmentations=2)
    >>> augmentation_numbers(np.arange(4), plain).tolist()
    [1, 2, 1, 2]
    >>> augmentation_numbers(np.arange(4), replace(plain, flip=False)).tolist()
    [0, 0, 0, 0]
    """
    if not schedule.is_varied:
        return np.zeros_like(visits)
    return 1 + (visits % schedule.augmentations if schedule.augmentations else visits)
