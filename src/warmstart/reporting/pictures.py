"""Examples as small pictures: which ones the page shows, and their markup."""

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
    """Ids of the examples on the page, in its order, each once, at most 40."""
    ids = [id for step in next_steps(facts) for id, _ in step.examples]
    ids += [one.id for one in questionable(facts)]
    ids += [one.id for one in off_topic(facts)]
    ids += [one.id for one in worst(facts)]
    ids += [id for id, _ in problem_examples(facts)]
    return tuple(dict.fromkeys(ids))[:MOST]


def worst(facts: ReportFacts) -> tuple[HeldOutAnswer, ...]:
    """The most confident mistakes among held-out examples."""
    wrong = [one for one in facts.held_out if not one.is_right]
    return tuple(sorted(wrong, key=lambda one: (-one.probability, one.id))[:WORST])


def questionable(facts: ReportFacts) -> tuple[LabelIssue, ...]:
    """Label issues; where there are none, the labels that the model contradicts most."""
    issues = label_issues(facts)
    return () if issues is None else (issues.issues or issues.ranked)[:ISSUES]


def off_topic(facts: ReportFacts) -> tuple[OffTopicExample, ...]:
    """Examples that are unlike those of every class."""
    report = facts.inspection.off_topic if facts.inspection is not None else None
    return () if report is None else report.found[:OFF_TOPIC]


def problem_examples(facts: ReportFacts) -> tuple[tuple[str, str], ...]:
    """Examples that a finding names, with its kind, if the data lists them."""
    ids = {e.id for e in facts.data.examples} if facts.data is not None else set()
    examples = []
    for finding in facts.summary.findings:
        if finding.kind in PROBLEM_KINDS:
            items = [item for item in finding.items if item in ids]
            examples += [(id, finding.kind) for id in items[:PROBLEMS]]
    return tuple(examples)


def shots(facts: ReportFacts, examples: Sequence[tuple[str, str]]) -> str:
    """Pictures, or excerpts of texts, with a caption and the path; a gap without a picture."""
    rows = []
    for id, caption in examples:
        uri, picture = facts.thumbs.get(id), f'<span class="gone">no {facts.nouns.picture}</span>'
        if id in facts.excerpts:  # in its own direction of writing
            picture = f'<q class="excerpt" dir="auto">{html.escaped(facts.excerpts[id])}</q>'
        elif uri is not None:
            alt = html.escaped(f"{facts.nouns.title} {id}")
            kind = ' class="tiny"' if uri.startswith("data:image/png") else ""
            picture = f'<img src="{html.escaped(uri)}" alt="{alt}"{kind}>'
        path = f'<span class="path">{html.path(_path_end(id))}</span>'
        rows.append(f"{picture}{html.escaped(caption)}{path}")
    return html.items(rows, "shots")


def _path_end(id: str) -> str:
    """The end of a long path; the whole is in the picture's description.

    >>> _path_end("train/hat/1.jpg"), _path_end("/data/photos/train/hat/1.jpg")
    ('train/hat/1.jpg', '…/hat/1.jpg')
    """
    names = id.split("/")
    return id if len(names) <= 3 else "/".join(["…", *names[-2:]])
