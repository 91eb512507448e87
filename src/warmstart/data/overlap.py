"""What images judged on share with each other and with those that a model learnt from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from warmstart.data.near_duplicates import Pair, are_scenes, scenes
from warmstart.nouns import IMAGES, count, is_are
from warmstart.records.data import Example, Finding


@dataclass(frozen=True, slots=True)
class Overlap:
    """Findings, the ids that leak, and the pairs that count as near copies."""

    findings: tuple[Finding, ...]
    leaked: frozenset[str]
    twins: tuple[Pair, ...]


def overlap(
    examples: Sequence[Example], twins: Iterable[Pair], learnt: Collection[str] = ()
) -> Overlap:
    """Copies, near copies and shared groups; examples of split "test" are judged on.

    `twins` are pairs of ids that look like near copies; `learnt` are content hashes of what the
    model is known to have learnt from. Findings: `leak` (judged on, and learnt from, or nearly),
    `duplicate` and `conflict` (among those judged on).

    >>> rows = [("a", "s1", "train"), ("b", "s1", "test"), ("c", "s2", "test")]
    >>> found = overlap([Example(id=i, label="x", split=p, sha256=s) for i, s, p in rows], [])
    >>> found.leaked, found.findings[0].kind
    (frozenset({'b'}), 'leak')
    """
    pairs = tuple(sorted((min(pair), max(pair)) for pair in twins))
    if are_scenes([replace(example, split="train") for example in examples], pairs):
        note = Finding(kind="duplicate", sentence=scenes(len(pairs), IMAGES))
        found = overlap(examples, (), learnt)
        return Overlap((*found.findings, note), found.leaked, ())
    judged = [example for example in examples if example.split == "test"]
    leaks, leaked = _leaks(judged, examples, pairs, learnt)
    return Overlap((*leaks, *_copies(judged, pairs)), leaked, pairs)


def _leaks(
    judged: Sequence[Example],
    examples: Sequence[Example],
    pairs: Sequence[Pair],
    learnt: Collection[str],
) -> tuple[list[Finding], frozenset[str]]:
    """One finding for each way to leak; an image is named for the first that it takes."""
    train = {example.id: example for example in examples if example.split != "test"}
    hashes = {example.sha256 for example in train.values()} | set(learnt)
    groups = {example.group for example in train.values() if example.group is not None}
    near = {a for pair in pairs for a, b in (pair, pair[::-1]) if b in train}
    ways: tuple[tuple[Callable[[Example], bool], str], ...] = (
        (lambda e: e.sha256 in hashes, "among the training images, byte for byte"),
        (lambda e: e.id in near, f"near copies of training images ({IMAGES.changed})"),
        (lambda e: e.group in groups, "of one group with training images"),
    )
    findings: list[Finding] = []
    leaked: set[str] = set()
    for is_so, what in ways:
        found = [example.id for example in judged if example.id not in leaked and is_so(example)]
        if found:
            sentence = f"{len(found):,} of the {len(judged):,} images judged on are {what}."
            findings.append(Finding(kind="leak", sentence=sentence, items=tuple(found)))
        leaked.update(found)
    return findings, frozenset(leaked)


def _copies(judged: Sequence[Example], pairs: Sequence[Pair]) -> list[Finding]:
    by_id = {example.id: example for example in judged}
    first: dict[str, Example] = {}
    same = [(first[e.sha256], e) for e in judged if first.setdefault(e.sha256, e).id != e.id] + [
        (by_id[a], by_id[b]) for a, b in pairs if a in by_id and b in by_id
    ]
    mixed = {e.id for pair in same if pair[0].label != pair[1].label for e in pair}
    further = {other.id for one, other in same if one.label == other.label} - mixed
    findings = []
    if further:
        n = len(further)
        sentence = f"{count(n, 'image')} judged on {is_are(n)} a copy or near copy of another one; "
        sentence += "copies count as one where the interval is drawn."
        findings.append(Finding(kind="duplicate", sentence=sentence, items=tuple(sorted(further))))
    if mixed:
        sentence = f"{count(len(mixed), 'image')} judged on show the same picture as another one "
        sentence += "under another class; not all of these labels can be right."
        findings.append(Finding(kind="conflict", sentence=sentence, items=tuple(sorted(mixed))))
    return findings
