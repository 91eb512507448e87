"""Data: what the model was trained on, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from warmstart.formatting import percent
from warmstart.records.data import FINDINGS, Finding, LabelIssue, OffTopicExample
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Bar, lying, standing

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
