"""Labelled images as they are given: to judge a finished model nothing has to be learnable."""

from __future__ import annotations

from dataclasses import replace

from warmstart.data.dataset import Columns, Listing, joined, under
from warmstart.data.sources import Source, list_source
from warmstart.errors import DataError


def list_given(
    source: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    train: Source | None = None,
) -> Listing:
    """List labelled images, those to be judged on as split "test"; no file is opened.

    Judged on is the test part, else the hold-out, else everything; the other parts, and
    `train`, whose ids then begin with "train/", are what the model may have learnt from.
    One image, or one class, is enough.
    Raises: DataError if there is none, or a column is named that is not there.
    """
    columns = Columns(label=label, group=group)
    listing = list_source(source, columns)
    if not listing.is_table and (label or group):
        option = f"--label {label}" if label else f"--group {group}"
        raise DataError(
            f"{option} names a column, but {listing.wording.source} is no table; leave it away"
        )
    splits = {row.split for row in listing.rows}
    judged = next((split for split in ("test", "holdout") if split in splits), None)
    rows = (
        replace(row, split="test") if judged in (None, row.split) else row for row in listing.rows
    )
    listing = replace(listing, rows=tuple(rows))
    if train is None:
        return listing
    learnt = list_source(train, columns)
    taken, prefix = {row.id for row in listing.rows}, "train/"
    while any(prefix + row.id in taken for row in learnt.rows):
        prefix += "train/"
    layout = f"{listing.layout}; train: {learnt.layout}"
    return joined((listing, under(learnt, prefix, "train")), layout)
