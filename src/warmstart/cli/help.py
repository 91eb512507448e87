"""The help texts, written from the table of verbs; short enough for one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from warmstart import __version__
from warmstart.cli.options import Option, Verb
from warmstart.cli.spec import VERBS

WIDTH = 80


def root_help() -> str:
    """The text of `warmstart --help`: what there is, and what to type first."""
    verbs = [(f"{verb.name} {' '.join(verb.arguments)}", verb.short) for verb in VERBS.values()]
    return "\n".join(
        [
            f"warmstart {__version__}: teach a network that already knows many images your own",
            "classes, on this computer, and learn how far its answers can be trusted.",
            "",
            "Usage: warmstart VERB ...     (warmstart VERB --help explains a verb)",
            "",
            *_columns(verbs, left=26),
            "",
            "DATA is a folder with one sub-folder a class (photos/cat/1.jpg), a table or an",
            "archive. RUN is the folder that fit writes, such as runs/photos.",
            "",
            "Examples:",
            *_examples(
                [
                    ("warmstart fit sample:digits", "no images of your own needed"),
                    ("warmstart fit photos/", "photos/<class>/*.jpg"),
                    ("warmstart predict runs/photos new.jpg", ""),
                ]
            ),
        ]
    )


def verb_help(verb: Verb) -> str:
    """The text of `warmstart VERB --help`."""
    options = [(_signature(option), option.help) for option in verb.options]
    return "\n".join(
        [
            f"Usage: {verb.usage}",
            "",
            *textwrap.wrap(verb.about, WIDTH),
            "",
            "Options:",
            *_columns(options, left=20),
            "",
            "Examples:",
            *_examples(verb.examples),
        ]
    )


def _signature(option: Option) -> str:
    names = f"{option.short}, {option.name}" if option.short else option.name
    return f"{names} {option.value}" if option.value else names


def _columns(rows: Iterable[tuple[str, str]], left: int) -> list[str]:
    lines: list[str] = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - left - 2)
        lines.append(f"  {name:<{left}}{wrapped[0]}")
        lines += [" " * (left + 2) + line for line in wrapped[1:]]
    return lines


def _examples(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    left = max((len(command) for command, why in rows if why), default=0) + 3
    return [f"  {command:<{left}}# {why}" if why else f"  {command}" for command, why in rows]
