"""Near copies, found by looking at the pictures, as findings; and what --fix leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from warmstart.data.agreeing import agreeing
from warmstart.data.collection import Collection, is_are
from warmstart.data.split import blocks
from warmstart.records import DataRecord, Example, Finding, Task
from warmstart.words import Nouns, nouns_of

Pair = tuple[str, str]
MANY_PAIRS = 10  # below, so many labels that agree or not say nothing


def scenes(n: int, nouns: Nouns) -> str:
    """What is said of so many pairs that are no copies."""
    return (
        f"{n:,} pairs of {nouns.many} are alike in every detail that is looked at and carry labels "
        f"of their own, as {nouns.pictures} of one fixed scene do: they are taken for different "
        f"{nouns.pictures}. If several show one object, name it with --group."
    )


def with_twins(collection: Collection, twins: Iterable[Pair]) -> Collection:
    """The collection with its near copies noted: pairs of ids, and findings.

    `duplicate` (further near copies of a training image), `conflict` (near copies in
    training with different labels), `leak` (test or hold-out images that have a near copy
    in earlier parts). Copies of the same bytes are settled before; they are not named again.
    """
    record, nouns = collection.record, nouns_of(collection.record.kind)
    pairs = tuple(sorted((min(pair), max(pair)) for pair in twins))
    if are_scenes(record.examples, pairs, record.task):
        note = Finding(kind="duplicate", sentence=scenes(len(pairs), nouns))
        return replace(collection, record=replace(record, problems=(*record.problems, note)))
    copies = _copies(record.examples, pairs, record.task, nouns)
    found = (*copies, *_leaks(record.examples, pairs, nouns))
    settled = replace(record, twins=pairs, problems=(*record.problems, *found))
    return replace(collection, record=settled)


def are_scenes(examples: Sequence[Example], pairs: Sequence[Pair], task: Task = "classify") -> bool:
    """Whether the pairs are pictures of one scene (a fixed camera) rather than copies.

    Copies carry one label nearly always. Where the training pairs agree hardly more often
    than by chance, what they share is not what the labels are about; and under labels that
    mean nothing the pictures are as good as independent.

    >>> same = [Example(id=str(i), label="ab"[i % 2], split="train", sha256=str(i))
    ...         for i in range(12)]
    >>> are_scenes(same, [("0", str(i)) for i in range(1, 12)])
    True
    """
    labels = {e.id: e.label for e in examples if e.split == "train"}
    inside = [(a, b) for a, b in pairs if a in labels and b in labels]
    if len(inside) < MANY_PAIRS:
        return False
    alike = agreeing(task, [*labels.values()])
    agree = sum(alike.agree([labels[a], labels[b]]) for a, b in inside) / len(inside)
    return agree < (1 + alike.chance) / 2


def _copies(
    examples: Sequence[Example], pairs: Sequence[Pair], task: Task, nouns: Nouns
) -> list[Finding]:
    """Near copies within the training part. Test labels are not looked at."""
    train = {e.id: e for e in examples if e.split == "train"}
    inside = [(a, b) for a, b in pairs if a in train and b in train]
    # Without their groups: what shares one is no copy.
    rows = [replace(train[id], group=None) for id in sorted({id for pair in inside for id in pair})]
    if not rows:
        return []
    sets: dict[int, list[Example]] = {}
    for example, block in zip(rows, blocks(rows, inside), strict=True):
        sets.setdefault(int(block), []).append(example)
    alike = agreeing(task, [e.label for e in train.values()])
    parted = [(same, alike.agree([e.label for e in same])) for same in sets.values()]
    mixed = [e.id for same, agree in parted if not agree for e in same]
    clean = [same for same, agree in parted if agree]
    first = {e.sha256: e.id for e in reversed(rows)}
    further = [e.id for same in clean for e in same[1:] if first[e.sha256] == e.id]
    findings = []
    if further:
        n = len(further)
        sentence = (
            f"{nouns.count(n, 'training')} {is_are(n)} a near copy of another one "
            f"({nouns.changed}). Copies count as one example when the accuracy is estimated; "
            "otherwise it would be too high."
        )
        findings.append(Finding(kind="duplicate", sentence=sentence, items=tuple(further)))
    if mixed:
        sentence = (
            f"{nouns.count(len(mixed), 'training')} are near copies of each other and carry "
            f"{alike.apart}. Not all of these {alike.many} can be right."
        )
        findings.append(Finding(kind="conflict", sentence=sentence, items=tuple(mixed)))
    return findings


def _leaks(examples: Sequence[Example], pairs: Sequence[Pair], nouns: Nouns) -> list[Finding]:
    """Near copies across parts, named by the image of the later part."""
    by_id = {e.id: e for e in examples}
    findings = []
    for later, word, earlier in (
        ("test", "test", ("train", "holdout")),
        ("holdout", "hold-out", ("train",)),
    ):
        seen = {e.sha256 for e in examples if e.split in earlier}
        crossing = {
            one
            for pair in pairs
            for one, other in (pair, pair[::-1])
            if by_id[one].split == later and by_id[other].split in earlier
            if by_id[one].sha256 not in seen
        }
        if crossing:
            n = len(crossing)
            sentence = (
                f"{nouns.count(n, word)} {is_are(n)} a near copy of a training {nouns.one} "
                f"({nouns.changed}): the {word} flatters the model. --fix learns without those "
                "copies."
            )
            findings.append(Finding(kind="leak", sentence=sentence, items=tuple(sorted(crossing))))
    return findings


def what_to_leave_out(record: DataRecord) -> dict[str, str]:
    """Training and hold-out images that --fix leaves out, each with the reason.

    Copies of a test image, so that the test measures what it should; images in conflict;
    exact copies beyond the first. Near copies in training stay: they count as one example.
    """
    reasons: dict[str, str] = {}
    later = {"train": ("holdout", "test"), "holdout": ("test",), "test": ()}
    by_hash: dict[str, list[Example]] = {}
    examples = {e.id: e for e in record.examples}
    for example in record.examples:
        by_hash.setdefault(example.sha256, []).append(example)
    for problem in record.problems:
        if problem.kind == "conflict":
            why = f"the same {nouns_of(record.kind).picture} carries another label too"
            reasons |= dict.fromkeys(problem.items, why)
    for same in by_hash.values():
        for number, example in enumerate(same):
            copy = next((o for o in same if o.split in later[example.split]), None)
            if copy is not None:
                reasons[example.id] = f"copy of {copy.id} in the {copy.split} part"
            elif number and example.split == "train":
                first = next(o for o in same if o.split == "train")
                if first.id != example.id:
                    reasons.setdefault(example.id, f"exact copy of {first.id}")
    for pair in record.twins:
        for one, other in (pair, pair[::-1]):
            if examples[other].split in later[examples[one].split]:
                reasons[one] = f"near copy of {other} in the {examples[other].split} part"
    return {id: reasons[id] for id in sorted(reasons) if examples[id].split != "test"}
