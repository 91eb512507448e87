"""Settle what a run works on: leave unreadable images out, report copies, conflicts and leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from warmstart.data.dataset import Collection, check_lost, some, unreadable
from warmstart.data.labels import check_left, labelling_of
from warmstart.data.near_duplicates import agreeing
from warmstart.errors import DataError
from warmstart.nouns import IMAGES, Nouns, count, is_are, nouns_of
from warmstart.records.data import Example, Finding, Task

TINY = 5  # training images below which a class is called tiny


def settle(collection: Collection, reasons: Mapping[str, str]) -> Collection:
    """Leave out the unreadable images (`reasons`: id to reason) and add what the bytes tell.

    Findings: `unreadable`; `duplicate` (further copies of a training image); `conflict` (copies
    in training with different labels); `leak` (test or hold-out images that training holds too:
    reported, never removed); `tiny-class` (fewer than 5 training images). Test labels are not
    looked at, so nothing here depends on them.
    Raises: DataError if a class is left with fewer than 2 training images, too many of all cannot
    be read, or an id is unknown.
    """
    record, nouns = collection.record, nouns_of(collection.record.kind)
    known = {example.id for example in record.examples}
    for id in reasons:
        if id not in known:
            raise DataError(
                f"{id} is called unreadable, but {record.name} holds no such {nouns.one}"
            )
    examples = tuple(example for example in record.examples if example.id not in reasons)
    n_lost = len(reasons)
    lost = unreadable(
        {id: reasons[id].removeprefix(id).strip() for id in sorted(reasons)},
        f"{nouns.count(n_lost)} could not be read and {_was(n_lost)} left out.",
    )
    why = f"none of its {nouns.many} can be read; replace them"
    classes = check_left(record.classes, examples, collection.wording, why, record.task)
    if lost:
        check_lost(
            (*record.problems, *lost),
            len(examples),
            collection.wording.source,
            strict=collection.strict,
            spared=collection.spared,
        )
    problems = (
        *record.problems,
        *lost,
        *find_copies(examples, record.task, nouns),
        *find_leaks(examples, nouns),
        *find_tiny(examples, record.task, nouns),
    )
    settled = replace(record, classes=classes, examples=examples, problems=problems)
    return replace(collection, record=settled)


def find_copies(
    examples: Sequence[Example], task: Task = "classify", nouns: Nouns = IMAGES
) -> tuple[Finding, ...]:
    """Identical bytes within the training part: `duplicate` and, where labels differ, `conflict`.

    A duplicate's items are the ids after the first of each set; a conflict's are all its ids.

    >>> same = [Example(id=i, label=l, split="train", sha256="s") for i, l in ("ax", "by")]
    >>> [(found.kind, found.items) for found in find_copies(same)]
    [('conflict', ('a', 'b'))]
    """
    sets: dict[str, list[Example]] = {}
    for example in examples:
        if example.split == "train":
            sets.setdefault(example.sha256, []).append(example)
    alike = agreeing(task, [e.label for e in examples if e.split == "train"])
    copies, conflicts = [], []
    for same in sets.values():
        if not alike.agree([example.label for example in same]):
            conflicts += [example.id for example in same]
        else:
            copies += [example.id for example in same[1:]]
    findings = []
    if copies:
        n = len(copies)
        sentence = f"{nouns.count(n, 'training')} {is_are(n)} an exact copy of another one."
        findings.append(Finding(kind="duplicate", sentence=sentence, items=tuple(copies)))
    if conflicts:
        n = len(conflicts)
        sentence = f"{nouns.count(n, 'training')} are identical and carry {alike.apart}."
        findings.append(Finding(kind="conflict", sentence=sentence, items=tuple(conflicts)))
    return tuple(findings)


def find_leaks(examples: Sequence[Example], nouns: Nouns = IMAGES) -> tuple[Finding, ...]:
    """Images, and groups, of the test or hold-out part that earlier parts hold too."""
    findings = []
    for split, word, earlier in (
        ("test", "test", ("train", "holdout")),
        ("holdout", "hold-out", ("train",)),
    ):
        seen = [example for example in examples if example.split in earlier]
        hashes = {example.sha256 for example in seen}
        groups = {example.group for example in seen if example.group is not None}
        unseen = [example for example in examples if example.split == split]
        copies = tuple(example.id for example in unseen if example.sha256 in hashes)
        shared = tuple(e.id for e in unseen if e.group in groups and e.sha256 not in hashes)
        if copies:
            n = len(copies)
            sentence = f"{nouns.count(n, word)} {is_are(n)} in the training data as well."
            findings.append(Finding(kind="leak", sentence=sentence, items=copies))
        if shared:
            sentence = f"{nouns.count(len(shared), word)} share a group with training data."
            findings.append(Finding(kind="leak", sentence=sentence, items=shared))
    return tuple(findings)


def find_tiny(
    examples: Sequence[Example], task: Task = "classify", nouns: Nouns = IMAGES
) -> tuple[Finding, ...]:
    """Classes with fewer than 5 training images; items are class names."""
    sizes: dict[str, int] = {}
    names = labelling_of(task).names
    for example in examples:
        for name in names(example.label) if example.split == "train" else ():
            sizes[name] = sizes.get(name, 0) + 1
    tiny = tuple(sorted(label for label, size in sizes.items() if size < TINY))
    if not tiny:
        return ()
    fewer = f"with fewer than {TINY} training {nouns.many}"
    sentence = f"{count(len(tiny), 'class')} {fewer}: {some(tiny)}."
    return (Finding(kind="tiny-class", sentence=sentence, items=tiny),)


def _was(n: int) -> str:
    return "was" if n == 1 else "were"
