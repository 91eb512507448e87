"""Records of label issues and off-topic examples, for tests of what is said of them."""

from __future__ import annotations

from warmstart.records.data import LabelIssue, LabelIssues, OffTopic, OffTopicExample, Share


def issue(id: str, label: str, suggested: str, is_issue: bool = True, **more: object) -> LabelIssue:
    """One line of the list."""
    plain: dict[str, object] = {"probability": 0.97, "score": 0.02}
    return LabelIssue(
        id=id, label=label, suggested=suggested, is_issue=is_issue, **{**plain, **more}
    )


def issues(*ranked: LabelIssue, judged: int = 300, **more: object) -> LabelIssues:
    """What is said where these are counted, or where nothing was found."""
    count = sum(one.is_issue for one in ranked)
    plain: dict[str, object] = {
        "disagreements": max(count, len(ranked)),
        "count": count,
        "rate": Share(value=0.01, low=0.004, high=0.03) if count else None,
        "why": None if count else "not-significant",
        "sentence": f"{count} label issues." if count else "No label issues found.",
    }
    return LabelIssues(judged=judged, ranked=ranked, **{**plain, **more})


def off_topic(*ids: str) -> OffTopic:
    """What is said where these are off-topic."""
    ranked = tuple(
        OffTopicExample(id=id, label=id.split("/")[0], score=5.0, is_off_topic=True) for id in ids
    )
    return OffTopic(
        count=len(ids), threshold=3.6, sentence=f"{len(ids)} images look off-topic.", ranked=ranked
    )
