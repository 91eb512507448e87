"""What the user asked for: checked, its data read, given a folder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from warmstart.data.collection import Asked, Collection, Columns
from warmstart.data.labelling import AskedTask
from warmstart.data.read import read
from warmstart.data.rowtable import with_columns
from warmstart.data.typed import ColumnWish
from warmstart.delivery.trackers import check_trackers
from warmstart.errors import DataError, UsageError
from warmstart.events import Steps
from warmstart.folder import RunFolder
from warmstart.joints.machine import check_device
from warmstart.planning.paths import COLUMN, parse_settings
from warmstart.planning.rules import Budget
from warmstart.planning.strategy import parse
from warmstart.records import Choice, Plan, Preprocessing

KINDS: tuple[Asked, ...] = get_args(Asked)
BUDGETS = ("fast", "balanced", "thorough")
TASKS = ("auto", "classify", "multilabel", "regress")
DEFAULT_START = "lite0"
AUTO = "auto"  # the start that a ranking of those on disk chooses
# Options that a plan answers too, and what they are where nobody typed them.
_USUAL = {
    "start": DEFAULT_START, "arch": None, "strategy": "auto", "budget": "balanced", "seed": 0,
    "lr": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; the defaults are the product's."""

    data: Any
    start: Any = DEFAULT_START
    start_choice: Choice | None = None  # how `start` was chosen, where it was `auto`
    stream: Choice | None = None  # that the start is streamed from its file, and why
    arch: str | None = None
    preprocessing: Preprocessing | None = None
    strategy: str = "auto"
    budget: Budget = "balanced"
    out: Path | None = None
    test: Any = None
    label: str | None = None
    group: str | None = None
    text: str | None = None  # the column that holds texts
    kind: Asked = "auto"  # of the data; auto: as it is recognised
    task: AskedTask = "auto"  # what labels are; auto: as they plainly are
    relabel: Path | None = None
    fix: bool = False
    strict: bool = False  # refuse what cannot be read instead of leaving it out
    seed: int = 0
    lr: float | None = None
    minutes: float | None = None  # for everything, from the command to the run folder
    elapsed: float = 0.0  # seconds that had gone before the work began, of those minutes
    device: str = "auto"
    plan: Path | Plan | None = None  # a plan to follow
    settings: tuple[str, ...] = ()  # path=value, each for one value of the plan
    track: tuple[str, ...] = ()  # names of trackers
    given: frozenset[str] | None = None  # options that were typed; None: not known

    @property
    def typed(self) -> frozenset[str]:
        """The options that were typed, or, where that is not known, that differ from the usual."""
        if self.given is not None:
            return self.given
        return frozenset(
            name
            for name, usual in _USUAL.items()
            if getattr(self, name) is not usual and getattr(self, name) != usual
        )

    @property
    def start_is_auto(self) -> bool:
        """Whether a ranking of what is on disk is to choose the start."""
        return isinstance(self.start, str) and self.start == AUTO


def columns_of(asked: Request) -> Columns:
    """The columns and the kind of data that were named."""
    return Columns(
        label=asked.label, group=asked.group, text=asked.text, kind=asked.kind, task=asked.task
    )


def check(asked: Request) -> None:
    """Refuse what cannot be done before anything is read.

    Raises: UsageError or PlanError for a value that is none, RunFolderError for an --out in
    use.
    """
    if asked.budget not in BUDGETS:
        raise UsageError(f"--budget {asked.budget} is not one of {', '.join(BUDGETS)}.")
    if asked.kind not in KINDS:
        raise UsageError(f"--kind {asked.kind} is not one of {', '.join(KINDS)}.")
    if asked.task not in TASKS:
        raise UsageError(f"--task {asked.task} is not one of {', '.join(TASKS)}.")
    parse(asked.strategy)
    parse_settings(asked.settings)
    if asked.lr is not None and not (math.isfinite(asked.lr) and asked.lr > 0):
        raise UsageError(f"--lr {asked.lr:g}: it needs a number above 0, such as 0.0003.")
    if asked.minutes is not None and not (math.isfinite(asked.minutes) and asked.minutes > 0):
        raise UsageError(f"--minutes {asked.minutes:g}: it needs a number above 0, such as 5.")
    check_device(asked.device)
    check_trackers(asked.track)
    if asked.start_is_auto and asked.arch is not None:
        raise UsageError(
            f"--arch {asked.arch} belongs to a file of weights; leave it away with --start auto."
        )
    if asked.start_is_auto and asked.preprocessing is not None:
        raise UsageError(
            'preprocessing belongs to one start; leave it away with start="auto", where each '
            "start brings its own."
        )
    if not isinstance(asked.seed, int) or not 0 <= asked.seed < 2**32:
        raise UsageError(f"--seed {asked.seed} is not a whole number from 0 to 4294967295.")
    if asked.out is not None:
        RunFolder.check_free(asked.out)


def read_data(asked: Request) -> Steps[Collection]:
    """The data that was named, with the labels that were corrected. Raises: DataError."""
    collection = yield from read(
        asked.data, label=asked.label, group=asked.group, test=asked.test, relabel=asked.relabel,
        text=asked.text, kind=asked.kind, task=asked.task, strict=asked.strict,
    )  # fmt: skip
    return _with_columns(collection, asked)


def _with_columns(collection: Collection, asked: Request) -> Collection:
    """The collection with its columns told, where its rows are what it holds.

    Raises: DataError as `type_columns` does, and where columns are set of other data.
    """
    kinds = {
        path.removeprefix(COLUMN): ColumnWish(kind.lower(), f"--set {path}={kind.lower()}")
        for path, kind in parse_settings(asked.settings).items()
        if path.startswith(COLUMN)
    }
    if collection.record.kind == "table":
        return with_columns(collection, {**_planned_columns(asked), **kinds})
    if kinds:
        raise DataError(
            f"{next(iter(kinds.values())).shown}: {collection.wording.source} holds "
            f"{collection.wording.noun}s, no columns of numbers; leave it away"
        )
    return collection


def _planned_columns(asked: Request) -> dict[str, ColumnWish]:
    """What a person wanted in the plan that is followed; what the rule said is told anew."""
    columns = asked.plan.columns if isinstance(asked.plan, Plan) else None
    return {
        column.name: ColumnWish(str(column.kind.value), f"the plan's {COLUMN}{column.name}")
        for column in columns or ()
        if column.is_chosen
    }


def open_folder(asked: Request, data_name: str) -> RunFolder:
    """The run folder: --out, or runs/<data name>, -2, -3 …; runs/latest points to it.

    Raises: RunFolderError if it cannot be made.
    """
    if asked.out is not None:
        return RunFolder.create(asked.out)
    folder = RunFolder.create_beside(Path("runs"), folder_name(data_name))
    folder.point_latest()
    return folder


def typed_settings(given: Mapping[str, Any] | Sequence[str] | None) -> tuple[str, ...]:
    """Single values as they would be typed after --set. Raises: UsageError for another type.

    >>> typed_settings({"training.passes": 3000})
    ('training.passes=3000',)
    """
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return tuple(f"{path}={_as_typed(value)}" for path, value in given.items())
    if isinstance(given, (list, tuple)) and all(isinstance(item, str) for item in given):
        return tuple(given)
    raise UsageError(
        f"settings of type {type(given).__name__} are not read; give "
        '{"training.passes": 3000} or ["training.passes=3000"].'
    )


def _as_typed(value: Any) -> str:
    """A value as it would be typed after --set."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def folder_name(data_name: str) -> str:
    """The name of a data set as the name of a folder.

    >>> folder_name("my photos (2).zip")
    'my-photos-2-.zip'
    """
    return re.sub(r"[^\w.-]+", "-", data_name).strip("-.") or "data"
