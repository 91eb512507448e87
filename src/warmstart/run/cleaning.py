"""Data cleaning: unreadable files, duplicates, conflicting labels, data leakage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from warmstart.data.dataset import Collection, check_unreadable, unreadable
from warmstart.data.labels import check_remaining, check_split_labels
from warmstart.data.near_duplicates import (
    MIN_SIMILARITY,
    MIN_SOUND_SIMILARITY,
    NearDuplicate,
    find_exclusions,
    find_near_duplicates,
    same_fingerprint,
    search_vectors,
    with_near_duplicates,
)
from warmstart.errors import DataError, RunFolderError
from warmstart.features.batches import readable
from warmstart.features.extraction import (
    ExtractedFeatures,
    StoredThumbnails,
    first_of_each,
    load_unchanged,
)
from warmstart.formatting import first_few
from warmstart.modalities.audio import SAME_RECORDING, waveform_similarity
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Nouns, count, is_are
from warmstart.planning import rules
from warmstart.records.data import Example, Task
from warmstart.records.findings import Finding
from warmstart.records.run_folder import write_csv
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS

SMALL = 5  # training images below which a class is reported as small
COLUMNS = ("path", "label", "split", "group", "note")  # of clean.csv
RECOMPUTED = ("near-duplicate", "conflict", "leakage", "small-class")  # after --fix


def drop_unreadable(collection: Collection, reasons: Mapping[str, str]) -> Collection:
    """Leave out unreadable images (`reasons` by id) and add the findings that need only bytes.

    Findings: `unreadable`; `near-duplicate` (exact copies within the training set); `conflict`
    (copies with different labels); `leakage` (test or hold-out images that are in the training set
    too: reported, never removed); `small-class` (fewer than 5 training images). Test labels are
    not read, so nothing here depends on them.
    Raises: DataError if a class keeps fewer than 2 training images, or too many of all cannot
    be read.
    """
    record, nouns = collection.record, MODALITIES[collection.record.kind].nouns
    examples = tuple(example for example in record.examples if example.id not in reasons)
    was = "was" if len(reasons) == 1 else "were"
    sentence = f"{nouns.count(len(reasons))} could not be read and {was} left out."
    lost = unreadable(
        {id: reasons[id].removeprefix(id).strip() for id in sorted(reasons)}, sentence
    )
    why = f"none of its {nouns.many} can be read; replace them"
    classes = check_remaining(record.classes, examples, collection.wording, why, TASKS[record.task])
    if lost:
        check_unreadable(
            (*record.problems, *lost),
            len(examples),
            collection.wording.source,
            strict=collection.strict,
            n_harmless=collection.n_harmless,
        )
    problems = (
        *record.problems,
        *lost,
        *find_duplicates(examples, record.task, nouns),
        *find_leakage(examples, nouns),
        *find_small_classes(examples, record.task, nouns),
    )
    cleaned = replace(record, classes=classes, examples=examples, problems=problems)
    return replace(collection, record=cleaned)


def find_duplicates(
    examples: Sequence[Example], task: Task = CLASSIFICATION.task, nouns: Nouns = IMAGE.nouns
) -> tuple[Finding, ...]:
    """Identical bytes in the training set: copies after the first, or conflicts of labels.

    >>> same = [Example(id=i, label=l, split="train", sha256="s") for i, l in ("ax", "by")]
    >>> [(finding.kind, finding.items) for finding in find_duplicates(same)]
    [('conflict', ('a', 'b'))]
    """
    by_hash: dict[str, list[Example]] = {}
    for example in examples:
        if example.split == "train":
            by_hash.setdefault(example.sha256, []).append(example)
    agreement = TASKS[task].agreement([e.label for e in examples if e.split == "train"])
    copies, conflicts = [], []
    for same in by_hash.values():
        if not agreement.agree([example.label for example in same]):
            conflicts += [example.id for example in same]
        else:
            copies += [example.id for example in same[1:]]
    n, m = len(copies), len(conflicts)
    copied = f"{nouns.count(n, 'training')} {is_are(n)} an exact copy of another one."
    apart = f"{nouns.count(m, 'training')} are identical and carry {agreement.apart}."
    findings = (
        Finding(kind="near-duplicate", sentence=copied, items=tuple(copies)),
        Finding(kind="conflict", sentence=apart, items=tuple(conflicts)),
    )
    return tuple(finding for finding in findings if finding.items)


def find_leakage(examples: Sequence[Example], nouns: Nouns = IMAGE.nouns) -> tuple[Finding, ...]:
    """Images and groups of the test or hold-out set that the sets before it hold too."""
    findings = []
    for split, word, earlier in (
        ("test", "test", ("train", "holdout")),
        ("holdout", "hold-out", ("train",)),
    ):
        before = [example for example in examples if example.split in earlier]
        hashes = {example.sha256 for example in before}
        groups = {example.group for example in before if example.group is not None}
        held_out = [example for example in examples if example.split == split]
        copies = tuple(example.id for example in held_out if example.sha256 in hashes)
        shared = tuple(e.id for e in held_out if e.group in groups and e.sha256 not in hashes)
        if copies:
            n = len(copies)
            sentence = f"{nouns.count(n, word)} {is_are(n)} in the training data as well."
            findings.append(Finding(kind="leakage", sentence=sentence, items=copies))
        if shared:
            sentence = f"{nouns.count(len(shared), word)} share a group with training data."
            findings.append(Finding(kind="leakage", sentence=sentence, items=shared))
    return tuple(findings)


def find_small_classes(
    examples: Sequence[Example], task: Task = CLASSIFICATION.task, nouns: Nouns = IMAGE.nouns
) -> tuple[Finding, ...]:
    """Classes with fewer than 5 training images; items are class names."""
    sizes: dict[str, int] = {}
    names = TASKS[task].names
    for example in examples:
        for name in names(example.label) if example.split == "train" else ():
            sizes[name] = sizes.get(name, 0) + 1
    small = tuple(sorted(label for label, size in sizes.items() if size < SMALL))
    if not small:
        return ()
    fewer = f"with fewer than {SMALL} training {nouns.many}"
    sentence = f"{count(len(small), 'class')} {fewer}: {first_few(small)}."
    return (Finding(kind="small-class", sentence=sentence, items=small),)


# ---- clean.csv: every example, with its label or the reason why it is left out, for --relabel.


def drop(collection: Collection, dropped: Mapping[str, str]) -> Collection:
    """The collection without some examples; `dropped` maps their ids to reasons."""
    record = collection.record
    examples = tuple(example for example in record.examples if example.id not in dropped)
    lost = MODALITIES[record.kind].nouns.count(len(dropped))
    why = f"nothing is left of it when {lost} are dropped; add others"
    classes = check_remaining(record.classes, examples, collection.wording, why, TASKS[record.task])
    check_split_labels(examples, classes, collection.wording, TASKS[record.task])
    return replace(collection, record=replace(record, classes=classes, examples=examples))


def write_index(path: Path, collection: Collection, dropped: Mapping[str, str]) -> None:
    """Write `COLUMNS` of every example; `--relabel` with this file equals `drop`."""
    rows = [
        (e.id, "" if e.id in dropped else e.label, e.split, e.group or "", dropped.get(e.id, ""))
        for e in collection.record.examples
    ]
    try:
        write_csv(path, COLUMNS, rows)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); free space there or choose "
            "another place"
        ) from error


def clean(
    collection: Collection, extracted: ExtractedFeatures, fix_into: Path | None = None
) -> Collection:
    """Leave unreadable images out; report duplicates, near-duplicates, conflicts and leakage.

    With `fix_into` (--fix) those are left out too, and clean.csv is written there.
    Raises: DataError where too little of a class is left.
    """
    readable = drop_unreadable(collection, extracted.unreadable)
    checked = with_near_duplicates(readable, near_duplicate_pairs(readable, extracted))
    if fix_into is None:
        return checked
    reasons = find_exclusions(checked.record)
    write_index(fix_into / "clean.csv", checked, reasons)
    return apply_fix(checked, reasons) if reasons else checked


def near_duplicate_pairs(
    collection: Collection, extracted: ExtractedFeatures
) -> tuple[tuple[str, str], ...]:
    """Near-duplicates in all splits: pairs of ids. Exact copies are not listed again."""
    examples = collection.record.examples
    modality = MODALITIES[collection.record.kind]
    if not modality.has_thumbnails:
        return same_fingerprint(examples, modality.fingerprints(readable(collection, examples)))
    distinct = first_of_each(examples, [e.sha256 for e in examples])  # one example per content
    large = np.flatnonzero(
        StoredThumbnails(extracted, distinct).files.short_side() >= rules.LEAST_SIDE
    )
    distinct = [distinct[row] for row in large]
    if len(distinct) < 2:
        return ()
    layer = extracted.feature_layers[-1]
    features = search_vectors(extracted.reader(distinct), layer, len(distinct))
    threshold = MIN_SOUND_SIMILARITY if modality.is_sound else MIN_SIMILARITY
    pairs = find_near_duplicates(StoredThumbnails(extracted, distinct), features, threshold)
    if modality.is_sound:
        pairs = tuple(pair for pair in pairs if _is_one_recording(collection, distinct, pair))
    rows = {row for pair in pairs for row in (pair.first, pair.second)}
    ids: dict[str, list[str]] = {distinct[row].sha256: [] for row in rows}
    for example in examples:
        if example.sha256 in ids:
            ids[example.sha256].append(example.id)
    return tuple(
        (one, other)
        for pair in pairs
        for one in ids[distinct[pair.first].sha256]
        for other in ids[distinct[pair.second].sha256]
    )


def _is_one_recording(
    collection: Collection, distinct: Sequence[Example], pair: NearDuplicate
) -> bool:
    """Whether two similar clips are one recording; False where one can no longer be read."""
    try:
        clips = [load_unchanged(collection, distinct[row]) for row in (pair.first, pair.second)]
        return waveform_similarity(*clips) >= SAME_RECORDING
    except DataError:
        return False


def apply_fix(collection: Collection, reasons: Mapping[str, str]) -> Collection:
    """The collection of a run with --fix: without the ids in `reasons`. No file is touched."""
    try:
        rest = drop(collection, reasons)
    except DataError as error:
        raise DataError(f"--fix: {error} What it would leave out stands in clean.csv.") from error
    problems = tuple(p for p in rest.record.problems if p.kind not in RECOMPUTED)
    nouns = MODALITIES[collection.record.kind].nouns
    sentence = (
        f"--fix left {nouns.count(len(reasons))} out: copies of test {nouns.many}, exact copies "
        f"and {nouns.many} in conflict; the reasons stand in clean.csv."
    )
    note = Finding(kind="near-duplicate", sentence=sentence)
    pairs = [pair for pair in rest.record.near_duplicates if not reasons.keys() & set(pair)]
    record = replace(rest.record, problems=(*problems, note), near_duplicates=())
    return with_near_duplicates(drop_unreadable(replace(rest, record=record), {}), pairs)
