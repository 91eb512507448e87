"""The command that makes a run again, from what its folder says of it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from warmstart.delivery.report import Repeat
from warmstart.joints.request import Request
from warmstart.joints.requestfile import NAME, OBJECT, decoded

OPTIONS = (
    "start", "arch", "strategy", "budget", "lr", "minutes", "test", "label", "text", "kind",
    "task", "group", "relabel", "seed",
)  # fmt: skip
_USUAL = {field.name: field.default for field in fields(Request)}


def repeat_of(run: Path, place: str) -> Repeat:
    """What a run was asked, as a command and as words for further ones.

    `place` is the folder as it was named. Where request.json is missing there is no command.
    """
    told = _read(run / NAME)
    asked = told.get("asked")
    rows = tuple(_rows(told, _read(run / "env.json")))
    if not isinstance(asked, Mapping):
        return Repeat(command="", data="DATA", budget="", is_own_strategy=False, rows=rows)
    data = _word(asked.get("data")) or "DATA"
    return Repeat(
        command=_command(asked, data, place),
        data=data,
        budget=str(asked.get("budget", "")),
        is_own_strategy=asked.get("strategy", "auto") != "auto" or asked.get("plan") is not None,
        is_timed=asked.get("minutes") is not None,
        options=dict(_options(asked)),
        rows=rows,
    )


def _command(asked: Mapping[str, Any], data: str, place: str) -> str:
    """`warmstart fit`, or the call in Python where an object was given."""
    if any(isinstance(value, Mapping) and OBJECT in value for value in asked.values()):
        return f"warmstart.fit(…, seed={asked.get('seed', 0)})  # began in Python, from objects"
    words = ["warmstart fit", data, *(words for _, words in _options(asked))]
    if asked.get("plan") is not None:
        words += ["--plan", shlex.quote(f"{place}/plan.toml")]
    if asked.get("device") not in (None, "auto"):
        words += ["--device", _word(asked["device"])]
    settings = asked.get("settings")
    for setting in decoded(settings) or () if settings is not None else ():
        words += ["--set", shlex.quote(setting)]
    return " ".join([*words, *(["--fix"] if asked.get("fix") else [])])


def _options(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and words of each option that differs from the usual; none for an object."""
    for name in OPTIONS:
        value = decoded(asked.get(name))
        if value is not None and value != _USUAL[name]:
            yield name, f"--{name} {_word(value)}"


def _word(value: Any) -> str:
    """A value as it is typed; nothing for what no command can name."""
    plain = decoded(value)
    if plain is None or isinstance(plain, bool):
        return ""
    text = os.fspath(plain) if isinstance(plain, os.PathLike) else plain
    if isinstance(text, float) and text.is_integer():
        text = int(text)  # 5 minutes; of other numbers every digit counts
    return shlex.quote(str(text))


def _rows(told: Mapping[str, Any], env: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What else the result depends on: seed, versions, processor."""
    asked, around = told.get("asked"), told.get("around")
    if isinstance(asked, Mapping):
        yield "seed", str(asked.get("seed", ""))
    if told.get("place"):
        yield "typed in", str(told["place"])
    versions = dict(env.get("packages", {}))
    if isinstance(around, Mapping):
        versions |= around.get("packages", {})
        yield "processor", str(around.get("cpu", ""))
    yield from ((name, str(env[name])) for name in ("python", "platform", "threads") if name in env)
    versions.setdefault("warmstart", env.get("warmstart", "unknown"))
    yield "warmstart", str(versions.pop("warmstart"))
    if versions:
        yield "packages", ", ".join(f"{name} {v}" for name, v in sorted(versions.items()))


def _read(path: Path) -> dict[str, Any]:
    """A file of plain values; nothing where there is none, or it is damaged."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
