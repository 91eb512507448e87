"""A finished model that predicts, and its metrics on other labelled data."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from warmstart.data.arrays import Frame, as_values, channels_last, frame_table, payload_of_picture
from warmstart.data.arrays import encode as encode_array
from warmstart.data.dataset import Columns
from warmstart.data.parsing import Table, text_of
from warmstart.data.place import is_media, read_file, suffix
from warmstart.data.read import open_table, read_for_scoring
from warmstart.data.splits import group_numbers
from warmstart.data.tables import row_payloads, text_column
from warmstart.errors import DataError, ModelError, RunFolderError
from warmstart.events import Event, Steps, note
from warmstart.features.batches import sub_batches, to_tensor
from warmstart.features.engine import fuse_batch_norms
from warmstart.formatting import first_few
from warmstart.modalities.image import IMAGE
from warmstart.modalities.image import as_picture as first_bands
from warmstart.modalities.modality import Modality
from warmstart.modalities.registry import modality_of
from warmstart.modalities.table import TABLE, pack
from warmstart.modalities.text import TEXT, payload_of
from warmstart.network.feature_layers import LayerReader
from warmstart.network.model_folder import Bundle, read_bundle
from warmstart.network.surgery import WarmModel, rebuild
from warmstart.network.weights import in_channels_last
from warmstart.nouns import Nouns
from warmstart.records.answer import (
    Answer,
)
from warmstart.records.data import DataRecord, Example, Task
from warmstart.records.inputs import (
    Inputs,
    TableInputs,
    pictures,
)
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Summary, TestScores
from warmstart.solve.kernels import Features
from warmstart.stats.intervals import Groups
from warmstart.tasks.registry import TASKS
from warmstart.tasks.task import AnswerPlace, Target
from warmstart.training.out_of_distribution import Neighbours, unpack

# ---- The inputs of `predict` as a list of items.

Items = Sequence[Any]
LONGEST_PATH = 255  # characters: a longer word is a text, not the name of a file
PICTURE_CHANNELS = (1, 3, 4)  # grey, colour, colour with alpha: a picture network takes all


@dataclass(frozen=True, slots=True)
class NamedInput:
    """An example without a file: its name in answers, and the bytes that stand for it."""

    name: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class InputText:
    """A text, and its name in answers."""

    name: str
    text: str


SINGLE = (str, bytes, Path, Image.Image, Mapping, InputText)


def items_of(inputs: Any, model: Inputs) -> tuple[Items, bool]:
    """The items of `inputs` as a model takes them, and whether `inputs` was one example.

    Many are a folder, a table, a stack of arrays, a list and every other iterable.
    """
    form = modality_of(model).form
    if form == "texts":
        name = str(inputs) if isinstance(inputs, (str, Path)) else ""
        if is_path(name) and (os.path.isdir(name) or suffix(name) in TABLE.suffixes):
            return find_texts([name]), False
        return ([inputs], True) if _is_single(inputs) else (list(inputs), False)
    if form == "rows":
        return opened(inputs, model), isinstance(inputs, Mapping)
    if form == "arrays":
        # A pair of a tensor and its class, as a data set gives it, is one example.
        is_pair = isinstance(inputs, tuple) and len(inputs) == 2 and np.ndim(inputs[1]) == 0
        is_array = isinstance(inputs, (np.ndarray, Tensor))
        is_one = is_pair or _is_single(inputs) or (is_array and inputs.ndim <= len(model.shape))
        return opened([inputs] if is_one else list(inputs), model), is_one
    return _files_or_arrays(inputs, model)


def _files_or_arrays(inputs: Any, model: Inputs) -> tuple[Items, bool]:
    nouns = modality_of(model).nouns
    if isinstance(inputs, (str, Path)):
        return (find_files([inputs], nouns), False) if os.path.isdir(inputs) else ([inputs], True)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OU":
        inputs = inputs.tolist()
    if isinstance(inputs, (np.ndarray, Tensor)):
        # Three axes are one image, not a stack of grey ones, where one axis is channels: the last
        # of an array, the first or last of a tensor.
        channels = _channels(model)
        is_first = isinstance(inputs, Tensor) and inputs.shape[0] in channels
        is_image = inputs.ndim == 3 and (inputs.shape[-1] in channels or is_first)
        is_one = inputs.ndim < 3 or is_image
        return [_channels_last(x, model) for x in ([inputs] if is_one else list(inputs))], is_one
    if _is_single(inputs):
        return [inputs], True
    return [_channels_last(item, model) for item in find_files(inputs, nouns)], False


def _is_single(item: Any) -> bool:
    """Whether an item that is no array cannot be iterated, or should not be."""
    return isinstance(item, (*SINGLE, Frame)) or not isinstance(item, Iterable)


def _channels(model: Inputs) -> tuple[int, ...]:
    if not modality_of(model).has_pixels or not pictures(model).ranges:
        return PICTURE_CHANNELS
    return (pictures(model).channels,)


def _channels_last(item: Any, model: Inputs) -> Any:
    """A tensor (C, H, W) as an array (H, W, C); anything else unchanged."""
    if not isinstance(item, Tensor):
        return item
    values = item.detach().cpu().numpy()
    channels = _channels(model)
    is_first = values.ndim == 3 and values.shape[0] in channels and values.shape[-1] not in channels
    return np.moveaxis(values, 0, 2) if is_first else values


def opened(inputs: Any, model: Inputs) -> Items:
    """The inputs one by one: rows of tables and tensors as `NamedInput`, others unchanged.

    Rows come as paths of tables, as a DataFrame, or as mappings from column to value.
    """
    form = modality_of(model).form
    if form == "rows":
        return list(_rows(inputs, cast(TableInputs, model)))
    items: list[Any] = list(inputs)
    if form == "arrays":
        for index, item in enumerate(items):
            is_pair = isinstance(item, tuple) and len(item) == 2  # (tensor, class)
            values, buffer = item[0] if is_pair else item, io.BytesIO()
            np.lib.format.write_array(buffer, as_values(values, f"#{index}"), allow_pickle=False)
            items[index] = NamedInput(f"#{index}", buffer.getvalue())
    return items


def _rows(inputs: Any, model: TableInputs) -> Iterator[NamedInput]:
    if isinstance(inputs, Frame) and not isinstance(inputs, Mapping):
        yield from _table_rows(frame_table(inputs), "the DataFrame", model)
        return
    for index, item in enumerate([inputs] if isinstance(inputs, (str, Path, Mapping)) else inputs):
        if isinstance(item, (str, Path)):
            table = open_table(Path(item).expanduser(), str(item))
            yield from _table_rows(table, str(item), model)
        elif isinstance(item, Mapping):
            yield NamedInput(f"#{index}", pack({str(k): text_of(v) or "" for k, v in item.items()}))
        else:
            raise DataError(
                f"#{index} is of type {type(item).__name__}; give tables by their path, a "
                "DataFrame, or rows as mappings from column to value"
            )


def _table_rows(table: Table, name: str, model: TableInputs) -> Iterator[NamedInput]:
    missing = [column.name for column in model.columns if column.name not in table.columns]
    if missing:
        raise DataError(
            f"{name} has no column {first_few([repr(column) for column in missing], 3)}, which the "
            f"model takes; it has: {first_few(table.columns, 20)}. Add it, empty where not known"
        )
    for id, payload in row_payloads(table, (), name).items():
        yield NamedInput(f"{name} {id}", payload)


def find_texts(items: Sequence[str], column: str | None = None) -> list[str | InputText]:
    """Texts as typed or the files that hold them; the rows of tables, the files of folders."""
    texts: list[str | InputText] = []
    for item in items:
        if not is_path(item):
            texts.append(item)
        elif os.path.isdir(item):
            files = [p for p in sorted(Path(item).rglob("*")) if p.suffix.lower() in TEXT.suffixes]
            if not files:
                raise DataError(
                    f"{item} holds no .txt files; name texts, or a folder that holds some."
                )
            texts += map(str, files)
        elif suffix(item) in TABLE.suffixes:
            table = open_table(Path(item), item)
            name = str(text_column(table, Columns(text=column, kind=TEXT.kind_option), item))
            cells = enumerate(table.texts(name))
            texts += [InputText(f"{item}:{table.lines[row]}", cell or "") for row, cell in cells]
        else:
            texts.append(item)
    return texts


def is_path(item: str) -> bool:
    """Whether a word is an existing file or folder; else it is a text."""
    return len(item) <= LONGEST_PATH and "\0" not in item and os.path.exists(item)


def text_payload(item: Any, name: str) -> bytes:
    """A text as the bytes that identify it."""
    if isinstance(item, InputText):
        return payload_of(item.text)
    if isinstance(item, Path) or (isinstance(item, str) and is_path(item)):
        return read_path(Path(item))
    if isinstance(item, str):
        return payload_of(item)
    raise DataError(
        f"{name} is of type {type(item).__name__}; give a text, or the path of a .txt file"
    )


def read_path(path: Path) -> bytes:
    """The bytes of a file. Raises: DataError with its name."""
    if path.is_dir():
        raise DataError(f"{path} is a folder")
    try:
        return read_file(path)
    except DataError as error:
        raise DataError(f"{path} {error}") from error


def find_files(paths: Iterable[Any], nouns: Nouns = IMAGE.nouns) -> list[Any]:
    """Files by name, and the images or clips in folders; what is no path stays unchanged."""
    items: list[Any] = []
    for item in paths:
        if not isinstance(item, (str, Path)) or not os.path.isdir(item):
            items.append(item)
            continue
        path, many = Path(item), nouns.many
        files = [str(p) for p in sorted(path.rglob("*")) if _is_media(p, path)]
        if not files:
            raise DataError(f"{item} holds no {many}; name {many}, or a folder that holds some.")
        items += files
    return items


def _is_media(path: Path, root: Path) -> bool:
    is_hidden = any(name.startswith(".") for name in path.relative_to(root).parts)
    # A pipe or a broken link counts too: its answer says why there is none.
    return is_media(path.name) and not is_hidden and not path.is_dir()


BATCH = 32
# Images per forward pass and thread. With more, tensors grow so large that the C library maps them
# anew at every layer (features/machine.py): EfficientNet-Lite0 on two cores answers 97 images a
# second in passes of 8, and 58 in passes of 32.
PER_THREAD = 4
Pixels = NDArray[Any]  # an encoded example, or a batch of them
Scores = NDArray[np.float64]  # probabilities (n, K); for regression, values (n, 1)


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
    def modality(self) -> Modality[Any]:
        """Of the inputs."""
        return modality_of(self.bundle.record.preprocessing)

    @property
    def target(self) -> Target:
        """The task, not fitted to labels: a model answers in the user's unit."""
        return TASKS[self.task]

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
        yield from self._answer_all(inputs)

    def _answer_all(self, inputs: Sequence[Any]) -> Iterator[Answer]:
        for start in range(0, len(inputs), BATCH):
            batch: list[Answer | tuple[str, Pixels]] = []
            for index, item in enumerate(inputs[start : start + BATCH], start):
                name = name_of(item, index)
                try:
                    batch.append((name, self._pixels(item, name)))
                except DataError as error:
                    batch.append(self._unreadable(name, str(error)))
            pixels = [item for item in batch if not isinstance(item, Answer)]
            answers = iter(self.answer([name for name, _ in pixels], [x for _, x in pixels]))
            yield from (item if isinstance(item, Answer) else next(answers) for item in batch)

    def _unreadable(self, path: str, error: str) -> Answer:
        nothing: dict[str, Any] = dict.fromkeys(("label", "probability", "confident"))
        return self.target.answer_record(path=path, ood=False, scores={}, error=error, **nothing)

    def reply(self, place: AnswerPlace, scores: Scores) -> Answer:
        """The answer for one input. Shapes: scores (K,)."""
        return self.target.answer(place, scores, self.labels, self.bundle.calibration)

    def scores(self, answers: Scores, labels: Sequence[str], groups: Groups) -> TestScores:
        """Metrics on labelled inputs. Shapes: answers (n, K)."""
        calibration = self.bundle.calibration
        return self.target.evaluate(answers, labels, groups, self.labels, calibration)

    def prepared(self, inputs: Sequence[Any]) -> Iterator[tuple[str, Pixels]]:
        """The name of each input, and its pixels as the network gets them, (H, W, C) uint8.

        Raises: DataError at the first that cannot be read.
        """
        for index, item in enumerate(inputs):
            name = name_of(item, index)
            yield name, self._pixels(item, name)

    def show_inputs(
        self, inputs: Sequence[Any], labels: Sequence[Any] | None = None
    ) -> Image.Image:
        """These inputs as the network sees them, in one picture, each with its label or name.

        Raises: DataError at the first that cannot be read, or for labels of another number.
        """
        from warmstart.run.reopened import grid

        if labels is not None and len(labels) != len(inputs):
            raise DataError(f"{len(inputs)} inputs have {len(labels)} labels; give one label each")
        pairs, prep = list(self.prepared(inputs)), self.bundle.record.preprocessing
        titles = [Path(name).name for name, _ in pairs] if labels is None else map(str, labels)
        return grid([[input_picture(pixels, prep)] for _, pixels in pairs], [*titles])

    def payload(self, item: Any, name: str) -> bytes:
        """The bytes that stand for an example. Raises: DataError if it cannot be read."""
        return text_payload(item, name) if self.modality.form == "texts" else _payload(item, name)

    def _pixels(self, item: Any, name: str) -> Pixels:
        inputs = self.bundle.record.preprocessing
        return self.modality.encode(self.payload(item, name), name, inputs)

    def answer(self, names: Sequence[str], pixels: Sequence[Pixels]) -> list[Answer]:
        """Answers for prepared images, each (H, W, C) uint8, in one batch."""
        if not names:
            return []
        scores, features = self.probabilities(np.stack(pixels))
        is_ood, rows = self._compare(features)
        ids = self.bundle.ids
        return [
            self.reply(AnswerPlace(name, bool(ood), tuple(ids[i] for i in nearest)), one)
            for name, one, ood, nearest in zip(names, scores, is_ood, rows, strict=True)
        ]

    def probabilities(self, pixels: Pixels) -> tuple[Scores, Features]:
        """Prepared images (B, H, W, C) uint8 to probabilities (B, K) and joined features (B, D).

        A regression model gives values (B, 1).
        """
        logits, feature_layers = self.logits(pixels)
        named = zip(self.bundle.record.feature_layers, feature_layers, strict=True)
        base_features = [features for layer, features in named if not layer.of]
        return self.target.activate(logits).numpy(), torch.cat(base_features, dim=1).numpy()

    def is_ood(self, joined: Features) -> NDArray[np.bool_]:
        """Which joined features (B, D) are unlike those of all training examples, (B,)."""
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
    """A prepared image (H, W, C) as a picture again: only what the network can see."""
    prep = pictures(prep)
    mean, std = torch.tensor(prep.mean), torch.tensor(prep.std)
    values = to_tensor(pixels[None], prep)[0].permute(1, 2, 0) * std + mean
    return first_bands(values.mul(255).round().clamp(0, 255).byte().numpy())


def name_of(item: Any, index: int) -> str:
    """What an answer calls an example."""
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
    record, prep = bundle.record, bundle.record.preprocessing
    try:
        rebuilt = rebuild(
            record.arch,
            bundle.tensors,
            record.feature_layers,
            len(record.classes),
            prep,
            network,
            record.added,
            record.ensemble,
        )
    except Exception as error:  # an edited config.json makes torch and timm raise what they like
        is_own = network is not None or record.arch.startswith("module:")
        if is_own and isinstance(error, ModelError):
            raise
        raise _damaged(where, str(error)) from error
    model = in_channels_last(rebuilt)
    neighbours = unpack(bundle.neighbours)
    sample = to_tensor(modality_of(prep).noise(2, prep), prep)
    try:
        with torch.inference_mode():
            logits = model(sample)
        fast = fuse_batch_norms(LayerReader(model.backbone, model.scan), sample)
    except (RuntimeError, ValueError, TypeError, IndexError, ModelError) as error:
        raise _damaged(where, str(error)) from error
    widths = zip(record.feature_layers, model.scan.widths, strict=True)
    n_features = sum(width for layer, width in widths if not layer.of)
    if len(neighbours.offset) != n_features:
        raise _damaged(where, f"neighbours of {len(neighbours.offset)} features, not {n_features}")
    if not bool(torch.isfinite(logits).all()):
        raise _damaged(where, "it answers noise with NaN or infinity")
    return Predictor(model, fast, bundle, neighbours)


def _damaged(where: str, why: str) -> RunFolderError:
    reason = why.partition("\n")[0].partition("; ")[0][:300]
    return RunFolderError(f"{where} is damaged ({reason}); restore it, or make the run again.")


def predict(run: Path, paths: Sequence[str]) -> Iterator[Answer]:
    """Answers for every image (`warmstart predict`); a folder stands for its images, sorted.

    A text model answers for each text: typed, in a .txt file, in a row of a table. A table model
    answers for every row of the tables that are named.
    Raises: RunFolderError if the run has no model, DataError if no image was named.
    """
    predictor = load(run)
    return predictor.stream(named_examples(paths, predictor.bundle.record.preprocessing))


def named_examples(paths: Sequence[str], model: Inputs) -> Items:
    """The examples that words on a command line name: files, texts, rows of tables."""
    modality = modality_of(model)
    if modality.form == "texts":
        return find_texts(paths)
    return opened(paths, model) if modality.form == "rows" else find_files(paths, modality.nouns)


# ---- `warmstart evaluate RUN DATA`: metrics of a finished model on other labelled data.

OOD_SHARE = 0.05  # of images, above which it is reported; one in a hundred is usual


def evaluate(
    run: Path,
    data: Any,
    *,
    label: str | None = None,
    group: str | None = None,
    text: str | None = None,
) -> Steps[TestScores]:
    """Score a run on the test set of labelled data, or on all of it where there is no test set.

    Labels are matched by name. Raises: RunFolderError without a model, DataError if the
    data cannot be read or has a class that the model does not know.
    """
    predictor = load(run)
    collection = yield from read_for_scoring(
        data,
        predictor.labels,
        label=label,
        group=group,
        text=text,
        kind=predictor.modality.kind_option,
        task=predictor.task,
    )
    examples = collection.record.examples
    yield Event(stage="features", kind="begin", of=len(examples))
    readable: list[Example] = []
    answers: list[np.ndarray] = []
    n_ood, prep = 0, predictor.bundle.record.preprocessing
    for start in range(0, len(examples), BATCH):
        pixels = []
        for example in examples[start : start + BATCH]:
            with suppress(DataError):  # reported below
                pixels.append(
                    modality_of(prep).encode(collection.load(example.id), example.id, prep)
                )
                readable.append(example)
        if pixels:
            scores, joined = predictor.probabilities(np.stack(pixels))
            answers.append(scores)
            n_ood += int(predictor.is_ood(joined).sum())
        step = min(start + BATCH, len(examples))
        yield Event(stage="features", kind="step", step=step, of=len(examples))
    nouns = predictor.modality.nouns
    if not readable:
        raise DataError(f"{collection.record.name}: none of its {nouns.many} can be read.")
    for title, text in _caveats(run, readable, len(examples), n_ood, nouns):
        yield note("features", title, text)
    labels = [example.label for example in readable]
    return predictor.scores(np.concatenate(answers), labels, group_numbers(readable))


def _caveats(
    run: Path, readable: Sequence[Example], n_total: int, n_ood: int, nouns: Nouns
) -> Iterator[tuple[str, str]]:
    n = len(readable)
    if n < n_total:
        yield "Data", f"{n_total - n} {nouns.many} could not be read and were left out"
    if (run / "data.json").is_file():
        record = read_json(run / "data.json", DataRecord)
        hashes = {example.sha256 for example in record.examples if example.split != "test"}
        if leaked := sum(example.sha256 in hashes for example in readable):
            text = f"the model was trained on {leaked:,} of the {n:,} {nouns.many}"
            yield "Leakage", f"{text}: these metrics are too optimistic"
    if n_ood > OOD_SHARE * n:
        yield "Unlike", f"{n_ood:,} of the {n:,} {nouns.many} are unlike all training data"
    if (run / "summary.json").is_file():
        estimate = read_json(run / "summary.json", Summary).estimate
        if estimate is not None:
            yield "Expected", f"{estimate.interval} on {nouns.many} like the training data"
