"""From words on the command line to a checked `Call`, or to one line that says what to do."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NoReturn

from warmstart.cli.hints import hyphened, nearest, unknown_assignment, unknown_option, unknown_verb
from warmstart.cli.options import Option, Verb
from warmstart.cli.spec import VERBS
from warmstart.errors import UsageError

ASSIGNMENT = re.compile(r"[A-Za-z][\w-]*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A verb and what was given to it; options by their name, such as "--base"."""

    verb: str
    places: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    switches: frozenset[str] = frozenset()


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is raised, never printed."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(words: Sequence[str]) -> Call:
    """Check the words of one command.

    Raises: UsageError with the line for the user.

    >>> call = parse(["fit", "photos", "--seed=3", "--json"])
    >>> call.places, call.values, sorted(call.switches)
    (('photos',), {'--seed': '3'}, ['--json'])
    """
    word, *rest = _verb_first(words)
    if word not in VERBS:
        raise unknown_verb(word, is_path=os.path.exists(word))
    verb = VERBS[word]
    cut = rest.index("--") if "--" in rest else len(rest)
    before, after = rest[:cut], rest[cut + 1 :]
    if "--help" in before or "-h" in before:
        return Call(verb=word, switches=frozenset({"--help"}))
    given, places = _options(verb, before)
    values = {name: value for name, value in given.items() if isinstance(value, str)}
    many = {name: value for name, value in given.items() if isinstance(value, list)}
    for option in verb.options:
        if option.name in values:
            _check_value(option, values[option.name])
    _check_places(verb, [*places, *after])
    return Call(
        verb=word,
        places=(*places, *after),
        values=values,
        many={name: tuple(found) for name, found in many.items()},
        switches=frozenset(given.keys() - values.keys() - many.keys()),
    )


def _verb_first(words: Sequence[str]) -> list[str]:
    """Switches may stand before the verb; options with a value may not."""
    leading = list(takewhile(lambda word: word.startswith("-"), words))
    known = {o.name for verb in VERBS.values() for o in verb.options if o.value is None} | {"-q"}
    if len(leading) == len(words) or not known.issuperset(map(hyphened, leading)):
        raise UsageError("a verb comes first, its options after it: warmstart fit DATA --seed 3")
    verb, *rest = words[len(leading) :]
    return [verb, *leading, *rest]


def _options(
    verb: Verb, words: Sequence[str]
) -> tuple[dict[str, str | bool | list[str]], list[str]]:
    words_in = [hyphened(word) if word.startswith("--") else word for word in words]
    typed = dict(zip(words_in, words, strict=True))
    parser = _Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in verb.options:
        names = [option.name, *([option.short] if option.short else [])]
        action = "store_true" if option.value is None else "append" if option.is_many else "store"
        parser.add_argument(*names, dest=option.name, action=action, default=argparse.SUPPRESS)
    try:
        namespace, rest = parser.parse_known_args(words_in)
    except argparse.ArgumentError as error:
        raise _misused(verb, error) from None
    for word in rest:
        if word.startswith("-") and word != "-":
            raise unknown_option(verb, typed[word])
        if ASSIGNMENT.match(word) and not os.path.exists(word):
            hint = unknown_assignment(verb, word)
            if hint:
                raise hint
    return vars(namespace), rest


def _misused(verb: Verb, error: argparse.ArgumentError) -> UsageError:
    name = (error.argument_name or "").split("/")[0]
    option = next((o for o in verb.options if name in (o.name, o.short)), None)
    if option is None:
        return UsageError(str(error))
    if option.value is None:
        return UsageError(f"{option.name} is a switch and takes no value.")
    return _needs_value(option)


def _needs_value(option: Option) -> UsageError:
    like = " or ".join(option.choices) or option.value
    return UsageError(f"{option.name} needs a value: {option.name} {like}")


def _check_value(option: Option, value: str) -> None:
    if not value.strip(" ,"):
        raise _needs_value(option)
    if option.name == "--seed" and not (value.isascii() and value.isdigit()):
        raise UsageError(f"--seed {value}: it needs a whole number, 0 or more.")
    if option.name == "--count" and not (value.isascii() and value.isdigit() and int(value)):
        raise UsageError(f"--count {value}: it needs a whole number, 1 or more.")
    if option.name == "--port" and not _is_port(value):
        raise UsageError(f"--port {value}: it needs a whole number from 0 to 65535.")
    if option.name == "--lr" and not _is_rate(value):
        raise UsageError(f"--lr {value}: it needs a number above 0, such as 0.0003.")
    if option.name == "--minutes" and not _is_rate(value):
        raise UsageError(f"--minutes {value}: it needs a number above 0, such as 5.")
    if not option.choices or value in (*option.choices, *option.also):
        return
    allowed = ", ".join(option.choices)
    like = nearest(value, option.choices)
    raise UsageError(
        f"{option.name} {value} is not one of {allowed}."
        + (f" Did you mean {like}?" if like else "")
    )


def _is_port(value: str) -> bool:
    return value.isascii() and value.isdigit() and int(value) < 2**16


def _is_rate(value: str) -> bool:
    try:
        return 0 < float(value) < math.inf
    except ValueError:
        return False


def _check_places(verb: Verb, places: Sequence[str]) -> None:
    usage = f"Usage: {verb.usage}"
    if len(places) < len(verb.needs):
        missing = verb.arguments[len(places)].removesuffix("...")
        raise UsageError(f"{verb.name} needs {missing}, {verb.needs[len(places)]}. {usage}")
    is_open = any(argument.endswith("...") for argument in verb.arguments)
    if not is_open and len(places) > len(verb.arguments):
        extra = places[len(verb.arguments)]
        raise UsageError(f"`{extra}` is one argument too many. {usage}")
    if verb.choices and places[0] not in verb.choices:
        like = nearest(places[0], verb.choices, likeness=0.5)
        raise UsageError(
            f"{verb.name} {places[0]} is not one of {', '.join(verb.choices)}."
            + (f" Did you mean {like}?" if like else "")
        )
