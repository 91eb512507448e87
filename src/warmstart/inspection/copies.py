"""Near copies in words: across the split, within a part, under two labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from warmstart.inspection.twins import Twin
from warmstart.records import Example, Finding

HOW = "re-encoded, resized, mirrored, cropped or relit"


def copies(twins: Iterable[Twin], examples: Sequence[Example]) -> tuple[Finding, ...]:
    """Findings `leak`, `conflict` and `duplicate`, each where there is one.

    The rows of `twins` are places in `examples`. A pair across the split is a leak, whatever
    its labels; a pair inside a part is a conflict or a duplicate.

    >>> one, two = (
    ...     Example(id=f"{part}/a.jpg", label="x", split=part, sha256=part)
    ...     for part in ("train", "test")
    ... )
    >>> (leak,) = copies([Twin(0, 1, 0.99, False)], [one, two])
    >>> leak.items
    ('test/a.jpg ~ train/a.jpg',)
    """
    leaks, conflicts, duplicates = [], [], []
    for twin in twins:
        one, other = examples[twin.first], examples[twin.second]
        if (one.split == "test") != (other.split == "test"):
            leaks.append((one, other) if one.split == "test" else (other, one))
        elif one.label != other.label:
            conflicts.append((one, other))
        else:
            duplicates.append((one, other))
    leaked = len({one.id for one, _ in leaks})
    found = []
    if leaks:
        what = "1 test image is a near copy of a training image"
        if leaked > 1:
            what = f"{leaked:,} test images are near copies of training images"
        text = (
            f"{what} ({HOW}): the test would flatter the model. Run with --fix to learn "
            "without those copies."
        )
        found.append(Finding(kind="leak", sentence=text, items=_pairs(leaks)))
    if conflicts:
        text = (
            f"{_count(len(conflicts))} of near copies ({HOW}) carry two different labels, so that "
            "one of them must be wrong. Look at them and correct the label, or remove both."
        )
        found.append(Finding(kind="conflict", sentence=text, items=_pairs(conflicts)))
    if duplicates:
        text = (
            f"{_count(len(duplicates))} of near copies ({HOW}) lie in one part. They are kept "
            "together when images are held out, so that the estimate is not flattered."
        )
        found.append(Finding(kind="duplicate", sentence=text, items=_pairs(duplicates)))
    return tuple(found)


def _count(pairs: int) -> str:
    return f"{pairs:,} pair{'s' if pairs > 1 else ''}"


def _pairs(pairs: Iterable[tuple[Example, Example]]) -> tuple[str, ...]:
    return tuple(f"{one.id} ~ {other.id}" for one, other in pairs)
