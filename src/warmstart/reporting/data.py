"""Data: what it learnt from, and what is wrong with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from warmstart.formatting import percent, sentence
from warmstart.nouns import Nouns
from warmstart.records.data import Finding, Task, split_labels
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Bar, lying, standing
from warmstart.reporting.next_steps import label_issues
from warmstart.reporting.pictures import off_topic, problem_examples, questionable, shots
from warmstart.tasks.words import TASK_WORDS, contradiction

NAMED = 14  # classes with a bar and a name of their own
LISTED = 12  # items of a finding
# How many outputs there are, and what they are called; a number goes without.
OUTPUTS: dict[Task, Callable[[int], list[tuple[int, str, str]]]] = {
    "classify": lambda n: [(n, "class", "classes")],
    "multilabel": lambda n: [(n, "label", "labels")],
    "regress": lambda n: [],
}
_PICTURED = ("label-issue", "off-topic")  # findings whose items are shown as pictures
_WHAT = {
    "conflict": "two labels",
    "leakage": "also in training, or nearly",
    "near-duplicate": "a copy",
}


def data_section(facts: ReportFacts) -> str:
    """Sizes, classes, what was found wrong, labels that the images contradict."""
    return html.section(
        "data",
        "Data: what it learnt from",
        _counts(facts),
        _classes(facts),
        _findings(facts),
        _problems(facts),
        _off_topic(facts),
        _questionable(facts),
    )


def _counts(facts: ReportFacts) -> str:
    data = facts.summary.data
    one, many = facts.nouns.one, facts.nouns.many
    rows = [
        (data.train, f"{one} to learn from", f"{many} to learn from"),
        (data.test, f"test {one}", f"test {many}"),
        *OUTPUTS[facts.summary.task](data.classes),
        (data.unreadable, "unreadable", "unreadable"),
        (data.near_duplicates, "copy", "copies"),
        (data.leaks, f"test {one} known from training", f"test {many} known from training"),
        (data.label_issues or 0, "label issue", "label issues"),
        (data.off_topic or 0, f"off-topic {one}", f"off-topic {many}"),
    ]
    return html.figures((f"{n:,}", single if n == 1 else more) for n, single, more in rows if n)


def _classes(facts: ReportFacts) -> str:
    """How many images each class or label has to learn from; of numbers, where they lie."""
    if facts.data is None:
        return ""
    learnt = [e.label for e in facts.data.examples if e.split != "test"]
    return _SIZES[facts.summary.task](learnt, facts.nouns) if learnt else ""


def _sizes(names: Sequence[str], one: str, many: str, nouns: Nouns) -> str:
    """A bar for each name, or, of many, one behind the other."""
    learnt = Counter(names)
    sizes = sorted(learnt.items(), key=lambda pair: (-pair[1], pair[0]))
    most, least = sizes[0], sizes[-1]
    title = f"{nouns.title}s of each {one}"
    about = (
        f"{len(sizes)} {many}; the largest, {most[0]}, has {most[1]:,} {nouns.many}, the smallest, "
        f"{least[0]}, has {least[1]:,}."
    )
    if len(sizes) <= NAMED:
        bars = [Bar(name, n / most[1], f"{n:,}") for name, n in sizes]
        half = -(-len(bars) // 2)
        pictures = [
            lying(some, name=f"sizes{k}", title=title, about=about)
            for k, some in enumerate((bars[:half], bars[half:]))
            if some
        ]
        return f"<figure>{html.heading(title)}{html.side_by_side(*pictures)}</figure>"
    picture = standing(
        [float(n) for _, n in sizes],
        first=most[0],
        last=least[0],
        unit=nouns.many,
        name="sizes",
        title=title,
        about=about,
    )
    return html.figure(title, picture, about)


def _spread(labels: Sequence[str], nouns: Nouns) -> str:
    """Where the numbers lie, in words."""
    values = sorted(float(label) for label in labels)
    quarter, middle, last = (values[int(share * (len(values) - 1))] for share in (0.25, 0.5, 0.75))
    return html.paragraph(
        f"Numbers from {values[0]:.4g} to {values[-1]:.4g}; half of them lie between "
        f"{quarter:.4g} and {last:.4g}, the one in the middle is {middle:.4g}."
    )


_SIZES: dict[Task, Callable[[Sequence[str], Nouns], str]] = {
    "classify": lambda labels, nouns: _sizes(labels, "class", "classes", nouns),
    "multilabel": lambda labels, nouns: _sizes(
        [name for label in labels for name in split_labels(label)], "label", "labels", nouns
    ),
    "regress": _spread,
}


def _findings(facts: ReportFacts) -> str:
    found = facts.summary.findings
    if not found:
        return html.paragraph("Nothing wrong was found in the data.")
    return html.heading("What was found") + html.items(map(_finding, found), "plain")


def _finding(finding: Finding) -> str:
    text = html.escaped(sentence(finding.sentence))
    if not finding.items or finding.kind in _PICTURED:
        return text
    more = len(finding.items) - LISTED
    rows = [html.escaped(item) for item in finding.items[:LISTED]]
    rows += [f"and {more:,} more, in data.json"] if more > 0 else []
    return text + html.fold("Which ones", html.items(rows, "plain"))


def _problems(facts: ReportFacts) -> str:
    found = [(id, _WHAT[kind]) for id, kind in problem_examples(facts)]
    return html.heading("The examples that were named") + shots(facts, found) if found else ""


def _off_topic(facts: ReportFacts) -> str:
    shown = [(one.id, f"labelled {one.label}") for one in off_topic(facts)]
    text = "off_topic.csv lists these, and those that come next, with their scores."
    title = html.heading(f"Off-topic {facts.nouns.many}")
    return title + html.paragraph(text) + shots(facts, shown) if shown else ""


def _questionable(facts: ReportFacts) -> str:
    """Label issues, or the labels that the model contradicts most, and what is said of them."""
    found, listed = label_issues(facts), questionable(facts)
    if found is None or not listed:
        return ""
    task = facts.summary.task
    title = "Label issues" if found.count else f"{TASK_WORDS[task].label.title()}s to look at first"
    text = f"{found.sentence} label_issues.csv lists them by score"
    text += "." if found.why == "outcome" else ", to be corrected and given back with --relabel."
    n = facts.summary.data.train
    shown = [
        (
            one.id,
            contradiction(one.label, one.suggested, task)
            + ("" if one.probability is None else f" ({percent(one.probability, n)})"),
        )
        for one in listed
    ]
    return html.heading(title) + html.paragraph(text) + shots(facts, shown)
