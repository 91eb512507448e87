"""From the words of a command line to a checked `Call`, and from a `fit` call to a `Request`."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from warmstart.cli import hints
from warmstart.cli.spec import VERBS, Option, Verb
from warmstart.errors import UsageError

if TYPE_CHECKING:
    from warmstart.data.labels import TaskOption
    from warmstart.planning.rules import Budget
    from warmstart.records.inputs import KindOption
    from warmstart.request import Request

ASSIGNMENT = re.compile(r"[A-Za-z][\w-]*=")
PLANNED = frozenset({"base", "arch", "strategy", "budget", "seed", "lr"})  # a plan has them too


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A verb with its arguments; options by their name, such as "--base"."""

    verb: str
    places: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    switches: frozenset[str] = frozenset()

    def path(self, name: str) -> Path | None:
        """The value of an option as a path, if there is one."""
        return Path(self.values[name]) if name in self.values else None


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
    if word not in VERBS:
        raise hints.unknown_verb(word, is_path=os.path.exists(word))
    verb = VERBS[word]
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
    switches = {o.name for verb in VERBS.values() for o in verb.options if o.value is None} | {"-q"}
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


def _is_positive(value: str) -> bool:
    try:
        return 0 < float(value) < math.inf
    except ValueError:
        return False


def _is_whole(value: str) -> bool:
    return value.isascii() and value.isdigit()


# What an option needs, and the test of it.
_RULES = {
    "--seed": ("a whole number, 0 or more", _is_whole),
    "--count": ("a whole number, 1 or more", lambda value: _is_whole(value) and int(value) > 0),
    "--port": ("a whole number from 0 to 65535", lambda n: _is_whole(n) and int(n) < 2**16),
    "--lr": ("a number above 0, such as 0.0003", _is_positive),
    "--minutes": ("a number above 0, such as 5", _is_positive),
}


def _check_value(option: Option, value: str) -> None:
    if not value.strip(" ,"):
        raise _needs_value(option)
    need, is_valid = _RULES.get(option.name, ("", lambda value: True))
    if not is_valid(value):
        raise UsageError(f"{option.name} {value}: it needs {need}.")
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


# ---- A call as the request of a run.


def request_of(call: Call) -> Request:
    """The request of a run; options that were not typed have their defaults."""
    from warmstart.records.recording import seconds_alive
    from warmstart.request import Request

    values, parallel = call.values, call.values.get("--parallel")
    return Request(
        data=call.places[0],
        base=values.get("--base", "lite0"),
        arch=values.get("--arch"),
        strategy=values.get("--strategy", "auto"),
        budget=cast("Budget", values.get("--budget", "balanced")),
        out=call.path("--out"),
        label=values.get("--label"),
        group=values.get("--group"),
        text=values.get("--text"),
        kind=cast("KindOption", values.get("--kind", "auto")),
        task=cast("TaskOption", values.get("--task", "auto")),
        test=values.get("--test"),
        relabel=call.path("--relabel"),
        fix="--fix" in call.switches,
        ignore=names_in(values.get("--ignore", "")),
        strict="--strict" in call.switches,
        seed=int(values.get("--seed", "0")),
        lr=float(values["--lr"]) if "--lr" in values else None,
        minutes=float(values["--minutes"]) if "--minutes" in values else None,
        elapsed=seconds_alive(),
        device=values.get("--device", "auto"),
        plan=call.path("--plan"),
        settings=(
            *call.many.get("--set", ()),
            *([] if parallel is None else [f"training.parallel={parallel}"]),
        ),
        track=names_in(values.get("--track", "")),
        given=frozenset(name.removeprefix("--") for name in values) & PLANNED,
    )


def names_in(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
