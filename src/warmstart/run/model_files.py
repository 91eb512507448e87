"""From a fitted head to the files a user takes home."""

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
from warmstart.run.lineage import RunBaseModel, memory
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target
from warmstart.training.dataset import LabelledRows, ReadFeatures
from warmstart.training.fine_tune import FineTuned
from warmstart.training.linear_probe import HeadFit
from warmstart.training.out_of_distribution import fit_neighbours
from warmstart.training.score import calibration_record, delivered, head_scores

# Of the scores' spread: how far the network may be from its stored features. Outputs of frozen
# layers that are kept in half precision put it 0.5 % off (10,000 images, last:6).
AGREEMENT = {"float32": 5e-3, "float16": 3e-2}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: its start, the start cut into parts, its digests then.

    `changes`: tensors that surgery at the input made before any look. `learnt`: numbers of
    the images that the start is known to have learnt from; None where that is not known.
    `came` is the start as it came, before surgery.
    """

    base: BaseModelRecord
    came: BaseModelRecord
    network: Network
    digests: Mapping[str, str]
    changes: tuple[InputChange, ...] = ()
    surgery: str = ""  # the same in words
    learnt: frozenset[int] | None = frozenset()


def origin_of(base: PretrainedModel, network: Network) -> Origin:
    """The start as a run begins from it: take this before anything is trained."""
    digests = take_digests(network)
    learnt = base.past.kept if isinstance(base, RunBaseModel) else frozenset()
    return Origin(
        base=base.record,
        came=base.origin,
        network=network,
        digests=digests,
        changes=base.changes,
        surgery=surgery_of(base),
        learnt=learnt,
    )


def surgery_of(base: PretrainedModel) -> str:
    """What surgery at the input did to a start, and what does not carry over; mostly nothing."""
    if not base.changes:
        return ""
    return surgery_sentence(base.changes, transferred_share(base.changes, base.module))


def build_model(network: Network, head: HeadFit, target: Target = CLASSIFICATION) -> WarmModel:
    """The backbone and the head as one network."""
    calibration = delivered(head, target)
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
    store: str = "float32",
) -> float:
    """Largest difference between the network and the features its head was fitted on.

    Shapes: inputs (m, C, H, W) normalised; read gives the same m examples' stored taps.
    In units of the scores' standard deviation. `store` is how outputs of frozen layers were
    kept. Raises: TrainingError beyond 0.5 %, or 3 % where that was in half precision.
    """
    with torch.inference_mode():
        feature_layers = torch.cat(model.features(inputs), dim=1).double()
        weight, bias = model.head.weight.double(), model.head.bias.double()
        live = (feature_layers @ weight.T + bias).numpy()
    stored = head_scores(head, read)
    gap = float(np.abs(live - stored).max() / max(float(stored.std()), 1e-12))
    if not gap < AGREEMENT[store]:
        raise TrainingError(
            f"the finished network differs from the features it was fitted on by {gap:.2%} of "
            "their scores' spread; nothing was shipped. Clear the cache (`warmstart cache clear`) "
            "and run again."
        )
    return gap


def describe(origin: Origin, fine_tuned: FineTuned, record: DataRecord) -> ModelRecord:
    """model/config.json: what rebuilds the network, and how its layers were trained."""
    base, head, plan = origin.base, fine_tuned.head, fine_tuned.plan
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
        strategy=fine_tuned.shipped or str(plan.strategy.value),
        recipe=_recipe(plan, base.recipe),
        lineage=base.lineage or (base.name,),
        added=_hidden_widths(fine_tuned.network),
        ensemble=fine_tuned.network.ensemble.cut if fine_tuned.network.ensemble else None,
    )


def _hidden_widths(network: Network) -> tuple[int, ...]:
    """Of the blocks that were added behind the last part, by this run or those before it."""
    blocks = ((n, m) for n, m in network.backbone.named_modules() if isinstance(m, AddedBlock))
    return tuple(m.hidden for name, m in blocks if not name.startswith(f"{NAME}."))


def _recipe(plan: Plan, before: Recipe | None) -> Recipe | None:
    """How the layers were trained first, for a run that starts from this one.

    The start's own record stays: else each run in a chain would move ten times less than the
    one before. Another optimizer's says nothing of this one.
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
    described: ModelRecord,
    model: WarmModel,
    head: HeadFit,
    labelled: LabelledRows,
    read: ReadFeatures,
    before: frozenset[int] | None = frozenset(),
) -> None:
    """Write model/: nothing in it depends on the test part. Shapes: read gives (n, d_t).

    `before`: what the start had learnt from, as `Origin.learnt`.
    """
    own = described.own_layers
    neighbours, ood_from, nearest = fit_neighbours(read, own, labelled.group_rows, seed=0)
    arrays: dict[str, NDArray[np.generic]] = {
        "points": neighbours.points.astype(np.float16, copy=False),
        "target": neighbours.sketch.target.astype(np.int32),
        "sign": neighbours.sketch.sign.astype(np.int8),
        "offset": neighbours.offset,
        "scale": neighbours.scale,
        **memory(before, labelled.learn),
    }
    write_bundle(
        folder.path / "model",
        Bundle(
            unique_state(model),
            described,
            calibration_record(head, labelled, ood_from, nearest),
            arrays,
            [example.id for example in labelled.learn],
        ),
    )


def hooks(network: Network, feature_layers: Sequence[FeatureLayer]) -> tuple[Hook, ...] | None:
    """Per tap whose module to hook, the pooling and the layout; None if a tap has no module."""
    found = []
    for layer in feature_layers:
        modules = network.steps.blocks[layer.block - 1].modules
        if layer.pool != "neck" and not modules:
            return None
        layout = network.record.blocks[layer.block - 1].layout
        found.append((layer.of, modules[-1] if layer.pool != "neck" else "", layer.pool, layout))
    return tuple(found)


def count_data(
    labelled: LabelledRows,
    findings: Sequence[Finding],
    inspection: Inspection,
    kind: Kind,
) -> DataCounts:
    """Sizes for the summary. Items of `unreadable` and `leak` findings are examples."""
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
    """env.json: what a reader needs to run this again."""
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
