"""A finished model, ready to answer: network, preprocessing, calibration, neighbours."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from warmstart.data.arrays import encode
from warmstart.data.prepare import load_image
from warmstart.delivery.bundle import Bundle, read_bundle
from warmstart.errors import DataError, RunFolderError, StartError
from warmstart.network.edit import WarmModel, rebuild
from warmstart.records import Answer
from warmstart.solve.kernels import Features
from warmstart.training.neighbours import Neighbours, unpack

BATCH = 32
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Answers for images; made by `warmstart.load`.

    `model` maps normalised inputs (B, C, H, W) to calibrated logits (B, K) in the order of
    `labels`.
    """

    model: WarmModel
    bundle: Bundle
    neighbours: Neighbours

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.bundle.record.classes

    def predict(self, inputs: Sequence[Any]) -> list[Answer]:
        """Answer for each path, PIL image or uint8 array (H, W[, C]), in order.

        An image that cannot be read gives an answer with `error` and no label.
        """
        return list(self.stream(inputs))

    def stream(self, inputs: Sequence[Any]) -> Iterator[Answer]:
        """The same, a batch at a time: memory does not grow with the number of inputs."""
        for start in range(0, len(inputs), BATCH):
            batch = inputs[start : start + BATCH]
            read = [self._read(item, start + i) for i, item in enumerate(batch)]
            pixels = [item for item in read if not isinstance(item, Answer)]
            answers = iter(self._answer([name for name, _ in pixels], [x for _, x in pixels]))
            yield from (item if isinstance(item, Answer) else next(answers) for item in read)

    def _read(self, item: Any, index: int) -> Answer | tuple[str, Pixels]:
        prep = self.bundle.record.preprocessing
        name = str(item) if isinstance(item, (str, Path)) else f"#{index}"
        try:
            return name, load_image(_payload(item, name), name, prep)
        except DataError as error:
            return Answer(
                path=name, label=None, probability=None, sure=None, unknown=False,
                scores={}, error=str(error),
            )  # fmt: skip

    def _answer(self, names: Sequence[str], pixels: Sequence[Pixels]) -> list[Answer]:
        if not names:
            return []
        probabilities, joined = self.probabilities(np.stack(pixels))
        calibration = self.bundle.calibration
        distances, rows = self.neighbours.nearest(joined, calibration.nearest)
        answers = []
        for name, p, distance, near in zip(names, probabilities, distances, rows, strict=True):
            best = int(p.argmax())
            unknown = bool(distance > calibration.unknown_from)
            sure = None if calibration.sure_from is None else bool(p[best] >= calibration.sure_from)
            answers.append(
                Answer(
                    path=name,
                    label=self.labels[best],
                    probability=float(p[best]),
                    sure=False if unknown else sure,
                    unknown=unknown,
                    scores={self.labels[i]: float(p[i]) for i in np.argsort(-p, kind="stable")},
                    nearest=tuple(self.bundle.ids[i] for i in near),
                )
            )
        return answers

    def probabilities(self, pixels: Pixels) -> tuple[NDArray[np.float64], Features]:
        """Prepared images (B, H, W, C) uint8 to probabilities (B, K) and joined taps (B, D)."""
        with torch.inference_mode():
            taps = self.model.features(normalise(pixels, self.bundle))
            logits = self.model.head(taps).double()
            named = zip(self.bundle.record.taps, taps, strict=True)
            own = [features for tap, features in named if not tap.of]
            return logits.softmax(dim=1).numpy(), torch.cat(own, dim=1).numpy()


def normalise(pixels: Pixels, bundle: Bundle) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) float32 in channels_last order."""
    prep = bundle.record.preprocessing
    values = torch.from_numpy(pixels).float().div_(255)
    values = values.sub_(torch.tensor(prep.mean)).div_(torch.tensor(prep.std))
    return values.permute(0, 3, 1, 2)


def _payload(item: Any, name: str) -> bytes:
    """A path, picture or array as encoded bytes, so that one decoder treats all alike."""
    if isinstance(item, (str, Path)):
        return _read_file(Path(item))
    if isinstance(item, Image.Image):
        return _encode_picture(item, name)
    try:
        pixels = np.asarray(item)
    except ValueError:
        pixels = np.empty(0, object)
    if pixels.dtype.kind not in "buif":
        raise DataError(
            f"{name} is a {type(item).__name__}; give a path, a PIL image or an array (H, W[, C])"
        )
    return encode(pixels)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise DataError(f"{path} is a folder") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


def _encode_picture(picture: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
        upright.save(buffer, "TIFF")  # takes every mode as it is
    except Exception as error:  # Pillow reads a file only now, and lets a dozen types through
        raise DataError(f"{name} cannot be read: {error}") from error
    return buffer.getvalue()


def load(run: str | Path, network: nn.Module | None = None) -> Predictor:
    """Load a finished run for predicting.

    `network` is an instance of the user's own module where the run began from one.
    Raises: RunFolderError if there is no model or it is damaged, StartError if `network` is
    missing or another one.
    """
    bundle = read_bundle(Path(run))
    model = _rebuild(Path(run), bundle, network)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Predictor(model, bundle, unpack(bundle.neighbours))


def _rebuild(run: Path, bundle: Bundle, network: nn.Module | None) -> WarmModel:
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
        why = str(error).partition("\n")[0].partition("; ")[0]
        raise RunFolderError(
            f"{run / 'model'} does not hold together ({why}); restore it, or make the run again."
        ) from error
