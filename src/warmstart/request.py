"""The request of a run: its options, their checks, its data, its folder, request.json."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from warmstart.data.dataset import Collection, Columns
from warmstart.data.read import read
from warmstart.data.tables import ColumnSetting, with_columns
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.events import Steps
from warmstart.modalities.registry import MODALITIES, kind_options
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.planning.rules import Budget
from warmstart.planning.settings import COLUMN, Setting, Settings, parse_settings
from warmstart.planning.strategy import AUTO, Strategy, nearest, parse
from warmstart.records.data import TaskOption
from warmstart.records.findings import codes
from warmstart.records.inputs import KindOption, Preprocessing
from warmstart.records.plan import OPTIONS, Choice, Plan, Value
from warmstart.records.run_folder import RunFolder, from_plain, to_plain, write_json
from warmstart.tasks.registry import TASKS
from warmstart.training.device import check_device
from warmstart.training.trackers import check_trackers

DEFAULT_BASE = "lite0"
AUTO_BASE = "auto"  # the best base model on disk, by a ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of a run, parsed where they come from; `check` checks them."""

    data: Any
    base: Any = DEFAULT_BASE
    base_choice: Choice | None = None  # how `base` was chosen, where it was `auto`
    stream: Choice | None = None  # that the base model is offloaded to its file, and why
    arch: str | None = None
    preprocessing: Preprocessing | None = None
    strategy: Strategy = AUTO
    budget: Budget = "balanced"
    out: Path | None = None
    test: Any = None
    label: str | None = None
    group: str | None = None
    text: str | None = None  # the column that holds texts
    kind: KindOption = "auto"  # of data; auto: recognised
    task: TaskOption = "auto"  # auto: by the labels
    relabel: Path | None = None
    fix: bool = False
    ignore: tuple[str, ...] = ()  # codes of findings that are not reported
    strict: bool = False  # refuse what cannot be read instead of leaving it out
    seed: int = 0
    lr: float | None = None
    minutes: float | None = None  # for everything, from command to run folder
    elapsed: float = 0.0  # seconds of those minutes, before the run began
    device: str = "auto"
    plan: Plan | None = None  # to follow
    settings: Settings = field(default_factory=dict)  # single values of the plan, by path
    track: tuple[str, ...] = ()  # names of trackers
    given: frozenset[str] | None = None  # options set by the user; None: unknown

    @property
    def typed(self) -> frozenset[str]:
        """The options set by the user, or, where unknown, that differ from their defaults."""
        if self.given is not None:
            return self.given
        options = (f for f in fields(self) if f.name in OPTIONS)
        values = ((f.name, getattr(self, f.name), f.default) for f in options)
        return frozenset(n for n, v, default in values if v is not default and v != default)

    def setting(self, path: str) -> Value | None:
        """The value of --set, None without one."""
        return self.settings[path].value if path in self.settings else None

    @property
    def base_is_auto(self) -> bool:
        """Whether a ranking of the base models on disk is to choose."""
        return isinstance(self.base, str) and self.base == AUTO_BASE


def columns_of(request: Request) -> Columns:
    """The named columns, kind and task."""
    return Columns(**{f.name: getattr(request, f.name) for f in fields(Columns)})


def check(request: Request) -> None:
    """Refuse impossible options before anything is read.

    Raises: UsageError for an invalid value, RunFolderError for an --out in use.
    """
    choices = {"budget": get_args(Budget), "kind": kind_options(), "task": ("auto", *TASKS)}
    for name, words in choices.items():
        if (value := getattr(request, name)) not in words:
            raise UsageError(f"--{name} {value} is not one of {', '.join(words)}.")
    for name, value, example in (("lr", request.lr, "0.0003"), ("minutes", request.minutes, "5")):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"--{name} {value:g}: it needs a number above 0, such as {example}.")
    for code in request.ignore:
        if code not in (known := codes()):
            like = nearest(code, known)
            cure = f"did you mean {like}?" if like else f"they run from {known[0]} to {known[-1]}."
            raise UsageError(f"--ignore {code}: no finding has this code; {cure}")
    check_device(request.device)
    check_trackers(request.track)
    if request.base_is_auto and request.arch is not None:
        raise UsageError(
            f"--arch {request.arch} belongs to a file of weights; leave it out with --base auto."
        )
    if request.base_is_auto and request.preprocessing is not None:
        raise UsageError(
            'preprocessing belongs to one base model; leave it out with base="auto", where each '
            "brings its own."
        )
    if not isinstance(request.seed, int) or not 0 <= request.seed < 2**32:
        raise UsageError(f"--seed {request.seed} is not a whole number from 0 to 4294967295.")
    if request.out is not None:
        RunFolder.check_free(request.out)


def read_data(request: Request) -> Steps[Collection]:
    """The data of a request, with its corrected labels and column types.

    Raises: DataError as `read` and `with_columns` do, and for column types of other data.
    """
    collection = yield from read(
        request.data,
        label=request.label,
        group=request.group,
        test=request.test,
        relabel=request.relabel,
        text=request.text,
        kind=request.kind,
        task=request.task,
        strict=request.strict,
    )
    kinds = {
        path.removeprefix(COLUMN): ColumnSetting(str(one.value), f"--set {path}={one.value}")
        for path, one in request.settings.items()
        if path.startswith(COLUMN)
    }
    if MODALITIES[collection.record.kind].form == "rows":
        # What the rules chose in a plan is chosen anew.
        columns = (request.plan.columns if request.plan else None) or ()
        planned = {
            column.name: ColumnSetting(str(column.kind.value), f"the plan's {COLUMN}{column.name}")
            for column in columns
            if column.is_chosen
        }
        return with_columns(collection, {**planned, **kinds})
    if kinds:
        raise DataError(
            f"{next(iter(kinds.values())).origin}: {collection.wording.source} holds "
            f"{collection.wording.noun}s, no columns of numbers; leave it out"
        )
    return collection


def open_folder(request: Request, data_name: str) -> RunFolder:
    """The run folder: --out, or runs/<data name>, -2, -3 …; runs/latest points to it.

    Raises: RunFolderError if it cannot be made.
    """
    if request.out is not None:
        return RunFolder.create(request.out)
    folder = RunFolder.create_beside(Path("runs"), folder_name(data_name))
    folder.point_latest()
    return folder


def read_settings(values: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Setting]:
    """The settings of a call in Python. Raises: UsageError for another type, PlanError for a value.

    >>> read_settings({"training.epochs": 20})["training.epochs"].value
    20.0
    """
    if isinstance(values, Mapping):
        return parse_settings(f"{path}={_as_typed(value)}" for path, value in values.items())
    if values is None or (
        isinstance(values, (list, tuple)) and all(isinstance(item, str) for item in values)
    ):
        return parse_settings(values or ())
    raise UsageError(
        f"settings of type {type(values).__name__} are not read; give "
        '{"training.epochs": 20} or ["training.epochs=20"].'
    )


def _as_typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def folder_name(data_name: str) -> str:
    """The name of a data set as the name of a folder.

    >>> folder_name("my photos (2).zip")
    'my-photos-2-.zip'
    """
    return re.sub(r"[^\w.-]+", "-", data_name).strip("-.") or "data"


# ---- request.json: the request as plain values, so that another process can resume the run.


NAME = "request.json"
FORMAT = 1
OBJECT = "object"
_RECORDS: dict[str, Any] = {"Choice": Choice, "Preprocessing": Preprocessing}
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFile:
    """A request with all that its outcome depends on apart from the data.

    `place` is the working directory of relative paths, `base` the SHA-256 of the base model's
    tensors, `environment` what of the computer and its packages changes results. `objects` names
    the options that were Python objects: they are None in `request`.
    """

    request: Request
    place: Path
    base: str
    environment: Mapping[str, Any]
    objects: tuple[str, ...] = ()


def write_request(
    folder: Path, request: Request, base: str, environment: Mapping[str, Any]
) -> None:
    """Write request.json for a run that begins here and now."""
    values = {"format": FORMAT, "place": os.getcwd(), "base": base, "environment": environment}
    write_json(folder / NAME, {**values, "request": as_plain(request)})


def as_plain(request: Request) -> dict[str, Any]:
    """Every field of a request as JSON."""
    return {f.name: encoded(getattr(request, f.name)) for f in fields(request)}


def read_request(run: Path) -> RequestFile:
    """The request of a run. Raises: RunFolderError if it is missing or damaged."""
    path = run / NAME
    try:
        file = json.loads(path.read_text("utf-8"))
        if file["format"] != FORMAT:
            raise ValueError(f"its format is {file['format']}, this version reads {FORMAT}")
        values = file["request"]
        names = {f.name for f in fields(Request)}
        return RequestFile(
            request=Request(**{name: decoded(values[name]) for name in values if name in names}),
            place=Path(file["place"]),
            base=file["base"],
            environment=file["environment"],
            objects=tuple(n for n, v in values.items() if isinstance(v, dict) and OBJECT in v),
        )
    except FileNotFoundError:
        raise RunFolderError(
            f"{run} has no {NAME}: it is no run that can be resumed. Name a folder in which "
            "`warmstart fit` was stopped, or begin a new one with `warmstart fit`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or begin a new run with `warmstart fit`."
        ) from error


def with_objects(file: RequestFile, run: Path, objects: Mapping[str, Any]) -> Request:
    """The request with its Python objects.

    Raises: UsageError where one is missing, or is given for an option that was a path or a name.
    """
    missing = [name for name in file.objects if name not in objects]
    unexpected = [name for name in objects if name not in file.objects]
    if missing:
        call = ", ".join(f"{name}=…" for name in file.objects)
        raise UsageError(
            f"{run} began in Python from objects ({', '.join(file.objects)}), which no file holds; "
            f"resume it there with the same ones: warmstart.resume({str(run)!r}, {call})"
        )
    if unexpected:
        name = unexpected[0]
        raise UsageError(f"{run} knows its {name}; omit {name}= to resume it.")
    return replace(file.request, **objects)


def encoded(value: Any) -> Any:
    """A value of a request as JSON; what no file can hold is named by its type.

    >>> encoded(Path("a")), encoded(("x", 1)), encoded(object())
    ({'path': 'a'}, {'tuple': ['x', 1]}, {'object': 'object'})
    """
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, os.PathLike):
        return {"path": os.fspath(value)}
    if isinstance(value, Plan):  # its file may change
        return {"plan": write_plan(value)}
    if isinstance(value, Strategy):
        return {"strategy": str(value)}
    if isinstance(value, dict):
        return {"settings": [str(one) for one in value.values()]}
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
    if "strategy" in value:
        return parse(value["strategy"])
    if "settings" in value:
        return parse_settings(value["settings"])
    if "record" in value:
        return from_plain(_RECORDS[value["record"]], value["value"])
    if "set" in value:
        return frozenset(value["set"])
    return tuple(value["tuple"]) if "tuple" in value else None
