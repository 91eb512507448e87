"""A finished model, ready to answer: network, preprocessing, calibration, neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from warmstart.data.arrays import encode
from warmstart.data.prepare import load_image, prepare
from warmstart.delivery.bundle import Bundle, read_bundle
from warmstart.errors import DataError
from warmstart.network.edit import WarmModel, rebuild
from warmstart.records import Answer
from warmstart.solve.kernels import Features
from warmstart.solve.projection import Sketch
from warmstart.training.neighbours import Neighbours

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
            if isinstance(item, Image.Image):
                return name, prepare(item.convert("RGB"), prep)
            payload = _payload(Path(item)) if isinstance(item, (str, Path)) else encode(item)
            return name, load_image(payload, name, prep)
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
            return logits.softmax(dim=1).numpy(), torch.cat(taps, dim=1).numpy()


def normalise(pixels: Pixels, bundle: Bundle) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) float32 in channels_last order."""
    prep = bundle.record.preprocessing
    values = torch.from_numpy(pixels).float().div_(255)
    values = values.sub_(torch.tensor(prep.mean)).div_(torch.tensor(prep.std))
    return values.permute(0, 3, 1, 2)


def _payload(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise DataError(f"{path} is a folder") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def load(run: str | Path, network: nn.Module | None = None) -> Predictor:
    """Load a finished run for predicting.

    `network` is an instance of the user's own module where the run began from one.
    Raises: RunFolderError if there is no model, StartError if its network cannot be rebuilt.
    """
    bundle = read_bundle(Path(run))
    record = bundle.record
    model = rebuild(
        record.arch, bundle.tensors, record.taps, len(record.classes), record.preprocessing, network
    )
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    arrays = bundle.neighbours
    points = arrays["points"].astype(np.float32)
    sketch = Sketch(
        arrays["target"].astype(np.int64), arrays["sign"].astype(np.float32), points.shape[1]
    )
    neighbours = Neighbours(
        arrays["offset"].astype(np.float32), arrays["scale"].astype(np.float32), sketch, points
    )
    return Predictor(model, bundle, neighbours)
