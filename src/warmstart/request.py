"""What the user asked for: checked, its data read, given a folder."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from warmstart.data.column_types import ColumnSetting
from warmstart.data.dataset import Collection, Columns, KindOption
from warmstart.data.labels import TaskOption
from warmstart.data.read import read
from warmstart.data.tables import with_columns
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.events import Steps
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.planning.rules import Budget
from warmstart.planning.settings import COLUMN, parse_settings
from warmstart.planning.strategy import nearest, parse
from warmstart.records.data import CODES
from warmstart.records.inputs import Preprocessing
from warmstart.records.plan import Choice, Plan
from warmstart.records.run_folder import RunFolder, from_plain, to_plain, write_json
from warmstart.training.device import check_device
from warmstart.training.trackers import check_trackers

KINDS: tuple[KindOption, ...] = get_args(KindOption)
BUDGETS = ("fast", "balanced", "thorough")
TASKS = ("auto", "classify", "multilabel", "regress")
DEFAULT_BASE = "lite0"
AUTO = "auto"  # the start that a ranking of those on disk chooses
# Options that a plan answers too, and what they are where nobody typed them.
_USUAL = {
    "base": DEFAULT_BASE,
    "arch": None,
    "strategy": "auto",
    "budget": "balanced",
    "seed": 0,
    "lr": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; the defaults are the product's."""

    data: Any
    base: Any = DEFAULT_BASE
    base_choice: Choice | None = None  # how `start` was chosen, where it was `auto`
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
    kind: KindOption = "auto"  # of the data; auto: as it is recognised
    task: TaskOption = "auto"  # what labels are; auto: as they plainly are
    relabel: Path | None = None
    fix: bool = False
    ignore: tuple[str, ...] = ()  # codes of findings that are not reported
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
    def base_is_auto(self) -> bool:
        """Whether a ranking of what is on disk is to choose the start."""
        return isinstance(self.base, str) and self.base == AUTO


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
    for code in asked.ignore:
        if code not in CODES.values():
            like = nearest(code, CODES.values())
            cure = f"did you mean {like}?" if like else "they run from WS101 to WS304."
            raise UsageError(f"--ignore {code}: no finding has this code; {cure}")
    check_device(asked.device)
    check_trackers(asked.track)
    if asked.base_is_auto and asked.arch is not None:
        raise UsageError(
            f"--arch {asked.arch} belongs to a file of weights; leave it away with --base auto."
        )
    if asked.base_is_auto and asked.preprocessing is not None:
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
        asked.data,
        label=asked.label,
        group=asked.group,
        test=asked.test,
        relabel=asked.relabel,
        text=asked.text,
        kind=asked.kind,
        task=asked.task,
        strict=asked.strict,
    )
    return _with_columns(collection, asked)


def _with_columns(collection: Collection, asked: Request) -> Collection:
    """The collection with its columns told, where its rows are what it holds.

    Raises: DataError as `type_columns` does, and where columns are set of other data.
    """
    kinds = {
        path.removeprefix(COLUMN): ColumnSetting(kind.lower(), f"--set {path}={kind.lower()}")
        for path, kind in parse_settings(asked.settings).items()
        if path.startswith(COLUMN)
    }
    if collection.record.kind == "table":
        return with_columns(collection, {**_planned_columns(asked), **kinds})
    if kinds:
        raise DataError(
            f"{next(iter(kinds.values())).origin}: {collection.wording.source} holds "
            f"{collection.wording.noun}s, no columns of numbers; leave it away"
        )
    return collection


def _planned_columns(asked: Request) -> dict[str, ColumnSetting]:
    """What a person wanted in the plan that is followed; what the rule said is told anew."""
    columns = asked.plan.columns if isinstance(asked.plan, Plan) else None
    return {
        column.name: ColumnSetting(str(column.kind.value), f"the plan's {COLUMN}{column.name}")
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

    >>> typed_settings({"training.epochs": 20})
    ('training.epochs=20',)
    """
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return tuple(f"{path}={_as_typed(value)}" for path, value in given.items())
    if isinstance(given, (list, tuple)) and all(isinstance(item, str) for item in given):
        return tuple(given)
    raise UsageError(
        f"settings of type {type(given).__name__} are not read; give "
        '{"training.epochs": 20} or ["training.epochs=3000"].'
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


# ---- request.json: what was asked, as plain values, so that another process can go on with it.


NAME = "request.json"
FORMAT = 1
OBJECT = "object"
_RECORDS: dict[str, Any] = {"Choice": Choice, "Preprocessing": Preprocessing}
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFile:
    """A request with all that its outcome depends on and that is not in the data.

    `place` is the working directory that relative paths began from, `start` the SHA-256 of
    the start's tensors, `objects` names the options that were Python objects: they are None
    in `request`. `around` is what of the computer and its packages changes results.
    """

    request: Request
    place: Path
    base: str
    around: Mapping[str, Any]
    objects: tuple[str, ...] = ()


def write_request(folder: Path, asked: Request, base: str, around: Mapping[str, Any]) -> None:
    """Write request.json for a run that begins here and now.

    A plan that was read from a file is written out, for the file may change.
    """
    write_json(
        folder / NAME,
        {
            "format": FORMAT,
            "place": os.getcwd(),
            "base": base,
            "around": around,
            "asked": as_plain(asked),
        },
    )


def as_plain(asked: Request) -> dict[str, Any]:
    """Every field of a request as JSON."""
    return {f.name: encoded(getattr(asked, f.name)) for f in fields(asked)}


def read_request(run: Path) -> RequestFile:
    """What was asked of a run. Raises: RunFolderError if it is not known, or is damaged."""
    path = run / NAME
    try:
        told = json.loads(path.read_text("utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}, this version reads {FORMAT}")
        asked = told["asked"]
        objects = tuple(name for name, value in asked.items() if _is_object(value))
        known = {f.name for f in fields(Request)}
        return RequestFile(
            request=Request(**{name: decoded(asked[name]) for name in asked if name in known}),
            place=Path(told["place"]),
            base=told["base"],
            around=told["around"],
            objects=objects,
        )
    except FileNotFoundError:
        raise RunFolderError(
            f"{run} has no {NAME}: it is no run that can go on. Name a folder in which "
            "`warmstart fit` was stopped, or begin a new one with `warmstart fit`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or begin a new run with `warmstart fit`."
        ) from error


def with_objects(file: RequestFile, run: Path, given: Mapping[str, Any]) -> Request:
    """The request with its Python objects given again.

    Raises: UsageError where one is missing, or one was given that was a path or a name.
    """
    missing = [name for name in file.objects if name not in given]
    strange = [name for name in given if name not in file.objects]
    if missing:
        call = ", ".join(f"{name}=…" for name in file.objects)
        raise UsageError(
            f"{run} began in Python from objects ({', '.join(file.objects)}), which no file holds; "
            f"go on there with the same ones: warmstart.resume({str(run)!r}, {call})"
        )
    if strange:
        raise UsageError(
            f"{run} knows its {strange[0]} by itself; leave {strange[0]}= away to go on with it."
        )
    return replace(file.request, **given)


def encoded(value: Any) -> Any:
    """A value of a request as JSON; what no file can hold is named by its type.

    >>> encoded(Path("a")), encoded(("x", 1)), encoded(object())
    ({'path': 'a'}, {'tuple': ['x', 1]}, {'object': 'object'})
    """
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, os.PathLike):
        return {"path": os.fspath(value)}
    if isinstance(value, Plan):
        return {"plan": write_plan(value)}
    if type(value).__name__ in _RECORDS:
        return {"record": type(value).__name__, "value": to_plain(value)}
    if isinstance(value, frozenset) and all(isinstance(item, str) for item in value):
        return {"set": sorted(value)}
    if isinstance(value, tuple) and all(isinstance(item, _SCALARS) for item in value):
        return {"tuple": list(value)}
    return {OBJECT: type(value).__name__}


def decoded(value: Any) -> Any:
    """The value again; None for an object.

    >>> [decoded(encoded(value)) for value in (Path("a"), ("x", 1), frozenset({"b"}), 0.5)]
    [PosixPath('a'), ('x', 1), frozenset({'b'}), 0.5]
    """
    if not isinstance(value, dict):
        return value
    if "path" in value:
        return Path(value["path"])
    if "plan" in value:
        return read_plan(value["plan"])
    if "record" in value:
        return from_plain(_RECORDS[value["record"]], value["value"])
    if "set" in value:
        return frozenset(value["set"])
    return tuple(value["tuple"]) if "tuple" in value else None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and OBJECT in value
