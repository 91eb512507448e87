"""Fits on images in memory, for the estimators: a run in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.data.dataset import Collection
from warmstart.data.read import read_for_scoring
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_key import EngineName, FeatureKey, engine_version
from warmstart.features.extraction import extract_features
from warmstart.features.machine import threads_for
from warmstart.machine import default_root
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import modality_of
from warmstart.network.feature_layers import feature_layers
from warmstart.network.load import PretrainedModel
from warmstart.network.model_folder import Bundle, read_bundle
from warmstart.planning.plan_file import read_plan
from warmstart.planning.rules import DUAL_LIMIT, probe_layers
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Summary
from warmstart.request import Request, read_data
from warmstart.run.base_model import open_base
from warmstart.run.fit import fit
from warmstart.run.plan import input_options
from warmstart.run.predictor import BATCH, Predictor, open_bundle
from warmstart.solve.kernels import Features, apply_scaling, fit_weighted_scaling, make_sketch
from warmstart.solve.ridge import Array
from warmstart.training.dataset import LabelledRows, arrange, as_tuple, layer_weights_of
from warmstart.training.sketched_ridge import SKETCH_WIDTH
from warmstart.training.weighted import WeightedRows, fit_linear

_HEAD = ("weight", "bias", "temperature", "class_bias")


# Calibrated logits (n, K) of images, columns in the order of `FittedModel.names`.
# Raises: DataError naming an image that cannot be read.
Logits = Callable[[Any], Array]


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


def fit_model(
    request: Request, names: Sequence[str], weights: Array | None = None
) -> tuple[FittedModel, Logits]:
    """Run the recipe, keep its model in memory, and open it for predictions.

    `request.data` is (images, labels) with labels among `names`; `weights` (n,) above zero are
    those of its rows. With them the head is fitted again, on the run's feature layers, as if each
    image were repeated that often.
    Raises: as the recipe does.
    """
    with _run(request) as (folder, summary, bundle):
        plan = read_plan((folder / "plan.toml").read_text("utf-8"))
        record = read_json(folder / "data.json", DataRecord)
        network = read_json(folder / "network.json", NetworkRecord)
    labelled = arrange(record)
    by_row = _weights_by_row(request.data[0], labelled, weights, record.kind)
    counts = np.bincount(labelled.labels, by_row)[_order(names, record.classes)]
    fitted = FittedModel(
        names=tuple(names),
        summary=summary,
        plan=plan,
        network=network,
        shares=counts / counts.sum(),
        bundle=bundle,
    )
    if bundle is None or summary.shipped.strategy != "head":
        return fitted, open_model(fitted, request.base)
    # Under a new head the base model is unchanged: its features are in the cache.
    collection = replace(drain(read_data(request)), record=record)
    options = input_options(request, collection)
    name = plan.base.value if request.base_is_auto else request.base
    base = cache(partial(open_base, name, request.arch, request.preprocessing, options))
    if weights is not None:
        stored = CachedModel(fitted, bundle, base).features(collection)
        bundle = _refit_head(bundle, fitted, stored, labelled, by_row, request.seed)
        fitted = replace(fitted, bundle=bundle)
    return fitted, CachedModel(fitted, bundle, base).logits


@contextmanager
def _run(request: Request) -> Iterator[tuple[Path, Summary, Bundle | None]]:
    """Run the recipe in a temporary folder; its summary, and its model if one shipped."""
    with TemporaryDirectory(prefix="warmstart-") as place:
        folder = Path(place) / "run"
        summary = drain(fit(replace(request, out=folder))).summary
        yield folder, summary, None if summary.shipped.strategy == "none" else read_bundle(folder)


def open_model(fitted: FittedModel, network: Any) -> Logits:
    """Open a model in memory; `network` is the user's base model, if it is a module."""
    if fitted.bundle is None:
        return lambda images: np.tile(np.log(fitted.shares), (len(images), 1))
    predictor = _open(fitted.bundle, network)
    order = _order(fitted.names, predictor.labels)
    return lambda images: _outputs(predictor, images)[:, order]


def _open(bundle: Bundle, network: Any) -> Predictor:
    module = network if isinstance(network, nn.Module) else None
    return open_bundle(bundle, "the fitted model", module)


def _outputs(predictor: Predictor, images: Any) -> Array:
    """The network's outputs (n, K), or values (n, 1), in its own order."""
    batches = [np.empty((0, len(predictor.labels) or 1))]
    pixels = (pixels for _, pixels in predictor.prepared(images))
    while batch := list(islice(pixels, BATCH)):
        batches.append(predictor.logits(np.stack(batch))[0].numpy())
    return np.concatenate(batches)


@dataclass(frozen=True, slots=True, eq=False)
class CachedModel:
    """An unchanged base model and its head on the feature cache; `base` opens it where needed."""

    fitted: FittedModel
    bundle: Bundle
    base: Callable[[], PretrainedModel]

    def logits(self, images: Any) -> Array:
        record = self.bundle.record
        read = self.features(_gather(images, record))
        joined = np.concatenate([read(layer) for layer in record.feature_layers], axis=1)
        head = {name: self.bundle.tensors[f"head.{name}"].double().numpy() for name in _HEAD}
        scores = joined.astype(np.float64) @ head["weight"].T + head["bias"]
        logits = scores / head["temperature"] + head["class_bias"]
        ordered: Array = logits[:, _order(self.fitted.names, record.classes)]
        return ordered

    def features(self, collection: Collection) -> StoredFeatures:
        """The features of examples from the cache, after extracting missing ones."""
        examples, engine = collection.record.examples, self.fitted.plan.training.engine
        cache_file = FeatureCache(default_root()).cache_file(self._key(engine))
        if not cache_file.missing([example.sha256 for example in examples]):
            return StoredFeatures(cache_file, tuple(examples))
        extracted = drain(extract_features(collection, self.base(), engine))
        for reason in extracted.unreadable.values():
            raise DataError(f"{reason}; leave it out of X")
        return extracted.reader(examples)

    def _key(self, choice: Choice) -> FeatureKey:
        """The cache key of the run's features, from its records alone."""
        record, network = self.bundle.record, self.fitted.network
        engine = cast(EngineName, choice.value)
        return FeatureKey(
            network=record.base_sha256,
            arch=record.arch,
            blocks=tuple(block.name for block in network.blocks),
            feature_layers=feature_layers(network),
            preprocessing=record.preprocessing,
            decoder=modality_of(record.preprocessing).decoder(record.preprocessing),
            engine=engine,
            engine_version=engine_version(engine),
            threads=threads_for(network),
        )


def _order(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The position of each name among the classes of a run, which are sorted as texts."""
    return [classes.index(name) for name in names]


def _gather(images: Any, record: ModelRecord) -> Collection:
    """Inputs without labels as a collection. Raises: DataError if one cannot be read."""
    labels = [record.classes[0]] * len(images)
    kind = modality_of(record.preprocessing).kind_option
    collection = drain(read_for_scoring((images, labels), record.classes, kind=kind))
    for problem in collection.record.problems:
        raise DataError(f"{problem.items[0]}; leave it out of X")
    return collection


def _weights_by_row(images: Any, labelled: LabelledRows, weights: Array | None, kind: str) -> Array:
    """The weight of each training row (n,), so that they add up to the number of contents."""
    if weights is None:
        return np.ones(len(labelled.learn))
    is_paths = not isinstance(images, np.ndarray) and kind == IMAGE.kind
    ids = [Path(one).as_posix() for one in images] if is_paths else map(str, range(len(images)))
    by_id: Mapping[str, float] = dict(zip(ids, weights.tolist(), strict=True))
    rows: Array = np.array([by_id[example.id] for example in labelled.learn])
    n_contents = len({example.sha256 for example in labelled.learn})
    normalised: Array = rows * (n_contents / rows.sum())
    return normalised


def _refit_head(
    bundle: Bundle,
    fitted: FittedModel,
    stored: StoredFeatures,
    labelled: LabelledRows,
    weights: Array,
    seed: int,
) -> Bundle:
    """The model with its head fitted to weighted rows, by ridge on the chosen feature layers."""
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
    return replace(bundle, tensors=tensors, record=record)


@dataclass(frozen=True, slots=True, eq=False)
class FittedRegression:
    """The results of a regression run without its folder; it can be pickled.

    `bundle` is None where no signal was found: then every answer is `mean`.
    """

    summary: Summary
    mean: float
    bundle: Bundle | None

    def values(self, images: Any, base: Any) -> Array:
        """The number of each image (n,); `base` is the module that the run began from, if any."""
        if self.bundle is None:
            return np.full(len(images), self.mean)
        return _outputs(_open(self.bundle, base), images)[:, 0]


def fit_regression(request: Request) -> FittedRegression:
    """Run the recipe and keep its model in memory. Raises: as the recipe does."""
    with _run(request) as (folder, summary, bundle):
        record = read_json(folder / "data.json", DataRecord)
    values = [float(example.label) for example in record.examples]
    return FittedRegression(summary, float(np.mean(values)), bundle)
