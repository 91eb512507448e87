"""request.json: what was asked, as plain values, so that another process can go on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from warmstart.errors import RunFolderError, UsageError
from warmstart.folder import from_plain, to_plain, write_json
from warmstart.joints.request import Request
from warmstart.planning.planfile import read_plan, write_plan
from warmstart.records import Choice, Plan, Preprocessing

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
    start: str
    around: Mapping[str, Any]
    objects: tuple[str, ...] = ()


def write_request(folder: Path, asked: Request, start: str, around: Mapping[str, Any]) -> None:
    """Write request.json for a run that begins here and now.

    A plan that was read from a file is written out, for the file may change.
    """
    write_json(
        folder / NAME,
        {
            "format": FORMAT,
            "place": os.getcwd(),
            "start": start,
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
            place=Path(told["place"]), start=told["start"], around=told["around"], objects=objects,
        )  # fmt: skip
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
