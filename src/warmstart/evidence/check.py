"""From features to evidence, from evidence to the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from warmstart.events import Event, Steps
from warmstart.evidence.controls import (
    measure_domain_gap,
    open_probe,
    plain_kernels,
    try_preprocessing,
    weigh_transfer_gain,
)
from warmstart.evidence.data_checks import check_data, with_labels_of
from warmstart.evidence.learning_curve import anchored, learning_curve
from warmstart.evidence.permutation_test import permutation_evidence, with_plain
from warmstart.evidence.preprocessing import warning
from warmstart.evidence.probe_hits import LeftOut, best_left_out
from warmstart.evidence.unreadable_texts import read_texts
from warmstart.features.machine import freed_memory_kept
from warmstart.network.weight_file import is_mapped
from warmstart.planning import fine_tuning, rules
from warmstart.planning.verdict import (
    BASE,
    Basis,
    Outcome,
    VerdictFacts,
    has_signal,
    hides,
    leaves_little,
    outcome_kind,
    outcome_sentence,
    sentence,
    verdict_kind,
)
from warmstart.planning.words import in_words
from warmstart.records.data import Finding
from warmstart.records.inputs import TextInputs
from warmstart.records.network import FeatureLayer
from warmstart.records.summary import (
    Baseline,
    Estimate,
    Evidence,
    FineTuningGain,
    Inspection,
    ShippedCandidate,
    Verdict,
)
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups, wilson
from warmstart.stats.paired import mean_interval
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import CLASS_WORDS, Words, signal_text, signed_points
from warmstart.training.dataset import LabelledRows, Sample, TrainingDataset, draw
from warmstart.training.fine_tune import FineTuned
from warmstart.training.score import Measured

# ---- Where in the network the useful features lie.


def depth(
    feature_layers: Mapping[FeatureLayer, Features],
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target = CLASSIFICATION,
) -> Evidence:
    """Leave-one-out accuracy by part, and what listening to all depths gains over the last.

    Shapes: taps (n, d_t), one vector per part in order; kernels (n, n): the last tap's and
    the equal mixture's; labels (n,). Both mixtures are fixed before any label is seen, so
    their paired difference is not flattered by choice.
    """
    shapes = {layer.name: {layer: 1.0} for layer in feature_layers}
    single = mixed_kernels(feature_layers.items(), shapes)
    k = target.n_outputs(labels)

    def hits(kernel: Array) -> Array:
        return best_left_out([kernel], labels, group_rows, k, target).hits(labels)

    by_block = {layer.block: hits(single[layer.name]) for layer in feature_layers}
    last, equal = (hits(kernel) for kernel in kernels)
    gain, low, high = mean_interval(equal - last, number_groups(group_rows))
    details: dict[str, float | int | str] = {
        f"block.{block}": float(right.mean()) for block, right in by_block.items()
    }
    best = max(by_block, key=lambda block: float(by_block[block].mean()))
    details["best_block"] = best
    return Evidence(
        name="depth",
        value=gain,
        low=max(low, -1.0),
        high=min(high, 1.0),
        n=len(labels),
        meaning=(
            f"The best single layer is {best} of {max(by_block)}; a quick linear probe on all "
            f"layers instead of the last changes the {target.words.score} by "
            f"{signed_points(gain)} points."
        ),
        details=details,
    )


NO_TAIL = Evidence(
    name="fine_tuning_gain",
    value=None,
    low=None,
    high=None,
    n=0,
    meaning="Not measured: only linear probes on the frozen network were compared.",
)


NO_CURVE = Evidence(
    name="learning_curve",
    value=None,
    low=None,
    high=None,
    n=0,
    meaning="Not measured: where no signal is found, a learning curve says nothing.",
)


def check(training_data: TrainingDataset) -> Steps[Inspection]:
    """Gather the evidence that this budget allows."""
    yield Event(stage="checks", kind="begin")
    # Few rows are all drawn, whatever the most: then one sample serves every test.
    sample_of = cache(lambda most: draw(training_data, most))
    n = training_data.labelled.n_train
    sample = sample_of(min(rules.evidence_rows(training_data.budget), n))
    evidence = [_signal(training_data, sample)]
    yield Event(stage="checks", kind="step", step=1, values={"p": evidence[0].details["p"]})
    if len(sample.kernels) > 1:
        evidence.append(_depth(training_data, sample_of(min(rules.DEPTH_ROWS, n))))
    is_signal = has_signal(float(evidence[0].details["p"]))
    rows = min(rules.learning_curve_rows(training_data.budget), n)
    evidence.append(_learning_curve(training_data, sample_of(rows)) if is_signal else NO_CURVE)
    if rules.looks_closely(training_data.budget) and is_signal:
        evidence += yield from _closely(training_data)
    said: tuple[Finding, ...] = ()
    if isinstance(training_data.prep, TextInputs):
        read, said = read_texts(training_data, training_data.prep)
        evidence.append(read)
    found = check_data(training_data, has_signal(float(evidence[0].details["p"])))
    evidence += [found.label_noise_ceiling, NO_TAIL]
    fed = (e for e in evidence if e.name == "preprocessing")
    words, nouns = training_data.labelled.target.words, training_data.labelled.nouns
    warned = tuple(f for f in (warning(e, words, nouns) for e in fed) if f)
    yield Event(stage="checks", kind="end", step=len(evidence))
    return Inspection(
        evidence=tuple(evidence),
        findings=(*said, *found.findings, *warned),
        label_issues=found.label_issues,
        off_topic=found.off_topic,
    )


def _signal(training_data: TrainingDataset, sample: Sample) -> Evidence:
    rng = np.random.default_rng([training_data.seed, 2])
    times = rules.permutations(training_data.budget)
    target = training_data.labelled.target
    rows = sample.labels, sample.group_rows, times, rng, target
    found = permutation_evidence(sample.kernels, *rows)
    if has_signal(float(found.details["p"])):
        return found
    plain = plain_kernels(training_data, sample.rows)
    return with_plain(found, plain, *rows, training_data.labelled.nouns) if plain else found


def _depth(training_data: TrainingDataset, sample: Sample) -> Evidence:
    by_block = {layer.block: layer for layer in sample.vectors}  # the neck stands for the last part
    single = {layer: sample.vectors[layer] for layer in by_block.values()}
    return depth(
        single, sample.kernels, sample.labels, sample.group_rows, training_data.labelled.target
    )


def _learning_curve(training_data: TrainingDataset, sample: Sample) -> Evidence:
    kernel, target = sample.kernels[-1], training_data.labelled.target
    n_classes = target.n_outputs(sample.labels)
    head: LeftOut = best_left_out([kernel], sample.labels, sample.group_rows, n_classes, target)
    rng = np.random.default_rng([training_data.seed, 6])
    return learning_curve(
        kernel, head, sample.labels, sample.group_rows, training_data.labelled.n_train, rng
    )


def _closely(training_data: TrainingDataset) -> Steps[list[Evidence]]:
    """Evidence for which the network is run again; none of one that has learnt nothing.

    What networks without knowledge reach is not measured of one that is streamed: each of them
    would be a copy in memory.
    """
    if training_data.base is not None and training_data.base.is_drawn:
        return []
    with freed_memory_kept():
        opened, found = open_probe(training_data), list[Evidence]()
        if not is_mapped(training_data.extracted.network.backbone):
            found.append(
                (
                    yield from weigh_transfer_gain(
                        opened, training_data.labelled.n_classes, training_data.seed
                    )
                )
            )
        if not isinstance(
            training_data.prep, TextInputs
        ):  # how texts are read is told without a pass
            found.append(measure_domain_gap(opened(rules.DISTANCE_IMAGES)))
        yield Event(stage="checks", kind="step", step=len(found))
        return [*found, try_preprocessing(opened)]


def tries_tail(training_data: TrainingDataset, verdict: Verdict) -> bool:
    """Whether upper layers are trained beside a head, where the depth is ours to choose.

    Without a signal there is nothing to train for; nor where next to nothing is left to gain,
    unless the budget is for that.
    """
    tests = {evidence.name: evidence for evidence in verdict.evidence}
    facts, record = training_data.labelled.facts(), training_data.extracted.network.record
    permutation_test = tests["permutation_test"]
    is_open = training_data.budget == "thorough" or not leaves_little(permutation_test.value or 0.0)
    is_signal = has_signal(float(permutation_test.details["p"]))
    return is_signal and is_open and fine_tuning.tries_tail(record, facts, training_data.budget)


def judge(
    inspection: Inspection,
    is_tuned: bool = False,
    words: Words = CLASS_WORDS,
    basis: Basis = BASE,
    probe: Estimate | None = None,
    ships_trained: bool = False,
) -> Verdict:
    """The verdict that the evidence gives.

    `is_tuned` where layers were trained and compared with the linear probe, whose own estimate is
    `probe` where it was made: then the sentences say that number and no other. `ships_trained`
    where those layers ship.
    """
    found = {evidence.name: evidence for evidence in inspection.evidence}
    test, known = found["permutation_test"], found.get("transfer_gain")
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
        transfer_gain=known.value if known else None,
        transfer_gain_error=float(known.details["error"]) if known else 0.0,
        is_tuned=is_tuned,
        ships_trained=ships_trained,
    )
    facts = _with_scratch(facts, found.get("scratch"))
    kind = verdict_kind(facts)
    text = sentence(kind, facts, test.n, right, words, basis)
    far = found.get("domain_gap")
    if far is not None and "warning" in far.details:
        text += f" But {far.details['warning']}."
    return Verdict(kind=kind, sentence=text, evidence=inspection.evidence)


def _with_scratch(facts: VerdictFacts, found: Evidence | None) -> VerdictFacts:
    """The same with what is known of networks that were trained from nothing, where some were."""
    if found is None or found.value is None:
        return facts
    error, later = (float(found.details[name]) for name in ("error", "later"))
    return replace(facts, scratch_gap=found.value, scratch_error=error, scratch_later=later)


def concluded(
    training_data: TrainingDataset,
    inspection: Inspection,
    fine_tuned: FineTuned,
    measured: Measured,
) -> tuple[Inspection, Verdict]:
    """The evidence and the verdict after the work: what was done, and what it brought.

    Scores of the evidence that stand for the linear probe become its cross-validated estimate, and
    label issues are those of the predictions of what ships, so that one quantity has one number.
    Where another method is better beyond noise, the verdict says
    so.
    """
    labelled, basis = training_data.labelled, training_data.basis
    target, probe = labelled.target, measured.linear_probe
    permutation_test = next(one for one in inspection.evidence if one.name == "permutation_test")
    inspection = with_labels_of(
        training_data,
        inspection,
        fine_tuned.head.probabilities,
        has_signal(float(permutation_test.details["p"])),
    )
    inspection = replace(
        inspection,
        evidence=tuple(_agreed(one, measured, labelled) for one in inspection.evidence),
    )
    outcome = outcome_of(fine_tuned, measured, labelled)
    is_compared, is_tried = outcome.gain is not None, bool(outcome.gain or outcome.given_up)
    verdict = judge(
        inspection, is_tried, target.words, basis, probe, is_compared and outcome.is_fine_tuned
    )
    done = outcome_sentence(outcome, target.words, basis)
    text = verdict.sentence
    if done and verdict.kind not in ("no-signal", "no-transfer") and not _is_doubtful(inspection):
        text = f"{done} {text}"
    elif done:
        text = f"{text} {done}"
    better = [one.sentence for one in fine_tuned.baselines if one.is_better]
    if verdict.kind == "no-signal" and better and not done:
        text, better = unseen_sentence(fine_tuned.baselines, measured.estimate.n), []
    kind = outcome_kind(outcome, verdict.kind)
    return inspection, replace(verdict, kind=kind, sentence=" ".join([text, *better]))


def unseen_sentence(beside: Sequence[Baseline], n: int) -> str:
    """That another method learns what the linear probe does not see."""
    best = max((one for one in beside if one.is_better), key=lambda one: one.estimate.value)
    return (
        f"The linear probe finds no signal in {n:,} examples, but {best.name} does: "
        f"{100 * best.estimate.value:.1f} % right on held-out rows; use that."
    )


def _is_doubtful(inspection: Inspection) -> bool:
    """Whether there is no signal beyond doubt, which has to be said before anything else."""
    test = next(one for one in inspection.evidence if one.name == "permutation_test")
    return not has_signal(float(test.details["p"]))


def _agreed(one: Evidence, measured: Measured, labelled: LabelledRows) -> Evidence:
    """The same evidence with the linear probe's estimate in the place of a cheaper figure."""
    target, probe = labelled.target, measured.linear_probe
    if one.name == "fine_tuning_gain":
        return measured.gain or one
    if one.name == "learning_curve":
        n_learnt = labelled.n_train if labelled.holdout else measured.n_learnt
        return anchored(one, probe, n_learnt, labelled.n_train, labelled.n_classes, target)
    if (
        one.name == "permutation_test"
        and has_signal(float(one.details["p"]))
        and one.low is not None
    ):
        meaning = signal_text(target.words, probe.value, one.low, one.high or 0.0)
        return replace(one, value=probe.value, meaning=meaning)
    return one


def outcome_of(fine_tuned: FineTuned, measured: Measured, labelled: LabelledRows) -> Outcome:
    """What the run did, for the verdict to tell."""
    plan = fine_tuned.plan
    is_user = plan.strategy.source == "user" and plan.is_trained
    return Outcome(
        estimate=measured.estimate,
        gain=gain_record(measured.gain),
        is_fine_tuned=plan.is_trained and not fine_tuned.given_up,
        chosen=str(plan.strategy.value) if is_user and not fine_tuned.given_up else "",
        blind=labelled.target.blind_score(labelled.labels[fine_tuned.head.fold >= 0]),
        given_up=_given_up(fine_tuned),
    )


def _given_up(fine_tuned: FineTuned) -> str:
    """Which training was given up, and why; nothing where none was."""
    if not fine_tuned.given_up:
        return ""
    strategy = fine_tuned.plan.strategy
    return f"{strategy.rule or strategy.value} was given up: {fine_tuned.given_up}"


def gain_record(found: Evidence | None) -> FineTuningGain | None:
    """The fine-tuning gain as the summary states it."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    change, error = (float(found.details[name]) for name in ("log_loss_gain", "log_loss_error"))
    return FineTuningGain(
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        log_loss=float(found.details["log_loss"]),
        log_loss_change=-change,
        log_loss_low=-change - 1.96 * error,
        log_loss_high=-change + 1.96 * error,
    )


def ships(inspection: Inspection, fine_tuned: FineTuned) -> bool:
    """Whether a model is shipped: not without a signal, unless the user set a strategy."""
    is_chosen = fine_tuned.plan.strategy.source == "user" or bool(fine_tuned.given_up)
    return is_chosen or not (judge(inspection).kind == "no-signal" or hides(inspection.evidence))


def choose_shipped(verdict: Verdict, fine_tuned: FineTuned) -> ShippedCandidate:
    """What stands in model/: nothing where no signal was found, unless the user set a strategy.

    A training that the user chose and that was given up leaves the output alone.
    """
    plan, head, given_up = fine_tuned.plan, fine_tuned.head.name, fine_tuned.given_up
    is_chosen = plan.strategy.source == "user" or bool(given_up)
    if verdict.kind == "no-signal" and not is_chosen:
        is_seen = any(one.is_better for one in fine_tuned.baselines)
        found = "the linear probe finds no signal" if is_seen else "no signal was found"
        return ShippedCandidate(strategy="none", why=f"{found}, so no model would be honest")
    if hides(verdict.evidence) and not is_chosen:
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
        return ShippedCandidate(
            strategy=fine_tuned.shipped or str(strategy.value),
            why=f"{in_words(plan)}; {fine_tuned.why or word}",
        )
    layer_weights, _, older = head.partition("+")
    what = heads.get(layer_weights, f"a multi-layer linear probe ({layer_weights})")
    what += ", begun from the base model's head for classes with the same name" if older else ""
    why = "your choice" if is_chosen else "the best of those tried in cross-validation"
    why += f"; {fine_tuned.why}" if fine_tuned.why else ""
    if given_up:
        why = f"{strategy.rule} was given up, {given_up}"
    elif plan.training.lr is not None:
        why += "; no group of layers helped on examples set apart"
    n_blocks = len(plan.blocks) - 1
    layers = f"all {n_blocks} layers frozen" if n_blocks > 1 else "the network frozen"
    name = str(strategy.value) if plan.training.lr is not None else "head"
    return ShippedCandidate(strategy=name, why=f"{what}, {layers}: {why}")
