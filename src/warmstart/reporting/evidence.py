"""What was measured before anything was decided: the data, the base model, the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from warmstart.formatting import percent, percents, sentence
from warmstart.nouns import Nouns
from warmstart.records.data import LabelIssue, OffTopicExample
from warmstart.records.findings import FINDINGS, Finding
from warmstart.records.summary import Evidence
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import (
    Axes,
    Bar,
    Curve,
    MeasuredShare,
    Point,
    band,
    chart,
    lying,
    on_a_line,
    standing,
)
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


def data_section(facts: ReportFacts) -> str:
    findings = html.paragraph("No problems found in the data.")
    if facts.summary.findings:
        rows = map(_finding, facts.summary.findings)
        findings = html.heading("Findings") + html.items(rows, "plain")
    problems = [(id, FINDINGS[kind].caption) for id, kind in problem_examples(facts)]
    title = html.heading("Examples of the findings") if problems else ""
    return html.section(
        "data",
        "Data: what the model was trained on",
        _counts(facts),
        _classes(facts),
        findings,
        title + html.shots(facts, problems),
        _off_topic(facts),
        _questionable(facts),
    )


def _counts(facts: ReportFacts) -> str:
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
    return html.figures((f"{n:,}", single if n == 1 else plural) for n, single, plural in rows if n)


def _classes(facts: ReportFacts) -> str:
    if facts.data is None:
        return ""
    labels = [e.label for e in facts.data.examples if e.split != "test"]
    if not facts.target.has_numbers:
        labels = [name for label in labels for name in facts.target.names(label)]
    if not labels:
        return ""
    if facts.target.has_numbers:
        return _distribution(labels)
    nouns, one, many = facts.nouns, facts.target.words.one, facts.target.words.many
    sizes = sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))
    (largest, most), (smallest, least) = sizes[0], sizes[-1]
    title = f"{nouns.title}s of each {one}"
    about = (
        f"{len(sizes)} {many}; the largest, {largest}, has {most:,} {nouns.many}, the smallest, "
        f"{smallest}, has {least:,}."
    )
    if len(sizes) <= NAMED:
        bars = [Bar(name, n / most, f"{n:,}") for name, n in sizes]
        half = -(-len(bars) // 2)
        pictures = [
            lying(some, name=f"sizes{k}", title=title, about=about)
            for k, some in enumerate((bars[:half], bars[half:]))
            if some
        ]
        return f"<figure>{html.heading(title)}{html.side_by_side(*pictures)}</figure>"
    picture = standing(
        [float(n) for _, n in sizes],
        first=largest,
        last=smallest,
        unit=nouns.many,
        name="sizes",
        title=title,
        about=about,
    )
    return html.figure(title, picture, about)


def _distribution(labels: Sequence[str]) -> str:
    values = sorted(float(label) for label in labels)
    low, middle, high = (values[int(share * (len(values) - 1))] for share in (0.25, 0.5, 0.75))
    return html.paragraph(
        f"Numbers from {values[0]:.4g} to {values[-1]:.4g}; half of them lie between "
        f"{low:.4g} and {high:.4g}, the median is {middle:.4g}."
    )


def _finding(finding: Finding) -> str:
    text = html.escaped(finding.text)
    if not finding.items or finding.about.is_pictured:
        return text
    more = len(finding.items) - LISTED
    rows = [html.escaped(item) for item in finding.items[:LISTED]]
    rows += [f"and {more:,} more, in data.json"] if more > 0 else []
    return text + html.fold("Which ones", html.items(rows, "plain"))


def _off_topic(facts: ReportFacts) -> str:
    examples = [(one.id, f"labelled {one.label}") for one in off_topic(facts)]
    text = "off_topic.csv lists these and the next ones with their scores."
    title = html.heading(f"Off-topic {facts.nouns.many}")
    return title + html.paragraph(text) + html.shots(facts, examples) if examples else ""


def _questionable(facts: ReportFacts) -> str:
    issues, examples = facts.label_issues, questionable(facts)
    if issues is None or not examples:
        return ""
    n = facts.summary.data.train
    noun = facts.target.words.label.title()
    title = "Label issues" if issues.count else f"{noun}s to look at first"
    text = f"{issues.sentence} label_issues.csv lists them by score"
    text += "." if issues.why == "outcome" else "; correct it and pass it to --relabel."
    captions = []
    for one in examples:
        certainty = "" if one.probability is None else f" ({percent(one.probability, n)})"
        captions.append((one.id, facts.target.contradiction(one.label, one.suggested) + certainty))
    return html.heading(title) + html.paragraph(text) + html.shots(facts, captions)


# ---- The base model, and which of its layers are useful here.


def base_section(facts: ReportFacts) -> str:
    base, network = facts.summary.base, facts.network
    rows = [(facts.title, "base model"), (f"{base.parameters / 1e6:.1f} M", "weights")]
    rows += [(f"{len(network.blocks)}", "layers")] if network and network.blocks else []
    gap = facts.evidence("domain_gap")
    sha256 = f"Weights: {base.name}, SHA-256 {base.sha256}" if base.sha256 else ""
    return html.section(
        "base",
        "Base model: what was fine-tuned",
        html.figures(rows),
        html.side_by_side(_transfer_gain(facts), _depth(facts)),
        html.paragraph(gap.meaning if gap is not None else ""),
        html.paragraph(sha256, "note"),
    )


def _transfer_gain(facts: ReportFacts) -> str:
    evidence = facts.evidence("transfer_gain")
    if evidence is None:
        return ""
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
    return html.figure(title, picture, evidence.meaning)


def _depth(facts: ReportFacts) -> str:
    evidence = facts.evidence("depth")
    details = evidence.details if evidence is not None else {}
    keys = [key for key in details if key.startswith("block.")]
    if evidence is None or not keys:
        return ""
    scores = {int(key.removeprefix("block.")): float(details[key]) for key in keys}
    numbers = sorted(scores)
    best = int(float(details.get("best_block", numbers[-1])))
    words = facts.target.words
    title = f"How well each layer alone {words.apart.format(an=facts.nouns.an)}"
    picture = standing(
        [scores[number] for number in numbers],
        best=numbers.index(best) if best in numbers else None,
        first=f"layer {numbers[0]}, at the {facts.nouns.one}",
        last=f"layer {numbers[-1]}",
        mark=facts.majority[1] if facts.majority is not None else None,
        name="depth",
        title=title,
        about=evidence.meaning,
    )
    caption = f"{evidence.meaning} A bar is a quick linear probe on that layer alone."
    caption += f" The dashed line is {words.blind}." if facts.majority else ""
    return html.figure(title, picture, caption)


# ---- Verdict.


# Evidence that is a difference of shares, in points.
POINTS = frozenset(
    {"transfer_gain", "depth", "learning_curve", "fine_tuning_gain", "preprocessing", "scratch"}
)
_POINTS_IN_CURVE = 24


def verdict_section(facts: ReportFacts) -> str:
    shipped, test = facts.summary.shipped, against_shuffled(facts, "permutation_test")
    prefix = "Nothing was shipped: " if shipped.strategy == "none" else "Shipped: "
    return html.section(
        "verdict",
        "Verdict: the evidence",
        html.paragraph(sentence(prefix + shipped.why)),
        html.side_by_side(html.figure(*test) if test else "", _learning_curve(facts)),
        _evidence_table(facts.summary.verdict.evidence, facts.nouns),
    )


def against_shuffled(facts: ReportFacts, name: str) -> tuple[str, str, str] | None:
    """Heading, picture and caption of the permutation test, if it was measured."""
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
    return title, picture, evidence.meaning + (f" p = {p:.2g}{over}" if p is not None else "")


def _learning_curve(facts: ReportFacts) -> str:
    evidence, scratch = facts.evidence("learning_curve"), facts.evidence("scratch")
    scale, exponent = (
        facts.detail("learning_curve", "scale"),
        facts.detail("learning_curve", "exponent"),
    )
    if evidence is None or scale is None or exponent is None:
        return ""
    points = _accuracies(evidence)
    scratch_points = _accuracies(scratch) if scratch is not None else []
    if len(points) < 2:
        return ""
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
    return html.figure(title, picture, caption)


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


def _evidence_table(evidence: Sequence[Evidence], nouns: Nouns) -> str:
    rows = []
    for one in evidence:
        name = EVIDENCE_NAMES.get(one.name, one.name).format(many=nouns.many)
        rows.append((name, _value(one), one.meaning, f"{one.n:,}" if one.n else ""))
    head = ("measured", "95 % interval", "in words", nouns.many)
    return html.fold("All evidence, with intervals", html.table("Evidence", head, rows))


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
