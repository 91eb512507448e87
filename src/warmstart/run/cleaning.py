"""Data cleaning: unreadable files, duplicates, conflicting labels, and data leakage between
training and test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from warmstart.data.dataset import Collection, check_lost, some, unreadable
from warmstart.data.labels import check_known, check_left, labelling_of
from warmstart.data.near_duplicates import (
    ALIKE,
    ALIKE_SOUNDS,
    NearDuplicate,
    agreeing,
    comparable,
    find_near_duplicates,
    what_to_leave_out,
    with_near_duplicates,
)
from warmstart.errors import DataError, RunFolderError
from warmstart.features.batches import text_copies
from warmstart.features.extract import first_of_each
from warmstart.features.extraction import ExtractedFeatures, StoredThumbnails, load_same
from warmstart.modalities.audio import ONE_RECORDING, likeness
from warmstart.nouns import IMAGES, Nouns, count, is_are, nouns_of
from warmstart.planning import rules
from warmstart.records.data import Example, Finding, Task
from warmstart.records.run_folder import write_csv

# ---- Settle what a run works on: leave unreadable images out, report copies, conflicts and leaks.


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
        findings.append(Finding(kind="near-duplicate", sentence=sentence, items=tuple(copies)))
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
            findings.append(Finding(kind="leakage", sentence=sentence, items=copies))
        if shared:
            sentence = f"{nouns.count(len(shared), word)} share a group with training data."
            findings.append(Finding(kind="leakage", sentence=sentence, items=shared))
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
    return (Finding(kind="small-class", sentence=sentence, items=tiny),)


def _was(n: int) -> str:
    return "was" if n == 1 else "were"


# ---- The cleaned index: what is kept, what is left out and why, as a table that can be given back.


COLUMNS = ("path", "label", "split", "group", "note")


def drop(collection: Collection, dropped: Mapping[str, str]) -> Collection:
    """The collection without some examples; `dropped` maps their ids to reasons.

    Raises: DataError if an id is unknown, a class is gone, or is left with fewer than 2 training
    images.
    """
    _check_ids(collection, dropped)
    record = collection.record
    examples = tuple(example for example in record.examples if example.id not in dropped)
    lost = nouns_of(record.kind).count(len(dropped))
    why = f"nothing is left of it when {lost} are dropped; add others"
    classes = check_left(record.classes, examples, collection.wording, why, record.task)
    check_known(examples, classes, collection.wording, record.task)
    return replace(collection, record=replace(record, classes=classes, examples=examples))


def index_rows(collection: Collection, dropped: Mapping[str, str]) -> list[tuple[str, ...]]:
    """One row of `COLUMNS` for each example; one that is dropped has no label, and says why.

    Raises: DataError if an id in `dropped` is unknown.
    """
    _check_ids(collection, dropped)
    return [
        (
            example.id,
            "" if example.id in dropped else example.label,
            example.split,
            example.group or "",
            dropped.get(example.id, ""),
        )
        for example in collection.record.examples
    ]


def write_index(path: Path, collection: Collection, dropped: Mapping[str, str]) -> None:
    """Write the whole data set as CSV (RFC 4180); `--relabel` with it gives what `drop` gives.

    Written whole or not at all; nothing else is touched.
    Raises: DataError if an id is unknown, RunFolderError if the file cannot be written.
    """
    rows = index_rows(collection, dropped)
    try:
        write_csv(path, COLUMNS, rows)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); free space there or choose "
            "another place"
        ) from error


def _check_ids(collection: Collection, dropped: Mapping[str, str]) -> None:
    unknown = dropped.keys() - {example.id for example in collection.record.examples}
    if unknown:
        raise DataError(
            f"{min(unknown)} is to be dropped, but {collection.record.name} holds no such "
            f"{nouns_of(collection.record.kind).one}"
        )


COPIES = ("near-duplicate", "conflict", "leakage", "small-class")  # found anew on what is left


def settled(
    collection: Collection, extracted: ExtractedFeatures, fix_into: Path | None = None
) -> Collection:
    """Unreadable images left out; copies, near copies, conflicts and leaks noted.

    With `fix_into` (--fix) those are left out too, and clean.csv is written there.
    Raises: DataError where too little of a class is left.
    """
    plain = settle(collection, extracted.unreadable)
    noted = with_near_duplicates(plain, near_copies(plain, extracted))
    if fix_into is None:
        return noted
    reasons = what_to_leave_out(noted.record)
    write_index(fix_into / "clean.csv", noted, reasons)
    return repaired(noted, reasons) if reasons else noted


def near_copies(
    collection: Collection, extracted: ExtractedFeatures
) -> tuple[tuple[str, str], ...]:
    """Near copies among all parts: pairs of ids. Exact copies are no news here."""
    examples = collection.record.examples
    if collection.record.kind in ("table", "tensor"):
        return ()  # rows that are nearly alike are two rows
    if collection.record.kind == "text":
        return text_copies(collection)
    shown = first_of_each(examples, [e.sha256 for e in examples])  # one example a content
    large = np.flatnonzero(
        StoredThumbnails(extracted, shown).files.short_side() >= rules.LEAST_SIDE
    )
    shown = [shown[row] for row in large]
    if len(shown) < 2:
        return ()
    features = comparable(extracted.reader(shown), extracted.feature_layers[-1], len(shown))
    is_heard = collection.record.kind == "audio"
    alike = ALIKE_SOUNDS if is_heard else ALIKE
    found = find_near_duplicates(StoredThumbnails(extracted, shown), features, alike)
    if is_heard:
        found = tuple(twin for twin in found if _is_echo(collection, shown, twin))
    places = {row for twin in found for row in (twin.first, twin.second)}
    same: dict[str, list[str]] = {shown[row].sha256: [] for row in places}
    for example in examples:
        if example.sha256 in same:
            same[example.sha256].append(example.id)
    return tuple(
        (one, other)
        for twin in found
        for one in same[shown[twin.first].sha256]
        for other in same[shown[twin.second].sha256]
    )


def _is_echo(collection: Collection, shown: Sequence[Example], twin: NearDuplicate) -> bool:
    """Whether two clips that look alike are one recording; False where one can be had no more."""
    try:
        pair = [load_same(collection, shown[row]) for row in (twin.first, twin.second)]
        return likeness(*pair) >= ONE_RECORDING
    except DataError:
        return False


def repaired(collection: Collection, reasons: Mapping[str, str]) -> Collection:
    """What --fix works on: all but the ids that have a reason. No file is touched.

    Raises: DataError where too little of a class would be left.
    """
    try:
        clean = drop(collection, reasons)
    except DataError as error:
        raise DataError(f"--fix: {error} What it would leave out stands in clean.csv.") from error
    kept = tuple(p for p in clean.record.problems if p.kind not in COPIES)
    nouns = nouns_of(collection.record.kind)
    sentence = (
        f"--fix left {nouns.count(len(reasons))} out: copies of test {nouns.many}, exact copies "
        f"and {nouns.many} in conflict; the reasons stand in clean.csv."
    )
    note = Finding(kind="near-duplicate", sentence=sentence)
    near_duplicates = [
        pair for pair in clean.record.near_duplicates if not reasons.keys() & set(pair)
    ]
    bare = replace(clean, record=replace(clean.record, problems=(*kept, note), near_duplicates=()))
    return with_near_duplicates(settle(bare, {}), near_duplicates)
