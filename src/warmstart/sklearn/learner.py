"""Images learnt in memory, for `WarmStartClassifier`: the flow in a folder that goes away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.data.dataset import Collection, KindOption
from warmstart.data.read import read_for_scoring
from warmstart.errors import DataError
from warmstart.events import Steps, drain
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_key import EngineName, FeatureKey, engine_version
from warmstart.features.extraction import extract_features
from warmstart.features.machine import threads_for
from warmstart.machine import default_root
from warmstart.modalities.preprocessing import decoder_name
from warmstart.network.feature_layers import feature_layers
from warmstart.network.inputs import InputOptions
from warmstart.network.load import PretrainedModel
from warmstart.network.model_folder import Bundle, read_bundle
from warmstart.planning.feature_layers import probe_layers
from warmstart.planning.plan_file import read_plan
from warmstart.planning.rules import DUAL_LIMIT
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Plan
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Summary
from warmstart.request import Request, read_data
from warmstart.run.base_model import open_base
from warmstart.run.deliver import Finished
from warmstart.run.inputs import input_options
from warmstart.run.predictor import BATCH, Predictor, open_bundle
from warmstart.solve.kernels import Features, apply_scaling, make_sketch
from warmstart.solve.ridge import Array
from warmstart.solve.weighted_ridge import evened
from warmstart.training.dataset import LabelledRows, arrange, as_tuple, layer_weights_of
from warmstart.training.sketched_ridge import SKETCH_WIDTH
from warmstart.training.weighted import WeightedRows, fit_linear

Fit = Callable[[Request], Steps[Finished]]


class Answerer(Protocol):
    """Says of images what a fitted model makes of them."""

    def logits(self, images: Any) -> Array:
        """Calibrated logits, a column a class in the order of `Learnt.names`. Shapes: (n, K).

        Raises: DataError naming an image that cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Learnt:
    """What is left of a run once its folder is gone; it can be pickled.

    `names` are those of the classes, in the order that the caller wants. `bundle` is None where
    no signal was found and the depth was not the user's: then the classes' shares alone are
    known, (K,).
    """

    names: tuple[str, ...]
    summary: Summary
    plan: Plan
    network: NetworkRecord
    shares: Array
    bundle: Bundle | None

    @property
    def is_kept(self) -> bool:
        """Whether the network is the start as it came, under a new output."""
        return self.bundle is not None and self.summary.shipped.strategy == "head"


def learn(
    request: Request, names: Sequence[str], fit: Fit, weights: Array | None = None
) -> tuple[Learnt, Answerer]:
    """Run the flow, keep its model in memory, and be ready to answer.

    `asked.data` is (images, labels) with labels among `names`; `weights` (n,) above zero are
    those of its rows. With them the output is fitted anew, on the depths that the run chose, as
    if each image had been given so many times.
    Raises: as the flow does.
    """
    with TemporaryDirectory(prefix="warmstart-") as place:
        folder = Path(place) / "run"
        found = drain(fit(replace(request, out=folder)))
        plan = read_plan((folder / "plan.toml").read_text("utf-8"))
        has_model = found.summary.shipped.strategy != "none"
        bundle = read_bundle(folder) if has_model else None
        record = read_json(folder / "data.json", DataRecord)
        network = read_json(folder / "network.json", NetworkRecord)
    labelled = arrange(record)
    by_row = _by_row(request.data[0], labelled, weights, record.kind)
    counts = np.bincount(labelled.labels, by_row)[_order(names, record.classes)]
    learnt = Learnt(
        names=tuple(names),
        summary=found.summary,
        plan=plan,
        network=network,
        shares=counts / counts.sum(),
        bundle=bundle,
    )
    if not learnt.is_kept:
        return learnt, answerer(learnt, request.base)
    collection = replace(drain(read_data(request)), record=record)
    base = ReopenedModel(request, input_options(request, collection), plan)
    if weights is not None:
        read = rows_of(learnt, collection, base)
        learnt = _reweighed(learnt, read, labelled, by_row, request.seed)
    return learnt, StoredAnswers(learnt, base)


def answerer(learnt: Learnt, network: Any) -> Answerer:
    """What a model in memory answers with; `network` is the module that it began from, if any."""
    if learnt.bundle is None:
        return Shares(learnt.shares)
    module = network if isinstance(network, nn.Module) else None
    return Live(open_bundle(learnt.bundle, "the fitted model", module), learnt.names)


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """The same answer for every image: the shares of the classes, (K,)."""

    shares: Array

    def logits(self, images: Any) -> Array:
        """Shapes: (n, K)."""
        return np.tile(np.log(self.shares), (len(images), 1))


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """Answers by running the network."""

    predictor: Predictor
    names: tuple[str, ...]

    def logits(self, images: Any) -> Array:
        """Shapes: (n, K)."""
        found = [np.empty((0, len(self.names)))]
        pixels = (seen for _, seen in self.predictor.prepared(images))
        while batch := list(islice(pixels, BATCH)):
            found.append(self.predictor.logits(np.stack(batch))[0].numpy())
        return np.concatenate(found)[:, _order(self.names, self.predictor.labels)]


@dataclass(frozen=True, slots=True, eq=False)
class StoredAnswers:
    """Answers from what the feature store keeps: an image is passed once, whoever asks.

    For a model whose network is the start as it came.
    """

    learnt: Learnt
    base: ReopenedModel

    def logits(self, images: Any) -> Array:
        """Shapes: (n, K)."""
        bundle = self.learnt.bundle
        if bundle is None:
            raise ValueError("nothing is stored of a model that was not shipped")
        read = rows_of(self.learnt, _gather(images, bundle.record), self.base)
        joined = np.concatenate([read(layer) for layer in bundle.record.feature_layers], axis=1)
        head = {name: bundle.tensors[f"head.{name}"].double().numpy() for name in _HEAD}
        scores = joined.astype(np.float64) @ head["weight"].T + head["bias"]
        logits = scores / head["temperature"] + head["class_bias"]
        ordered: Array = logits[:, _order(self.learnt.names, bundle.record.classes)]
        return ordered


class ReopenedModel:
    """The start that a run began from, opened again when some image has to be passed."""

    def __init__(self, request: Request, wish: InputOptions, plan: Plan) -> None:
        name = plan.base.value if request.base_is_auto else request.base
        self._asked = name, request.arch, request.preprocessing, wish
        self._found: PretrainedModel | None = None

    def open(self) -> PretrainedModel:
        """The start, prepared for the same inputs. Raises: ModelError if it is gone."""
        if self._found is None:
            self._found = open_base(*self._asked)
        return self._found


def rows_of(learnt: Learnt, collection: Collection, base: ReopenedModel) -> StoredFeatures:
    """The features of a collection's examples: from the store, after passing what it lacks.

    Raises: DataError naming an image that cannot be read.
    """
    examples = collection.record.examples
    cache_file = FeatureCache(default_root()).cache_file(_key(learnt))
    if not cache_file.missing([example.sha256 for example in examples]):
        return StoredFeatures(cache_file, tuple(examples))
    extracted = drain(extract_features(collection, base.open(), learnt.plan.training.engine))
    for reason in extracted.unreadable.values():
        raise DataError(f"{reason}; leave it out of X")
    return extracted.reader(examples)


def _key(learnt: Learnt) -> FeatureKey:
    """Under which the run kept its features, from its records: no network is needed to read."""
    if learnt.bundle is None:
        raise ValueError("nothing is stored of a model that was not shipped")
    record, engine = learnt.bundle.record, cast(EngineName, learnt.plan.training.engine.value)
    return FeatureKey(
        network=record.base_sha256,
        arch=record.arch,
        blocks=tuple(block.name for block in learnt.network.blocks),
        feature_layers=feature_layers(learnt.network),
        preprocessing=record.preprocessing,
        decoder=decoder_name(record.preprocessing),
        engine=engine,
        engine_version=engine_version(engine),
        threads=threads_for(learnt.network),
    )


_HEAD = ("weight", "bias", "temperature", "class_bias")


def _order(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Where each name stands among the classes of a run, which are sorted as texts.

    >>> _order(["2", "10"], ["10", "2"])
    [1, 0]
    """
    return [classes.index(name) for name in names]


def _gather(images: Any, record: ModelRecord) -> Collection:
    """Inputs without labels as a collection. Raises: DataError if one cannot be read."""
    named, kind = [record.classes[0]] * len(images), record.preprocessing.kind
    told: KindOption = (
        "text" if kind == "text" else "auto"
    )  # a text may read like the name of a file
    collection = drain(read_for_scoring((images, named), record.classes, kind=told))
    for problem in collection.record.problems:
        raise DataError(f"{problem.items[0]}; leave it out of X")
    return collection


def _by_row(images: Any, labelled: LabelledRows, weights: Array | None, kind: str) -> Array:
    """The weight of each row that is learnt from; 1 without any. Shapes: (n,).

    They add up to the number of different contents: only ratios count, and an image that is given
    twice is one of twice the weight.
    """
    if weights is None:
        return np.ones(len(labelled.learn))
    is_paths = not isinstance(images, np.ndarray) and kind == "image"
    ids = [Path(one).as_posix() for one in images] if is_paths else map(str, range(len(images)))
    by_id: Mapping[str, float] = dict(zip(ids, weights.tolist(), strict=True))
    found: Array = np.array([by_id[example.id] for example in labelled.learn])
    n_contents = len({example.sha256 for example in labelled.learn})
    scaled: Array = found * (n_contents / found.sum())
    return scaled


def _reweighed(
    learnt: Learnt, stored: StoredFeatures, labelled: LabelledRows, weights: Array, seed: int
) -> Learnt:
    """The same with the output fitted to weighted rows, by ridge on the depths that were chosen."""
    bundle = learnt.bundle
    if bundle is None:
        return learnt
    layer_weights = probe_layers(feature_layers(learnt.network))[
        layer_weights_of(bundle.record.head)
    ]
    read = replace(stored, examples=labelled.learn)
    scalings = {layer: evened(read(layer).astype(np.float64), weights) for layer in layer_weights}
    parts = [
        np.sqrt(share) * apply_scaling(read(t), scalings[t]) for t, share in layer_weights.items()
    ]
    wide: Features = np.concatenate(parts, axis=1)
    width = wide.shape[1] if len(wide) <= DUAL_LIMIT else SKETCH_WIDTH
    sketch = make_sketch(wide.shape[1], width, np.random.default_rng(seed))
    rows = WeightedRows(
        sketch.apply(wide).astype(np.float64),
        labelled.labels,
        labelled.n_classes,
        weights,
        labelled.group_rows,
    )
    penalties = [float(value) for value in as_tuple(learnt.plan.head.penalties)]
    fit = fit_linear(rows, penalties)
    narrow = sketch.sign[:, None] * fit.weights[sketch.target]
    scale = np.concatenate(
        [np.sqrt(layer_weights[layer]) * s.scale for layer, s in scalings.items()]
    )
    offset = np.concatenate([scaling.offset for scaling in scalings.values()])
    weight = scale[:, None] * narrow
    head = {
        "weight": weight.T,
        "bias": fit.bias - offset @ weight,
        "temperature": np.array(fit.calibration.temperature),
        "class_bias": fit.calibration.bias,
    }
    tensors: dict[str, Tensor] = dict(bundle.tensors)
    for name, values in head.items():
        tensors[f"head.{name}"] = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    record = replace(bundle.record, feature_layers=tuple(layer_weights), penalty=fit.penalty)
    return replace(learnt, bundle=replace(bundle, tensors=tensors, record=record))


# ---- Numbers learnt from images in memory, for `WarmStartRegressor`.


@dataclass(frozen=True, slots=True, eq=False)
class LearntNumbers:
    """What is left of a run once its folder is gone; it can be pickled.

    `bundle` is None where no signal was found: then every answer is `mean`.
    """

    summary: Summary
    mean: float
    bundle: Bundle | None

    def values(self, images: Any, base: Any) -> Array:
        """The number of each image; `start` is the module that the run began from, if any.

        Shapes: returns (n,). Raises: DataError naming an image that cannot be read.
        """
        if self.bundle is None:
            return np.full(len(images), self.mean)
        network = base if isinstance(base, nn.Module) else None
        predictor = open_bundle(self.bundle, "the fitted model", network)
        found = [np.empty(0)]
        pixels = (seen for _, seen in predictor.prepared(images))
        while batch := list(islice(pixels, BATCH)):
            found.append(predictor.logits(np.stack(batch))[0].numpy()[:, 0])
        return np.concatenate(found)


def learn_numbers(request: Request, fit: Callable[[Request], Steps[Finished]]) -> LearntNumbers:
    """Run the flow in a folder that goes away; keep its model. Raises: as the flow does."""
    with TemporaryDirectory(prefix="warmstart-") as place:
        folder = Path(place) / "run"
        found = drain(fit(replace(request, out=folder)))
        has_model = found.summary.shipped.strategy != "none"
        bundle = read_bundle(folder) if has_model else None
        record = read_json(folder / "data.json", DataRecord)
    values = [float(example.label) for example in record.examples]
    return LearntNumbers(found.summary, float(np.mean(values)), bundle)
