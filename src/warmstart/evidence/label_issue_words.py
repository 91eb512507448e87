"""What is said of labels: one sentence for every surface, and the list that is looked through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.evidence.label_issues import JudgedLabels
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.data import SEPARATOR, Finding, LabelIssue, LabelIssues, Share, Why


def said(
    *,
    judged: int,
    disagreements: int,
    count: int | None,
    rate: Share | None,
    why: Why | None,
    error: float | None,
    listed: int = 0,
    nouns: Nouns = IMAGES,
    noun: str = "label",
) -> str:
    """The sentence. `noun` is what an example has, `listed` the issues with their near copies.

    `error` is how often the model contradicts labels; None where that is no yes or no.

    >>> said(judged=384, disagreements=119, count=None, rate=None, why="weak-model", error=0.41)
    'The model disagrees with 119 of 384 labels; it is itself wrong about 4 times in 10, so most of these are probably its own mistakes.'
    """  # noqa: E501
    some = f"{disagreements:,} of {judged:,} {noun}s"
    disagrees = (
        f"the model disagrees with {some}"
        if error is not None
        else f"{some} are more than twice the model's usual error from what it says"
    )
    uncounted, own = "no label issues are counted", "its own mistakes"
    one = count == 1
    if why == "outcome":
        return (
            f"A table's target is an outcome, not a label to correct, so {uncounted}: {disagrees}."
        )
    if why == "distribution-shift":
        return (
            f"The test {nouns.many} differ from the training {nouns.many}, so {uncounted}: "
            f"{disagrees}, and these may be {own}."
        )
    if why == "no-signal":
        return f"No signal was found, so {uncounted}: such a model cannot check a {noun}."
    if why == "too-few":
        return f"Too few {nouns.many} to count label issues: {disagrees}; these may be {own}."
    if why == "weak-model":
        times = "too often to tell" if error is None else f"about {_tenths(error)} times in 10"
        begun = disagrees[0].upper() + disagrees[1:]
        return f"{begun}; it is itself wrong {times}, so most of these are probably {own}."
    if why == "rate-unclear":
        return (
            f"More {noun}s look wrong than the model's own mistakes explain, but how many cannot "
            f"be told: {disagrees}."
        )
    if not count or rate is None:
        if not disagreements and error is not None:
            return f"No label issues found: the model agrees with all {judged:,} {noun}s."
        return f"No label issues found: {disagrees}, which {own} explain."
    them, these = ("it", f"this {nouns.one}") if one else ("them", f"these {nouns.many}")
    copies = f" ({listed:,} with near copies and groups)" if listed > count else ""
    value, low, high = (_percent(share) for share in (rate.value, rate.low, rate.high))
    return (
        f"{count:,} label issue{'' if one else 's'} among {judged:,} {noun}s{copies}: the model, "
        f"which did not learn from {these}, contradicts {them} beyond {own}. About {value} % of "
        f"all {noun}s are wrong (95 % CI {low}–{high}). Look at {them} first and correct the "
        f"{noun if one else f'{noun}s'}."
    )


def _tenths(error: float) -> int:
    return max(round(10 * error), 1)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def of_classes(
    found: JudgedLabels,
    ids: Sequence[str],
    classes: Sequence[str],
    most: int,
    nouns: Nouns = IMAGES,
) -> LabelIssues:
    """The record: every issue, then contradicted labels, among the `most` of the lowest score."""
    n_issues = int(found.is_issue.sum())
    shown = range(max(n_issues, min(most, len(found.rows))))
    ranked = tuple(
        LabelIssue(
            id=ids[found.rows[at]],
            label=classes[found.labels[at]],
            suggested=classes[found.suggested[at]],
            is_issue=bool(found.is_issue[at]),
            probability=round(float(found.probability[at]), 4),
            score=round(float(found.score[at]), 4),
        )
        for at in shown
        if found.labels[at] != found.suggested[at]
    )
    return _record(found, ranked, found.disagreements, len(found.rows), nouns)


def of_sets(
    found: JudgedLabels,
    ids: Sequence[str],
    truth: NDArray[np.float64],
    names: Sequence[str],
    most: int,
    nouns: Nouns = IMAGES,
) -> LabelIssues:
    """The same where an example has several labels: a line an example, worst first.

    All its issues are corrected in a line, or else the answer of the lowest score. Shapes: truth
    (n, K); `found` numbers rows (row, label).
    """
    k, lines = len(names), dict[int, list[int]]()
    for at in np.flatnonzero(found.labels != found.suggested):
        row = int(found.rows[at]) // k
        if row in lines and not found.is_issue[at]:
            continue
        if len(lines) >= most and not found.is_issue[at]:
            break
        lines.setdefault(row, []).append(int(at))
    ranked = tuple(_set_line(found, ids[row], truth[row], names, at) for row, at in lines.items())
    return _record(found, ranked, found.disagreements, len(found.rows), nouns)


def _set_line(
    found: JudgedLabels, id: str, has: NDArray[np.float64], names: Sequence[str], at: Sequence[int]
) -> LabelIssue:
    other, which = has.copy(), [int(found.rows[one]) % len(names) for one in at]
    other[which] = found.suggested[list(at)]
    return LabelIssue(
        id=id,
        label=_joined(has, names),
        suggested=_joined(other, names),
        probability=round(float(found.probability[at[0]]), 4),
        score=round(float(found.score[at[0]]), 4),
        is_issue=bool(found.is_issue[at[0]]),
        concerns=tuple(names[one] for one in which),
    )


def _joined(has: NDArray[np.float64], names: Sequence[str]) -> str:
    """As records hold labels."""
    return SEPARATOR.join(sorted(name for name, is_on in zip(names, has, strict=True) if is_on))


def _record(
    found: JudgedLabels,
    ranked: tuple[LabelIssue, ...],
    disagreements: int,
    judged: int,
    nouns: Nouns,
) -> LabelIssues:
    told = said(
        judged=judged,
        disagreements=disagreements,
        count=found.count,
        rate=found.rate,
        why=found.why,
        error=found.error,
        listed=int(found.is_issue.sum()),
        nouns=nouns,
    )
    return LabelIssues(
        judged=judged,
        disagreements=disagreements,
        count=found.count,
        rate=found.rate,
        why=found.why,
        sentence=told,
        ranked=ranked,
    )


def label_finding(found: LabelIssues) -> Finding | None:
    """The issues as a finding of the data; None where there are none, or none can be counted."""
    if not found.count:
        return None
    return Finding(
        kind="label-issue", sentence=found.sentence, items=tuple(map(_item, found.issues))
    )


def _item(one: LabelIssue) -> str:
    """One issue in a line.

    >>> _item(LabelIssue(id="1.jpg", label="cat", suggested="dog", probability=0.97, score=0.01,
    ...                  is_issue=True))
    '1.jpg: cat, looks like dog (97 %)'
    """
    sure = "" if one.probability is None else f" ({100 * one.probability:.0f} %)"
    label, other = (
        text.replace(SEPARATOR, ", ") if one.concerns else text
        for text in (one.label, one.suggested)
    )
    return f"{one.id}: {label or 'nothing'}, looks like {other or 'nothing'}{sure}"
