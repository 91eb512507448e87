"""The codec of a run's files: records to dicts, lists and scalars, and back."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, TypeVar

R = TypeVar("R")
_SCALARS = (float, int, str, bool)
_hints = functools.cache(typing.get_type_hints)  # slower than all the rest of reading a record


def to_plain(value: Any) -> Any:
    """Turn a record into dicts, lists and scalars; a field that is `ABSENT` and None is left out.

    >>> from warmstart.records import Tap
    >>> to_plain(Tap(part=3, pool="avg"))
    {'part': 3, 'pool': 'avg', 'of': ''}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(item) for name, item in fields_of(value).items()}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def fields_of(record: Any) -> dict[str, Any]:
    """What a record's file holds of it, not yet plain itself: for one that is written in pieces.

    Raises: TypeError for what is no record.
    """
    pairs = ((field, getattr(record, field.name)) for field in dataclasses.fields(record))
    return {
        field.name: item
        for field, item in pairs
        if item is not None or not field.metadata.get("absent")
    }


def from_plain(kind: type[R], value: Any) -> R:
    """Build a record of type `kind` from what `to_plain` gave; unknown keys are ignored.

    Raises: KeyError for a missing key, TypeError or ValueError for a value of another kind.

    >>> from warmstart.records import Tap
    >>> from_plain(Tap, {"part": 3, "pool": "avg"})
    Tap(part=3, pool='avg', of='')
    """
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        fields = [f for f in dataclasses.fields(kind) if f.name in value or _is_required(f)]
        return kind(**{f.name: from_plain(hints[f.name], value[f.name]) for f in fields})
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        union: R = _from_union(inner, value)
        return union
    if origin is tuple:
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(from_plain(k, v) for k, v in zip(each, value, strict=True))  # type: ignore[return-value]
    if origin is dict:
        return {k: from_plain(inner[1], v) for k, v in value.items()}  # type: ignore[return-value]
    if origin is typing.Literal and value not in inner:
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, inner))}")
    if kind is float and type(value) is int:
        return float(value)  # type: ignore[return-value]
    if kind in _SCALARS and type(value) is not kind:
        raise TypeError(f"{value!r} is not of kind {kind.__name__}")
    scalar: R = value
    return scalar


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _lacks(kind: Any, value: Any) -> bool:
    """Whether a value is no record of this kind, though it may be one of another kind."""
    if not (dataclasses.is_dataclass(kind) and isinstance(value, dict)):
        return False
    return any(f.name not in value for f in dataclasses.fields(kind) if _is_required(f))


def _from_union(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None:
        return None
    wants_tuple = isinstance(value, list)
    for kind in kinds:
        is_plain = kind in _SCALARS
        if is_plain and not wants_tuple and type(value) is kind:
            return value
        if not is_plain and kind is not type(None):
            is_tuple = typing.get_origin(kind) is tuple
            if is_tuple == wants_tuple and not _lacks(kind, value):
                return from_plain(kind, value)
    if float in kinds and type(value) is int:
        return float(value)
    raise TypeError(f"{value!r} is none of {', '.join(getattr(k, '__name__', '?') for k in kinds)}")


# ---- Fields that came later: where they are None, files and keys are what they were without them.


ABSENT = {"absent": True}  # metadata of such a field; `codec.to_plain` leaves it out
