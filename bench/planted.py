"""Problems planted in real sets: detection and false alarms."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import alter, exposures, pools, sets
from bench.alter import Seen
from bench.pools import Pool
from warmstart.data.near_duplicates import NearDuplicate, find_near_duplicates, unit_features
from warmstart.data.thumbnails import FileFigures
from warmstart.evidence.data_checks import detect_shift, two_samples
from warmstart.evidence.label_issues import judge_labels, label_noise_ceiling
from warmstart.evidence.probe import best_left_out
from warmstart.evidence.spurious import border_finding, metadata_leaks
from warmstart.records.findings import Finding
from warmstart.solve.kernels import mixed_kernels

FRAMED = ("ants_bees", "clothing", "pacs_photo", "trashnet")
SHIFTED = (("pacs_photo", "pacs_sketch"), ("wbc_cells", "wbc_cells_site2"))
EXPOSED = ("clothing", "trashnet")
COPIES = 20
COLOURS = (
    (200, 30, 30),
    (30, 160, 60),
    (40, 60, 200),
    (220, 200, 40),
    (150, 60, 180),
    (40, 190, 200),
    (240, 130, 30),
    (120, 120, 120),
    (10, 10, 10),
    (245, 245, 245),
)

Rows = NDArray[np.intp]
Row = dict[str, Any]


def add_options(parser: ArgumentParser) -> None:
    """None of its own."""


def measure(args: Namespace) -> dict[str, Any]:
    """Every kind of problem, planted one at a time; and the sets as they are."""
    root = sets.root(args)
    rows: list[Row] = []
    seen: dict[str, Seen] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        name = folder.name
        seen[name] = alter.see(folder)
        rows += [_clean(name, seen[name]), _copies(name, folder, seen[name])]
        rows.append(exposures.joined_and_mixed(name, folder, seen[name]))
        for row in rows[-3:]:
            print(row, flush=True)
    for name in FRAMED:
        rows += [_frames(name, root / name, seen[name]), _sizes(name, root / name, seen[name])]
        print(rows[-2], rows[-1], flush=True)
    rows += [_shift(one, other, seen) for one, other in SHIFTED]
    rows += [
        exposures.claimed(name, root / name, seen[name], seed)
        for name in EXPOSED
        for seed in (0, 1, 2)
    ]
    return {"summary": _summary(rows), "rows": rows}


def _summary(rows: Sequence[Row]) -> Row:
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row["planted"], []).append(row)
    exposed = by["exposures, estimate"]
    return {
        "near copies found, worst set": min(r["found"] for r in by["20 near copies"]),
        "pairs reported in clean sets": sum(len(r["near-duplicates"]) for r in by["nothing"]),
        "pairs of a copy with a stranger": sum(len(r["strangers"]) for r in by["20 near copies"]),
        "exposures joined, worst set": min(r["joined"] for r in by["40 x 6 exposures"]),
        "frames found": f"{sum(r['found'] for r in by['frames'])} of {len(by['frames'])}",
        "sizes found": f"{sum(r['found'] for r in by['sizes'])} of {len(by['sizes'])}",
        "shifts found": f"{sum(r['found'] for r in by['another source'])} of {len(SHIFTED)}",
        "spurious correlations, shifts and label issues in clean sets": [
            f"{r['set']}: {word}"
            for r in by["nothing"]
            for word in ("spurious-correlation", "metadata", "distribution-shift", "label issues")
            if r[word]
        ],
        "estimate holds the truth, joined": f"{sum(r['holds'] for r in exposed)} of {len(exposed)}",
        "estimate - truth, copies joined": _mean(r["joined"] - r["truth"] for r in exposed),
        "estimate - truth, copies apart": _mean(r["apart"] - r["truth"] for r in exposed),
    }


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 4)


def _clean(name: str, seen: Seen) -> Row:
    """What is found in a set as it is."""
    train, rng = seen.split == "train", np.random.default_rng(0)
    labels = seen.labels[train]
    near_duplicates = find_near_duplicates(seen.glances, unit_features(seen.neck))
    inside = [t for t in near_duplicates if train[t.first] and train[t.second]]
    pool = _part(seen.pool, np.flatnonzero(train))
    fit = pools.fit_rows(pool, np.arange(len(labels)), labels, rng)
    judged = judge_labels(fit.probabilities, labels, np.arange(len(labels)))
    output = two_samples(seen.neck[train], seen.neck[~train], rng)
    most = label_noise_ceiling(judged, _renumbered(inside, train), labels)
    result = detect_shift(seen.neck[train], seen.neck[~train], rng)
    return {
        "set": name,
        "planted": "nothing",
        "near-duplicates": [
            f"{seen.ids[t.first]} ~ {seen.ids[t.second]} {t.similarity:.3f}"
            for t in near_duplicates
        ],
        "spurious-correlation": bool(_shortcut(seen, np.flatnonzero(train))),
        "metadata": [item for f in _cues(seen, np.flatnonzero(train)) for item in f.items],
        "distribution-shift": bool(result),
        "parts told apart": round(output.accuracy, 3) if output else None,
        "label issues": judged.count or 0,
        "label_noise_ceiling": most.meaning,
    }


def _part(pool: Pool, rows: Rows) -> Pool:
    return Pool({layer: x[rows] for layer, x in pool.feature_layers.items()}, pool.labels[rows])


def _renumbered(
    near_duplicates: Sequence[NearDuplicate], stored: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    place = np.cumsum(stored) - 1
    return [(int(place[t.first]), int(place[t.second])) for t in near_duplicates]


def _shortcut(seen: Seen, rows: Rows) -> Finding | None:
    labels, singles = seen.labels[rows], [np.array([i]) for i in range(len(rows))]
    kernel = mixed_kernels([("neck", seen.neck[rows])], {"neck": {"neck": 1.0}})["neck"]
    accuracy = best_left_out([kernel], labels, singles, len(seen.classes)).hits(labels).mean()
    return border_finding(seen.glances.border[rows], labels, seen.classes, singles, float(accuracy))


def _cues(seen: Seen, rows: Rows) -> tuple[Finding, ...]:
    fields = ("width", "height", "n_bytes", "is_colour", "format")
    files = FileFigures(**{f: getattr(seen.glances, f)[rows] for f in fields})
    return metadata_leaks(files, seen.labels[rows], seen.classes, np.random.default_rng(0))


def _beside(seen: Seen, copies: Seen) -> tuple[SimpleNamespace, NDArray[np.floating]]:
    """Glances and features of a set with altered copies after it."""
    both = SimpleNamespace(
        grey=np.concatenate([seen.glances.grey, copies.glances.grey]),
        colour=np.concatenate([seen.glances.colour, copies.glances.colour]),
    )
    return both, unit_features(np.concatenate([seen.neck, copies.neck]))


def _copies(name: str, folder: Path, seen: Seen) -> Row:
    """20 near copies of training images, each to be found."""
    n, rng = len(seen.ids), np.random.default_rng([3, 1])
    source = alter.two_a_class(seen, COPIES, rng)
    alters = [alter.COPIES[i % len(alter.COPIES)] for i in range(len(source))]
    copies, where = alter.altered(folder, [seen.ids[row] for row in source], alters, seed=3)
    pairs = {(t.first, t.second) for t in find_near_duplicates(*_beside(seen, copies))}
    known = {
        (t.first, t.second) for t in find_near_duplicates(seen.glances, unit_features(seen.neck))
    }
    wanted = [(int(row), int(n + at)) for row, at in zip(source, where, strict=True)]
    lost = [a.__name__ for a, pair in zip(alters, wanted, strict=True) if pair not in pairs]
    origin = {at: row for row, at in wanted}  # a copy of a row that has a twin is its twin too
    strangers = [
        f"{seen.ids[origin.get(i, i)]} ~ copy of {seen.ids[origin.get(j, j)]}"
        for i, j in sorted(pairs - set(wanted) - known)
        if tuple(sorted((origin.get(i, i), origin.get(j, j)))) not in known
    ]
    return {
        "set": name,
        "planted": "20 near copies",
        "found": 1 - len(lost) / len(source),
        "lost": lost,
        "strangers": strangers,
    }


def _frames(name: str, folder: Path, seen: Seen) -> Row:
    """A frame of 4 px, a colour a class."""
    rows = np.flatnonzero(seen.split == "train")
    alters = [alter.framed(COLOURS[seen.labels[row]]) for row in rows]
    framed, _ = alter.altered(folder, [seen.ids[row] for row in rows], alters, 0)
    result = _shortcut(framed, np.arange(len(rows)))
    return {
        "set": name,
        "planted": "frames",
        "found": bool(result),
        "items": list(result.items) if result else [],
    }


def _sizes(name: str, folder: Path, seen: Seen) -> Row:
    """One class of one size, the others of another."""
    rows = np.flatnonzero(seen.split == "train")
    alters = [alter.of_size(*((160, 120) if seen.labels[r] == 0 else (144, 144))) for r in rows]
    sized, _ = alter.altered(folder, [seen.ids[row] for row in rows], alters, 0)
    items = [item for f in _cues(sized, np.arange(len(rows))) for item in f.items]
    wanted = f"{seen.classes[0]}: 100 % are 160 x 120 px, 0 % elsewhere"
    return {"set": name, "planted": "sizes", "found": wanted in items, "items": items}


def _shift(one: str, other: str, seen: dict[str, Seen]) -> Row:
    """The training part of one set, the test part of another."""
    train, test = (
        s.neck[s.split == block] for s, block in ((seen[one], "train"), (seen[other], "test"))
    )
    output = two_samples(train, test, np.random.default_rng(0))
    return {
        "set": f"{one} -> {other}",
        "planted": "another source",
        "found": bool(detect_shift(train, test, np.random.default_rng(0))),
        "parts told apart": round(output.accuracy, 3) if output else None,
    }
