"""Features to evidence, and evidence to the verdict; transfer gain, learning curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import cast

import numpy as np
from scipy.special import stdtrit

from warmstart.events import Event, Steps
from warmstart.evidence.data_checks import check_data, with_labels_of
from warmstart.evidence.preprocessing import (
    measure_domain_gap,
    read_texts,
    try_preprocessing,
    warning,
)
from warmstart.evidence.probe import (
    LeftOut,
    Probe,
    best_left_out,
    depth,
    not_measured,
    open_probe,
    permutation_evidence,
    plain_kernels,
    probe_test,
)
from warmstart.features.machine import keep_freed_memory
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import modality_of
from warmstart.network.shuffled import control_features, halve_images, layer_scales
from warmstart.network.weights import is_mapped
from warmstart.nouns import Nouns
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
from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import kish, number_groups, standard_error, wilson
from warmstart.stats.learning_curve import PowerLaw, expected_gain
from warmstart.stats.permutation import spread_order
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import Words, signal_text, signed_points
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


def headline(verdict: Verdict) -> str:
    """The evidence that says most of what to expect, in words."""
    by_name = {evidence.name: evidence for evidence in verdict.evidence}
    return by_name.get("transfer_gain", by_name["permutation_test"]).meaning


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
    blocks = f"all {n_blocks} blocks frozen" if n_blocks > 1 else "the network frozen"
    name = str(strategy.value) if plan.training.lr is not None else "head"
    return ShippedCandidate(strategy=name, why=f"{what}, {blocks}: {why}")


# ---- Transfer gain: what does pretraining add on this data?
#
# The same head on the same images: on the pretrained network, on the network with shuffled
# weights, and on raw pixels. Transfer gain is the pretrained network's accuracy minus that of the
# better of the two controls (RECIPE §4; Kornblith et al. 2019).


SHUFFLE_SD = 0.03  # least standard deviation of accuracy assumed between shuffles
NORMAL_95 = 1.645
CLEAR = 3.0  # standard errors above 0 from which more images would not change the answer


def transfer_gain(
    trained: Sequence[Array],
    shuffles: Sequence[Sequence[Array]],
    pixels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGE.nouns,
) -> Evidence:
    """Accuracy of the pretrained network minus that of the better control.

    Shapes: kernels (n, n), of each list the best counts, with a list per shuffled network; labels
    (n,); groups partition the rows. Details: `error` (standard error of the difference, including
    the spread between shuffles), the three accuracies, `shuffles`.
    """
    if len(group_rows) < 2:
        reason = f"Not measured: the {nouns.many} compared all belong to one group."
        return replace(not_measured("transfer_gain", len(labels), reason), details={"error": 0.0})
    k, groups = target.n_outputs(labels), number_groups(group_rows)

    def hits(kernels: Sequence[Array]) -> Array:
        return best_left_out(kernels, labels, group_rows, k, target).hits(labels)

    own, raw = hits(trained), hits(pixels)
    shuffled = np.array([hits(kernels) for kernels in shuffles])
    by_shuffle = shuffled.mean(axis=1)
    is_pixels = float(raw.mean()) > float(by_shuffle.mean())
    control = raw if is_pixels else shuffled.mean(axis=0)
    value = float(own.mean() - control.mean())
    # Never below one row in n, or two networks that err on the same rows would differ for certain.
    paired = max(standard_error(own - control, groups), 1.0 / len(control))
    spread = 0.0
    if not is_pixels:
        variance = float(np.var(by_shuffle, ddof=1)) if len(by_shuffle) > 1 else 0.0
        spread = max(variance, SHUFFLE_SD**2) / len(by_shuffle)
    # Wider for few groups, by the t quantile.
    few = float(stdtrit(max(kish(groups) - 1, 1.0), 0.95)) / NORMAL_95
    error = few * float(np.sqrt(paired**2 + spread))
    scores = {
        "trained": float(own.mean()),
        "shuffled": float(by_shuffle.mean()),
        "pixels": float(raw.mean()),
    }
    percent = {name: f"{100 * score:.0f} %" for name, score in scores.items()}
    comparison = (
        f"a quick linear probe {target.words.does.format(percent['trained'])} with the pretrained "
        f"weights, {percent['shuffled']} with the same weights shuffled, {percent['pixels']} "
        f"from {nouns.plain}"
    )
    return Evidence(
        name="transfer_gain",
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=len(labels),
        meaning=(
            f"On {nouns.count(len(labels))} {comparison}: pretraining is worth "
            f"{signed_points(value)} points here."
        ),
        details={**scores, "shuffles": len(shuffles), "error": error},
    )


def is_clear(evidence: Evidence) -> bool:
    """Whether the transfer gain is positive so clearly that more images would not change it."""
    return (evidence.value or 0.0) - CLEAR * float(evidence.details["error"]) > 0


def measure_transfer_gain(
    probe_of: Callable[[int], Probe], n_classes: int, seed: int
) -> Steps[Evidence]:
    """Measure on few images and shuffles first, on more where the answer is not clear."""
    (few, least), (many, most) = rules.TRANSFER_GAIN_STAGES
    enough, kernels = min(5 * n_classes, rules.TRANSFER_GAIN_MOST), list[list[Array]]()
    first = probe_of(max(few, enough))
    scale_images = first.images[: rules.SCALE_IMAGES]
    scales = layer_scales(first.extractor(), scale_images, first.normalise())
    evidence = yield from _transfer_gain(first, least, seed, kernels, scales)
    if is_clear(evidence):
        return evidence
    second = probe_of(max(many, enough))
    if len(second.rows) > len(first.rows):  # else the kernels of the first shuffles serve again
        kernels.clear()
    return (yield from _transfer_gain(second, most, seed, kernels, scales))


def _transfer_gain(
    probe: Probe, shuffles: int, seed: int, kernels: list[list[Array]], scales: Sequence[float]
) -> Steps[Evidence]:
    """Add the kernels of the missing shuffles to `kernels`, then compare."""
    extractor, normalise = probe.extractor(), probe.normalise()
    images = halve_images(extractor, probe.images, normalise)
    for number in range(len(kernels), shuffles):
        rng = np.random.default_rng([seed, 4, number])
        feature_layers = control_features(extractor, images, normalise, rng, scales)
        kernels.append(probe.training_data.kernels(feature_layers))
        yield Event(stage="checks", kind="step", step=number + 1, of=shuffles)
    controls, rows = (probe.cached(), kernels, probe.plain()), (probe.labels(), probe.group_rows())
    labelled = probe.training_data.labelled
    return transfer_gain(*controls, *rows, labelled.target, labelled.nouns)


# ---- Learning curve: would more examples help? Extrapolated to twice as many.


SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
DRAWS = 10
LEAST_SIZES = 3  # distinct sizes that a curve needs
LEAST_ROWS = 40  # below, the smallest subsets hold next to nothing
MOST_BEYOND = 2.5  # times the rows measured: no extrapolation beyond
FLAT = 0.01  # gain of a doubling below which the curve is called flat


def learning_curve(
    kernel: Array,
    head: LeftOut,
    labels: Truth,
    group_rows: Sequence[Rows],
    n_all: int,
    rng: np.random.Generator,
) -> Evidence:
    """Accuracy gain of twice as many examples, by a power law of the odds through six sizes.

    Shapes: kernel (n, n), labels (n,); groups partition the rows; `head` is the ridge on this
    kernel, whose penalty serves every size. `n_all` is the number of examples, more than n where
    the rows are a sample; there is no value far beyond the rows measured.
    """
    n, k = len(labels), head.scores.shape[1]
    if n < LEAST_ROWS or n_all > MOST_BEYOND * n:
        reason = "too few examples" if n < LEAST_ROWS else "far more examples than were measured"
        return not_measured("learning_curve", n, f"Not measured: {reason}.")
    orders = [spread_order(head.target.strata(labels), group_rows, rng) for _ in range(DRAWS)]
    targets = [max(round(share * n), 2 * k) for share in SHARES]
    # Whole groups that hold at least `size` rows; one group is left over.
    stops = np.array(
        [
            [int(ends[min(int(np.searchsorted(ends, size)), len(ends) - 2)]) for size in targets]
            for _, ends in orders
        ]
    )
    sizes = stops.mean(axis=0)
    if len(np.unique(sizes)) < LEAST_SIZES:
        reason = "classes or groups leave too few sizes to compare"
        return not_measured("learning_curve", n, f"Not measured: {reason}.")
    pairs = zip(orders, stops, strict=True)
    curves = np.array(
        [[_accuracy(kernel, head, labels, rows, at) for at in ends] for (rows, _), ends in pairs]
    )
    gain = expected_gain(sizes, curves, n_all, 2 * n_all, rng)
    means = curves.mean(axis=0)
    details: dict[str, float | int | str] = {
        f"accuracy.{round(size)}": float(a) for size, a in zip(sizes, means, strict=True)
    }
    details |= {"scale": gain.law.scale, "exponent": gain.law.exponent}
    return _evidence(gain.value, gain.low, gain.high, n, n_all, k, head.target, details)


def anchored(
    evidence: Evidence, estimate: Estimate, n_fit: int, n_all: int, n_classes: int, target: Target
) -> Evidence:
    """Shift the curve so that it ends in the linear probe's cross-validated score.

    Its points come from one feature set and a cheap fit; the selected head is better. All points
    move by the same log-odds. `n_fit`: training examples in each fold of `estimate`.
    """
    scale, exponent = evidence.details.get("scale"), evidence.details.get("exponent")
    if evidence.value is None or not isinstance(scale, float) or not isinstance(exponent, float):
        return evidence
    law = PowerLaw(scale, exponent)
    least = 0.5 / n_fit
    value = min(max(estimate.value, least), 1 - least)
    factor = value / (1 - value) / max(law.scale * n_fit**law.exponent, 1e-12)
    moved = PowerLaw(law.scale * factor, law.exponent)
    gain = moved.at(2 * n_all) - moved.at(n_all)
    below = evidence.value - (evidence.low or 0.0)
    above = (evidence.high or 0.0) - evidence.value
    low, high = max(gain - below, 0.0), gain + above
    details: dict[str, float | int | str] = {}
    for key, point in evidence.details.items():
        if key.startswith("accuracy."):
            share = min(max(float(point), least), 1 - least)
            odds = factor * share / (1 - share)
            details[key] = odds / (1 + odds)
    details[f"accuracy.{n_fit}"] = estimate.value
    details |= {"scale": moved.scale, "exponent": moved.exponent}
    return _evidence(gain, low, high, evidence.n, n_all, n_classes, target, details)


def _evidence(
    value: float,
    low: float,
    high: float,
    n: int,
    n_all: int,
    n_classes: int,
    target: Target,
    details: dict[str, float | int | str],
) -> Evidence:
    more = f"{max(round(n_all / n_classes), 1):,} {target.words.more}"
    if high < FLAT:
        meaning = (
            f"More examples of this kind would hardly help: {more} would add less than "
            f"{100 * FLAT:.0f} point."
        )
    else:
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        meaning = f"About {more} would add {100 * value:.1f} points ({interval})."
    return Evidence(
        name="learning_curve",
        value=value,
        low=low,
        high=high,
        n=n,
        meaning=meaning,
        details=details,
    )


def _accuracy(kernel: Array, head: LeftOut, labels: Truth, rows: Rows, stop: int) -> float:
    """Accuracy on the other rows of a head fitted on the first `stop` of `rows`."""
    train, rest = rows[:stop], rows[stop:]
    if 2 * len(train) > len(rows):  # leaving few rows out costs less than fitting many
        scores = ridge.left_out(head.dual, [rest])[rest]
    else:
        inner = kernel[np.ix_(train, train)]
        dual = ridge.fit(inner, head.dual.targets[train], head.penalty)
        scores = kernel[np.ix_(rest, train)] @ dual.coefficients
        scores = scores + ridge.intercept(inner, dual, head.penalty)
    return float(head.target.credits(scores, labels[rest]).mean())
