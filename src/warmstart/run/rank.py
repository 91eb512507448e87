"""`warmstart rank DATA`: which pretrained network suits this data, one look each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from warmstart import request
from warmstart.data.labels import AskedTask
from warmstart.data.read import read
from warmstart.events import Steps
from warmstart.records.comparison import Ranking
from warmstart.request import Request
from warmstart.run import base_model, notes
from warmstart.run.inputs import input_wish


def rank(
    data: Any,
    starts: Sequence[str] = (),
    *,
    label: str | None = None,
    group: str | None = None,
    task: AskedTask = "auto",
    seed: int = 0,
    strict: bool = False,
) -> Steps[Ranking]:
    """Rank starts by the head that one look at each gives; nothing is trained or written.

    `starts` are names as --start takes them, or FILE@timm:NAME for a file of weights;
    without any, what lies on this computer (at most 6, the smallest).
    Raises: UsageError for a seed that is none, DataError if the data cannot be used,
    StartError if no start can.
    """
    request.check(Request(data=data, seed=seed))
    collection = yield from read(data, label=label, group=group, task=task, strict=strict)
    yield notes.data(collection)
    kind = collection.record.kind
    names, left_out = (tuple(starts), ()) if starts else base_model.on_disk(kind=kind)
    wish = input_wish(Request(data=data, seed=seed), collection)
    steps = base_model.rank(collection, names, seed=seed, left_out=left_out, inputs=wish)
    ranking = yield from steps
    return ranking if kind == "image" else replace(ranking, kind=kind)
