"""From features to evidence, from evidence to the verdict."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from warmstart.events import Event, Steps
from warmstart.inspection.appetite import appetite
from warmstart.inspection.depth import depth
from warmstart.inspection.hits import LeftOut, best_left_out
from warmstart.inspection.preprocessing import warning
from warmstart.inspection.signal import signal, with_plain
from warmstart.joints.controls import (
    measure_distance,
    open_probe,
    try_preprocessing,
    weigh_knowledge,
)
from warmstart.joints.data_checks import check_data
from warmstart.joints.memory import freed_memory_kept
from warmstart.joints.plain import plain_kernels
from warmstart.joints.reading import read_texts
from warmstart.joints.scene import Sample, Scene, draw
from warmstart.joints.tune import Worked
from warmstart.planning import rules, tail
from warmstart.planning.basis import START, Basis
from warmstart.planning.verdict import (
    Facts,
    has_signal,
    hides,
    leaves_little,
    sentence,
    verdict_kind,
)
from warmstart.planning.wording import in_words
from warmstart.records import Evidence, Finding, Inspection, Shipped, TextInputs, Verdict
from warmstart.stats.intervals import wilson
from warmstart.tasks.words import CLASS_WORDS, Words
from warmstart.weightfile import is_mapped

NO_TAIL = Evidence(
    name="tail_gain", value=None, low=None, high=None, n=0,
    meaning="Not measured: only outputs on the frozen network were compared.",
)  # fmt: skip


def check(scene: Scene) -> Steps[Inspection]:
    """Gather the evidence that this budget allows."""
    yield Event(stage="check", kind="begin")
    # Few rows are all drawn, whatever the most: then one sample serves every test.
    sample_of = cache(lambda most: draw(scene, most))
    n = scene.arranged.n_train
    sample = sample_of(min(rules.evidence_rows(scene.budget), n))
    evidence = [_signal(scene, sample)]
    yield Event(stage="check", kind="step", step=1, values={"p": evidence[0].details["p"]})
    if len(sample.kernels) > 1:
        evidence.append(_depth(scene, sample_of(min(rules.DEPTH_ROWS, n))))
    evidence.append(_appetite(scene, sample_of(min(rules.appetite_rows(scene.budget), n))))
    if rules.looks_closely(scene.budget) and has_signal(float(evidence[0].details["p"])):
        evidence += yield from _closely(scene)
    said: tuple[Finding, ...] = ()
    if isinstance(scene.prep, TextInputs):
        read, said = read_texts(scene, scene.prep)
        evidence.append(read)
    found = check_data(scene, has_signal(float(evidence[0].details["p"])))
    evidence += [found.ceiling, NO_TAIL]
    fed = (e for e in evidence if e.name == "preprocessing")
    words, nouns = scene.arranged.target.words, scene.arranged.nouns
    warned = tuple(f for f in (warning(e, words, nouns) for e in fed) if f)
    yield Event(stage="check", kind="end", step=len(evidence))
    return Inspection(
        evidence=tuple(evidence),
        findings=(*said, *found.findings, *warned),
        label_issues=found.label_issues,
        off_topic=found.off_topic,
    )


def _signal(scene: Scene, sample: Sample) -> Evidence:
    rng = np.random.default_rng([scene.seed, 2])
    times = rules.permutations(scene.budget)
    target = scene.arranged.target
    rows = sample.labels, sample.groups, times, rng, target
    found = signal(sample.kernels, *rows)
    if has_signal(float(found.details["p"])):
        return found
    plain = plain_kernels(scene, sample.rows)
    return with_plain(found, plain, *rows, scene.arranged.nouns) if plain else found


def _depth(scene: Scene, sample: Sample) -> Evidence:
    by_part = {tap.part: tap for tap in sample.vectors}  # the neck stands for the last part
    single = {tap: sample.vectors[tap] for tap in by_part.values()}
    return depth(single, sample.kernels, sample.labels, sample.groups, scene.arranged.target)


def _appetite(scene: Scene, sample: Sample) -> Evidence:
    kernel, target = sample.kernels[-1], scene.arranged.target
    n_classes = target.n_outputs(sample.labels)
    head: LeftOut = best_left_out([kernel], sample.labels, sample.groups, n_classes, target)
    rng = np.random.default_rng([scene.seed, 6])
    return appetite(kernel, head, sample.labels, sample.groups, scene.arranged.n_train, rng)


def _closely(scene: Scene) -> Steps[list[Evidence]]:
    """Evidence for which the network is run again; none of one that has learnt nothing.

    What networks without knowledge reach is not measured of one that is streamed: each of them
    would be a copy in memory.
    """
    if scene.start is not None and scene.start.is_drawn:
        return []
    with freed_memory_kept():
        opened, found = open_probe(scene), list[Evidence]()
        if not is_mapped(scene.look.network.trunk):
            found.append((yield from weigh_knowledge(opened, scene.arranged.n_classes, scene.seed)))
        if not isinstance(scene.prep, TextInputs):  # how texts are read is told without a pass
            found.append(measure_distance(opened(rules.DISTANCE_IMAGES)))
        yield Event(stage="check", kind="step", step=len(found))
        return [*found, try_preprocessing(opened)]


def tries_tail(scene: Scene, verdict: Verdict) -> bool:
    """Whether upper layers are trained beside a head, where the depth is ours to choose.

    Without a signal there is nothing to train for; nor where next to nothing is left to gain,
    unless the budget is for that.
    """
    tests = {evidence.name: evidence for evidence in verdict.evidence}
    facts, record = scene.arranged.facts(), scene.look.network.record
    signal = tests["signal"]
    is_open = scene.budget == "thorough" or not leaves_little(signal.value or 0.0)
    is_signal = has_signal(float(signal.details["p"]))
    return is_signal and is_open and tail.tries_tail(record, facts, scene.budget)


def judge(
    inspection: Inspection, is_tuned: bool = False, words: Words = CLASS_WORDS,
    basis: Basis = START,
) -> Verdict:  # fmt: skip
    """The verdict that the evidence gives; `is_tuned` where the user had layers trained."""
    found = {evidence.name: evidence for evidence in inspection.evidence}
    test, known, gain = found["signal"], found.get("knowledge"), found.get("tail_gain")
    is_tried = gain is not None and gain.value is not None
    facts = Facts(
        p=float(test.details["p"]),
        mde=float(test.details["mde"]),
        n=test.n,
        plain=float(test.details.get("plain", 0.0)),
        plain_p=float(test.details.get("plain_p", 1.0)),
        accuracy=test.value or 0.0,
        mistakes=1 - wilson(max(test.value or 0.0, 0.0), test.n, test.n - 1, confidence=0.8)[0],
        knowledge=known.value if known else None,
        knowledge_error=float(known.details["error"]) if known else 0.0,
        tail_gain=gain.value if gain and is_tried else None,
        tail_error=float(gain.details["error"]) if gain and is_tried else 0.0,
        is_tuned=is_tuned,
    )
    facts = _with_scratch(facts, found.get("scratch"))
    kind = verdict_kind(facts)
    text = sentence(kind, facts, test.n, test.value or 0.0, words, basis)
    far = found.get("distance")
    if far is not None and "warning" in far.details:
        text += f" But {far.details['warning']}."
    return Verdict(kind=kind, sentence=text, evidence=inspection.evidence)


def _with_scratch(facts: Facts, found: Evidence | None) -> Facts:
    """The same with what is known of networks that were trained from nothing, where some were."""
    if found is None or found.value is None:
        return facts
    error, later = (float(found.details[name]) for name in ("error", "later"))
    return replace(facts, scratch_gap=found.value, scratch_error=error, scratch_later=later)


def concluded(
    inspection: Inspection, worked: Worked, words: Words = CLASS_WORDS, basis: Basis = START
) -> tuple[Inspection, Verdict]:
    """The evidence with what training upper layers brought, where some were trained.

    Where another method is better beyond noise, the verdict says so.
    """
    gain = worked.gain
    if gain is not None:
        found = tuple(gain if e.name == gain.name else e for e in inspection.evidence)
        inspection = replace(inspection, evidence=found)
    plan = worked.plan
    is_tuned = plan.is_trained and plan.strategy.source == "user" and not worked.given_up
    verdict = judge(inspection, is_tuned, words, basis)
    better = [one.sentence for one in worked.beside if one.is_better]
    return inspection, replace(verdict, sentence=" ".join([verdict.sentence, *better]))


def choose_shipped(verdict: Verdict, worked: Worked) -> Shipped:
    """What stands in model/: nothing where no signal was found, unless the user set a strategy.

    A training that the user chose and that was given up leaves the output alone.
    """
    plan, head, given_up = worked.plan, worked.head.name, worked.given_up
    is_chosen = plan.strategy.source == "user" or bool(given_up)
    if verdict.kind == "no-signal" and not is_chosen:
        return Shipped(strategy="none", why="no signal was found, so no model would be honest")
    if hides(verdict.evidence) and not is_chosen:
        why = "what this start sees tells nothing apart; --strategy scratch learns from nothing"
        return Shipped(strategy="none", why=why)
    heads = {
        "class-mean": "the nearest class mean on what the old output saw",
        "logistic": "a logistic regression on what the old output saw",
        "last": "a linear output on what the old output saw",
        "stack": "linear outputs on several depths in one",
    }
    word, strategy = "your choice" if is_chosen else "as the verdict says", plan.strategy.value
    if plan.is_trained:
        told = (worked.why or word, worked.compared if is_chosen else "")
        text = "; ".join([in_words(plan), *filter(None, told)])
        return Shipped(strategy=worked.shipped or str(strategy), why=text)
    profile, _, older = head.partition("+")
    what = heads.get(profile, f"a linear output that listens to many layers ({profile})")
    what += ", begun from the start's output of classes with the same name" if older else ""
    why = "your choice" if is_chosen else "of all tried it was best on examples it had not seen"
    why += f"; {worked.why}" if worked.why else ""
    if given_up:
        why = f"{plan.strategy.rule} was given up, {given_up}"
    elif plan.training.rate is not None:
        why += "; no group of layers helped on examples set apart"
    n_parts = len(plan.parts) - 1
    layers = f"all {n_parts} layers frozen" if n_parts > 1 else "the network frozen"
    name = str(strategy) if plan.training.rate is not None else "head"
    return Shipped(strategy=name, why=f"{what}, {layers}: {why}")
