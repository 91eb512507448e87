"""External classifiers: weights with an architecture, a published name, a hub folder, or ONNX."""

from __future__ import annotations

import ast
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from warmstart.errors import ModelError, first_line, missing
from warmstart.network.architectures import (
    IMAGENET,
    build,
    classifier_name,
    for_channels,
    preprocessing_of,
    split_arch,
)
from warmstart.network.encoder import load_transformers
from warmstart.network.hub import (
    CONFIG,
    PREFIX,
    PROCESSOR,
    open_timm,
    read_folder,
    read_processor,
    settings,
)
from warmstart.network.load import load
from warmstart.network.registry import SHIPPED
from warmstart.network.segments import as_tensor, find_classifier, probe
from warmstart.network.weights import (
    SUFFIXES,
    check_finite,
    check_match,
    n_parameters,
    read_weights,
)
from warmstart.records.inputs import Preprocessing, pictures

Array = NDArray[np.float32]
Answer = Callable[[Tensor], tuple[Array, Array]]
IMAGENET_CLASSES = 1000
_DEFAULTS = "ImageNet's defaults"  # source of a preprocessing


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExternalClassifier:
    """A finished classifier and its description.

    `answer` takes normalised images (B, C, H, W) and returns scores (B, K), which are logits or
    log-probabilities, and an embedding (B, D). `labels` are names of its outputs, empty where
    unknown. `training_hashes`: content hashes of its known training images.
    """

    name: str
    title: str
    answer: Answer
    outputs: int
    preprocessing: Preprocessing
    preprocessing_from: str  # its source, in words
    labels: tuple[str, ...] = ()
    labels_from: str = ""
    is_imagenet: bool = False  # published weights whose outputs are ImageNet's classes
    training_hashes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputHandling:
    """The user's preprocessing; None, empty: the model's own.

    `size`: height and width in px; mean and std: of values 0..1, one for all channels or each.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def is_set(self) -> bool:
        return self != InputHandling()

    def over(self, prep: Preprocessing) -> Preprocessing:
        """A preprocessing changed by these options; the crop keeps its share of the image.

        Raises: ModelError where mean or std do not fit the channels.
        """
        size, share = self.size or prep.size, prep.resize / min(prep.size)
        return replace(
            prep,
            size=size,
            resize=prep.resize if self.size is None else int(min(size) * share + 1e-6),
            mean=_per_channel(self.mean, prep, "--mean") or prep.mean,
            std=_per_channel(self.std, prep, "--std") or prep.std,
        )

    def describe(self, source: str) -> str:
        """The source of a changed preprocessing, in words."""
        return f"{source}, and your options" if self.is_set else source


def _per_channel(values: tuple[float, ...], prep: Preprocessing, option: str) -> tuple[float, ...]:
    if len(values) not in (0, 1, prep.channels):
        raise ModelError(
            f"{option} has {len(values)} numbers, the model takes {prep.channels} channels; "
            "give one number, or one for each."
        )
    return values * prep.channels if len(values) == 1 else values


def check_path(name: str, arch: str | None) -> None:
    """Raise ModelError early, where a name is a path that can hold no classifier."""
    path, suffixes = Path(name), (*SUFFIXES, SUFFIX)
    if path.suffix in suffixes and not path.exists():
        raise ModelError(
            missing(path, name, "name a file of weights, a run folder or a base model.")
        )
    is_other = path.is_file() and path.suffix not in suffixes
    if is_other and arch is None and not is_hub_folder(path.parent):
        endings = f"{', '.join(SUFFIXES)} or {SUFFIX}"
        raise ModelError(f"{name} is no file of weights; name one that ends in {endings}.")


def open_classifier(
    name: str, arch: str | None, handling: InputHandling, threads: int = 1
) -> ExternalClassifier:
    """A classifier from a file of weights or ONNX, a folder of the hub, or a base model's name.

    A file of weights needs `arch`: timm:NAME, torchvision:NAME or transformers:NAME, a folder or a
    cached name. Raises: ModelError if there is no such model, it is damaged, does not fit `arch`,
    or is no classifier of images.
    """
    path = Path(name)
    is_onnx, is_file = path.suffix == SUFFIX, path.suffix in SUFFIXES or path.is_file()
    if arch is not None and (is_onnx or not is_file):
        raise ModelError(f"--arch {arch}: {name} records its own architecture; remove --arch.")
    if is_onnx:
        return _open_onnx(path, handling, threads)
    if is_file and (arch is not None or not is_hub_folder(path.parent)):
        return _open_file(path, arch, handling)
    if is_file or name.startswith(PREFIX) or path.is_dir():
        folder = path.parent if is_file else Path(name.removeprefix(PREFIX))
        return _open_folder(folder, handling)
    if os.sep in name and name not in SHIPPED and not name.startswith(("timm:", "torchvision:")):
        raise ModelError(
            f"{name} does not exist; name a file of weights, an ONNX file, a run folder or a base "
            "model."
        )
    return _open_named(name, handling)


def _open_named(name: str, handling: InputHandling) -> ExternalClassifier:
    base = load(name)
    prep = pictures(base.record.preprocessing)
    if handling.size not in (None, prep.size):
        # Some networks are built for one size, and must be loaded for another.
        base = load(name, preprocessing=handling.over(prep))
    prep = handling.over(pictures(base.record.preprocessing))
    source = handling.describe(base.record.arch)
    classifier = from_module(base.module, name, base.record.title, prep, source)
    return replace(classifier, is_imagenet=classifier.outputs == IMAGENET_CLASSES)


def _open_file(path: Path, arch: str | None, handling: InputHandling) -> ExternalClassifier:
    if arch is None:
        raise ModelError(
            f"{path.name} holds weights but not the network they belong to; add --arch "
            "timm:NAME, torchvision:NAME or transformers:FOLDER."
        )
    library, network = ("", "") if arch.startswith(PREFIX) else split_arch(arch)
    weights = read_weights(path)
    check_finite(weights, path.name)
    if not library:
        return _open_transformers(path, Path(arch.removeprefix(PREFIX)), weights, handling)
    prep = preprocessing_of(arch)
    size = handling.size or (prep.size if library == "torchvision" else None)
    module = build(arch, weights, size)
    check_match(module.state_dict(), weights, path.name)
    module.load_state_dict(weights)
    prep, title = handling.over(for_channels(prep, module)), f"{path.name} ({network})"
    classifier = from_module(module, str(path), title, prep, handling.describe(arch))
    return _named(classifier, names_beside(path), f"labels.json beside {path}")


def _named(
    classifier: ExternalClassifier, names: tuple[str, ...], source: str
) -> ExternalClassifier:
    return replace(classifier, labels=unique(names, source) if names else (), labels_from=source)


def from_module(
    module: nn.Module, name: str, title: str, preprocessing: Preprocessing, preprocessing_from: str
) -> ExternalClassifier:
    """Any module as a classifier, in channels_last order. Raises: ModelError if it is none."""
    module.eval().requires_grad_(False)
    with torch.inference_mode():
        outputs, classifier = find_classifier(module, probe(preprocessing))
    n_outputs = outputs.flatten(1).shape[1]
    _check_outputs(title, n_outputs)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    embeddings: list[Tensor] = []
    if classifier:
        last = module.get_submodule(classifier)
        last.register_forward_pre_hook(lambda _, inputs: embeddings.append(inputs[0]))

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        embeddings.clear()
        with torch.inference_mode():
            scores = as_tensor(module(inputs)).flatten(1).float()
            vectors = embeddings[-1].flatten(1).float() if embeddings else scores
        return scores.numpy(), vectors.numpy()

    return ExternalClassifier(
        name=name,
        title=f"{title}, {n_parameters(module) / 1e6:.1f} M parameters",
        answer=answer,
        outputs=n_outputs,
        preprocessing=preprocessing,
        preprocessing_from=preprocessing_from,
    )


def _check_outputs(title: str, n_outputs: int) -> None:
    if n_outputs < 2:
        raise ModelError(
            f"{title} gives one number an image; a classifier with one output a class can be "
            "audited on images."
        )


# ---- Folders with a config.json, as transformers and timm write them.


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a model as transformers, or timm for the hub, writes it."""
    keys = {"architecture", "model_type"}
    return (path / CONFIG).is_file() and not keys.isdisjoint(settings(path / CONFIG))


def _open_folder(folder: Path, handling: InputHandling) -> ExternalClassifier:
    config = settings(folder / CONFIG)
    if "architecture" not in config:
        return _open_transformers(folder, folder, read_folder(folder), handling)
    module, arch, prep = open_timm(folder, handling.size)
    title, prep = f"{folder.resolve().name} ({arch.partition(':')[2]})", handling.over(prep)
    classifier = from_module(module, str(folder), title, prep, handling.describe(CONFIG))
    if names := config.get("label_names"):
        return _named(classifier, parse_names(json.dumps(names)), "label_names in its config.json")
    return _named(classifier, names_beside(folder / CONFIG), f"labels.json in {folder}")


def _open_transformers(
    where: Path, folder: Path, weights: Mapping[str, Tensor], handling: InputHandling
) -> ExternalClassifier:
    library = load_transformers()
    with _silenced(library.utils.logging):
        try:
            config = library.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"transformers:{folder} is not on this machine, or its config.json is not one that "
                "transformers knows; name the folder that holds config.json."
            ) from error
        module = _build_filled(where, library.AutoModelForImageClassification, config, weights)
    if (folder / PROCESSOR).is_file():
        prep, source = read_processor(folder / PROCESSOR), PROCESSOR
    else:
        side = getattr(config, "image_size", None)
        size = (side, side) if isinstance(side, int) else tuple(side or IMAGENET.size)
        prep, source = _imagenet(size), _DEFAULTS
    title = f"{where.resolve().name} ({config.model_type})"
    prep = handling.over(for_channels(prep, module))
    classifier = from_module(module, str(where), title, prep, handling.describe(source))
    names = from_mapping(config.id2label or {})
    if where == folder and names and not all(name.startswith("LABEL_") for name in names):
        return _named(classifier, names, "id2label in its config.json")
    beside = names_beside(where / CONFIG if where.is_dir() else where)
    return _named(classifier, beside, f"labels.json beside {where}")


def _build_filled(
    where: Path, classifiers: Any, config: Any, weights: Mapping[str, Tensor]
) -> nn.Module:
    """The network of a config with these weights, strictly; no file is opened here."""
    try:
        with torch.device("meta"):
            blank: Any = classifiers.from_config(config)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(
            f"{where}: transformers has no image classifier of type {config.model_type!r}; "
            "name a model that was made for images."
        ) from error
    rows = weights.get(f"{classifier_name(blank)}.weight")
    if rows is not None and len(rows) != config.num_labels:  # setting it drops the labels
        config.num_labels = len(rows)
    module: nn.Module
    module, info = type(blank).from_pretrained(
        None,
        config=config,
        state_dict=dict(weights),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    problems = {"missing": "missing", "unexpected": "not in the network"}
    for kind, problem in {**problems, "mismatched": "of another shape"}.items():
        for key in sorted(info[f"{kind}_keys"], key=str)[:1]:
            name = f"{key if isinstance(key, str) else key[0]} is {problem}"
            raise ModelError(f"{where}: {name}; check --arch, or copy the folder again.")
    return module


@contextmanager
def _silenced(reports: Any) -> Iterator[None]:
    level, has_bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.CRITICAL)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if has_bars:
            reports.enable_progress_bar()


# ---- ONNX files, run by ONNX Runtime; their metadata is used.


SUFFIX = ".onnx"
_NAMES = ("names", "labels", "classes", "class_names", "id2label")  # keys of metadata
_SIZES = ("imgsz", "input_size", "image_size", "size")
_KINDS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(double)": np.float64,
}
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, slots=True)
class _Input:
    """The image input of a graph. `batch` is None where any number of images will do."""

    name: str
    kind: type[np.generic]
    batch: int | None
    channels: int
    size: tuple[int, int] | None  # height, width; None where any will do
    is_last: bool  # channels come last


def _open_onnx(path: Path, handling: InputHandling, threads: int) -> ExternalClassifier:
    """Preprocessing comes from the metadata and the options, else ImageNet's mean and std."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist; check the path of the model.")
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class of their own
        reason = first_line(error, 120)
        raise ModelError(
            f"{path.name} cannot be run by ONNX Runtime ({reason}); export it again."
        ) from error
    metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    entry = _image_input(session, path.name)
    prep, source = _preprocessing(entry, metadata)
    prep = handling.over(prep)
    if entry.size is not None and prep.size != entry.size:
        raise ModelError(
            f"{path.name} takes images of {entry.size[0]} x {entry.size[1]} px only; omit --size."
        )
    number, probe_scores = _scores_output(session, entry, prep, path.name)
    _check_outputs(path.name, probe_scores.shape[1])
    sums = probe_scores.astype(np.float64).sum(axis=1)
    are_probabilities = bool((probe_scores >= 0).all() and np.allclose(sums, 1, atol=1e-3))

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        values = _run(session, entry, inputs)[number]
        scores: Array = values.reshape(len(values), -1).astype(np.float32)
        if are_probabilities:
            scores = np.log(np.maximum(scores, 1e-12, dtype=np.float32))  # none is zero
        return scores, scores

    classifier = ExternalClassifier(
        name=str(path),
        title=f"{path.name} (ONNX)",
        answer=answer,
        outputs=probe_scores.shape[1],
        preprocessing=prep,
        preprocessing_from=handling.describe(source),
    )
    return _named(classifier, *_labels(path, metadata))


def _image_input(session: Any, name: str) -> _Input:
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    kind = _KINDS.get(inputs[0].type) if len(inputs) == 1 else None
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape]
    if kind is None or len(sides) != 4:
        raise ModelError(
            f"{name} does not take one batch of images (N, C, H, W); audit reads classifiers of "
            "images."
        )
    is_last = sides[3] in _CHANNELS and sides[1] not in _CHANNELS
    batch, first, second, third = sides
    channels, height, width = (third, first, second) if is_last else (first, second, third)
    if channels not in (None, *_CHANNELS):
        raise ModelError(f"{name} takes {channels} channels; pictures have 1, 3 or 4.")
    size = None if height is None or width is None else (height, width)
    return _Input(inputs[0].name, kind, batch, channels or 3, size, is_last)


def _preprocessing(entry: _Input, metadata: Mapping[str, str]) -> tuple[Preprocessing, str]:
    lists = ([int(x) for x in _numbers(metadata.get(key, "")) if x >= 1] for key in _SIZES)
    sides = next(filter(None, lists), IMAGENET.size)
    prep, n = _imagenet(entry.size or (sides[-2:][0], sides[-1])), entry.channels
    values = [_numbers(metadata.get(name, "")) for name in ("mean", "std")]
    source = "its metadata"
    if any(len(numbers) not in (1, n) for numbers in values):
        if entry.kind is np.uint8:  # the network scales
            values, source = [(0.0,), (1 / 255,)], "8-bit inputs"
        elif n == 3:
            return prep, _DEFAULTS
        else:
            values, source = [(sum(x) / 3,) for x in (IMAGENET.mean, IMAGENET.std)], _DEFAULTS
    mean, std = (numbers * (n // len(numbers)) for numbers in values)
    return replace(prep, mean=mean, std=std), source


def _imagenet(size: tuple[int, int]) -> Preprocessing:
    return replace(IMAGENET, size=size, resize=int(min(size) / 0.875))


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers in a text such as "[0.5, 0.5]"; none where it holds anything else."""
    try:
        numbers = tuple(float(x) for x in text.strip("[]() \n").replace(",", " ").split())
    except ValueError:
        return ()
    return numbers if all(math.isfinite(x) for x in numbers) else ()


def _scores_output(
    session: Any, entry: _Input, prep: Preprocessing, name: str
) -> tuple[int, Array]:
    """Number of the output with the scores, and the scores of three images of noise."""
    try:
        outputs = _run(session, entry, probe(prep))
    except Exception as error:  # as above
        raise ModelError(
            f"{name} cannot take images of {prep.size[0]} x {prep.size[1]} px "
            f"({first_line(error, 120)}); give its own with --size."
        ) from error
    for number, values in enumerate(outputs):
        has_rows = values.ndim > 1 and len(values) == 3 and values.dtype.kind == "f"
        if has_rows and values.size == 3 * values.shape[1]:
            return number, values.reshape(3, -1).astype(np.float32)
    raise ModelError(f"{name} has no output of one score a class; audit reads classifiers.")


def _run(session: Any, entry: _Input, inputs: Tensor) -> list[NDArray[np.generic]]:
    values = inputs.contiguous().numpy()
    if entry.is_last:
        values = values.transpose(0, 2, 3, 1)
    if entry.kind is np.uint8:
        values = np.rint(values).clip(0, 255)
    values = np.ascontiguousarray(values.astype(entry.kind))
    n, size = len(values), entry.batch or len(values)
    results = []
    for begin in range(0, n, size):
        batch = values[begin : begin + size]
        short = size - len(batch)
        if short:
            batch = np.concatenate([batch, np.zeros_like(batch[:1]).repeat(short, axis=0)])
        outputs = session.run(None, {entry.name: batch})
        results.append([x[: size - short] if np.ndim(x) else x for x in outputs])
    return [np.concatenate(x) if np.ndim(x[0]) else x[0] for x in zip(*results, strict=True)]


def _labels(path: Path, metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    for key in _NAMES:
        names = parse_names(metadata.get(key, ""))
        if len(names) == 1 and "," in names[0]:
            names = tuple(name.strip() for name in names[0].split(","))
        if names:
            return names, f"{key!r} in its metadata"
    return names_beside(path), f"labels.json beside {path}"


# ---- The names of a classifier's outputs, in order, from several file formats.


BESIDE = "labels.json"


def read_names(path: Path) -> tuple[str, ...]:
    """Names from a file: a JSON list, a JSON object of numbers and names, or one name a line.

    Raises: ModelError if there is no such file, or its names are not unique.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        reason = "does not exist" if not path.exists() else f"cannot be read ({error.strerror})"
        raise ModelError(f"{path} {reason}; name a file with one class name a line.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no text; name a file with one class name a line.") from error
    return unique(parse_names(text), str(path))


def names_beside(path: Path) -> tuple[str, ...]:
    """Names from labels.json in the folder of a file of weights; empty without one."""
    beside = path.parent / BESIDE
    return read_names(beside) if beside.is_file() else ()


def unique(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names, checked. Raises: ModelError if there are none, or one occurs twice."""
    if not names:
        raise ModelError(
            f"{where} names no classes; write one name a line, in the order of the outputs."
        )
    name, n = Counter(names).most_common(1)[0]
    if n > 1:
        raise ModelError(f"{where} has {name!r} twice; the names of two outputs must differ.")
    return tuple(names)


def parse_names(text: str) -> tuple[str, ...]:
    r"""Names in a text: JSON, a Python literal (as Ultralytics writes it), or lines."""
    for read in (json.loads, ast.literal_eval):
        try:
            content = read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(content, (list, tuple)) and all(isinstance(name, str) for name in content):
            return tuple(content)
        if isinstance(content, Mapping):
            return from_mapping(content)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def from_mapping(mapping: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names from {number: name} or {name: number}; empty where the numbers are not 0 to K-1."""
    for pairs in (mapping.items(), ((value, key) for key, value in mapping.items())):
        try:
            numbered = sorted((int(number), str(name)) for number, name in pairs)
        except (ValueError, TypeError):
            continue
        if [number for number, _ in numbered] == list(range(len(numbered))):
            return tuple(name for _, name in numbered)
    return ()


def imagenet_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The 1,000 classes of ImageNet, named as `classes` are: by WordNet's numbers or in words."""
    from timm.data import imagenet_info

    info: Any = imagenet_info.ImageNetInfo()
    numbers = tuple(info.label_names())
    if set(classes) & set(numbers):
        return numbers
    words = [text.partition(",")[0] for text in info.label_descriptions()]
    # "crane" is a bird and a machine: there the number tells them apart.
    return tuple(
        word if words.count(word) == 1 else f"{word} ({number})"
        for word, number in zip(words, numbers, strict=True)
    )
