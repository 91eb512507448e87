"""From the words of a command line to a checked `Call`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NoReturn

from warmstart.cli import NAMES, all_verbs, hints, verb_named
from warmstart.cli.options import Call, Option, Verb
from warmstart.errors import UsageError

ASSIGNMENT = re.compile(r"[A-Za-z][\w-]*=")


class _Parser(argparse.ArgumentParser):
    """argparse that raises an error instead of printing it."""

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
    if word not in NAMES:
        raise hints.unknown_verb(word, is_path=os.path.exists(word))
    verb = verb_named(word)
    cut = rest.index("--") if "--" in rest else len(rest)
    before, after = rest[:cut], rest[cut + 1 :]
    if "--help" in before or "-h" in before:
        return Call(verb=word, switches=frozenset({"--help"}))
    options, places = _options(verb, before)
    places += after
    values = {name: value for name, value in options.items() if isinstance(value, str)}
    many = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    for option in verb.options:
        if option.name in values:
            _check_value(option, values[option.name])
    _check_places(verb, places)
    switches = frozenset(options.keys() - values.keys() - many.keys())
    return Call(verb=word, places=tuple(places), values=values, many=many, switches=switches)


def _verb_first(words: Sequence[str]) -> list[str]:
    """Switches may stand before the verb; options with a value may not."""
    leading = list(takewhile(lambda word: word.startswith("-"), words))
    switches = {o.name for verb in all_verbs() for o in verb.options if o.value is None} | {"-q"}
    if len(leading) == len(words) or not switches.issuperset(map(hints.hyphenated, leading)):
        raise UsageError("a verb comes first, its options after it: warmstart fit DATA --seed 3")
    verb, *rest = words[len(leading) :]
    return [verb, *leading, *rest]


def _options(
    verb: Verb, words: Sequence[str]
) -> tuple[dict[str, str | bool | list[str]], list[str]]:
    """Options by name, and the other words."""
    hyphens = [hints.hyphenated(word) if word.startswith("--") else word for word in words]
    typed = dict(zip(hyphens, words, strict=True))
    parser = _Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in verb.options:
        names = [option.name, *([option.short] if option.short else [])]
        action = "store_true" if option.value is None else "append" if option.is_many else "store"
        parser.add_argument(*names, dest=option.name, action=action, default=argparse.SUPPRESS)
    try:
        namespace, rest = parser.parse_known_args(hyphens)
    except argparse.ArgumentError as error:
        raise _misuse(verb, error) from None
    for word in rest:
        if word.startswith("-") and word != "-":
            raise hints.unknown_option(verb, typed[word])
        if ASSIGNMENT.match(word) and not os.path.exists(word):
            hint = hints.unknown_assignment(verb, word)
            if hint:
                raise hint
    return vars(namespace), rest


def _misuse(verb: Verb, error: argparse.ArgumentError) -> UsageError:
    name = (error.argument_name or "").split("/")[0]
    option = next((o for o in verb.options if name in (o.name, o.short)), None)
    if option is None:
        return UsageError(str(error))
    if option.value is None:
        return UsageError(f"{option.name} is a switch and takes no value.")
    return _needs_value(option)


def _needs_value(option: Option) -> UsageError:
    example = " or ".join(option.choices) or option.value
    return UsageError(f"{option.name} needs a value: {option.name} {example}")


def _check_value(option: Option, value: str) -> None:
    if not value.strip(" ,"):
        raise _needs_value(option)
    if option.rule and not option.rule.is_valid(value):
        raise UsageError(f"{option.name} {value}: it needs {option.rule.needs}.")
    if option.choices and value not in option.choices:
        raise _no_choice(option.name, value, option.choices)


def _no_choice(name: str, value: str, choices: Sequence[str], likeness: float = 0.7) -> UsageError:
    like = hints.nearest(value, choices, likeness)
    hint = f" Did you mean {like}?" if like else ""
    return UsageError(f"{name} {value} is not one of {', '.join(choices)}.{hint}")


def _check_places(verb: Verb, places: Sequence[str]) -> None:
    usage = f"Usage: warmstart {verb.words} [options]"
    if len(places) < len(verb.needs):
        missing = verb.arguments[len(places)].removesuffix("...")
        raise UsageError(f"{verb.name} needs {missing}, {verb.needs[len(places)]}. {usage}")
    is_open = any(argument.endswith("...") for argument in verb.arguments)
    if not is_open and len(places) > len(verb.arguments):
        extra = places[len(verb.arguments)]
        raise UsageError(f"`{extra}` is one argument too many. {usage}")
    if verb.choices and places[0] not in verb.choices:
        raise _no_choice(verb.name, places[0], verb.choices, likeness=0.5)
