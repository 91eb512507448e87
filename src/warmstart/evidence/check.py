"""Features to evidence, and evidence to the verdict."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import cast

import numpy as np

from warmstart.events import Event, Steps
from warmstart.evidence.data_checks import check_data, with_labels_of
from warmstart.evidence.domain_gap import measure_domain_gap, read_texts
from warmstart.evidence.learning_curve import anchored, learning_curve
from warmstart.evidence.preprocessing import try_preprocessing, warning
from warmstart.evidence.probe import (
    best_left_out,
    depth,
    not_measured,
    open_probe,
    permutation_evidence,
    plain_kernels,
    probe_test,
)
from warmstart.evidence.transfer_gain import measure_transfer_gain
from warmstart.features.machine import keep_freed_memory
from warmstart.modalities.registry import modality_of
from warmstart.network.weights import is_mapped
from warmstart.planning import fine_tuning, rules
from warmstart.planning.plan_file import in_words
from warmstart.planning.verdict import (
    BASE,
    Basis,
    Outcome,
    VerdictFacts,
    has_signal,
    hides_signal,
    leaves_little,
    outcome_kind,
    outcome_sentence,
    sentence,
    verdict_kind,
)
from warmstart.records.findings import Finding
from warmstart.records.inputs import TextInputs
from warmstart.records.summary import (
    Estimate,
    Evidence,
    FineTuningGain,
    Inspection,
    ShippedCandidate,
    Verdict,
)
from warmstart.stats.intervals import wilson
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.words import Words, signal_text
from warmstart.training.dataset import LabelledRows, Sample, TrainingDataset, draw
from warmstart.training.fine_tune import FineTuned
from warmstart.training.score import ModelEvaluation

NO_FINE_TUNING_GAIN = not_measured(
    "fine_tuning_gain", 0, "Not measured: only linear probes on the frozen network were compared."
)
NO_LEARNING_CURVE = not_measured(
    "learning_curve", 0, "Not measured: without a signal a learning curve means nothing."
)


def check(training_data: TrainingDataset) -> Steps[Inspection]:
    """Collect the evidence that the budget allows, and check the data."""
    yield Event(stage="checks", kind="begin")
    labelled, modality = training_data.labelled, modality_of(training_data.prep)
    n, target = labelled.n_train, labelled.target
    # Few rows are all sampled, whatever the limit: then one sample serves every test.
    sample_of = cache(lambda most: draw(training_data, most))
    sample = sample_of(min(rules.EVIDENCE_ROWS[training_data.budget], n))
    evidence = [_test_signal(training_data, sample)]
    yield Event(stage="checks", kind="step", step=1, values={"p": evidence[0].details["p"]})
    if len(sample.kernels) > 1:
        wide = sample_of(min(rules.DEPTH_ROWS, n))
        by_block = {layer.block: layer for layer in wide.vectors}  # the neck is the last block's
        features = {layer: wide.vectors[layer] for layer in by_block.values()}
        evidence.append(depth(features, wide.kernels, wide.labels, wide.group_rows, target))
    is_signal = has_signal(float(evidence[0].details["p"]))
    rows = min(rules.LEARNING_CURVE_ROWS[training_data.budget], n)
    evidence.append(
        _learning_curve(training_data, sample_of(rows)) if is_signal else NO_LEARNING_CURVE
    )
    if training_data.budget != "fast" and is_signal:
        evidence += yield from _closely(training_data)
    text_findings: tuple[Finding, ...] = ()
    if modality.has_tokens:
        gap, text_findings = read_texts(training_data, cast(TextInputs, training_data.prep))
        evidence.append(gap)
    checks = check_data(training_data, is_signal)
    evidence += [*checks.evidence, NO_FINE_TUNING_GAIN]
    trials = (e for e in evidence if e.name == "preprocessing")
    warnings = tuple(f for f in (warning(e, target.words, labelled.nouns) for e in trials) if f)
    yield Event(stage="checks", kind="end", step=len(evidence))
    return Inspection(
        evidence=tuple(evidence),
        findings=(*text_findings, *checks.findings, *warnings),
        label_issues=checks.label_issues,
        off_topic=checks.off_topic,
    )


def _test_signal(training_data: TrainingDataset, sample: Sample) -> Evidence:
    rng = np.random.default_rng([training_data.seed, 2])
    labelled, permutations = training_data.labelled, rules.PERMUTATIONS[training_data.budget]
    target = labelled.target
    rows = sample.labels, sample.group_rows, permutations, rng, target
    evidence = permutation_evidence(sample.kernels, *rows)
    if has_signal(float(evidence.details["p"])):
        return evidence
    # Labels that raw pixels predict can be hidden by an unsuitable base model.
    plain = plain_kernels(training_data, sample.rows)
    if not plain:
        return evidence
    test = probe_test(plain, *rows)
    score = f"the {target.words.score} is {100 * test.accuracy:.0f} %"
    return replace(
        evidence,
        meaning=f"{evidence.meaning} From {labelled.nouns.plain} {score}.",
        details={**evidence.details, "plain": test.accuracy, "plain_p": test.p},
    )


def _learning_curve(training_data: TrainingDataset, sample: Sample) -> Evidence:
    kernel, target = sample.kernels[-1], training_data.labelled.target
    n_classes = target.n_outputs(sample.labels)
    head = best_left_out([kernel], sample.labels, sample.group_rows, n_classes, target)
    rng = np.random.default_rng([training_data.seed, 6])
    return learning_curve(
        kernel, head, sample.labels, sample.group_rows, training_data.labelled.n_train, rng
    )


def _closely(training_data: TrainingDataset) -> Steps[list[Evidence]]:
    """Evidence that needs more forward passes; none for a network with random weights.

    No transfer gain of an offloaded network: each shuffled one would be a copy in memory.
    """
    if training_data.base is not None and training_data.base.is_random:
        return []
    with keep_freed_memory():
        probe_of, evidence = open_probe(training_data), list[Evidence]()
        if not is_mapped(training_data.extracted.network.backbone):
            n_classes, seed = training_data.labelled.n_classes, training_data.seed
            evidence.append((yield from measure_transfer_gain(probe_of, n_classes, seed)))
        if not modality_of(training_data.prep).has_tokens:  # their tokens alone show the gap
            evidence.append(measure_domain_gap(probe_of(rules.DOMAIN_GAP_IMAGES)))
        yield Event(stage="checks", kind="step", step=len(evidence))
        return [*evidence, try_preprocessing(probe_of)]


def tries_fine_tuning(training_data: TrainingDataset, verdict: Verdict) -> bool:
    """Whether to compare fine-tuning with the linear probe, where the user leaves the depth open.

    Not without a signal, nor, unless the budget is thorough, where hardly anything is left to gain.
    """
    test = next(one for one in verdict.evidence if one.name == "permutation_test")
    facts, record = training_data.labelled.facts(), training_data.extracted.network.record
    budget, is_signal = training_data.budget, has_signal(float(test.details["p"]))
    is_open = budget == "thorough" or not leaves_little(test.value or 0.0)
    return is_signal and is_open and fine_tuning.compares_fine_tuning(record, facts, budget)


def judge(
    inspection: Inspection,
    is_tuned: bool = False,
    words: Words = CLASSIFICATION.words,
    basis: Basis = BASE,
    probe: Estimate | None = None,
    ships_trained: bool = False,
) -> Verdict:
    """Draw the verdict from the evidence.

    `is_tuned`: fine-tuning was compared with the linear probe. `probe`: the probe's estimate,
    which the sentences then quote. `ships_trained`: the fine-tuned network ships.
    """
    evidence = {one.name: one for one in inspection.evidence}
    test, transfer = evidence["permutation_test"], evidence.get("transfer_gain")
    right = test.value or 0.0
    low = wilson(max(right, 0.0), test.n, test.n - 1, confidence=0.8)[0]
    if probe is not None:
        right, low = probe.value, probe.low
    facts = VerdictFacts(
        p=float(test.details["p"]),
        mde=float(test.details["mde"]),
        n=test.n,
        plain=float(test.details.get("plain", 0.0)),
        plain_p=float(test.details.get("plain_p", 1.0)),
        accuracy=right,
        mistakes=1 - low,
        transfer_gain=transfer.value if transfer else None,
        transfer_gain_error=float(transfer.details["error"]) if transfer else 0.0,
        is_tuned=is_tuned,
        ships_trained=ships_trained,
    )
    scratch = evidence.get("scratch")
    if scratch is not None and scratch.value is not None:
        error, later = (float(scratch.details[name]) for name in ("error", "later"))
        facts = replace(facts, scratch_gap=scratch.value, scratch_error=error, scratch_later=later)
    kind = verdict_kind(facts)
    text = sentence(kind, facts, test.n, right, words, basis)
    gap = evidence.get("domain_gap")
    if gap is not None and "warning" in gap.details:
        text += f" But {gap.details['warning']}."
    return Verdict(kind=kind, sentence=text, evidence=inspection.evidence)


def conclude(
    training_data: TrainingDataset,
    inspection: Inspection,
    fine_tuned: FineTuned,
    measured: ModelEvaluation,
) -> tuple[Inspection, Verdict]:
    """The evidence and the verdict after training: what was done, and what it gained.

    Evidence about the linear probe takes its cross-validated estimate, and label issues are those
    of the shipped model's predictions, so that one quantity has one number. The verdict names
    another method that is better beyond noise.
    """
    labelled, basis = training_data.labelled, training_data.basis
    target, probe = labelled.target, measured.linear_probe
    test = next(one for one in inspection.evidence if one.name == "permutation_test")
    is_signal = has_signal(float(test.details["p"]))
    answers = fine_tuned.head.probabilities
    inspection = with_labels_of(training_data, inspection, answers, is_signal)
    evidence = tuple(_with_estimate(one, measured, labelled) for one in inspection.evidence)
    inspection = replace(inspection, evidence=evidence)
    outcome = outcome_of(fine_tuned, measured, labelled)
    is_compared, is_tried = outcome.gain is not None, bool(outcome.gain or outcome.given_up)
    verdict = judge(
        inspection, is_tried, target.words, basis, probe, is_compared and outcome.is_fine_tuned
    )
    done = outcome_sentence(outcome, target.words, basis)
    text = verdict.sentence
    # The lack of a signal comes before anything else.
    if done and verdict.kind not in ("no-signal", "no-transfer") and is_signal:
        text = f"{done} {text}"
    elif done:
        text = f"{text} {done}"
    better = [one for one in fine_tuned.baselines if one.is_better]
    if verdict.kind == "no-signal" and better and not done:
        best = max(better, key=lambda one: one.estimate.value)
        text = (
            f"The linear probe finds no signal in {measured.estimate.n:,} examples, but "
            f"{best.name} does: {100 * best.estimate.value:.1f} % accuracy on held-out rows; use "
            "that."
        )
    else:
        text = " ".join([text, *(one.sentence for one in better)])
    kind = outcome_kind(outcome, verdict.kind)
    return inspection, replace(verdict, kind=kind, sentence=text)


def _with_estimate(one: Evidence, measured: ModelEvaluation, labelled: LabelledRows) -> Evidence:
    """Replace a cheaper figure in the evidence by the linear probe's estimate."""
    target, probe = labelled.target, measured.linear_probe
    if one.name == "fine_tuning_gain":
        return measured.gain or one
    if one.name == "learning_curve":
        n_fit = labelled.n_train if labelled.holdout else measured.n_learnt
        return anchored(one, probe, n_fit, labelled.n_train, labelled.n_classes, target)
    is_test = one.name == "permutation_test"
    if is_test and has_signal(float(one.details["p"])) and one.low is not None:
        meaning = signal_text(target.words, probe.value, one.low, one.high or 0.0)
        return replace(one, value=probe.value, meaning=meaning)
    return one


def outcome_of(fine_tuned: FineTuned, measured: ModelEvaluation, labelled: LabelledRows) -> Outcome:
    """What the run did, for the sentences of the verdict."""
    plan, given_up = fine_tuned.plan, fine_tuned.given_up
    strategy = plan.strategy
    is_user = strategy.source == "user" and plan.is_trained
    return Outcome(
        estimate=measured.estimate,
        gain=gain_record(measured.gain),
        is_fine_tuned=plan.is_trained and not given_up,
        chosen=str(strategy.value) if is_user and not given_up else "",
        blind=labelled.target.blind_score(labelled.labels[fine_tuned.head.fold >= 0]),
        given_up=f"{strategy.rule or strategy.value} was given up: {given_up}" if given_up else "",
    )


def gain_record(gain: Evidence | None) -> FineTuningGain | None:
    """The fine-tuning gain as a record of summary.json; None where it was not measured."""
    if gain is None or gain.value is None or gain.low is None or gain.high is None:
        return None
    change, error = (float(gain.details[name]) for name in ("log_loss_gain", "log_loss_error"))
    return FineTuningGain(
        value=gain.value,
        low=gain.low,
        high=gain.high,
        n=gain.n,
        log_loss=float(gain.details["log_loss"]),
        log_loss_change=-change,
        log_loss_low=-change - 1.96 * error,
        log_loss_high=-change + 1.96 * error,
    )


def ships(inspection: Inspection, fine_tuned: FineTuned) -> bool:
    """Whether a model is shipped: not without a signal, unless the user set a strategy."""
    is_chosen = fine_tuned.plan.strategy.source == "user" or bool(fine_tuned.given_up)
    return is_chosen or not (
        judge(inspection).kind == "no-signal" or hides_signal(inspection.evidence)
    )


def choose_shipped(verdict: Verdict, fine_tuned: FineTuned) -> ShippedCandidate:
    """Choose what is written to model/: nothing without a signal, unless the user set a strategy.

    Where the user's fine-tuning was given up, the linear probe.
    """
    plan, head, given_up = fine_tuned.plan, fine_tuned.head.name, fine_tuned.given_up
    is_chosen = plan.strategy.source == "user" or bool(given_up)
    if verdict.kind == "no-signal" and not is_chosen:
        has_better = any(one.is_better for one in fine_tuned.baselines)
        reason = "the linear probe finds no signal" if has_better else "no signal was found"
        return ShippedCandidate(strategy="none", why=f"{reason}, so no model would be honest")
    if hides_signal(verdict.evidence) and not is_chosen:
        why = "the base model's features tell nothing apart; try --strategy scratch"
        return ShippedCandidate(strategy="none", why=why)
    heads = {
        "class-mean": "nearest class means on the last features",
        "logistic": "logistic regression on the last features",
        "last": "a linear probe on the last features",
        "stack": "a stack of linear probes on several layers",
    }
    word, strategy = "your choice" if is_chosen else "the better in cross-validation", plan.strategy
    if plan.is_trained:
        name, why = fine_tuned.shipped or str(strategy.value), fine_tuned.why or word
        return ShippedCandidate(strategy=name, why=f"{in_words(plan)}; {why}")
    layer_weights, _, older = head.partition("+")
    what = heads.get(layer_weights, f"a multi-layer linear probe ({layer_weights})")
    what += ", initialised from the base model's head for classes of the same name" if older else ""
    why = "your choice" if is_chosen else "the best in cross-validation"
    why += f"; {fine_tuned.why}" if fine_tuned.why else ""
    if given_up:
        why = f"{strategy.rule} was given up, {given_up}"
    elif plan.training.lr is not None:
        why += "; fine-tuning did not help on held-out examples"
    n_blocks = len(plan.blocks) - 1
    layers = f"all {n_blocks} layers frozen" if n_blocks > 1 else "the network frozen"
    name = str(strategy.value) if plan.training.lr is not None else "head"
    return ShippedCandidate(strategy=name, why=f"{what}, {layers}: {why}")
