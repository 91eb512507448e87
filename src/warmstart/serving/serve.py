"""`warmstart serve RUN`: a finished model behind a page and an HTTP API on this computer."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart import __version__
from warmstart.errors import DataError, RunFolderError, ServeError, install_command
from warmstart.evaluation.readiness import readiness_line
from warmstart.modalities.image import MAX_PIXELS, Pixels, TooLarge, crop_box
from warmstart.modalities.registry import modality_of
from warmstart.records.answer import Answer
from warmstart.records.data import DataRecord
from warmstart.records.inputs import Inputs, pictures
from warmstart.records.run_folder import read_json, to_plain
from warmstart.records.summary import Summary
from warmstart.run.predictor import Predictor, load
from warmstart.run.reopened import Gallery
from warmstart.serving.model import (
    Heat,
    ServedModel,
    ServedPicture,
    ServerLimits,
    UnreadableInput,
    promise_words,
)
from warmstart.tasks.registry import TASKS

if TYPE_CHECKING:
    from warmstart.serving.access import Gate


# ---- What mattered in an image, by occlusion: cover each region and see how the answer changes.
#
# The pixels are covered, before the network, so that it works for every network and every feature
# layer of a head; gradients at one block would miss the others.

Predict = Callable[[Pixels], NDArray[np.float64]]  # images (n, H, W, C) to probabilities (n, K)

SECONDS = 0.7  # of a map
COARSEST, FINEST = 3, 8  # cells along each side
CLEAR = 1.0  # of log-odds: where the largest drop is smaller, nothing is fully highlighted
COVER = 2.0  # width of a cover in cells: an edge between two cells must not matter


def explain_image(predictor: Predictor, cells: int, picture: ServedPicture) -> Heat:
    """The heat map of an image, of cells × cells regions."""

    def predict(images: Pixels) -> NDArray[np.float64]:
        return predictor.probabilities(images)[0]

    # Cover with the colour that preprocessing turns into zero.
    mean = np.asarray(pictures(predictor.bundle.record.preprocessing).mean)
    colour = np.asarray(np.clip(np.rint(255 * mean), 0, 255), dtype=np.uint8)
    best, probability, grid, covered = occlusion(predict, picture.pixels, cells, colour)
    return Heat(predictor.labels[best], probability, covered, grid)


def occlusion(
    predict: Predict, pixels: Pixels, cells: int, colour: NDArray[np.uint8]
) -> tuple[int, float, NDArray[np.float64], float]:
    """Cover each cell of a grid with a colour; how much does the best class lose?

    Measured in log-odds, where a drop from 0.99 to 0.9 counts as much as one from 0.9 to 0.5.
    Returns: class, its probability, grid (cells, cells) in 0..1, and its least probability.
    """
    masks = covers(pixels.shape[:2], cells)
    images = np.concatenate([pixels[None], np.where(masks[..., None], colour, pixels)])
    probabilities = predict(images.astype(np.uint8))
    best = int(probabilities[0].argmax())
    p = np.clip(probabilities[:, best], 1e-9, 1 - 1e-9)
    log_odds = np.log(p) - np.log1p(-p)
    drops = np.maximum(log_odds[0] - log_odds[1:], 0.0)
    grid = (drops / max(float(drops.max()), CLEAR)).reshape(cells, cells)
    covered = probabilities[1:, best].min()
    return best, float(probabilities[0, best]), grid, float(covered)


def covers(size: tuple[int, int], cells: int) -> NDArray[np.bool_]:
    """The pixels under each cover, row by row. Shapes: (cells², H, W)."""

    def bands(side: int) -> NDArray[np.bool_]:  # (cells, side), each cell with its margin
        middle = (np.arange(cells) + 0.5) * side / cells
        half = COVER * side / cells / 2
        return np.asarray(np.abs(np.arange(side) + 0.5 - middle[:, None]) <= half + 1e-9)

    rows, columns = (bands(side) for side in size)
    both = rows[:, None, :, None] & columns[None, :, None, :]
    return both.reshape(cells * cells, *size)


def cells_for(seconds: float) -> int:
    """Cells along a side, so that a map takes less than a second at this pace per image."""
    return min(max(math.isqrt(int(SECONDS / max(seconds, 1e-6))), COARSEST), FINEST)


def measure_pace(predictor: Predictor) -> float:
    """Seconds per image of a warm forward pass."""
    prep = pictures(predictor.bundle.record.preprocessing)
    blank = np.zeros((8, *prep.size, prep.channels), np.uint8)
    predictor.probabilities(blank)
    began = time.perf_counter()
    predictor.probabilities(blank)
    return (time.perf_counter() - began) / len(blank)


Record = TypeVar("Record")
NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Where a server listens and which hosts it answers to. `names` are further host names."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    names: tuple[str, ...] = ()


def serve(
    run: Path,
    options: ServeOptions,
    ready: Callable[[str], None],
    stopping: Callable[[], None],
    limits: ServerLimits | None = None,
) -> None:
    """Load a run's model and serve it until a signal.

    `ready` gets the address once the server listens, `stopping` is called at the first signal;
    pending requests are still answered.
    Raises: ServeError where the server cannot start, RunFolderError without a model.
    """
    check_installed()
    from warmstart.serving import running

    check_token(options.token)
    limits = limits or ServerLimits()
    listener = running.bind(options.host, options.port)
    try:
        app = application(run, options, limits)
        address = running.address(listener)
        server = running.Server(app, limits, lambda: ready(address), stopping)
        running.run(server, listener)
    finally:
        listener.close()


def application(run: Path, options: ServeOptions, limits: ServerLimits) -> Gate:
    """The ASGI application of a run's model. Raises: RunFolderError without one, UsageError."""
    from warmstart.serving.access import access_for
    from warmstart.serving.app import make_app

    access = access_for(options.host, options.token, options.names)
    predictor = load(run)
    if predictor.modality.form == "arrays":
        raise ServeError(
            f"{run} is a model of {predictor.modality.nouns.many}, which this version does not "
            "serve; use `warmstart predict`, or in Python warmstart.load(RUN).predict."
        )
    return make_app(serve_model(run, predictor, limits), access, limits)


def check_installed() -> None:
    """Raises: ServeError with the command to run where a package is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(
            f"serving needs {missing[0].replace('_', '-')}, which is not installed; "
            f"run `{install_command('serve')}`."
        )


def check_token(token: str | None) -> None:
    """Raises: ServeError for a token that no header can carry."""
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise ServeError(
            "the token is empty or holds letters that no header can carry; use a-z, 0-9."
        )
    if token is not None and token != token.strip():
        raise ServeError("the token begins or ends with a space; remove it.")


def serve_model(run: Path, predictor: Predictor, limits: ServerLimits) -> ServedModel:
    """A run's model as the functions that a server calls."""
    record = _read(run / "data.json", DataRecord) or DataRecord(  # a model folder alone
        name=run.resolve().name,
        kind=predictor.modality.kind,
        task=predictor.task,
        layout="",
        examples=(),
        classes=predictor.labels,
    )
    inputs = predictor.bundle.record.preprocessing
    gallery = Gallery(run, record, inputs)
    explain: Callable[[ServedPicture], Heat] | None = None
    modality, no_heat = predictor.modality, ""
    if not modality.has_pixels:
        takes = modality.nouns.many
        no_heat = f"only answers to images can be explained, and this model takes {takes}"
    elif predictor.target.has_numbers:
        no_heat = "only labels can be explained, and this model predicts a number"
    else:
        explain = partial(explain_image, predictor, cells_for(measure_pace(predictor)))
    limits_shown = {"body_bytes": limits.body_bytes, "images": limits.images, "pixels": MAX_PIXELS}
    return ServedModel(
        kind=modality.kind,
        title=record.name,
        labels=predictor.labels,
        metadata={
            **describe(run, predictor),
            "name": record.name,
            "limits": limits_shown,
            "pictures": gallery.is_there and modality.has_pixels,
            "accept": modality.nouns.accept,
        },
        decode=partial(decode, inputs=inputs),
        answer=partial(_answer, predictor),
        explain=explain,
        no_heat=no_heat,
        index_of=gallery.number,
        label_of=lambda index: TASKS[record.task].text(gallery.label(index)),
        thumbnail=gallery.thumbnail,
    )


def decode(payload: bytes, name: str, inputs: Inputs) -> ServedPicture | UnreadableInput:
    """An encoded image, text, row in JSON or clip as the network takes it, or why not."""
    try:
        modality = modality_of(inputs)
        image = modality.open(payload, name, inputs)
        encoded = modality.prepare(image, inputs)
        if not modality.has_pixels:
            return ServedPicture(name, encoded, (0.0, 0.0, 1.0, 1.0))
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        left, top, right, bottom = crop_box((width, height), pictures(inputs))
        box = (left / width, top / height, right / width, bottom / height)
        return ServedPicture(name, encoded, box)
    except TooLarge as error:
        return UnreadableInput(name, str(error), is_too_large=True)
    except DataError as error:
        return UnreadableInput(name, str(error))


def _answer(predictor: Predictor, pictures: Sequence[ServedPicture]) -> list[Answer]:
    return predictor.answer([one.name for one in pictures], [one.pixels for one in pictures])


def describe(run: Path, predictor: Predictor) -> dict[str, Any]:
    """The model's description for GET /metadata."""
    record, calibration = predictor.bundle.record, predictor.bundle.calibration
    summary = _read(run / "summary.json", Summary)
    estimate = summary.estimate if summary else None
    readiness = {"line": readiness_line(summary.readiness)} if summary else {}
    return {
        "readiness": {**readiness, **to_plain(summary.readiness)} if summary else None,
        "warmstart": __version__,
        "task": record.task,
        "labels": list(record.classes),
        "base": _without_folder(record.base),
        "strategy": record.strategy,
        "estimate": to_plain(estimate),
        "test": to_plain(summary.test) if summary else None,
        "verdict": summary.verdict.kind if summary else None,
        "kind": predictor.modality.kind,
        "promise": promise_words(estimate, predictor.modality.nouns),
        "confident_from": calibration.confident_from,
        "promised_error": calibration.promised_error,
        "input": predictor.modality.metadata(record.preprocessing),
    }


def _without_folder(base: str) -> str:
    """The base model's name; of a file without its folder, which is private.

    >>> [_without_folder(b) for b in ("timm:resnet18", "transformers:/home/me/vit", "/a:b/x.pt")]
    ['timm:resnet18', 'transformers:vit', 'x.pt']
    """
    kind, colon, name = base.partition(":")
    if not colon or Path(base).is_absolute():
        return Path(base).name
    is_path = Path(name).is_absolute() or name.startswith((".", "~"))
    return f"{kind}:{Path(name).name}" if is_path else base


def _read(path: Path, kind: type[Record]) -> Record | None:
    """A record of the run; None where it is missing, as in a model folder alone."""
    try:
        return read_json(path, kind)
    except RunFolderError:
        return None
