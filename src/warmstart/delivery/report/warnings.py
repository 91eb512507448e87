"""What changes how far a figure can be believed, said beside it."""

from __future__ import annotations

from warmstart.delivery.report.facts import Facts
from warmstart.delivery.report.steps import leaks_much
from warmstart.records import Task

# Kinds of findings that change how far a figure can be believed, and what to say then.
WARNINGS = {
    "leak": "But some test {many} are among the training {many}, or nearly: the test set flatters "
    "it.",
    "drift": "But the test {many} are unlike the training {many}: each figure holds for its own "
    "kind only.",
    "shortcut": "But it may have learnt the borders of the {many} instead of their subject.",
    "size-cue": "But something about the files themselves gives {given} away; on other files "
    "that help is gone.",
    "preprocessing": "But the {many} may be fed in wrongly; in another way it did better.",
    "label-issue": "But some labels look wrong: where it seems to err it may be right, and the "
    "other way round.",
}
_GIVEN: dict[Task, str] = {
    "classify": "the class", "multilabel": "a label", "regress": "the number",
}  # fmt: skip


def warnings(facts: Facts) -> list[str]:
    """A sentence for each kind of finding."""
    kinds = {finding.kind for finding in facts.summary.findings}
    kinds -= set() if leaks_much(facts) else {"leak"}
    given, many = _GIVEN[facts.summary.task], facts.nouns.many
    return [
        words.format(given=given, many=many) for kind, words in WARNINGS.items() if kind in kinds
    ]
