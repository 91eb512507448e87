"""What the studio's server is handed: the work as plain functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["idle", "working", "stopping", "stopped", "failed"]
Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that can be read: its size, how a file of its kind ends, and a small JPEG."""

    width: int
    height: int
    suffix: str
    small: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One learning that was asked for: from which table, into which folder, and how."""

    number: int
    table: Path
    out: Path
    budget: str = "fast"
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldCurve:
    """The score on the rows that one fold holds out, while the other rows are learnt from.

    `points`: (epoch, share) in order; `probe`: the score of the linear probe on the same rows.
    """

    fold: str
    points: tuple[tuple[float, float], ...]
    probe: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """What is going on, for people. `done` and `of` are those of the stage at work.

    `turn` counts the tellings, so that an older one is known by it.
    """

    turn: int = 0
    state: State = "idle"
    number: int | None = None
    budget: str | None = None
    stage: str = ""
    done: int = 0
    of: int | None = None
    seconds_left: float | None = None
    notes: tuple[Mapping[str, str], ...] = ()
    curves: tuple[FoldCurve, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The work behind the page. Whatever may take long is called from a thread.

    `see` decodes bytes, or says why it cannot. `fit` and `resume` begin a learning and return
    at once; `stop` ends it so that it can be gone on with. `result` tells of a finished run,
    `answer` of one picture; `take` makes a file to take home.
    """

    see: Callable[[bytes, str], Seen | str]
    small: Callable[[bytes, str], bytes]
    working: Callable[[], Working]
    fit: Callable[[Order], None]
    resume: Callable[[], None]
    stop: Callable[[], None]
    forecast: Callable[[Order], Told]
    result: Callable[[int], Told]
    answer: Callable[[int, bytes, str], Told]
    take: Callable[[int, str], Path]
