"""The templates of the report. What a file or a user named is escaped, wherever it stands."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from warmstart.formatting import printable

Values = dict[str, Any]  # what a section's function computes for its template


def svg_escaped(text: str) -> str:
    """Text for an element or an attribute."""
    return escape(printable(text), quote=True)


def short(text: str, most: int) -> str:
    """Text of at most `most` letters, cut in the middle: names often differ at their end."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def _path(text: str) -> Markup:
    """A path or a command to copy; lines may break after its slashes."""
    return Markup(svg_escaped(text).replace("/", "/<wbr>"))


def _path_end(id: str) -> str:
    """The end of a long path; the whole is in the picture's description."""
    names = id.split("/")
    return id if len(names) <= 3 else "/".join(["…", *names[-2:]])


def _text(value: object) -> object:
    """Text without control characters; no line break before a per cent sign."""
    if isinstance(value, Markup):
        return value
    return printable(str(value)).replace(" %", "\xa0%")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("warmstart.reporting"),
        autoescape=True,
        finalize=_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"path": _path, "path_end": _path_end}
    return environment


def macro(template: str, name: str, *values: object) -> Markup:
    """What a macro of a template makes of values, without the line breaks of the template."""
    text = str(getattr(_environment().get_template(template).module, name)(*values))
    text = re.sub(r"(^|>)\s*\n\s*(?=<|$)", r"\1", text)
    return Markup(re.sub(r"\s*\n\s*", " ", text).strip())


def render(template: str, **values: Any) -> str:
    """The text of a template."""
    return _environment().get_template(template).render(values)
