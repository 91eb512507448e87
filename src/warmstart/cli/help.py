"""Help texts, short enough for one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from warmstart import __version__
from warmstart.cli import all_verbs
from warmstart.cli.options import Verb

WIDTH = 80


def root_help() -> str:
    examples = (
        "warmstart fit sample:digits  # needs no images of yours",
        "warmstart fit photos/  # photos/<class>/*.jpg",
        "warmstart predict runs/photos new.jpg",
    )
    lines = [
        f"warmstart {__version__}: fine-tune a pretrained network on your own images, on this",
        "computer, and measure how far its predictions can be trusted.",
        "",
        "Usage: warmstart VERB ...     (warmstart VERB --help explains a verb)",
        "",
        *_columns([(verb.words, verb.short) for verb in all_verbs()], left=26),
        "",
        "DATA is a folder with one sub-folder per class (photos/cat/1.jpg), a table or an",
        "archive. RUN is the folder that fit writes, such as runs/photos.",
        "",
        "Examples:",
        *_examples(examples),
    ]
    return "\n".join(lines)


def verb_help(verb: Verb) -> str:
    options = [(option.signature, option.help) for option in verb.options]
    lines = [
        f"Usage: warmstart {verb.words} [options]",
        "",
        *textwrap.wrap(" ".join(verb.about.split()), WIDTH),
        "",
        "Options:",
        *_columns(options, left=20),
        "",
        "Examples:",
        *_examples(verb.examples),
    ]
    return "\n".join(lines)


def _columns(rows: Iterable[tuple[str, str]], left: int) -> list[str]:
    lines: list[str] = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - left - 2)
        lines.append(f"  {name:<{left}}{wrapped[0]}")
        lines += [" " * (left + 2) + line for line in wrapped[1:]]
    return lines


def _examples(examples: Sequence[str]) -> list[str]:
    rows = [example.partition("  # ") for example in examples]
    left = max((len(command) for command, _, purpose in rows if purpose), default=0) + 3
    return [f"  {command:<{left}}# {why}" if why else f"  {command}" for command, _, why in rows]
