"""What was measured before anything was decided: the data, the base model, the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from warmstart.formatting import percent, percents, sentence
from warmstart.records.data import LabelIssue, OffTopicExample
from warmstart.records.findings import FINDINGS
from warmstart.records.summary import Evidence
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import (
    Axes,
    Bar,
    Curve,
    Figure,
    MeasuredShare,
    Point,
    band,
    chart,
    lying,
    on_a_line,
    standing,
)
from warmstart.reporting.markup import Values
from warmstart.stats.learning_curve import PowerLaw
from warmstart.tasks.words import EVIDENCE_NAMES, signed_points

# ---- Data: what the model was trained on, and what is wrong with it.


NAMED = 14  # classes up to which each has a bar with its name
LISTED = 12  # items of a finding
ISSUES, OFF_TOPIC, EACH = 12, 6, 6  # pictures of each


def questionable(facts: ReportFacts) -> tuple[LabelIssue, ...]:
    """Label issues; where there are none, the labels that the model contradicts most."""
    issues = facts.label_issues
    return () if issues is None else (issues.issues or issues.ranked)[:ISSUES]


def off_topic(facts: ReportFacts) -> tuple[OffTopicExample, ...]:
    report = facts.inspection.off_topic if facts.inspection is not None else None
    return () if report is None else report.off_topic[:OFF_TOPIC]


def problem_examples(facts: ReportFacts) -> tuple[tuple[str, str], ...]:
    """Examples that a finding names, with its kind, if the data lists them."""
    ids = {e.id for e in facts.data.examples} if facts.data is not None else set()
    examples = []
    for finding in facts.summary.findings:
        if finding.about.caption:
            items = [item for item in finding.items if item in ids]
            examples += [(id, finding.kind) for id in items[:EACH]]
    return tuple(examples)


def data_values(facts: ReportFacts) -> Values:
    off_topics = [(one.id, f"labelled {one.label}") for one in off_topic(facts)]
    problems = [(id, FINDINGS[kind].caption) for id, kind in problem_examples(facts)]
    labels = [e.label for e in facts.data.examples if e.split != "test"] if facts.data else []
    has_numbers = facts.target.has_numbers
    return {
        "counts": _counts(facts),
        "quartiles": _quartiles(labels) if has_numbers and labels else (),
        "sizes": () if has_numbers else _sizes(facts, labels),
        "listed": LISTED,
        "problems": problems,
        "off_topic": off_topics,
        "questionable": _questionable(facts),
    }


def _counts(facts: ReportFacts) -> list[tuple[str, str]]:
    data, target = facts.summary.data, facts.target
    one, many = facts.nouns.one, facts.nouns.many
    rows = [
        (data.train, f"training {one}", f"training {many}"),
        (data.test, f"test {one}", f"test {many}"),
        (0 if target.has_numbers else data.classes, target.words.one, target.words.many),
        (data.unreadable, "unreadable", "unreadable"),
        (data.near_duplicates, "near-duplicate", "near-duplicates"),
        (data.leaks, f"test {one} with leakage", f"test {many} with leakage"),
        (data.label_issues or 0, "label issue", "label issues"),
        (data.off_topic or 0, f"off-topic {one}", f"off-topic {many}"),
    ]
    return [(f"{n:,}", single if n == 1 else plural) for n, single, plural in rows if n]


def _sizes(facts: ReportFacts, labels: Sequence[str]) -> tuple[Figure, ...]:
    """How many examples each class has; a bar with its name where there are few."""
    classes = Counter(name for label in labels for name in facts.target.names(label))
    if not classes:
        return ()
    nouns, one, many = facts.nouns, facts.target.words.one, facts.target.words.many
    sizes = sorted(classes.items(), key=lambda pair: (-pair[1], pair[0]))
    (largest, most), (smallest, least) = sizes[0], sizes[-1]
    title = f"{nouns.title}s of each {one}"
    about = (
        f"{len(sizes)} {many}; the largest, {largest}, has {most:,} {nouns.many}, the smallest, "
        f"{smallest}, has {least:,}."
    )
    if len(sizes) <= NAMED:
        bars = [Bar(name, n / most, f"{n:,}") for name, n in sizes]
        half = -(-len(bars) // 2)
        halves = enumerate((bars[:half], bars[half:]))
        return tuple(
            Figure(title, lying(some, name=f"sizes{k}", title=title, about=about))
            for k, some in halves
            if some
        )
    picture = standing(
        [float(n) for _, n in sizes],
        first=largest,
        last=smallest,
        unit=nouns.many,
        name="sizes",
        title=title,
        about=about,
    )
    return (Figure(title, picture, about),)


def _quartiles(labels: Sequence[str]) -> list[str]:
    """Least, lower quartile, median, upper quartile and largest of numbers."""
    values = sorted(float(label) for label in labels)
    return [f"{values[int(share * (len(values) - 1))]:.4g}" for share in (0, 0.25, 0.5, 0.75, 1)]


def _questionable(facts: ReportFacts) -> list[tuple[str, str]]:
    captions, n = [], facts.summary.data.train
    for one in questionable(facts):
        certainty = "" if one.probability is None else f" ({percent(one.probability, n)})"
        captions.append((one.id, facts.target.contradiction(one.label, one.suggested) + certainty))
    return captions


# ---- The base model, and which of its layers are useful here.


def base_values(facts: ReportFacts) -> Values:
    base, network = facts.summary.base, facts.network
    rows = [(facts.title, "base model"), (f"{base.parameters / 1e6:.1f} M", "weights")]
    rows += [(f"{len(network.blocks)}", "blocks")] if network and network.blocks else []
    return {"numbers": rows, "transfer_gain": _transfer_gain(facts), "depth": _depth(facts)}


def _transfer_gain(facts: ReportFacts) -> Figure | None:
    evidence = facts.evidence("transfer_gain")
    if evidence is None:
        return None
    bars = []
    for key, words, class_ in (
        ("trained", "with the pretrained weights", "bar"),
        ("shuffled", "the same weights, shuffled", "bar pale"),
        ("pixels", f"{facts.nouns.plain}, no network", "bar pale"),
    ):
        share = facts.detail("transfer_gain", key)
        if share is not None:
            bars.append(Bar(words, share, percent(share, evidence.n), class_))
    title = f"Transfer gain: what pretraining is worth on these {facts.nouns.many}"
    picture = lying(bars, name="transfer_gain", title=title, about=evidence.meaning)
    return Figure(title, picture, evidence.meaning)


def _depth(facts: ReportFacts) -> Figure | None:
    evidence = facts.evidence("depth")
    details = evidence.details if evidence is not None else {}
    keys = [key for key in details if key.startswith("block.")]
    if evidence is None or not keys:
        return None
    scores = {int(key.removeprefix("block.")): float(details[key]) for key in keys}
    numbers = sorted(scores)
    best = int(float(details.get("best_block", numbers[-1])))
    words = facts.target.words
    title = f"How well each block alone {words.apart.format(an=facts.nouns.an)}"
    picture = standing(
        [scores[number] for number in numbers],
        best=numbers.index(best) if best in numbers else None,
        first=f"block {numbers[0]}, at the {facts.nouns.one}",
        last=f"block {numbers[-1]}",
        mark=facts.majority[1] if facts.majority is not None else None,
        name="depth",
        title=title,
        about=evidence.meaning,
    )
    caption = f"{evidence.meaning} A bar is a quick linear probe on that block alone."
    caption += f" The dashed line is {words.blind}." if facts.majority else ""
    return Figure(title, picture, caption)


# ---- Verdict.


# Evidence that is a difference of shares, in points.
POINTS = frozenset(
    {"transfer_gain", "depth", "learning_curve", "fine_tuning_gain", "preprocessing", "scratch"}
)
_POINTS_IN_CURVE = 24


def verdict_values(facts: ReportFacts) -> Values:
    shipped = facts.summary.shipped
    prefix = "Nothing was shipped: " if shipped.strategy == "none" else "Shipped: "
    return {
        "shipped": sentence(prefix + shipped.why),
        "permutation_test": against_shuffled(facts, "permutation_test"),
        "learning_curve": _learning_curve(facts),
        "evidence": [
            (
                EVIDENCE_NAMES.get(one.name, one.name).format(many=facts.nouns.many),
                _value(one),
                one.meaning,
                f"{one.n:,}" if one.n else "",
            )
            for one in facts.summary.verdict.evidence
        ],
    }


def against_shuffled(facts: ReportFacts, name: str) -> Figure | None:
    """The permutation test, if it was measured."""
    evidence = facts.evidence("permutation_test")
    if evidence is None or evidence.value is None or evidence.low is None or evidence.high is None:
        return None
    value, low, high = evidence.value, evidence.low, evidence.high
    mean = facts.detail("permutation_test", "null_mean")
    middle = (low + high) / 2 if mean is None else mean
    least, most = percents(low, high, n=evidence.n)
    right = MeasuredShare(f"{percent(value, evidence.n)} with your labels", value, value, value)
    words = f"{least} to {most} % with shuffled labels"
    shuffled = MeasuredShare(words, middle, low, high, is_main=False)
    title = "Your labels against the same labels shuffled"
    picture = on_a_line((shuffled, right), (), name=name, title=title, about=evidence.meaning)
    p = facts.detail("permutation_test", "p")
    times = facts.detail("permutation_test", "permutations")
    over = f" over {times:.0f} permutations." if times is not None else "."
    caption = evidence.meaning + (f" p = {p:.2g}{over}" if p is not None else "")
    return Figure(title, picture, caption)


def _learning_curve(facts: ReportFacts) -> Figure | None:
    evidence, scratch = facts.evidence("learning_curve"), facts.evidence("scratch")
    scale, exponent = (
        facts.detail("learning_curve", "scale"),
        facts.detail("learning_curve", "exponent"),
    )
    if evidence is None or scale is None or exponent is None:
        return None
    points = _accuracies(evidence)
    scratch_points = _accuracies(scratch) if scratch is not None else []
    if len(points) < 2:
        return None
    law, n, many = PowerLaw(scale, exponent), float(facts.summary.data.train), facts.nouns.many
    first, last = points[0][0], max(2.0 * n, points[-1][0] * 1.1)
    frame = Axes(
        (first, last),
        (0.0, 1.0),
        is_log=True,
        x_words=f"training {many}",
        x_ticks=[(size, f"{size:,.0f}") for size in dict.fromkeys((first, n, 2 * n))],
        y_ticks=[(share, f"{100 * share:.0f} %") for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
    )
    curves = (
        Curve([(x, law.at(x)) for x in _between(first, min(n, last))], "curve pale"),
        Curve([(x, law.at(x)) for x in _between(min(n, last), last)], "curve next"),
        Curve(points, "none", has_dots=True),
        Curve(scratch_points, "curve base", has_dots=True),
    )
    title, about = f"Would more {many} help?", evidence.meaning
    interval = band(frame, _gain_interval(evidence, law, n, last))
    picture = chart(frame, curves, interval, name="learning_curve", title=title, about=about)
    caption = (
        f"{evidence.meaning} Dots: the linear probe with fewer {many}, the last is its "
        "cross-validated score. Dashed: extrapolated to twice as many, with a 95 % interval."
    )
    if scratch_points:
        caption += " Grey: the same architecture trained from scratch."
    return Figure(title, picture, caption)


def _accuracies(evidence: Evidence) -> list[Point]:
    return sorted(
        (float(key.removeprefix("accuracy.")), float(value))
        for key, value in evidence.details.items()
        if key.startswith("accuracy.")
    )


def _between(low: float, high: float) -> list[float]:
    if not 0 < low < high:
        return [low]
    return [low * (high / low) ** (k / _POINTS_IN_CURVE) for k in range(_POINTS_IN_CURVE + 1)]


def _gain_interval(
    evidence: Evidence, law: PowerLaw, n: float, last: float
) -> list[tuple[float, float, float]]:
    """The interval of the gain, from n examples to twice as many."""
    now, whole = law.at(n), law.at(2 * n) - law.at(n)
    if evidence.value is None or evidence.low is None or evidence.high is None:
        return []
    rows = []
    for x in _between(n, last):
        share = (law.at(x) - now) / whole if whole > 0 else (x - n) / n
        rows.append((x, now + share * evidence.low, min(now + share * evidence.high, 1.0)))
    return rows


def _value(one: Evidence) -> str:
    """A measured value with its interval, in points, per cent or as a number."""
    if one.value is None:
        return "not measured"
    numbers, unit = [x for x in (one.value, one.low, one.high) if x is not None], "%"
    if one.name in POINTS:
        texts, unit = [signed_points(x) for x in numbers], "points"
    elif one.name == "domain_gap":
        texts, unit = [f"{x:.2f}" for x in numbers], ""
    else:
        texts = [f"{100 * x:.0f}".replace("-", "−") for x in numbers]
    text = f"{texts[0]} {unit}".strip()
    if len(texts) < 3:
        return text
    word = "shuffled: " if one.name == "permutation_test" else ""
    return f"{text} ({word}{texts[1]} to {texts[2]})"
