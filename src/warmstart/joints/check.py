"""From features to evidence, from evidence to the verdict."""

from __future__ import annotations

import numpy as np

from warmstart.events import Event, Steps
from warmstart.inspection.depth import depth
from warmstart.inspection.signal import signal
from warmstart.joints.rows import Arranged, ReadTap, draw_rows, groups_among
from warmstart.planning import rules
from warmstart.planning.profiles import Profile
from warmstart.planning.verdict import Facts, sentence, verdict_kind
from warmstart.records import Evidence, Finding, Inspection, Shipped, Tap, Verdict
from warmstart.solve.kernels import Features, mixed_kernels


def check(
    arranged: Arranged,
    read: ReadTap,
    profiles: dict[str, Profile],
    budget: rules.Budget,
    seed: int,
    findings: tuple[Finding, ...],
) -> Steps[Inspection]:
    """Gather the evidence that this budget allows; a hold-out and a test part are not looked at."""
    yield Event(stage="check", kind="begin")
    rows = draw_rows(arranged, budget, seed)
    groups = groups_among(rows, arranged)
    labels = arranged.labels[rows]
    names = ("last", "equal") if "equal" in profiles else ("last",)
    vectors = {tap: _rows_of(read, tap, rows) for tap in profiles[names[-1]]}
    kernels = mixed_kernels(vectors.items(), {name: profiles[name] for name in names})
    pair = [kernels[name] for name in names]
    rng = np.random.default_rng([seed, 2])
    evidence = [signal(pair, labels, groups, rules.permutations(budget), rng)]
    yield Event(stage="check", kind="step", step=1, values={"p": evidence[0].details["p"]})
    if len(pair) > 1:
        by_part = {tap.part: tap for tap in vectors}  # the neck stands for the last part
        single = {tap: vectors[tap] for tap in by_part.values()}
        evidence.append(depth(single, pair, labels, groups))
    yield Event(stage="check", kind="end", step=len(evidence))
    return Inspection(evidence=tuple(evidence), findings=findings)


def _rows_of(read: ReadTap, tap: Tap, rows: np.ndarray) -> Features:
    features: Features = read(tap)[rows]
    return features


def judge(inspection: Inspection) -> Verdict:
    """The verdict that the evidence gives."""
    found = {evidence.name: evidence for evidence in inspection.evidence}
    test: Evidence = found["signal"]
    facts = Facts(p=float(test.details["p"]), mde=float(test.details["mde"]))
    kind = verdict_kind(facts)
    text = sentence(kind, facts, test.n, test.value or 0.0)
    return Verdict(kind=kind, sentence=text, evidence=inspection.evidence)


def choose_shipped(strategy: str, verdict: Verdict, head: str, n_parts: int) -> Shipped:
    """What stands in model/: nothing where no signal was found, unless the user set a strategy."""
    if verdict.kind == "no-signal" and strategy == "auto":
        return Shipped(strategy="none", why="no signal was found, so no model would be honest")
    heads = {
        "class-mean": "the nearest class mean on what the old output saw",
        "logistic": "a logistic regression on what the old output saw",
        "last": "a linear output on what the old output saw",
    }
    what = heads.get(head, f"a linear output that listens to many layers ({head})")
    chosen = (
        "your choice"
        if strategy != "auto"
        else "of all tried it was best on examples it had not seen"
    )
    return Shipped(strategy="head", why=f"{what}, all {n_parts} layers frozen: {chosen}")
