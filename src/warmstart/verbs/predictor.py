"""A finished model, ready to answer: network, preprocessing, calibration, neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from warmstart.data.arrays import channels_last, payload_of_picture
from warmstart.data.arrays import encode as encode_array
from warmstart.data.bands import as_picture as first_bands
from warmstart.data.encode import encode
from warmstart.data.place import read_file
from warmstart.delivery.bundle import Bundle, read_bundle
from warmstart.errors import DataError, RunFolderError, StartError
from warmstart.features.engine import fused, noise, to_tensor
from warmstart.features.feeding import passes
from warmstart.network.edit import WarmModel, rebuild
from warmstart.network.taps import Scanned
from warmstart.network.tensors import in_channels_last
from warmstart.records import Answer, Inputs, Kind, Task, kind_of, pictures
from warmstart.solve.kernels import Features
from warmstart.training.neighbours import Neighbours, unpack
from warmstart.verbs.inputs_given import items_of
from warmstart.verbs.replies import Place, Replies, replies_of
from warmstart.verbs.rows import Named, opened
from warmstart.verbs.texts import GivenText, text_payload

BATCH = 32
# Images in one pass of the network, a thread. Of more, tensors grow so large that the C library
# maps them anew at every layer (joints/memory): EfficientNet-Lite0 on two cores answers 97 a
# second in passes of 8, and 58 of 32.
AT_ONCE = 4
Pixels = NDArray[Any]  # an encoded example, or a batch of them
Picture = Image.Image


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Answers for images; made by `warmstart.load`.

    `model` maps normalised inputs (B, C, H, W) to calibrated logits (B, K) in the order of
    `labels`. `fast` gives what its head sees, with each BatchNorm folded into its convolution.
    """

    model: WarmModel
    fast: nn.Module
    bundle: Bundle
    neighbours: Neighbours

    @property
    def kind(self) -> Kind:
        """What it answers for: images, texts …"""
        return self.bundle.record.preprocessing.kind

    @property
    def heard(self) -> Kind:
        """The same, and clips of sound apart from images."""
        return kind_of(self.bundle.record.preprocessing)

    @property
    def replies(self) -> Replies:
        """How answers are made of outputs."""
        return replies_of(self.bundle)

    @property
    def task(self) -> Task:
        """What is answered: one class, several labels, a number."""
        return self.bundle.record.task

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.bundle.record.classes

    @overload
    def predict(self, inputs: list[Any]) -> list[Answer]: ...
    @overload
    def predict(self, inputs: Any) -> Any: ...
    def predict(self, inputs: Any) -> Answer | list[Answer]:
        """One in, one answer out; many in, a list of answers out, in order.

        One is the path of an image, a PIL image, an array (H, W) or (H, W, C) of uint8, or of
        floats from 0 to 1, or a tensor (C, H, W). Many are a list or any other iterable of
        these, a stack of arrays or tensors, or a folder: the images in and below it, sorted.
        Models of other kinds take what they were fitted on: one is a text (or the path of a
        .txt file), a row as a mapping from column to value, or a tensor; many are a list of
        these, a table by its path or as a DataFrame, or a batch of tensors.

        Of many, one that cannot be read gives an answer with `error` and no label. Raises:
        DataError where a single input cannot be read, or a folder or table holds none.

        >>> run.predict("new.jpg").label  # doctest: +SKIP
        'cat'
        >>> [answer.label for answer in run.predict(["a.jpg", "b.jpg"])]  # doctest: +SKIP
        ['cat', 'dog']
        """
        items, is_one = items_of(inputs, self.bundle.record.preprocessing)
        answers = list(self._answered(items))
        if not is_one:
            return answers
        (answer,) = answers
        if answer.error is not None:
            # A single input in memory has no name that its user knows.
            raise DataError(re.sub("^#0", "the input", answer.error))
        return answer

    def stream(self, inputs: Sequence[Any]) -> Iterator[Answer]:
        """Answers for many inputs, a batch at a time: memory does not grow with their number."""
        yield from self._answered(opened(inputs, self.bundle.record.preprocessing))

    def _answered(self, inputs: Sequence[Any]) -> Iterator[Answer]:
        for start in range(0, len(inputs), BATCH):
            batch = inputs[start : start + BATCH]
            read = [self._read(item, start + i) for i, item in enumerate(batch)]
            pixels = [item for item in read if not isinstance(item, Answer)]
            answers = iter(self.answer([name for name, _ in pixels], [x for _, x in pixels]))
            yield from (item if isinstance(item, Answer) else next(answers) for item in read)

    def prepared(self, inputs: Sequence[Any]) -> Iterator[tuple[str, Pixels]]:
        """Each input's name, and its pixels as the network gets them, (H, W, C) uint8.

        Raises: DataError at the first that cannot be read.
        """
        for index, item in enumerate(inputs):
            name = _name_of(item, index)
            yield name, self._pixels(item, name)

    def show_inputs(self, inputs: Sequence[Any], labels: Sequence[Any] | None = None) -> Picture:
        """What the network sees of these inputs, as one picture, each with its label or name.

        Prepared as for the network and brought back from its normalisation.
        Raises: DataError at the first that cannot be read, or for labels of another number.
        """
        from warmstart.show.grid import grid

        if labels is not None and len(labels) != len(inputs):
            raise DataError(f"{len(inputs)} inputs have {len(labels)} labels; give one label each")
        seen, prep = list(self.prepared(inputs)), self.bundle.record.preprocessing
        titles = [Path(name).name for name, _ in seen] if labels is None else map(str, labels)
        tiles = [as_seen(pixels, prep) for _, pixels in seen]
        return grid([[tile] for tile in tiles], [*titles])

    def _read(self, item: Any, index: int) -> Answer | tuple[str, Pixels]:
        name = _name_of(item, index)
        try:
            return name, self._pixels(item, name)
        except DataError as error:
            return self.replies.empty(name, str(error))

    def _pixels(self, item: Any, name: str) -> Pixels:
        inputs = self.bundle.record.preprocessing
        payload = text_payload(item, name) if inputs.kind == "text" else _payload(item, name)
        return encode(payload, name, inputs)

    def answer(self, names: Sequence[str], pixels: Sequence[Pixels]) -> list[Answer]:
        """Answers for prepared images, each (H, W, C) uint8, in one pass of the network."""
        if not names:
            return []
        said, joined = self.probabilities(np.stack(pixels))
        strange, rows = self._placed(joined)
        replies, ids = self.replies, self.bundle.ids
        return [
            replies.answer(Place(name, bool(unknown), tuple(ids[i] for i in near)), one)
            for name, one, unknown, near in zip(names, said, strange, rows, strict=True)
        ]

    def probabilities(self, pixels: Pixels) -> tuple[NDArray[np.float64], Features]:
        """Prepared images (B, H, W, C) uint8 to probabilities (B, K) and joined taps (B, D).

        Of a model of numbers: to values (B, 1).
        """
        logits, taps = self.logits(pixels)
        named = zip(self.bundle.record.taps, taps, strict=True)
        own = [features for tap, features in named if not tap.of]
        return self.replies.answers(logits), torch.cat(own, dim=1).numpy()

    def unlike(self, joined: Features) -> NDArray[np.bool_]:
        """Which joined taps (B, D) are unlike those of all that was learnt from. Shapes: (B,)."""
        return self._placed(joined)[0]

    def _placed(self, joined: Features) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """The same, and the rows of the nearest among what was learnt from (B, k)."""
        calibration = self.bundle.calibration
        distances, rows = self.neighbours.nearest(joined, calibration.nearest)
        return distances > calibration.unknown_from, rows

    def logits(self, pixels: Pixels) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same to calibrated logits (B, K) in double precision, and each tap (B, d)."""
        step = min(AT_ONCE * torch.get_num_threads(), BATCH)
        with torch.inference_mode():
            inputs = self.bundle.record.preprocessing
            order = passes(pixels, inputs, step)
            passed = [self.fast(to_tensor(pixels[rows], inputs)) for rows in order]
            back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
            taps = tuple(torch.cat(parts)[back] for parts in zip(*passed, strict=True))
            return self.model.head(taps).double(), taps


def as_seen(pixels: Pixels, prep: Inputs) -> Image.Image:
    """A prepared image (H, W, C) as the network sees it, made a picture again.

    It is normalised and brought back, so that what the network could not see is not shown.
    """
    prep = pictures(prep)
    mean, std = torch.tensor(prep.mean), torch.tensor(prep.std)
    values = to_tensor(pixels[None], prep)[0].permute(1, 2, 0) * std + mean
    shown = values.mul(255).round().clamp(0, 255).byte().numpy()
    return first_bands(shown)


def _name_of(item: Any, index: int) -> str:
    if isinstance(item, (GivenText, Named)):
        return item.name
    return str(item) if isinstance(item, (str, Path)) else f"#{index}"


def _payload(item: Any, name: str) -> bytes:
    """A path, picture or array as encoded bytes, so that one decoder treats all alike."""
    if isinstance(item, Named):
        return item.payload
    if isinstance(item, (str, Path)):
        if not str(item):
            raise DataError("the path of an image is empty; name the file")
        return _read_file(Path(item))
    if isinstance(item, Image.Image):
        return _encode_picture(item, name)
    try:
        pixels = np.asarray(item)
    except ValueError:
        pixels = np.empty(0, object)
    if pixels.dtype.kind not in "buif" or not pixels.ndim:
        raise DataError(
            f"{name} is of type {type(item).__name__}; give a path, a PIL image, an array "
            "(H, W[, C]) or a list of these"
        )
    return encode_array(channels_last(pixels[None])[0])


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path} is a folder")
    try:
        return read_file(path)
    except DataError as error:
        raise DataError(f"{path} {error}") from error


def _encode_picture(picture: Image.Image, name: str) -> bytes:
    try:
        return payload_of_picture(picture)
    except DataError as error:
        raise DataError(f"{name} {error}") from error


def load(run: str | Path, network: nn.Module | None = None) -> Predictor:
    """Load a finished run for predicting.

    `network` is an instance of the user's own module where the run began from one.
    Raises: RunFolderError if there is no model or it is damaged, StartError if `network` is
    missing or another one.
    """
    return open_bundle(read_bundle(Path(run)), str(Path(run) / "model"), network)


def open_bundle(bundle: Bundle, where: str, network: nn.Module | None = None) -> Predictor:
    """The same for a model in memory; `where` is what messages call it."""
    model = in_channels_last(_rebuild(where, bundle, network))
    prep = bundle.record.preprocessing
    neighbours = unpack(bundle.neighbours)
    tried = to_tensor(noise(prep, 2), prep)
    try:
        with torch.inference_mode():
            logits = model(tried)
        fast = fused(Scanned(model.trunk, model.scan), tried)
    except (RuntimeError, ValueError, TypeError, IndexError, StartError) as error:
        raise _apart(where, str(error)) from error
    own = zip(bundle.record.taps, model.scan.widths, strict=True)
    n_features = sum(width for tap, width in own if not tap.of)
    if len(neighbours.offset) != n_features:
        raise _apart(where, f"neighbours of {len(neighbours.offset)} features, not {n_features}")
    if not bool(torch.isfinite(logits).all()):
        raise _apart(where, "it answers noise with NaN or infinity")
    return Predictor(model, fast, bundle, neighbours)


def _apart(where: str, why: str) -> RunFolderError:
    said = why.partition("\n")[0].partition("; ")[0][:300]
    return RunFolderError(
        f"{where} does not hold together ({said}); restore it, or make the run again."
    )


def _rebuild(where: str, bundle: Bundle, network: nn.Module | None) -> WarmModel:
    record = bundle.record
    is_own = network is not None or record.arch.startswith("module:")
    try:
        return rebuild(
            record.arch, bundle.tensors, record.taps, len(record.classes), record.preprocessing,
            network, record.added, record.beside,
        )  # fmt: skip
    except Exception as error:  # an edited config.json makes torch and timm raise what they like
        if is_own and isinstance(error, StartError):
            raise
        raise _apart(where, str(error)) from error
