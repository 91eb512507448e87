"""The last stage: model, records, card, summary; then the report from these files."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import warmstart
from warmstart.errors import TrainingError
from warmstart.evaluation.readiness import Measurements, by_consequence, readiness
from warmstart.events import Event, Steps, note
from warmstart.evidence.check import gain_record
from warmstart.evidence.data_checks import write_lists
from warmstart.features.batches import to_tensor
from warmstart.machine import peak_rss_mb
from warmstart.modalities.registry import modality_of
from warmstart.network.ledger import prove_frozen, summary_lines, take_digests, write_ledger
from warmstart.network.load import PretrainedModel
from warmstart.network.model_folder import Bundle, write_bundle
from warmstart.network.partial_load import surgery_sentence, transferred_share
from warmstart.network.partition import Network
from warmstart.network.surgery import BRANCH, AddedBlock, WarmModel, assemble, unique_state
from warmstart.planning.plan_file import in_words, user_choices
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord, Finding, without
from warmstart.records.inputs import Kind
from warmstart.records.network import FeatureLayer, Ledger, Recipe
from warmstart.records.plan import Plan
from warmstart.records.run_folder import Clock, RunFolder, write_bytes, write_json, write_json_lines
from warmstart.records.summary import (
    ClassScore,
    DataCounts,
    FrozenProof,
    Inspection,
    Readiness,
    ShippedCandidate,
    Summary,
    TensorCounts,
    Verdict,
)
from warmstart.reporting.report import write_report
from warmstart.run.card import CardFacts, Hook, card
from warmstart.run.lineage import RunBaseModel, past_arrays
from warmstart.tasks.classify import per_class
from warmstart.tasks.registry import test_estimate
from warmstart.training.dataset import LabelledRows, TrainingDataset
from warmstart.training.fine_tune import FineTuned
from warmstart.training.head_families import ReadFeatures
from warmstart.training.linear_probe import HeadFit
from warmstart.training.out_of_distribution import fit_neighbours
from warmstart.training.score import (
    ModelEvaluation,
    calibration_record,
    confident,
    head_scores,
    predictions,
)

# How far the network may be from its cached features, in standard deviations of the scores. A
# frozen prefix cached in half precision puts it 0.5 % off (10,000 images, last:6).
TOLERANCE = {"float32": 5e-3, "float16": 3e-2}
CHECKED = 8  # training images on which the finished network is checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run: its folder, and the summary written there."""

    path: Path
    summary: Summary


@dataclass(frozen=True, slots=True)
class Origin:
    """The base model cut into blocks, digests of its tensors, what input surgery did to it."""

    base: PretrainedModel
    network: Network
    digests: Mapping[str, str]
    surgery: str


def origin_of(base: PretrainedModel, network: Network) -> Origin:
    """The base model of a run: call this before anything is trained."""
    return Origin(base, network, take_digests(network), surgery_of(base))


def surgery_of(base: PretrainedModel) -> str:
    """What input surgery did to a base model, and what does not carry over; usually empty."""
    if not base.changes:
        return ""
    return surgery_sentence(base.changes, transferred_share(base.changes, base.module))


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The results of the earlier stages."""

    origin: Origin
    training_data: TrainingDataset
    inspection: Inspection
    verdict: Verdict
    plan: Plan
    fine_tuned: FineTuned
    measured: ModelEvaluation
    shipped: ShippedCandidate
    ignored: tuple[str, ...]  # codes of findings that are not reported

    @property
    def record(self) -> DataRecord:
        return self.training_data.collection.record

    @property
    def labelled(self) -> LabelledRows:
        return self.training_data.labelled


def deliver(folder: RunFolder, results: Results, clock: Clock) -> Steps[Finished]:
    """Write the run folder. Files are whole or absent; summary.json is the last record."""
    yield Event(stage="deliver", kind="begin")
    _write_records(folder, results)
    model, proof = None, FrozenProof(parameters=0, buffers=0, identical=True)
    lines: tuple[str, ...] = ()
    if results.shipped.strategy != "none":
        model, ledger = _write_model(folder, results)
        proof = _prove(ledger, results.fine_tuned.plan)
        lines = summary_lines(ledger)
        yield note("deliver", "Proof", "\n".join(lines))
    clock.lap("deliver")
    summary = _summary(results, proof, clock)
    facts = _card_facts(folder, results, summary, model, lines)
    write_bytes(folder.path / "README.md", card(facts).encode())
    write_json(folder.path / "summary.json", summary)
    try:
        write_report(folder.path, results.training_data.collection.load, results.record)
    except Exception as error:  # the run is finished with or without its report
        text = f"report.html could not be written ({error}); `warmstart report` tries again"
        yield note("deliver", "Report", text)
    yield Event(stage="deliver", kind="end")
    return Finished(path=folder.path, summary=summary)


def _write_records(folder: RunFolder, results: Results) -> None:
    path = folder.path  # data.json and plan.toml are already there
    write_json(path / "inspection.json", results.inspection)
    # By the predictions of what ships; the checks wrote those of the linear probe.
    write_lists(path, results.inspection.label_issues, results.inspection.off_topic)
    write_json(path / "network.json", results.fine_tuned.network.record)
    head, classes = results.fine_tuned.head, results.record.classes
    lines = predictions(head, results.labelled, classes, results.measured)
    write_json_lines(path / "predictions.jsonl", lines)
    packages = ("torch", "timm", "numpy", "scipy", "pillow", "onnxruntime")
    environment = {
        "warmstart": warmstart.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": results.training_data.extracted.threads,
        "packages": {name: version(name) for name in packages},
    }
    write_json(path / "env.json", environment)


def _write_model(folder: RunFolder, results: Results) -> tuple[ModelRecord, Ledger]:
    """Write model/, where nothing depends on the test set, and the weights ledger."""
    origin, labelled, fine_tuned = results.origin, results.labelled, results.fine_tuned
    head, load = fine_tuned.head, results.training_data.collection.load
    calibration = labelled.target.model_calibration(head.calibration)
    model = assemble(
        fine_tuned.network,
        head.feature_layers,
        torch.from_numpy(head.weight),
        torch.from_numpy(head.bias),
        calibration.temperature,
        torch.from_numpy(calibration.bias).float(),
    )
    sample, prep = labelled.learn[:CHECKED], origin.base.record.preprocessing
    inputs = to_tensor(
        np.stack([modality_of(prep).encode(load(e.id), e.id, prep) for e in sample]), prep
    )
    choice = fine_tuned.plan.training.cache_dtype
    dtype = "float32" if choice is None else str(choice.value)
    check_model(model, head, inputs, fine_tuned.reader(sample), dtype)
    record, read = _describe(origin, fine_tuned, results.record), fine_tuned.reader(labelled.learn)
    neighbours, ood_from, nearest = fit_neighbours(
        read, record.neighbour_layers, labelled.group_rows, seed=0
    )
    base = origin.base
    before = base.past.inheritable if isinstance(base, RunBaseModel) else frozenset[int]()
    arrays: dict[str, NDArray[np.generic]] = {
        "points": neighbours.points.astype(np.float16, copy=False),
        "target": neighbours.sketch.target.astype(np.int32),
        "sign": neighbours.sketch.sign.astype(np.int8),
        "offset": neighbours.offset,
        "scale": neighbours.scale,
        **past_arrays(before, labelled.learn),
    }
    answers = calibration_record(head, labelled, ood_from, nearest)
    ids = [example.id for example in labelled.learn]
    write_bundle(folder.path / "model", Bundle(unique_state(model), record, answers, arrays, ids))
    ledger = write_ledger(
        origin.digests, origin.network, model, actions=fine_tuned.actions, changes=base.changes
    )
    write_json(folder.path / "weights_ledger.json", ledger)
    return record, ledger


def check_model(
    model: WarmModel,
    head: HeadFit,
    inputs: torch.Tensor,
    read: ReadFeatures,
    dtype: str = "float32",
) -> float:
    """Largest difference between the network and the features its head was fitted on.

    In standard deviations of the scores. Shapes: inputs (m, C, H, W) normalised; read gives the
    cached features, of `dtype`, of the same examples. Raises: TrainingError beyond TOLERANCE.
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


def _describe(origin: Origin, fine_tuned: FineTuned, record: DataRecord) -> ModelRecord:
    """model/config.json: what rebuilds the network, and how its blocks were trained."""
    base, head, network = origin.base.record, fine_tuned.head, fine_tuned.network
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
        added=tuple(m.hidden for name, m in blocks if not name.startswith(f"{BRANCH}.")),
        ensemble=network.ensemble.cut if network.ensemble else None,
    )


def _recipe(plan: Plan, before: Recipe | None) -> Recipe | None:
    """How the blocks were trained first, for a run with this one as base model."""
    # The base model's recipe stays: else each run in a chain would move ten times less than the
    # one before. A recipe of another optimizer says nothing about this one.
    training = plan.training
    if not plan.is_trained or training.optimizer is None or training.lr is None:
        return before
    is_scratch = any(block.behaviour.is_random for block in plan.blocks)
    if before is not None and before.optimizer == training.optimizer.value and not is_scratch:
        return before
    return Recipe(
        optimizer=str(training.optimizer.value),
        lr=training.lr.number,
        batch_size=int(training.batch_size.number),
        schedule="cosine",
    )


def _prove(ledger: Ledger, plan: Plan) -> FrozenProof:
    """Every tensor of a frozen block has its old bytes. Raises: TrainingError if not."""
    frozen = (block.name for block in plan.blocks if not block.behaviour.is_trained)
    proof = prove_frozen(ledger, frozenset(frozen))
    if not proof.identical:
        raise TrainingError(
            "a frozen layer has changed: do not trust this run; weights_ledger.json names the "
            "tensors. Please report it."
        )
    total = prove_frozen(ledger)  # with the unchanged tensors under low-rank updates
    return replace(proof, parameters=total.parameters, buffers=total.buffers)


def _summary(results: Results, proof: FrozenProof, clock: Clock) -> Summary:
    base, measured = results.origin.base.origin, results.measured
    problems = (*results.record.problems, *results.inspection.findings)
    findings = by_consequence(without(problems, results.ignored))
    return Summary(
        task=results.record.task,
        verdict=results.verdict,
        shipped=results.shipped,
        readiness=_readiness(results, findings),
        estimate=measured.estimate,
        linear_probe=measured.linear_probe,
        fine_tuning_gain=gain_record(measured.gain),
        test=measured.test,
        data=count_data(
            results.labelled, results.record.problems, results.inspection, results.record.kind
        ),
        base=TensorCounts(name=base.name, sha256=base.sha256, parameters=base.parameters),
        frozen=proof,
        guards=results.fine_tuned.guards,
        findings=findings,
        seconds=clock.table(),
        peak_rss_mb=peak_rss_mb(),
        own_head=results.fine_tuned.own_head,
        baselines=results.fine_tuned.baselines,
        weakest=_weakest(results),
    )


def _weakest(results: Results) -> ClassScore | None:
    """The class with the lowest recall on held-out rows; None where nothing ships."""
    head, labelled = results.fine_tuned.head, results.labelled
    if results.shipped.strategy == "none" or not labelled.target.has_classes:
        return None
    held = head.fold >= 0
    predicted = head.probabilities[held].argmax(axis=1)
    classes = per_class(predicted, labelled.labels[held], labelled.groups()[held], labelled.names)
    return min(classes, key=lambda one: (one.recall, -one.n))


def count_data(
    labelled: LabelledRows, findings: Sequence[Finding], inspection: Inspection, kind: Kind
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
        kind=kind,
    )


def _readiness(results: Results, findings: Sequence[Finding]) -> Readiness:
    labelled, measured, verdict = results.labelled, results.measured, results.verdict
    target, test = labelled.target, measured.test
    held = results.fine_tuned.head.fold >= 0  # the rows of the estimate
    share = target.blind_score(labelled.labels[held])
    name = target.words.blind
    if target.has_classes:
        largest = int(np.bincount(labelled.strata[held]).argmax())
        name = f"always predicting “{labelled.names[largest]}”"
    why_not = ""
    if verdict.kind == "no-signal":
        why_not = "no signal: the labels cannot be told from shuffled ones"
        if better := [one.name for one in results.fine_tuned.baselines if one.is_better]:
            why_not = f"the linear probe finds no signal, where {better[0]} does"
    elif results.shipped.strategy == "none":
        why_not = results.shipped.why
    return readiness(
        Measurements(
            task=results.record.task,
            estimate=measured.estimate,
            test=test_estimate(test) if test is not None else None,
            blind=(share, name),
            findings=findings,
            confident=confident(results.fine_tuned.head, labelled),
            why_not=why_not,
            many=labelled.nouns.many,
        )
    )


def _card_facts(
    folder: RunFolder,
    results: Results,
    summary: Summary,
    model: ModelRecord | None,
    weights: tuple[str, ...],
) -> CardFacts:
    origin, fine_tuned, plan = results.origin, results.fine_tuned, results.plan
    is_classify = results.labelled.target.has_classes
    return CardFacts(
        name=folder.path.name,
        summary=summary,
        data=results.record,
        base=origin.base.record,
        model=model,
        hooks=_hooks(fine_tuned.network, fine_tuned.head.feature_layers),
        layers=in_words(fine_tuned.plan),
        weights=weights,
        choices=tuple(user_choices(plan)),
        surgery="" if plan.blocks[0].behaviour.is_random else origin.surgery,
        is_confident=not is_classify or confident(fine_tuned.head, results.labelled) is not None,
    )


def _hooks(network: Network, feature_layers: Sequence[FeatureLayer]) -> tuple[Hook, ...] | None:
    """Per feature layer its module, pooling and layout; None if one has no module to hook."""
    layer_hooks = []
    for layer in feature_layers:
        module, layout = "", network.record.blocks[layer.block - 1].layout
        if layer.pool != "neck":
            modules = network.steps.blocks[layer.block - 1].modules
            if not modules:
                return None
            module = modules[-1]
        layer_hooks.append((layer.of, module, layer.pool, layout))
    return tuple(layer_hooks)
