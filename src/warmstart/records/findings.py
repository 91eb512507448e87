"""Problems in the data: the kinds of findings, each with its code and words, and a finding."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from warmstart.formatting import sentence as as_sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingKind:
    """One kind of problem in the data. `docs/findings/CODE.md` explains it.

    In the texts {many} stands for images, texts, …, and {target} for the class or the number.
    """

    name: str
    code: str  # stable, for `--ignore`
    consequence: int | None = None  # 1: the gravest; None: it changes no figure
    is_folded: bool = True  # may be left out where space is short; else a figure is wrong
    review: str = ""  # why a model is not ready without review
    warning: str = ""  # for a layman, on the first screen of the report
    caption: str = ""  # of its examples in the report
    is_pictured: bool = False  # the report shows its examples in a section of their own


# In the order of the warnings.
FINDINGS: dict[str, FindingKind] = {
    one.name: one
    for one in (
        FindingKind(
            name="leakage",
            code="WS104",
            consequence=2,
            is_folded=False,
            review="training {many} are in the test set",
            warning="But some test {many} are among the training {many}, or nearly: the score on "
            "the test set is too high.",
            caption="also in training, or nearly",
        ),
        FindingKind(
            name="distribution-shift",
            code="WS304",
            consequence=1,
            is_folded=False,
            review="the test {many} are unlike the training {many}",
            warning="But the test {many} are unlike the training {many}: each score holds for its "
            "own kind only.",
        ),
        FindingKind(
            name="spurious-correlation",
            code="WS301",
            consequence=3,
            review="something other than the subject predicts the label",
            warning="But it may have learnt the borders of the {many} instead of their subject.",
        ),
        FindingKind(
            name="metadata-leakage",
            code="WS302",
            consequence=4,
            review="the files themselves predict the label",
            warning="But something about the files themselves gives {target} away; on other files "
            "that help is gone.",
        ),
        FindingKind(
            name="preprocessing",
            code="WS303",
            consequence=5,
            review="the {many} may be preprocessed wrongly",
            warning="But the {many} may be preprocessed wrongly; another way did better.",
        ),
        FindingKind(name="conflict", code="WS103", consequence=6, caption="two labels"),
        FindingKind(
            name="label-issue",
            code="WS201",
            consequence=7,
            warning="But some labels look wrong: where it seems to err it may be right, and the "
            "other way round.",
            is_pictured=True,
        ),
        FindingKind(name="off-topic", code="WS202", consequence=8, is_pictured=True),
        FindingKind(name="unreadable", code="WS101", consequence=9),
        FindingKind(name="near-duplicate", code="WS102", consequence=10, caption="near-duplicate"),
        FindingKind(name="small-class", code="WS105"),
        FindingKind(name="group-proposed", code="WS106"),
        FindingKind(name="truncated", code="WS107"),
        FindingKind(name="windows", code="WS108"),
        FindingKind(name="language", code="WS109"),
        FindingKind(name="columns", code="WS110"),
    )
}


def codes() -> list[str]:
    """The codes of all findings, sorted."""
    return sorted(one.code for one in FINDINGS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem in the data: a sentence for people, items for machines.

    >>> Finding(kind="leakage", sentence="…").code
    'WS104'
    """

    code: str = ""  # follows from the kind
    kind: str  # the name of one of FINDINGS
    sentence: str
    items: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.about.code)

    @property
    def about(self) -> FindingKind:
        """What follows from findings of this kind. Raises: KeyError if there is none."""
        return FINDINGS[self.kind]

    @property
    def text(self) -> str:
        """The sentence with the code that `--ignore` takes.

        >>> Finding(kind="near-duplicate", sentence="2 images are copies.").text
        '2 images are copies (WS102).'
        """
        return f"{as_sentence(self.sentence).removesuffix('.')} ({self.code})."


def without(findings: Iterable[Finding], ignored: Collection[str]) -> tuple[Finding, ...]:
    """The findings whose codes are not ignored.

    >>> without([Finding(kind="conflict", sentence="…")], ["WS103"])
    ()
    """
    return tuple(one for one in findings if one.code not in ignored)
