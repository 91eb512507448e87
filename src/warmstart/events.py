"""The events of a running job: nothing below the terminal prints.

Stages are generators: they yield `Event`s and return their result, so that
``features = yield from extract(...)`` hands events up and the result down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Stage = Literal["read", "features", "checks", "plan", "head", "fine_tune", "evaluate", "deliver"]
Kind = Literal["begin", "step", "end", "note", "guard"]

BESIDE = "beside"  # value of the begin event of trainings made for a comparison: which

Result = TypeVar("Result")
Steps = Generator["Event", None, Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened; one line of progress.jsonl.

    `t` is seconds since the epoch, `step` and `of` count what the stage counts
    (images, folds, updates; `of` is None where the end is not known), and
    `values` holds named numbers or short texts that belong to the moment.

    >>> Event(stage="features", kind="step", step=32, of=300, t=0.0).step
    32
    """

    stage: Stage
    kind: Kind
    step: int = 0
    of: int | None = None
    values: dict[str, float | int | str] = field(default_factory=dict)
    t: float = field(default_factory=time.time)


def follow(steps: Steps[Result], on_event: Callable[[Event], None]) -> Result:
    """Run steps to their end, pass each event to `on_event`, return their result.

    The steps are closed whatever happens, so that an interrupted run can mark its folder.
    """
    with closing(steps):
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            on_event(event)


def drain(steps: Steps[Result]) -> Result:
    """Run a stage to its end, drop its events, return its result.

    >>> def stage():
    ...     yield Event(stage="read", kind="begin")
    ...     return 7
    >>> drain(stage())
    7
    """
    return follow(steps, lambda event: None)


def tapped(steps: Steps[Result], see: Callable[[Event], Iterable[Event] | None]) -> Steps[Result]:
    """The same steps; `see` gets each event before the caller, and what it returns follows.

    >>> def stage():
    ...     yield Event(stage="read", kind="begin")
    ...     return 7
    >>> seen = []
    >>> drain(tapped(stage(), seen.append)), seen[0].kind
    (7, 'begin')
    """
    with closing(steps):  # interrupted extraction saves its features before a caller goes on
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            more = see(event)
            yield event
            yield from more or ()


def note(stage: Stage, title: str, text: str) -> Event:
    """One line for people; `terminal` wraps it."""
    return Event(stage=stage, kind="note", values={"title": title, "text": text})


def guard(kind: str, text: str) -> Event:
    """What a guard detected, and what was done."""
    values: dict[str, float | int | str] = {"title": "Guard", "text": text, "guard": kind}
    return Event(stage="fine_tune", kind="guard", values=values)
