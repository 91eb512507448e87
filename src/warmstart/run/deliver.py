"""The last stage: model, records, card, summary; then the report from these files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from warmstart.data.dataset import Collection
from warmstart.errors import TrainingError
from warmstart.evaluation.readiness import Measurements, by_consequence, readiness
from warmstart.events import Event, Steps, note
from warmstart.evidence.check import gain_record
from warmstart.evidence.data_checks import write_lists
from warmstart.features.batches import to_tensor
from warmstart.features.extraction import ExtractedFeatures
from warmstart.machine import peak_rss_mb
from warmstart.modalities.preprocessing import encode
from warmstart.network.ledger import prove_frozen, summary_lines, write_ledger
from warmstart.planning.words import in_words, user_choices
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord, Finding, without
from warmstart.records.network import Ledger
from warmstart.records.plan import Plan
from warmstart.records.recording import Clock
from warmstart.records.run_folder import RunFolder, write_bytes, write_json, write_json_lines
from warmstart.records.summary import (
    FrozenProof,
    Inspection,
    Readiness,
    ShippedCandidate,
    Summary,
    TensorCounts,
    Verdict,
)
from warmstart.reporting.report import write_report
from warmstart.run import lineage, model_files
from warmstart.run.card import CardFacts, card
from warmstart.run.model_files import Origin
from warmstart.tasks.words import test_estimate
from warmstart.training.dataset import LabelledRows
from warmstart.training.fine_tune import FineTuned
from warmstart.training.score import ModelEvaluation, confident, predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run: its folder, and the summary written there."""

    path: Path
    summary: Summary


CHECKED = 8  # training images on which the finished network is checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The results of the earlier stages."""

    origin: Origin
    extracted: ExtractedFeatures
    record: DataRecord
    labelled: LabelledRows
    inspection: Inspection
    verdict: Verdict
    plan: Plan
    fine_tuned: FineTuned
    measured: ModelEvaluation
    shipped: ShippedCandidate
    ignored: tuple[str, ...] = ()  # codes of findings that are not reported


def deliver(
    folder: RunFolder, results: Results, collection: Collection, clock: Clock
) -> Steps[Finished]:
    """Write the run folder. Files are whole or absent; summary.json is the last record."""
    yield Event(stage="deliver", kind="begin")
    _write_records(folder, results)
    model, proof = None, FrozenProof(parameters=0, buffers=0, identical=True)
    lines: tuple[str, ...] = ()
    if results.shipped.strategy != "none":
        model, ledger = _write_model(folder, results, collection)
        proof = _prove(ledger, results.fine_tuned.plan)
        lines = summary_lines(ledger)
        yield note("deliver", "Proof", "\n".join(lines))
    clock.lap("deliver")
    summary = _summary(results, proof, clock)
    facts = _card_facts(folder, results, summary, model, lines)
    write_bytes(folder.path / "README.md", card(facts).encode())
    write_json(folder.path / "summary.json", summary)
    try:
        write_report(folder.path, collection.load, results.record)
    except Exception as error:  # the run is finished with or without its report
        text = f"report.html could not be written ({error}); `warmstart report` tries again"
        yield note("deliver", "Report", text)
    yield Event(stage="deliver", kind="end")
    return Finished(path=folder.path, summary=summary)


def _card_facts(
    folder: RunFolder,
    results: Results,
    summary: Summary,
    model: ModelRecord | None,
    weights: tuple[str, ...],
) -> CardFacts:
    origin, fine_tuned, plan = results.origin, results.fine_tuned, results.plan
    is_classify = results.record.task == "classify"
    return CardFacts(
        name=folder.path.name,
        summary=summary,
        data=results.record,
        base=origin.base,
        model=model,
        hooks=model_files.hooks(fine_tuned.network, fine_tuned.head.feature_layers),
        ancestors=lineage.ancestors(origin.base),
        base_model=lineage.base_model(origin.base),
        layers=in_words(fine_tuned.plan),
        weights=weights,
        choices=tuple(user_choices(plan)),
        surgery="" if plan.blocks[0].action.value == "fresh" else origin.surgery,
        is_confident=not is_classify or confident(fine_tuned.head, results.labelled) is not None,
    )


def _write_records(folder: RunFolder, results: Results) -> None:
    path = folder.path  # data.json and plan.toml are already there
    write_json(path / "inspection.json", results.inspection)
    # By the predictions of what ships; the checks wrote those of the linear probe.
    write_lists(path, results.inspection.label_issues, results.inspection.off_topic)
    write_json(path / "network.json", results.fine_tuned.network.record)
    head, classes = results.fine_tuned.head, results.record.classes
    lines = predictions(head, results.labelled, classes, results.measured)
    write_json_lines(path / "predictions.jsonl", lines)
    model_files.write_environment(folder, results.extracted.threads)


def _write_model(
    folder: RunFolder, results: Results, collection: Collection
) -> tuple[ModelRecord, Ledger]:
    origin, labelled, fine_tuned = results.origin, results.labelled, results.fine_tuned
    model = model_files.build_model(fine_tuned.network, fine_tuned.head, labelled.target)
    sample = labelled.learn[:CHECKED]
    prep = origin.base.preprocessing
    pixels = [encode(collection.load(e.id), e.id, prep) for e in sample]
    inputs = to_tensor(np.stack(pixels), prep)
    choice = fine_tuned.plan.training.cache_dtype
    dtype = "float32" if choice is None else str(choice.value)
    model_files.check_model(model, fine_tuned.head, inputs, fine_tuned.reader(sample), dtype)
    read = fine_tuned.reader(labelled.learn)
    record = model_files.describe(origin, fine_tuned, results.record)
    head, before = fine_tuned.head, origin.trained_on
    model_files.write_model(folder, record, model, head, labelled, read, before)
    ledger = write_ledger(
        origin.digests, origin.network, model, actions=fine_tuned.actions, changes=origin.changes
    )
    write_json(folder.path / "weights_ledger.json", ledger)
    return record, ledger


def _prove(ledger: Ledger, plan: Plan) -> FrozenProof:
    """Every tensor of a frozen block has its old bytes. Raises: TrainingError if not."""
    frozen = frozenset(p.name for p in plan.blocks if p.action.value == "frozen")
    proof = prove_frozen(ledger, frozen)
    if not proof.identical:
        raise TrainingError(
            "a frozen layer has changed: do not trust this run; weights_ledger.json names the "
            "tensors. Please report it."
        )
    total = prove_frozen(ledger)  # with the unchanged tensors under low-rank updates
    return replace(proof, parameters=total.parameters, buffers=total.buffers)


def _summary(results: Results, proof: FrozenProof, clock: Clock) -> Summary:
    base, measured = results.origin.unchanged, results.measured
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
        data=model_files.count_data(
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
    )


def _readiness(results: Results, findings: Sequence[Finding]) -> Readiness:
    labelled, measured, verdict = results.labelled, results.measured, results.verdict
    target, test = labelled.target, measured.test
    held = results.fine_tuned.head.fold >= 0  # the rows of the estimate
    share = target.blind_score(labelled.labels[held])
    name = target.words.blindly
    if results.record.task == "classify":
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
