"""Examples as small pictures: which ones the page shows, and how."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.records.data import LabelIssue, OffTopicExample
from warmstart.reporting import html
from warmstart.reporting.facts import HeldOutAnswer, ReportFacts
from warmstart.reporting.next_steps import label_issues, next_steps

MOST = 40  # pictures on one page
WORST, ISSUES, OFF_TOPIC, PROBLEMS = 12, 12, 6, 6
PROBLEM_KINDS = ("conflict", "leakage", "near-duplicate")


def wanted(facts: ReportFacts) -> tuple[str, ...]:
    """Ids of the examples that the page shows, in its order, each once, at most 40."""
    ids = [id for step in next_steps(facts) for id, _ in step.shown]
    ids += [one.id for one in questionable(facts)]
    ids += [one.id for one in off_topic(facts)]
    ids += [said.id for said in worst(facts)]
    ids += [id for id, _ in problem_examples(facts)]
    return tuple(dict.fromkeys(ids))[:MOST]


def worst(facts: ReportFacts) -> tuple[HeldOutAnswer, ...]:
    """The mistakes of which the model was surest, among examples held out."""
    wrong = [said for said in facts.held if not said.is_right]
    return tuple(sorted(wrong, key=lambda said: (-said.probability, said.id))[:WORST])


def questionable(facts: ReportFacts) -> tuple[LabelIssue, ...]:
    """Label issues; where there are none, the labels that the model contradicts most."""
    found = label_issues(facts)
    return () if found is None else (found.issues or found.ranked)[:ISSUES]


def off_topic(facts: ReportFacts) -> tuple[OffTopicExample, ...]:
    """Examples that are unlike those of every class."""
    found = facts.inspection.off_topic if facts.inspection is not None else None
    return () if found is None else found.found[:OFF_TOPIC]


def problem_examples(facts: ReportFacts) -> tuple[tuple[str, str], ...]:
    """Examples that a finding names, with the kind of it, as far as the data list them."""
    known = {e.id for e in facts.data.examples} if facts.data is not None else set()
    found = []
    for finding in facts.summary.findings:
        if finding.kind in PROBLEM_KINDS:
            named = [item for item in finding.items if item in known]
            found += [(id, finding.kind) for id in named[:PROBLEMS]]
    return tuple(found)


def shots(facts: ReportFacts, shown: Sequence[tuple[str, str]]) -> str:
    """Pictures with what is said of each and where it lies; a gap where there is no picture."""
    rows = []
    for id, words in shown:
        if id in facts.excerpts:
            rows.append(_excerpt(facts.excerpts[id], words, id))
            continue
        uri = facts.thumbs.get(id)
        picture = f'<span class="gone">no {facts.nouns.picture}</span>'
        if uri is not None:
            named = f"{facts.nouns.title} {id}"
            kind = ' class="tiny"' if uri.startswith("data:image/png") else ""
            picture = f'<img src="{html.escaped(uri)}" alt="{html.escaped(named)}"{kind}>'
        rows.append(
            f'{picture}{html.escaped(words)}<span class="path">{html.path(_near(id))}</span>'
        )
    return html.items(rows, "shots")


def _excerpt(text: str, words: str, id: str) -> str:
    """A text in its own direction of writing."""
    quoted = f'<q class="excerpt" dir="auto">{html.escaped(text)}</q>'
    return f'{quoted}{html.escaped(words)}<span class="path">{html.path(_near(id))}</span>'


def _near(id: str) -> str:
    """The end of a long path; the whole stands in the picture's description.

    >>> _near("train/hat/1.jpg"), _near("/data/photos/train/hat/1.jpg")
    ('train/hat/1.jpg', '…/hat/1.jpg')
    """
    parts = id.split("/")
    return id if len(parts) <= 3 else "/".join(["…", *parts[-2:]])
