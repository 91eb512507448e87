"""Groups guessed from names. They are proposed to the user and never acted on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from warmstart.data.dataset import Row
from warmstart.data.parsing import Table
from warmstart.records.data import Finding

# What people call the person, thing or occasion that several images come from.
_THINGS = (
    "patient",
    "subject",
    "group",
    "person",
    "session",
    "visit",
    "slide",
    "video",
    "clip",
    "scene",
    "case",
    "donor",
    "site",
    "camera",
    "burst",
)
GROUP_NAMES = frozenset((*_THINGS, *(thing + "id" for thing in _THINGS), "lesionid"))
MIN_SERIES = 3
# `person03_07`, `p12-3`, `IMG_0012 (2)`: a key that holds a digit, a separator, a number.
_SERIES = re.compile(r"(?P<key>.*\d.*)(?P<sep>[_\-. ])(?:\d+|\(\d+\))")


def propose_columns(table: Table, taken: Sequence[str | None], shown: str) -> tuple[Finding, ...]:
    """A finding for each column that is called like a group and whose values come again.

    Columns in `taken` (path, label, split) and those with one value only are passed over.

    >>> from warmstart.data.parsing import parse
    >>> table = parse(b"path,label,patient\\na,x,1\\nb,y,1\\nc,x,2\\n", "labels.csv")
    >>> print(propose_columns(table, ["path", "label"], "labels.csv")[0].sentence)
    Column "patient" of labels.csv (2 values) looks like a group; if rows of one patient \
belong together, add --group patient
    """
    findings = []
    for column in table.columns:
        if column in taken or re.sub(r"[\W_]", "", column.casefold()) not in GROUP_NAMES:
            continue
        cells = [cell.strip() for cell in table.texts(column) if cell is not None and cell.strip()]
        n_values = len(set(cells))
        if not 2 <= n_values < len(cells):
            continue
        option = f'"{column}"' if " " in column else column
        sentence = (
            f'Column "{column}" of {shown} ({n_values:,} values) looks like a group; if rows of '
            f"one {column} belong together, add --group {option}"
        )
        findings.append(Finding(kind="group-proposed", sentence=sentence, items=(column,)))
    return tuple(findings)


def propose_series(rows: Sequence[Row], shown: str) -> tuple[Finding, ...]:
    """A finding if file names look like series: `person03_07.jpg` is one of person03.

    At least half of the names must match one pattern <key><separator><number>, with three keys
    or more that hold a digit and are no class, more keys than classes, and two files a key on
    average: plain numbers (`012.jpg`, `cat_12.jpg`) are no series.

    >>> rows = [Row(id=f"cat/p{i // 4}_{i}.jpg", label="cat") for i in range(12)]
    >>> print(propose_series(rows, "photos")[0].sentence)
    File names in photos look like 3 series (p0_0.jpg is one of 4 with "p0"); if those of a \
series belong together, list them in a table with a column for it and add --group COLUMN
    """
    classes = {row.label.casefold() for row in rows}
    by_separator: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        name = PurePosixPath(row.id).name
        match = _SERIES.fullmatch(PurePosixPath(row.id).stem)
        if match and match["key"].casefold() not in classes:
            by_separator.setdefault(match["sep"], []).append((match["key"], name))
    if not by_separator:
        return ()
    matches = max(by_separator.values(), key=len)
    sizes = Counter(key for key, _ in matches)
    enough_keys = len(sizes) >= MIN_SERIES and len(sizes) > len(classes)
    if 2 * len(matches) < len(rows) or not enough_keys or len(matches) < 2 * len(sizes):
        return ()
    key, size = sizes.most_common(1)[0]
    example = next(name for other, name in matches if other == key)
    sentence = (
        f"File names in {shown} look like {len(sizes):,} series ({example} is one of "
        f'{size:,} with "{key}"); if those of a series belong together, list them in a '
        "table with a column for it and add --group COLUMN"
    )
    return (Finding(kind="group-proposed", sentence=sentence),)
