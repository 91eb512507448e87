"""A finished model that predicts: network, preprocessing, calibration, neighbours."""

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
from warmstart.evaluation.metrics import scores as class_scores
from warmstart.evaluation.multilabel import LabelCertainty, confidence
from warmstart.evaluation.regression import NumberCertainty
from warmstart.features.batches import noise, sub_batches, to_tensor
from warmstart.features.engine import fuse_batch_norms
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
from warmstart.run.predict_inputs import (
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

BATCH = 32
# Images per forward pass and thread. With more, tensors grow so large that the C library maps them
# anew at every layer (features/machine.py): EfficientNet-Lite0 on two cores answers 97 images a
# second in passes of 8, and 58 in passes of 32.
PER_THREAD = 4
Pixels = NDArray[Any]  # an encoded example, or a batch of them
Scores = NDArray[np.float64]  # probabilities (n, K); for regression, values (n, 1)

# ---- From a network's outputs to answers, task by task.


@dataclass(frozen=True, slots=True)
class AnswerPlace:
    """The name of an input, whether it is out of distribution, its nearest training examples."""

    path: str
    ood: bool
    nearest: tuple[str, ...]

    def fields(
        self, order: NDArray[np.intp], scores: Scores, names: Sequence[str]
    ) -> dict[str, Any]:
        """The fields of an `Answer` that do not depend on the task; `order`: the best first."""
        best = order[0]
        return {
            "path": self.path,
            "label": names[best],
            "probability": float(scores[best]),
            "ood": self.ood,
            "scores": {names[i]: float(scores[i]) for i in order},
            "nearest": self.nearest,
        }


class Replies(Protocol):
    """How a model of one task answers."""

    def answers(self, outputs: Tensor) -> Scores:
        """Logits (n, K) as probabilities, or values (n, 1)."""
        ...

    def answer(self, place: AnswerPlace, scores: Scores) -> Answer:
        """The answer for one input. Shapes: scores (K,)."""
        ...

    def empty(self, path: str, error: str) -> Answer:
        """The answer for an input that cannot be read."""
        ...

    def measured(self, scores: Scores, labels: Sequence[str], groups: Groups) -> TestScores:
        """Metrics on labelled inputs."""
        ...

    def uncertainty(self, scores: NDArray[np.floating]) -> Values:
        """How uncertain each answer is, 0 to 1. Shapes: (m, K) to (m,)."""
        ...


def _none(path: str, error: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("label", "probability", "confident"))
    return {"path": path, "ood": False, "scores": {}, "error": error, **nothing}


@dataclass(frozen=True, slots=True, eq=False)
class ClassReplies:
    """One class per example."""

    bundle: Bundle

    def answers(self, outputs: Tensor) -> Scores:
        probabilities: Scores = outputs.softmax(dim=1).numpy()
        return probabilities

    def answer(self, place: AnswerPlace, scores: Scores) -> Answer:
        threshold = self.bundle.calibration.confident_from
        is_confident = None if threshold is None else bool(scores.max() >= threshold)
        order = np.argsort(-scores, kind="stable")
        return Answer(
            **place.fields(order, scores, self.bundle.record.classes),
            confident=False if place.ood else is_confident,
        )

    def empty(self, path: str, error: str) -> Answer:
        return Answer(**_none(path, error))

    def measured(self, scores: Scores, labels: Sequence[str], groups: Groups) -> TestScores:
        truth = CLASSIFICATION.read(labels, self.bundle.record.classes)
        return class_scores(scores, truth, groups)

    def uncertainty(self, scores: NDArray[np.floating]) -> Values:
        return doubt(scores)


@dataclass(frozen=True, slots=True, eq=False)
class LabelReplies:
    """Any of several labels."""

    bundle: Bundle
    calibration: LabelCalibration

    def answers(self, outputs: Tensor) -> Scores:
        probabilities: Scores = outputs.sigmoid().numpy()
        return probabilities

    def answer(self, place: AnswerPlace, scores: Scores) -> Answer:
        names, thresholds = self.bundle.record.classes, np.array(self.calibration.thresholds)
        least = self.calibration.confident_from
        certainty = float(confidence(scores[None], thresholds)[0])
        is_confident = None if least is None else certainty >= least
        order = np.argsort(-scores, kind="stable")
        return LabelAnswer(
            **place.fields(order, scores, names),
            confident=False if place.ood else is_confident,
            labels=tuple(names[i] for i in order if scores[i] >= thresholds[i]),
        )

    def empty(self, path: str, error: str) -> Answer:
        return LabelAnswer(**_none(path, error))

    def measured(self, scores: Scores, labels: Sequence[str], groups: Groups) -> TestScores:
        own, names = self.calibration, self.bundle.record.classes
        certainty = LabelCertainty(np.array(own.thresholds), own.confident_from, own.promised_error)
        truth = MULTILABEL.read(labels, names)
        return measure_of(MULTILABEL).scores(scores, truth, groups, certainty, names)

    def uncertainty(self, scores: NDArray[np.floating]) -> Values:
        """That of the label whose probability is nearest to 0.5."""
        values: Values = 1 - 2 * np.abs(scores.astype(np.float64) - 0.5).min(axis=1)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class NumberReplies:
    """A number with its interval."""

    calibration: NumberCalibration

    @property
    def target(self) -> Regression:
        """The scale of training: the calibration converts it to the user's unit."""
        return Regression(self.calibration.class_bias[0], 1 / self.calibration.temperature)

    def answers(self, outputs: Tensor) -> Scores:
        values: Scores = outputs.numpy()
        return values

    def answer(self, place: AnswerPlace, scores: Scores) -> Answer:
        value, half = float(scores[0]), self.calibration.half_width
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
        return NumberAnswer(**_none(path, error))

    def measured(self, scores: Scores, labels: Sequence[str], groups: Groups) -> TestScores:
        target = self.target
        answers, truth = (scores - target.mean) / target.spread, target.read(labels, ())
        certainty = NumberCertainty(self.calibration.half_width)
        return measure_of(target).scores(answers, truth, groups, certainty, ())

    def uncertainty(self, scores: NDArray[np.floating]) -> Values:
        """Equal for all: the intervals have one width."""
        return np.ones(len(scores))


def replies_of(bundle: Bundle) -> Replies:
    """How a model answers, by the kind of its calibration."""
    calibration = bundle.calibration
    if isinstance(calibration, LabelCalibration):
        return LabelReplies(bundle, calibration)
    if isinstance(calibration, NumberCalibration):
        return NumberReplies(calibration)
    return ClassReplies(bundle)


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Answers for images; made by `warmstart.load`.

    `model` maps normalised inputs (B, C, H, W) to calibrated logits (B, K) in the order of
    `labels`. `fast` gives the features of its head, each BatchNorm folded into its convolution.
    """

    model: WarmModel
    fast: nn.Module
    bundle: Bundle
    neighbours: Neighbours

    @property
    def kind(self) -> Kind:
        """The kind of inputs: image (clips of sound, too), text, table or tensor."""
        return self.bundle.record.preprocessing.kind

    @property
    def input_kind(self) -> Kind:
        """As `kind`, with audio apart from images."""
        return kind_of(self.bundle.record.preprocessing)

    @property
    def replies(self) -> Replies:
        return replies_of(self.bundle)

    @property
    def task(self) -> Task:
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
        """One answer for one input; for many, a list of answers in their order.

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
        answers = list(self._answer_all(items))
        if not is_one:
            return answers
        (answer,) = answers
        if answer.error is not None:
            # A single input in memory has no name that its user knows.
            raise DataError(re.sub("^#0", "the input", answer.error))
        return answer

    def stream(self, inputs: Sequence[Any]) -> Iterator[Answer]:
        """Answers for many inputs, batch by batch, in constant memory."""
        yield from self._answer_all(opened(inputs, self.bundle.record.preprocessing))

    def _answer_all(self, inputs: Sequence[Any]) -> Iterator[Answer]:
        for start in range(0, len(inputs), BATCH):
            batch: list[Answer | tuple[str, Pixels]] = []
            for index, item in enumerate(inputs[start : start + BATCH], start):
                name = _name_of(item, index)
                try:
                    batch.append((name, self._pixels(item, name)))
                except DataError as error:
                    batch.append(self.replies.empty(name, str(error)))
            pixels = [item for item in batch if not isinstance(item, Answer)]
            answers = iter(self.answer([name for name, _ in pixels], [x for _, x in pixels]))
            yield from (item if isinstance(item, Answer) else next(answers) for item in batch)

    def prepared(self, inputs: Sequence[Any]) -> Iterator[tuple[str, Pixels]]:
        """The name of each input, and its pixels as the network gets them, (H, W, C) uint8.

        Raises: DataError at the first that cannot be read.
        """
        for index, item in enumerate(inputs):
            name = _name_of(item, index)
            yield name, self._pixels(item, name)

    def show_inputs(
        self, inputs: Sequence[Any], labels: Sequence[Any] | None = None
    ) -> Image.Image:
        """These inputs as the network sees them, in one picture, each with its label or name.

        Prepared as for the network and brought back from its normalisation.
        Raises: DataError at the first that cannot be read, or for labels of another number.
        """
        from warmstart.run.input_pictures import grid

        if labels is not None and len(labels) != len(inputs):
            raise DataError(f"{len(inputs)} inputs have {len(labels)} labels; give one label each")
        pairs, prep = list(self.prepared(inputs)), self.bundle.record.preprocessing
        titles = [Path(name).name for name, _ in pairs] if labels is None else map(str, labels)
        return grid([[input_picture(pixels, prep)] for _, pixels in pairs], [*titles])

    def _pixels(self, item: Any, name: str) -> Pixels:
        inputs = self.bundle.record.preprocessing
        payload = text_payload(item, name) if inputs.kind == "text" else _payload(item, name)
        return encode(payload, name, inputs)

    def answer(self, names: Sequence[str], pixels: Sequence[Pixels]) -> list[Answer]:
        """Answers for prepared images, each (H, W, C) uint8, in one batch."""
        if not names:
            return []
        scores, features = self.probabilities(np.stack(pixels))
        is_ood, rows = self._compare(features)
        replies, ids = self.replies, self.bundle.ids
        return [
            replies.answer(AnswerPlace(name, bool(ood), tuple(ids[i] for i in nearest)), one)
            for name, one, ood, nearest in zip(names, scores, is_ood, rows, strict=True)
        ]

    def probabilities(self, pixels: Pixels) -> tuple[Scores, Features]:
        """Prepared images (B, H, W, C) uint8 to probabilities (B, K) and joined features (B, D).

        A regression model gives values (B, 1).
        """
        logits, feature_layers = self.logits(pixels)
        named = zip(self.bundle.record.feature_layers, feature_layers, strict=True)
        own = [features for layer, features in named if not layer.of]
        return self.replies.answers(logits), torch.cat(own, dim=1).numpy()

    def is_ood(self, joined: Features) -> NDArray[np.bool_]:
        """Which joined features (B, D) are unlike those of all training examples. Shapes: (B,)."""
        return self._compare(joined)[0]

    def _compare(self, joined: Features) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """`is_ood`, and the rows of the nearest training examples (B, k)."""
        calibration = self.bundle.calibration
        distances, rows = self.neighbours.nearest(joined, calibration.nearest)
        return distances > calibration.ood_from, rows

    def logits(self, pixels: Pixels) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Prepared images to calibrated logits (B, K) in float64 and features (B, d) per layer."""
        step = min(PER_THREAD * torch.get_num_threads(), BATCH)
        with torch.inference_mode():
            inputs = self.bundle.record.preprocessing
            order = sub_batches(pixels, inputs, step)
            outputs = [self.fast(to_tensor(pixels[rows], inputs)) for rows in order]
            back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
            feature_layers = tuple(torch.cat(rows)[back] for rows in zip(*outputs, strict=True))
            return self.model.head(feature_layers).double(), feature_layers


def input_picture(pixels: Pixels, prep: Inputs) -> Image.Image:
    """A prepared image (H, W, C) as the network sees it, as a picture again.

    It is normalised and brought back, so that it shows nothing that the network cannot see.
    """
    prep = pictures(prep)
    mean, std = torch.tensor(prep.mean), torch.tensor(prep.std)
    values = to_tensor(pixels[None], prep)[0].permute(1, 2, 0) * std + mean
    return first_bands(values.mul(255).round().clamp(0, 255).byte().numpy())


def _name_of(item: Any, index: int) -> str:
    if isinstance(item, (InputText, NamedInput)):
        return item.name
    return str(item) if isinstance(item, (str, Path)) else f"#{index}"


def _payload(item: Any, name: str) -> bytes:
    if isinstance(item, NamedInput):
        return item.payload
    if isinstance(item, (str, Path)):
        if not str(item):
            raise DataError("the path of an image is empty; name the file")
        return read_path(Path(item))
    if isinstance(item, Image.Image):
        try:
            return payload_of_picture(item)
        except DataError as error:
            raise DataError(f"{name} {error}") from error
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


def load(run: str | Path, network: nn.Module | None = None) -> Predictor:
    """Load a finished run for predicting.

    `network` is an instance of the user's own module where the run began from one.
    Raises: RunFolderError if there is no model or it is damaged, ModelError if `network` is
    missing or another one.
    """
    return open_bundle(read_bundle(Path(run)), str(Path(run) / "model"), network)


def open_bundle(bundle: Bundle, where: str, network: nn.Module | None = None) -> Predictor:
    """A predictor of a model in memory; `where` names it in messages. Raises: as `load`."""
    model = in_channels_last(_rebuild(where, bundle, network))
    prep = bundle.record.preprocessing
    neighbours = unpack(bundle.neighbours)
    sample = to_tensor(noise(prep, 2), prep)
    try:
        with torch.inference_mode():
            logits = model(sample)
        fast = fuse_batch_norms(LayerReader(model.backbone, model.scan), sample)
    except (RuntimeError, ValueError, TypeError, IndexError, ModelError) as error:
        raise _damaged(where, str(error)) from error
    own = zip(bundle.record.feature_layers, model.scan.widths, strict=True)
    n_features = sum(width for layer, width in own if not layer.of)
    if len(neighbours.offset) != n_features:
        raise _damaged(where, f"neighbours of {len(neighbours.offset)} features, not {n_features}")
    if not bool(torch.isfinite(logits).all()):
        raise _damaged(where, "it answers noise with NaN or infinity")
    return Predictor(model, fast, bundle, neighbours)


def _damaged(where: str, why: str) -> RunFolderError:
    reason = why.partition("\n")[0].partition("; ")[0][:300]
    return RunFolderError(f"{where} is damaged ({reason}); restore it, or make the run again.")


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
        raise _damaged(where, str(error)) from error


def predict(run: Path, paths: Sequence[str]) -> Iterator[Answer]:
    """Answers for every image (`warmstart predict`); a folder stands for its images, sorted.

    A text model answers for each text: typed, in a .txt file, in a row of a table.
    A table model answers for every row of the tables that are named.

    Raises: RunFolderError if the run has no model, DataError if no image was named.
    """
    predictor = load(run)
    if predictor.kind == "text":
        return predictor.stream(find_texts(paths))
    if predictor.kind == "table":
        return predictor.stream(list(paths))
    return predictor.stream(find_files(paths, nouns_of(predictor.input_kind)))
