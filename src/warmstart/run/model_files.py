"""From a fitted head to the files of a finished model."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

import warmstart
from warmstart.errors import TrainingError
from warmstart.network.added import AddedBlock
from warmstart.network.ensemble import NAME
from warmstart.network.ledger import take_digests
from warmstart.network.load import PretrainedModel
from warmstart.network.model_folder import Bundle, write_bundle
from warmstart.network.partial_load import surgery_sentence, transferred_share
from warmstart.network.partition import Network
from warmstart.network.surgery import WarmModel, assemble, unique_state
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord, Finding
from warmstart.records.inputs import Kind
from warmstart.records.network import BaseModelRecord, FeatureLayer, InputChange, Recipe
from warmstart.records.plan import Plan
from warmstart.records.run_folder import RunFolder, write_json
from warmstart.records.summary import DataCounts, Inspection
from warmstart.run.card import Hook
from warmstart.run.lineage import RunBaseModel, past_arrays
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target
from warmstart.training.dataset import LabelledRows, ReadFeatures
from warmstart.training.fine_tune import FineTuned
from warmstart.training.linear_probe import HeadFit
from warmstart.training.out_of_distribution import fit_neighbours
from warmstart.training.score import calibration_record, head_scores, shipped_calibration

# How far the network may be from its cached features, in standard deviations of the scores. A
# frozen prefix cached in half precision puts it 0.5 % off (10,000 images, last:6).
TOLERANCE = {"float32": 5e-3, "float16": 3e-2}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: its base model, cut into blocks, with the digests of its tensors.

    `changes`: tensors that input surgery changed before feature extraction. `trained_on`: hash
    numbers of the images that the base model is known to be trained on; None where unknown.
    `unchanged` is the base model before surgery.
    """

    base: BaseModelRecord
    unchanged: BaseModelRecord
    network: Network
    digests: Mapping[str, str]
    changes: tuple[InputChange, ...] = ()
    surgery: str = ""  # `changes` in words
    trained_on: frozenset[int] | None = frozenset()


def origin_of(base: PretrainedModel, network: Network) -> Origin:
    """The base model of a run: call this before anything is trained."""
    return Origin(
        base=base.record,
        unchanged=base.origin,
        network=network,
        digests=take_digests(network),
        changes=base.changes,
        surgery=surgery_of(base),
        trained_on=base.past.inheritable if isinstance(base, RunBaseModel) else frozenset(),
    )


def surgery_of(base: PretrainedModel) -> str:
    """What input surgery did to a base model, and what does not carry over; usually empty."""
    if not base.changes:
        return ""
    return surgery_sentence(base.changes, transferred_share(base.changes, base.module))


def build_model(network: Network, head: HeadFit, target: Target = CLASSIFICATION) -> WarmModel:
    """The backbone and the head as one network."""
    calibration = shipped_calibration(head, target)
    return assemble(
        network,
        head.feature_layers,
        torch.from_numpy(head.weight),
        torch.from_numpy(head.bias),
        calibration.temperature,
        torch.from_numpy(calibration.bias).float(),
    )


def check_model(
    model: WarmModel,
    head: HeadFit,
    inputs: torch.Tensor,
    read: ReadFeatures,
    dtype: str = "float32",
) -> float:
    """Largest difference between the network and the features its head was fitted on.

    Shapes: inputs (m, C, H, W) normalised; read gives the cached features of the same examples.
    In standard deviations of the scores. `dtype` is that of the activation cache.
    Raises: TrainingError beyond 0.5 %, or 3 % for a cache in half precision.
    """
    with torch.inference_mode():
        features = torch.cat(model.features(inputs), dim=1).double()
        weight, bias = model.head.weight.double(), model.head.bias.double()
        live = (features @ weight.T + bias).numpy()
    cached = head_scores(head, read)
    gap = float(np.abs(live - cached).max() / max(float(cached.std()), 1e-12))
    if not gap < TOLERANCE[dtype]:
        raise TrainingError(
            f"the finished network differs from the features it was fitted on by {gap:.2%} of "
            "their scores' spread; nothing was shipped. Clear the cache (`warmstart cache clear`) "
            "and run again."
        )
    return gap


def describe(origin: Origin, fine_tuned: FineTuned, record: DataRecord) -> ModelRecord:
    """model/config.json: what rebuilds the network, and how its blocks were trained."""
    base, head, network = origin.base, fine_tuned.head, fine_tuned.network
    modules = network.backbone.named_modules()
    blocks = ((name, m) for name, m in modules if isinstance(m, AddedBlock))
    return ModelRecord(
        task=record.task,
        arch=base.arch,
        base=base.name,
        base_sha256=base.sha256,
        head=head.name,
        penalty=head.penalty,
        feature_layers=head.feature_layers,
        classes=record.classes,
        preprocessing=base.preprocessing,
        strategy=fine_tuned.shipped or str(fine_tuned.plan.strategy.value),
        recipe=_recipe(fine_tuned.plan, base.recipe),
        lineage=base.lineage or (base.name,),
        # Hidden widths of blocks added behind the last one, by this run or earlier ones.
        added=tuple(m.hidden for name, m in blocks if not name.startswith(f"{NAME}.")),
        ensemble=network.ensemble.cut if network.ensemble else None,
    )


def _recipe(plan: Plan, before: Recipe | None) -> Recipe | None:
    """How the blocks were trained first, for a run with this one as base model.

    The base model's recipe stays: else each run in a chain would move ten times less than the
    one before. A recipe of another optimizer says nothing about this one.
    """
    training = plan.training
    if not plan.is_trained or training.optimizer is None or training.lr is None:
        return before
    is_scratch = any(block.action.value == "fresh" for block in plan.blocks)
    if before is not None and before.optimizer == training.optimizer.value and not is_scratch:
        return before
    return Recipe(
        optimizer=str(training.optimizer.value),
        lr=training.lr.number,
        batch_size=int(training.batch_size.number),
        schedule="cosine",
    )


def write_model(
    folder: RunFolder,
    record: ModelRecord,
    model: WarmModel,
    head: HeadFit,
    labelled: LabelledRows,
    read: ReadFeatures,
    before: frozenset[int] | None = frozenset(),
) -> None:
    """Write model/: nothing in it depends on the test set. Shapes: read gives (n, d_t).

    `before`: what the base model was trained on, as `Origin.trained_on`.
    """
    neighbours, ood_from, nearest = fit_neighbours(
        read, record.own_layers, labelled.group_rows, seed=0
    )
    arrays: dict[str, NDArray[np.generic]] = {
        "points": neighbours.points.astype(np.float16, copy=False),
        "target": neighbours.sketch.target.astype(np.int32),
        "sign": neighbours.sketch.sign.astype(np.int8),
        "offset": neighbours.offset,
        "scale": neighbours.scale,
        **past_arrays(before, labelled.learn),
    }
    calibration = calibration_record(head, labelled, ood_from, nearest)
    ids = [example.id for example in labelled.learn]
    bundle = Bundle(unique_state(model), record, calibration, arrays, ids)
    write_bundle(folder.path / "model", bundle)


def hooks(network: Network, feature_layers: Sequence[FeatureLayer]) -> tuple[Hook, ...] | None:
    """Per feature layer its module, pooling and layout; None if one has no module to hook."""
    layer_hooks = []
    for layer in feature_layers:
        modules = network.steps.blocks[layer.block - 1].modules
        if layer.pool != "neck" and not modules:
            return None
        layout = network.record.blocks[layer.block - 1].layout
        module = modules[-1] if layer.pool != "neck" else ""
        layer_hooks.append((layer.of, module, layer.pool, layout))
    return tuple(layer_hooks)


def count_data(
    labelled: LabelledRows,
    findings: Sequence[Finding],
    inspection: Inspection,
    kind: Kind,
) -> DataCounts:
    """Sizes for the summary. Items of the findings that are counted are examples."""
    sizes = dict.fromkeys(("unreadable", "near-duplicate", "leakage"), 0)
    for finding in findings:
        if finding.kind in sizes:
            sizes[finding.kind] += len(finding.items)
    return DataCounts(
        train=len(labelled.learn),
        test=len(labelled.test),
        classes=labelled.n_classes,
        unreadable=sizes["unreadable"],
        near_duplicates=sizes["near-duplicate"],
        leaks=sizes["leakage"],
        label_issues=inspection.label_issues.count,
        off_topic=None if inspection.off_topic is None else inspection.off_topic.count,
        kind=None if kind == "image" else kind,
    )


def write_environment(folder: RunFolder, threads: int) -> None:
    """env.json: what is needed to run this again."""
    packages = ("torch", "timm", "numpy", "scipy", "pillow", "onnxruntime")
    write_json(
        folder.path / "env.json",
        {
            "warmstart": warmstart.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "machine": platform.machine(),
            "threads": threads,
            "packages": {name: version(name) for name in packages},
        },
    )
