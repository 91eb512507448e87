"""`warmstart serve RUN`: a finished model behind a page and an HTTP API on this computer."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart import __version__
from warmstart.errors import DataError, RunFolderError, ServeError, install_command
from warmstart.evaluation.readiness import readiness_line
from warmstart.modalities.image import MAX_PIXELS, TooLarge
from warmstart.modalities.preprocessing import Pixels, crop_box, encode, open_image, prepare
from warmstart.nouns import nouns_of
from warmstart.records.answer import Answer
from warmstart.records.data import DataRecord
from warmstart.records.inputs import (
    Inputs,
    Kind,
    Preprocessing,
    TableInputs,
    TextInputs,
    WaveInputs,
    pictures,
)
from warmstart.records.run_folder import read_json, to_plain
from warmstart.records.summary import Summary
from warmstart.run.predictor import Predictor, load
from warmstart.run.reopened import Gallery
from warmstart.serving.model import Heat, ServedModel, ServedPicture, ServerLimits, Unread
from warmstart.tasks.words import in_words

if TYPE_CHECKING:
    from warmstart.serving.access import Gate


# ---- What mattered in an image: cover one part after another and see how the answer changes.
#
# Covering is done to the pixels, before the network, so that it holds for every network and for
# every depth that a head listens to; gradients at one part would miss what the others hear.


Ask = Callable[[Pixels], NDArray[np.float64]]  # images (n, H, W, C) to probabilities (n, K)

SECONDS = 0.7  # that a map may take
COARSEST, FINEST = 3, 8  # cells along each side
CLEAR = 1.0  # of log-odds: where even the largest fall is smaller, nothing glows in full
COVER = 2.0  # width of what is covered, in cells: an edge between two cells must not matter


def find_heat(predictor: Predictor, pixels: Pixels, cells: int) -> Heat:
    """The heat map of one prepared image (H, W, C) uint8, with cells × cells parts."""

    def ask(images: Pixels) -> NDArray[np.float64]:
        return predictor.probabilities(images)[0]

    best, probability, grid, covered = occlusion(ask, pixels, cells, neutral(predictor))
    return Heat(predictor.labels[best], probability, covered, grid)


def neutral(predictor: Predictor) -> NDArray[np.uint8]:
    """The colour that says nothing to the network: what its preprocessing makes zero. (C,)"""
    mean = np.asarray(pictures(predictor.bundle.record.preprocessing).mean)
    return np.asarray(np.clip(np.rint(255 * mean), 0, 255), dtype=np.uint8)


def occlusion(
    ask: Ask, pixels: Pixels, cells: int, colour: NDArray[np.uint8]
) -> tuple[int, float, NDArray[np.float64], float]:
    """Cover each cell of a grid with a colour; how much does the best class lose?

    Measured in log-odds, where a fall from 0.99 to 0.9 counts as much as one from 0.9 to 0.5.
    Returns: class, its probability, grid (cells, cells) in 0..1, and its least probability.

    >>> image = np.zeros((6, 6, 1), np.uint8)
    >>> image[:2, :2] = 200
    >>> def ask(images):
    ...     bright = 0.1 + 0.8 * images[:, :2, :2].mean(axis=(1, 2, 3)) / 200
    ...     return np.stack([bright, 1 - bright], axis=1)
    >>> best, probability, grid, least = occlusion(ask, image, 3, np.uint8([0]))
    >>> best, round(probability, 2), np.unravel_index(grid.argmax(), grid.shape)
    (0, 0.9, (np.int64(0), np.int64(0)))
    """
    masks = covers(pixels.shape[:2], cells)
    images = np.concatenate([pixels[None], np.where(masks[..., None], colour, pixels)])
    found = ask(images.astype(np.uint8))
    best = int(found[0].argmax())
    odds = log_odds(found[:, best])
    falls = np.maximum(odds[0] - odds[1:], 0.0)
    grid = (falls / max(float(falls.max()), CLEAR)).reshape(cells, cells)
    return best, float(found[0, best]), grid, float(found[1:, best].min())


def log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln p / (1 - p), finite for certainty.

    >>> log_odds(np.array([0.5, 1.0])).round(1).tolist()
    [0.0, 20.7]
    """
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p) - np.log1p(-p))


def covers(size: tuple[int, int], cells: int) -> NDArray[np.bool_]:
    """Which pixels each cover hides, row by row. Shapes: (cells², H, W).

    >>> covers((6, 6), 3)[0, :, 0].astype(int).tolist()
    [1, 1, 1, 0, 0, 0]
    """
    rows, columns = (_bands(side, cells) for side in size)
    both = rows[:, None, :, None] & columns[None, :, None, :]
    return both.reshape(cells * cells, *size)


def _bands(side: int, cells: int) -> NDArray[np.bool_]:
    """(cells, side): each cell along one side, with its margin."""
    middle = (np.arange(cells) + 0.5) * side / cells
    half = COVER * side / cells / 2
    at = np.arange(side) + 0.5
    return np.asarray(np.abs(at - middle[:, None]) <= half + 1e-9)


def cells_for(seconds: float) -> int:
    """Cells along a side, so that a map takes less than a second at this pace an image.

    >>> cells_for(1 / 75), cells_for(1 / 1000), cells_for(0.5)
    (7, 8, 3)
    """
    return min(max(math.isqrt(int(SECONDS / max(seconds, 1e-6))), COARSEST), FINEST)


def measure_pace(predictor: Predictor) -> float:
    """Seconds an image in a pass of some; the first pass, which sets things up, is not counted."""
    prep = pictures(predictor.bundle.record.preprocessing)
    blank = np.zeros((8, *prep.size, prep.channels), np.uint8)
    predictor.probabilities(blank)
    began = time.perf_counter()
    predictor.probabilities(blank)
    return (time.perf_counter() - began) / len(blank)


Record = TypeVar("Record")
NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where a server listens and whom it answers. `names` are hosts it is called by besides."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    names: tuple[str, ...] = ()


def serve(
    run: Path,
    asked: Serving,
    ready: Callable[[str], None],
    stopping: Callable[[], None],
    limits: ServerLimits | None = None,
) -> None:
    """Load a run's model and answer for it until a signal comes.

    `ready` is told the address when the first request can come, `stopping` when the first
    signal has; what is inside by then is still answered.
    Raises: ServeError where the server cannot start, RunFolderError without a model.
    """
    check_installed()
    from warmstart.serving import running

    check_token(asked.token)
    limits = limits or ServerLimits()
    taken = running.bind(asked.host, asked.port)
    try:
        app = application(run, asked, limits)
        address = running.address(taken)
        server = running.make_server(app, limits, lambda: ready(address), stopping)
        running.run(server, taken)
    finally:
        taken.close()


def application(run: Path, asked: Serving, limits: ServerLimits) -> Gate:
    """The ASGI application of a run's model. Raises: RunFolderError without one, UsageError."""
    from warmstart.serving.access import access_for
    from warmstart.serving.app import make_app

    access = access_for(asked.host, asked.token, asked.names)
    predictor = load(run)
    if predictor.kind not in _WORK:
        raise ServeError(
            f"{run} is a model of {predictor.kind}s, which this version does not serve; ask it "
            "with `warmstart predict`, or in Python with warmstart.load(RUN).predict."
        )
    served = serve_model(run, predictor, limits)
    return make_app(served, access, limits)


def check_installed() -> None:
    """Raises: ServeError saying what to install where a package is missing."""
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
            "the token is empty or holds letters that no header carries; use a-z, 0-9."
        )
    if token is not None and token != token.strip():
        raise ServeError("the token begins or ends with a space; leave it away.")


def serve_model(run: Path, predictor: Predictor, limits: ServerLimits) -> ServedModel:
    """A model's work as the functions that a server calls."""
    record = _read(run / "data.json", DataRecord) or _nothing(run, predictor)
    gallery = Gallery(run, record, predictor.bundle.record.preprocessing)
    work = _WORK[predictor.kind](predictor)
    return ServedModel(
        kind=predictor.input_kind,
        title=record.name,
        labels=predictor.labels,
        metadata={
            **describe(run, predictor),
            "name": record.name,
            "limits": taken_on(limits),
            "pictures": gallery.is_there and predictor.kind == "image",
            "accept": nouns_of(predictor.input_kind).accept,
        },
        decode=work.decode,
        answer=lambda pictures: _answers(predictor, pictures),
        explain=work.explain,
        no_heat=work.no_heat,
        number=gallery.number,
        kin=lambda number: in_words(gallery.label(number), record.task),
        thumbnail=gallery.thumbnail,
    )


@dataclass(frozen=True, slots=True)
class _PredictorWork:
    """What differs by the kind of input: reading it, and showing what in it mattered."""

    decode: Callable[[bytes, str], ServedPicture | Unread]
    explain: Callable[[ServedPicture], Heat] | None
    no_heat: str = ""


def _of_pictures(predictor: Predictor) -> _PredictorWork:
    prep = pictures(predictor.bundle.record.preprocessing)

    def decode(payload: bytes, name: str) -> ServedPicture | Unread:
        return read_picture(payload, name, prep)

    if predictor.task == "regress":
        return _PredictorWork(
            decode, None, "this model answers a number, and only labels are explained"
        )
    cells = cells_for(measure_pace(predictor))
    return _PredictorWork(decode, lambda picture: find_heat(predictor, picture.pixels, cells))


def _of_others(predictor: Predictor) -> _PredictorWork:
    inputs = predictor.bundle.record.preprocessing
    why = f"what mattered is shown of pictures, and this model takes {nouns_of(inputs.kind).many}"
    return _PredictorWork(lambda payload, name: read_other(payload, name, inputs), None, why)


_WORK: dict[Kind, Callable[[Predictor], _PredictorWork]] = {
    "image": _of_pictures,
    "text": _of_others,
    "table": _of_others,
    "audio": _of_others,
}


def read_other(payload: bytes, name: str, inputs: Inputs) -> ServedPicture | Unread:
    """A text, a row in JSON or a clip as the network takes it; or why it cannot be read."""
    try:
        return ServedPicture(name, encode(payload, name, inputs), (0.0, 0.0, 1.0, 1.0))
    except DataError as error:
        return Unread(name, str(error))


def read_picture(payload: bytes, name: str, prep: Preprocessing) -> ServedPicture | Unread:
    """Encoded bytes as the network takes them, or why they cannot be read."""
    try:
        opened = open_image(payload, name, prep)
        width, height = _size(opened)
        left, top, right, bottom = crop_box((width, height), prep)
        box = (left / width, top / height, right / width, bottom / height)
        return ServedPicture(name, prepare(opened, prep), box)
    except TooLarge as error:
        return Unread(name, str(error), is_too_large=True)
    except DataError as error:
        return Unread(name, str(error))


def _size(opened: Image.Image | Pixels) -> tuple[int, int]:
    """Width and height, px."""
    return opened.size if isinstance(opened, Image.Image) else (opened.shape[1], opened.shape[0])


def _answers(predictor: Predictor, pictures: Sequence[ServedPicture]) -> list[Answer]:
    return predictor.answer([one.name for one in pictures], [one.pixels for one in pictures])


def describe(run: Path, predictor: Predictor) -> dict[str, Any]:
    """What GET /metadata says of the model: what it is, and how often it is right."""
    from warmstart.serving.wording import promise_words

    record, calibration = predictor.bundle.record, predictor.bundle.calibration
    summary = _read(run / "summary.json", Summary)
    estimate = summary.estimate if summary else None
    return {
        "readiness": _ready(summary),
        "warmstart": __version__,
        "task": record.task,
        "labels": list(record.classes),
        "base": _shown(record.base),
        "strategy": record.strategy,
        "estimate": to_plain(estimate),
        "test": to_plain(summary.test) if summary else None,
        "verdict": summary.verdict.kind if summary else None,
        "kind": predictor.input_kind,
        "promise": promise_words(estimate, nouns_of(predictor.input_kind)),
        "confident_from": calibration.confident_from,
        "promised_error": calibration.promised_error,
        "input": _taken(record.preprocessing),
    }


def _ready(summary: Summary | None) -> dict[str, Any] | None:
    """Whether the model can be used, with the line that stands above everything."""
    if summary is None:
        return None
    return {"line": readiness_line(summary.readiness), **to_plain(summary.readiness)}


def _taken(inputs: Inputs) -> dict[str, Any]:
    """What an input is, for programs that ask."""
    if isinstance(inputs, Preprocessing):
        height, width = inputs.size
        return {"height": height, "width": width, "channels": inputs.channels}
    if isinstance(inputs, TextInputs):
        return {"tokens": inputs.length}
    if isinstance(inputs, WaveInputs):
        return {"rate": inputs.rate, "seconds": inputs.seconds}
    if isinstance(inputs, TableInputs):
        told = [
            {"name": one.name, "kind": one.kind, "values": list(one.values)}
            for one in inputs.columns
        ]
        return {"columns": told}
    return {"shape": list(inputs.shape)}


def _nothing(run: Path, predictor: Predictor) -> DataRecord:
    """What is known of the data where a model stands alone."""
    return DataRecord(
        name=run.resolve().name,
        kind=predictor.kind,
        task="classify",
        layout="",
        examples=(),
        classes=predictor.labels,
    )


def _shown(base: str) -> str:
    """A start's name; of a file no more than that, for its folder is nobody's business.

    >>> _shown("timm:resnet18"), _shown("transformers:/home/me/vit"), _shown("/home/a:b/x.pt")
    ('timm:resnet18', 'transformers:vit', 'x.pt')
    """
    kind, colon, name = base.partition(":")
    if not colon or Path(base).is_absolute():
        return Path(base).name
    is_place = Path(name).is_absolute() or name.startswith((".", "~"))
    return f"{kind}:{Path(name).name}" if is_place else base


def taken_on(limits: ServerLimits) -> dict[str, int]:
    """What GET /metadata says of how much may be sent.

    >>> taken_on(ServerLimits())["images"]
    32
    """
    return {"body_bytes": limits.body_bytes, "images": limits.images, "pixels": MAX_PIXELS}


def _read(path: Path, kind: type[Record]) -> Record | None:
    """A record of the run; None where it is missing, for a model alone still answers."""
    try:
        return read_json(path, kind)
    except RunFolderError:
        return None
