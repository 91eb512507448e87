"""Fits on images in memory, for the estimators: a run in a temporary folder."""

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
from warmstart.solve.weighted_ridge import fit_weighted_scaling
from warmstart.training.dataset import LabelledRows, arrange, as_tuple, layer_weights_of
from warmstart.training.sketched_ridge import SKETCH_WIDTH
from warmstart.training.weighted import WeightedRows, fit_linear

Fit = Callable[[Request], Steps[Finished]]
_HEAD = ("weight", "bias", "temperature", "class_bias")


class LogitModel(Protocol):
    """A fitted model for images."""

    def logits(self, images: Any) -> Array:
        """Calibrated logits (n, K), columns in the order of `FittedModel.names`.

        Raises: DataError naming an image that cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FittedModel:
    """The results of a run without its folder; it can be pickled.

    `names` are those of the classes, in the caller's order. `bundle` is None where no signal was
    found and the strategy was not the user's: then only the shares (K,) of the classes are known.
    """

    names: tuple[str, ...]
    summary: Summary
    plan: Plan
    network: NetworkRecord
    shares: Array
    bundle: Bundle | None

    @property
    def is_linear_probe(self) -> bool:
        """Whether the network is the unchanged base model under a new head."""
        return self.bundle is not None and self.summary.shipped.strategy == "head"


def fit_model(
    request: Request, names: Sequence[str], fit: Fit, weights: Array | None = None
) -> tuple[FittedModel, LogitModel]:
    """Run the recipe, keep its model in memory, and open it for predictions.

    `request.data` is (images, labels) with labels among `names`; `weights` (n,) above zero are
    those of its rows. With them the head is fitted again, on the run's feature layers, as if each
    image were repeated that often.
    Raises: as the recipe does.
    """
    with TemporaryDirectory(prefix="warmstart-") as place:
        folder = Path(place) / "run"
        finished = drain(fit(replace(request, out=folder)))
        plan = read_plan((folder / "plan.toml").read_text("utf-8"))
        has_model = finished.summary.shipped.strategy != "none"
        bundle = read_bundle(folder) if has_model else None
        record = read_json(folder / "data.json", DataRecord)
        network = read_json(folder / "network.json", NetworkRecord)
    labelled = arrange(record)
    by_row = _weights_by_row(request.data[0], labelled, weights, record.kind)
    counts = np.bincount(labelled.labels, by_row)[_order(names, record.classes)]
    fitted = FittedModel(
        names=tuple(names),
        summary=finished.summary,
        plan=plan,
        network=network,
        shares=counts / counts.sum(),
        bundle=bundle,
    )
    if not fitted.is_linear_probe:
        return fitted, open_model(fitted, request.base)
    collection = replace(drain(read_data(request)), record=record)
    base = LazyBaseModel(request, input_options(request, collection), plan)
    if weights is not None:
        read = rows_of(fitted, collection, base)
        fitted = _refit_head(fitted, read, labelled, by_row, request.seed)
    return fitted, CachedModel(fitted, base)


def open_model(fitted: FittedModel, network: Any) -> LogitModel:
    """Open a model in memory; `network` is the user's own base model, if any."""
    if fitted.bundle is None:
        return ClassShares(fitted.shares)
    module = network if isinstance(network, nn.Module) else None
    return LiveModel(open_bundle(fitted.bundle, "the fitted model", module), fitted.names)


@dataclass(frozen=True, slots=True, eq=False)
class ClassShares:
    """One answer for every image: the shares of the classes, (K,)."""

    shares: Array

    def logits(self, images: Any) -> Array:
        return np.tile(np.log(self.shares), (len(images), 1))


@dataclass(frozen=True, slots=True, eq=False)
class LiveModel:
    """Runs the network on every image."""

    predictor: Predictor
    names: tuple[str, ...]

    def logits(self, images: Any) -> Array:
        return self.outputs(images)[:, _order(self.names, self.predictor.labels)]

    def outputs(self, images: Any) -> Array:
        """The network's outputs (n, K), or values (n, 1), in its own order."""
        batches = [np.empty((0, len(self.names)))]
        pixels = (pixels for _, pixels in self.predictor.prepared(images))
        while batch := list(islice(pixels, BATCH)):
            batches.append(self.predictor.logits(np.stack(batch))[0].numpy())
        return np.concatenate(batches)


@dataclass(frozen=True, slots=True, eq=False)
class CachedModel:
    """Reads the feature cache, which an image enters once: for an unchanged base model."""

    fitted: FittedModel
    base: LazyBaseModel

    def logits(self, images: Any) -> Array:
        bundle = self.fitted.bundle
        if bundle is None:
            raise ValueError("a model that was not shipped has no cached features")
        read = rows_of(self.fitted, _gather(images, bundle.record), self.base)
        joined = np.concatenate([read(layer) for layer in bundle.record.feature_layers], axis=1)
        head = {name: bundle.tensors[f"head.{name}"].double().numpy() for name in _HEAD}
        scores = joined.astype(np.float64) @ head["weight"].T + head["bias"]
        logits = scores / head["temperature"] + head["class_bias"]
        ordered: Array = logits[:, _order(self.fitted.names, bundle.record.classes)]
        return ordered


class LazyBaseModel:
    """The base model of a run, opened when features of an image are missing."""

    def __init__(self, request: Request, options: InputOptions, plan: Plan) -> None:
        name = plan.base.value if request.base_is_auto else request.base
        self._arguments = name, request.arch, request.preprocessing, options
        self._model: PretrainedModel | None = None

    def open(self) -> PretrainedModel:
        """The base model, prepared for equal inputs. Raises: ModelError if it is gone."""
        if self._model is None:
            self._model = open_base(*self._arguments)
        return self._model


def rows_of(fitted: FittedModel, collection: Collection, base: LazyBaseModel) -> StoredFeatures:
    """The features of a collection's examples from the cache, after extracting missing ones.

    Raises: DataError naming an image that cannot be read.
    """
    examples = collection.record.examples
    cache_file = FeatureCache(default_root()).cache_file(_key(fitted))
    if not cache_file.missing([example.sha256 for example in examples]):
        return StoredFeatures(cache_file, tuple(examples))
    extracted = drain(extract_features(collection, base.open(), fitted.plan.training.engine))
    for reason in extracted.unreadable.values():
        raise DataError(f"{reason}; leave it out of X")
    return extracted.reader(examples)


def _key(fitted: FittedModel) -> FeatureKey:
    """The cache key of the run's features, from its records alone."""
    if fitted.bundle is None:
        raise ValueError("a model that was not shipped has no cached features")
    record, engine = fitted.bundle.record, cast(EngineName, fitted.plan.training.engine.value)
    return FeatureKey(
        network=record.base_sha256,
        arch=record.arch,
        blocks=tuple(block.name for block in fitted.network.blocks),
        feature_layers=feature_layers(fitted.network),
        preprocessing=record.preprocessing,
        decoder=decoder_name(record.preprocessing),
        engine=engine,
        engine_version=engine_version(engine),
        threads=threads_for(fitted.network),
    )


def _order(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The position of each name among the classes of a run, which are sorted as texts.

    >>> _order(["2", "10"], ["10", "2"])
    [1, 0]
    """
    return [classes.index(name) for name in names]


def _gather(images: Any, record: ModelRecord) -> Collection:
    """Inputs without labels as a collection. Raises: DataError if one cannot be read."""
    labels = [record.classes[0]] * len(images)
    is_text = record.preprocessing.kind == "text"  # a text may look like the name of a file
    kind: KindOption = "text" if is_text else "auto"
    collection = drain(read_for_scoring((images, labels), record.classes, kind=kind))
    for problem in collection.record.problems:
        raise DataError(f"{problem.items[0]}; leave it out of X")
    return collection


def _weights_by_row(images: Any, labelled: LabelledRows, weights: Array | None, kind: str) -> Array:
    """The weight of each training row; 1 without weights. Shapes: (n,).

    They add up to the number of different contents: only ratios count, and a repeated image is
    one of multiple weight.
    """
    if weights is None:
        return np.ones(len(labelled.learn))
    is_paths = not isinstance(images, np.ndarray) and kind == "image"
    ids = [Path(one).as_posix() for one in images] if is_paths else map(str, range(len(images)))
    by_id: Mapping[str, float] = dict(zip(ids, weights.tolist(), strict=True))
    rows: Array = np.array([by_id[example.id] for example in labelled.learn])
    n_contents = len({example.sha256 for example in labelled.learn})
    normalised: Array = rows * (n_contents / rows.sum())
    return normalised


def _refit_head(
    fitted: FittedModel, stored: StoredFeatures, labelled: LabelledRows, weights: Array, seed: int
) -> FittedModel:
    """The model with its head fitted to weighted rows, by ridge on the chosen feature layers."""
    bundle = fitted.bundle
    if bundle is None:
        return fitted
    layer_weights = probe_layers(feature_layers(fitted.network))[
        layer_weights_of(bundle.record.head)
    ]
    read = replace(stored, examples=labelled.learn)
    scalings = {
        layer: fit_weighted_scaling(read(layer).astype(np.float64), weights)
        for layer in layer_weights
    }
    columns = [
        np.sqrt(share) * apply_scaling(read(layer), scalings[layer])
        for layer, share in layer_weights.items()
    ]
    wide: Features = np.concatenate(columns, axis=1)
    width = wide.shape[1] if len(wide) <= DUAL_LIMIT else SKETCH_WIDTH
    sketch = make_sketch(wide.shape[1], width, np.random.default_rng(seed))
    rows = WeightedRows(
        sketch.apply(wide).astype(np.float64),
        labelled.labels,
        labelled.n_classes,
        weights,
        labelled.group_rows,
    )
    penalties = [float(value) for value in as_tuple(fitted.plan.head.penalties)]
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
    return replace(fitted, bundle=replace(bundle, tensors=tensors, record=record))


@dataclass(frozen=True, slots=True, eq=False)
class FittedRegression:
    """The results of a regression run without its folder; it can be pickled.

    `bundle` is None where no signal was found: then every answer is `mean`.
    """

    summary: Summary
    mean: float
    bundle: Bundle | None

    def values(self, images: Any, base: Any) -> Array:
        """The number of each image; `base` is the module that the run began from, if any.

        Shapes: returns (n,). Raises: DataError naming an image that cannot be read.
        """
        if self.bundle is None:
            return np.full(len(images), self.mean)
        network = base if isinstance(base, nn.Module) else None
        model = LiveModel(open_bundle(self.bundle, "the fitted model", network), ("",))
        return model.outputs(images)[:, 0]


def fit_regression(request: Request, fit: Fit) -> FittedRegression:
    """Run the recipe in a temporary folder; keep its model. Raises: as the recipe does."""
    with TemporaryDirectory(prefix="warmstart-") as place:
        folder = Path(place) / "run"
        finished = drain(fit(replace(request, out=folder)))
        has_model = finished.summary.shipped.strategy != "none"
        bundle = read_bundle(folder) if has_model else None
        record = read_json(folder / "data.json", DataRecord)
    values = [float(example.label) for example in record.examples]
    return FittedRegression(finished.summary, float(np.mean(values)), bundle)
