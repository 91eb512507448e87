"""A finished model, ready to answer: network, preprocessing, calibration, neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from warmstart.data.arrays import channels_last, payload_of_picture
from warmstart.data.arrays import encode as encode_array
from warmstart.errors import DataError, ModelError, RunFolderError
from warmstart.evaluation.active_learning import doubt
from warmstart.evaluation.measure import measure_of
from warmstart.evaluation.metrics import scores
from warmstart.evaluation.multilabel import LabelCertainty, confidence
from warmstart.evaluation.regression import NumberCertainty
from warmstart.features.batches import noise, passes, to_tensor
from warmstart.features.engine import fused
from warmstart.modalities.image import as_picture as first_bands
from warmstart.modalities.preprocessing import encode
from warmstart.network.feature_layers import LayerReader
from warmstart.network.model_folder import Bundle, read_bundle
from warmstart.network.surgery import WarmModel, rebuild
from warmstart.network.tensors import in_channels_last
from warmstart.nouns import nouns_of
from warmstart.records.answer import (
    Answer,
    LabelAnswer,
    LabelCalibration,
    NumberAnswer,
    NumberCalibration,
)
from warmstart.records.data import Task
from warmstart.records.inputs import Inputs, Kind, kind_of, pictures
from warmstart.records.summary import TestScores
from warmstart.run.inputs_given import (
    InputText,
    NamedInput,
    find_files,
    find_texts,
    items_of,
    opened,
    read_path,
    text_payload,
)
from warmstart.solve.kernels import Features
from warmstart.stats.intervals import Groups, Values
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.regress import Regression
from warmstart.training.out_of_distribution import Neighbours, unpack

# ---- From what a finished network gives to answers, task by task.


Answers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AnswerPlace:
    """Which input is answered, and how it lies among what was learnt from."""

    path: str
    ood: bool
    nearest: tuple[str, ...]


class Replies(Protocol):
    """How a model of one task answers."""

    def answers(self, outputs: Tensor) -> Answers:
        """What the network's outputs (n, K) say: probabilities, or values (n, 1)."""
        ...

    def answer(self, place: AnswerPlace, said: Answers) -> Answer:
        """One input. Shapes: said (K,)."""
        ...

    def empty(self, path: str, error: str) -> Answer:
        """An input that cannot be read."""
        ...

    def measured(self, said: Answers, labels: Sequence[str], groups: Groups) -> TestScores:
        """Metrics on labelled inputs."""
        ...

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """How much an answer is in doubt, 0 to 1. Shapes: (m, K) to (m,)."""
        ...


def _none(path: str, error: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("label", "probability", "confident"))
    return {"path": path, "ood": False, "scores": {}, "error": error, **nothing}


@dataclass(frozen=True, slots=True, eq=False)
class ClassReplies:
    """One class."""

    bundle: Bundle

    def answers(self, outputs: Tensor) -> Answers:
        """Probabilities by softmax."""
        found: Answers = outputs.softmax(dim=1).numpy()
        return found

    def answer(self, place: AnswerPlace, said: Answers) -> Answer:
        """The likeliest class."""
        calibration, names = self.bundle.calibration, self.bundle.record.classes
        best = int(said.argmax())
        sure = (
            None
            if calibration.confident_from is None
            else bool(said[best] >= calibration.confident_from)
        )
        return Answer(
            path=place.path,
            label=names[best],
            probability=float(said[best]),
            confident=False if place.ood else sure,
            ood=place.ood,
            scores={names[i]: float(said[i]) for i in np.argsort(-said, kind="stable")},
            nearest=place.nearest,
        )

    def empty(self, path: str, error: str) -> Answer:
        """Without a label."""
        return Answer(**_none(path, error))

    def measured(self, said: Answers, labels: Sequence[str], groups: Groups) -> TestScores:
        """Accuracy and the like."""
        return scores(said, CLASSIFICATION.read(labels, self.bundle.record.classes), groups)

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """By the gap between the two likeliest classes."""
        return doubt(said)


@dataclass(frozen=True, slots=True, eq=False)
class LabelReplies:
    """Any of several labels."""

    bundle: Bundle
    calibration: LabelCalibration

    def answers(self, outputs: Tensor) -> Answers:
        """A probability a label."""
        found: Answers = outputs.sigmoid().numpy()
        return found

    def answer(self, place: AnswerPlace, said: Answers) -> Answer:
        """The labels from their thresholds on."""
        names, thresholds = self.bundle.record.classes, np.array(self.calibration.thresholds)
        certain, least = (
            float(confidence(said[None], thresholds)[0]),
            self.calibration.confident_from,
        )
        sure = None if least is None else certain >= least
        order = np.argsort(-said, kind="stable")
        return LabelAnswer(
            path=place.path,
            label=names[order[0]],
            probability=float(said[order[0]]),
            confident=False if place.ood else sure,
            ood=place.ood,
            scores={names[i]: float(said[i]) for i in order},
            nearest=place.nearest,
            labels=tuple(names[i] for i in order if said[i] >= thresholds[i]),
        )

    def empty(self, path: str, error: str) -> Answer:
        """Without labels."""
        return LabelAnswer(**_none(path, error))

    def measured(self, said: Answers, labels: Sequence[str], groups: Groups) -> TestScores:
        """Mean average precision and the like."""
        own, names = self.calibration, self.bundle.record.classes
        certainty = LabelCertainty(np.array(own.thresholds), own.confident_from, own.promised_error)
        truth = MULTILABEL.read(labels, names)
        return measure_of(MULTILABEL).scores(said, truth, groups, certainty, names)

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """Of the label that is nearest to being one or the other."""
        found: Values = 1 - 2 * np.abs(said.astype(np.float64) - 0.5).min(axis=1)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class NumberReplies:
    """A number."""

    calibration: NumberCalibration

    @property
    def target(self) -> Regression:
        """The scale that was learnt: the finished calibration leads from it to the user's unit."""
        return Regression(self.calibration.class_bias[0], 1 / self.calibration.temperature)

    def answers(self, outputs: Tensor) -> Answers:
        """Values, as they are."""
        found: Answers = outputs.numpy()
        return found

    def answer(self, place: AnswerPlace, said: Answers) -> Answer:
        """The value with its interval."""
        value, half = float(said[0]), self.calibration.half_width
        return NumberAnswer(
            path=place.path,
            label=f"{value:.6g}",
            probability=None,
            confident=False if place.ood else None,
            ood=place.ood,
            scores={},
            nearest=place.nearest,
            value=value,
            low=None if half is None else value - half,
            high=None if half is None else value + half,
        )

    def empty(self, path: str, error: str) -> Answer:
        """Without a value."""
        return NumberAnswer(**_none(path, error))

    def measured(self, said: Answers, labels: Sequence[str], groups: Groups) -> TestScores:
        """R² and errors."""
        target = self.target
        answers, truth = (said - target.mean) / target.spread, target.read(labels, ())
        certainty = NumberCertainty(self.calibration.half_width)
        return measure_of(target).scores(answers, truth, groups, certainty, ())

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """The same for all: intervals are equally wide."""
        return np.ones(len(said))


def replies_of(bundle: Bundle) -> Replies:
    """How a model answers, by what its calibration promises."""
    calibration = bundle.calibration
    if isinstance(calibration, LabelCalibration):
        return LabelReplies(bundle, calibration)
    if isinstance(calibration, NumberCalibration):
        return NumberReplies(calibration)
    return ClassReplies(bundle)


BATCH = 32
# Images in one pass of the network, a thread. Of more, tensors grow so large that the C library
# maps them anew at every layer (features/machine.py): EfficientNet-Lite0 on two cores answers 97 a
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

        >>> run.predictor("new.jpg").label  # doctest: +SKIP
        'cat'
        >>> [answer.label for answer in run.predictor(["a.jpg", "b.jpg"])]  # doctest: +SKIP
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
        from warmstart.run.inputs_shown import grid

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
            replies.answer(AnswerPlace(name, bool(unknown), tuple(ids[i] for i in near)), one)
            for name, one, unknown, near in zip(names, said, strange, rows, strict=True)
        ]

    def probabilities(self, pixels: Pixels) -> tuple[NDArray[np.float64], Features]:
        """Prepared images (B, H, W, C) uint8 to probabilities (B, K) and joined taps (B, D).

        Of a model of numbers: to values (B, 1).
        """
        logits, feature_layers = self.logits(pixels)
        named = zip(self.bundle.record.feature_layers, feature_layers, strict=True)
        own = [features for layer, features in named if not layer.of]
        return self.replies.answers(logits), torch.cat(own, dim=1).numpy()

    def unlike(self, joined: Features) -> NDArray[np.bool_]:
        """Which joined taps (B, D) are unlike those of all that was learnt from. Shapes: (B,)."""
        return self._placed(joined)[0]

    def _placed(self, joined: Features) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """The same, and the rows of the nearest among what was learnt from (B, k)."""
        calibration = self.bundle.calibration
        distances, rows = self.neighbours.nearest(joined, calibration.nearest)
        return distances > calibration.ood_from, rows

    def logits(self, pixels: Pixels) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same to calibrated logits (B, K) in double precision, and each tap (B, d)."""
        step = min(AT_ONCE * torch.get_num_threads(), BATCH)
        with torch.inference_mode():
            inputs = self.bundle.record.preprocessing
            order = passes(pixels, inputs, step)
            passed = [self.fast(to_tensor(pixels[rows], inputs)) for rows in order]
            back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
            feature_layers = tuple(torch.cat(blocks)[back] for blocks in zip(*passed, strict=True))
            return self.model.head(feature_layers).double(), feature_layers


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
    if isinstance(item, (InputText, NamedInput)):
        return item.name
    return str(item) if isinstance(item, (str, Path)) else f"#{index}"


def _payload(item: Any, name: str) -> bytes:
    """A path, picture or array as encoded bytes, so that one decoder treats all alike."""
    if isinstance(item, NamedInput):
        return item.payload
    if isinstance(item, (str, Path)):
        if not str(item):
            raise DataError("the path of an image is empty; name the file")
        return read_path(Path(item))
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


def _encode_picture(picture: Image.Image, name: str) -> bytes:
    try:
        return payload_of_picture(picture)
    except DataError as error:
        raise DataError(f"{name} {error}") from error


def load(run: str | Path, network: nn.Module | None = None) -> Predictor:
    """Load a finished run for predicting.

    `network` is an instance of the user's own module where the run began from one.
    Raises: RunFolderError if there is no model or it is damaged, ModelError if `network` is
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
        fast = fused(LayerReader(model.backbone, model.scan), tried)
    except (RuntimeError, ValueError, TypeError, IndexError, ModelError) as error:
        raise _apart(where, str(error)) from error
    own = zip(bundle.record.feature_layers, model.scan.widths, strict=True)
    n_features = sum(width for layer, width in own if not layer.of)
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
            record.arch,
            bundle.tensors,
            record.feature_layers,
            len(record.classes),
            record.preprocessing,
            network,
            record.added,
            record.ensemble,
        )
    except Exception as error:  # an edited config.json makes torch and timm raise what they like
        if is_own and isinstance(error, ModelError):
            raise
        raise _apart(where, str(error)) from error


# ---- `warmstart predict RUN PATH…`


def predict(run: Path, paths: Sequence[str]) -> Iterator[Answer]:
    """Answer for every image; a folder stands for the images in and below it, sorted.

    A model of texts answers for each text: typed, in a .txt file, in a row of a table.
    A model for tables answers for every row of the tables that are named.

    Raises: RunFolderError if the run has no model, DataError if no image was named.
    """
    predictor = load(run)
    if predictor.kind == "text":
        return predictor.stream(find_texts(paths))
    if predictor.kind == "table":
        return predictor.stream(list(paths))
    return predictor.stream(find_files(paths, nouns_of(predictor.heard)))
