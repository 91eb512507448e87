"""What a verb declares, and the options that several verbs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from warmstart.modalities.registry import kind_options
from warmstart.records.plan import OPTIONS
from warmstart.tasks.registry import TASKS

if TYPE_CHECKING:
    from warmstart.planning.rules import Budget
    from warmstart.request import Request


@dataclass(frozen=True, slots=True)
class Rule:
    """What the value of an option needs, in words, and the test of it."""

    needs: str
    is_valid: Callable[[str], bool]


def _is_positive(value: str) -> bool:
    try:
        return 0 < float(value) < math.inf
    except ValueError:
        return False


def _is_whole(value: str) -> bool:
    return value.isascii() and value.isdigit()


WHOLE = Rule("a whole number, 0 or more", _is_whole)
COUNT = Rule("a whole number, 1 or more", lambda value: _is_whole(value) and int(value) > 0)
PORT = Rule("a whole number from 0 to 65535", lambda value: _is_whole(value) and int(value) < 2**16)


def positive(example: str) -> Rule:
    """A number above 0, such as `example`."""
    return Rule(f"a number above 0, such as {example}", _is_positive)


@dataclass(frozen=True, slots=True)
class Option:
    """One option; the signature is that of the help: "--seed N" or "-q, --quiet"."""

    signature: str
    help: str
    words: str = ""  # its choices
    is_many: bool = False  # may be repeated
    rule: Rule | None = None

    @property
    def name(self) -> str:
        return self.signature.split(", ")[-1].split()[0]

    @property
    def short(self) -> str | None:
        return self.signature.split(", ")[0] if ", " in self.signature else None

    @property
    def value(self) -> str | None:
        """What the help calls its value; None for a switch."""
        return self.signature.partition(f"{self.name} ")[2] or None

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.words.split())


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb: its name and arguments, as in "predict RUN PATH...", and its options.

    `needs` describes each required argument. An argument that ends in "..." may be repeated; one
    in brackets is optional.
    """

    words: str
    needs: tuple[str, ...]
    short: str  # the line of `warmstart --help`
    about: str  # the first paragraph of `warmstart VERB --help`
    options: tuple[Option, ...]
    examples: tuple[str, ...]  # a purpose follows the command as a comment
    run: Callable[[Call], int]  # does the work, prints the result, returns the exit code
    is_light: bool = False  # loads no library
    is_shared: bool = False  # several processes share the work
    settles: bool = False  # calls `settle_imports` itself, once all is loaded

    @property
    def name(self) -> str:
        return self.words.split()[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(self.words.split()[1:])

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the argument takes where it is one of a few: info, clear."""
        first = self.arguments[0] if self.arguments else ""
        return tuple(first.split("|")) if first.islower() and "|" in first else ()


# ---- Options of several verbs.

BASE = Option("--base NAME", "base model (default lite0), or auto: the best one here")
ARCH = Option("--arch NAME", "architecture, where --base is a file of weights")
BUDGET = Option(
    "--budget B", "how much to try: fast, balanced (default) or thorough", "fast balanced thorough"
)
MINUTES = Option("--minutes M", "time for everything; the plan is cut to fit", rule=positive("5"))
DEVICE = Option(
    "--device D", "auto (default: a GPU if there is one), cpu, cuda or mps", "auto cpu cuda mps"
)
SET = Option(
    "--set PATH=V",
    "one value of the plan, such as training.epochs=20 or block.18.action=frozen",
    is_many=True,
)
TEST = Option("--test DATA", "test set: evaluate the finished model on it, once")
LABEL = Option("--label COLUMN", "column of the class, or several 0/1 columns: A,B")
TEXT = Option("--text COLUMN", "column of the texts")
TASK = Option(
    "--task T",
    "auto (default), classify, multilabel or regress (a number)",
    " ".join(("auto", *TASKS)),
)
GROUP = Option("--group COLUMN", "column of groups that are never split (a person, a visit)")
KIND = Option(
    "--kind K",
    "image, audio, text or table (default auto: detected)",
    " ".join(kind_options()),
)
RELABEL = Option(
    "--relabel FILE", "table of corrected labels (path,label); an empty label leaves the image out"
)
FIX = Option(
    "--fix",
    "leave out near-duplicates of test images, exact copies and conflicts; lists them in clean.csv",
)
IGNORE = Option("--ignore CODE,...", "findings not to report, such as WS102 (docs/findings.md)")
STRICT = Option(
    "--strict",
    "refuse unreadable files instead of leaving them out; exit with 4 if the result is not ready",
)
READ_ALL = Option("--strict", "refuse unreadable files instead of leaving them out")
SEED = Option("--seed N", "number that fixes every random draw (default 0)", rule=WHOLE)
JSON = Option("--json", "print the result as JSON on stdout")
QUIET = Option("-q, --quiet", "no progress, only the result and errors")
DEBUG = Option("--debug", "show the traceback of an error")
HELP = Option("-h, --help", "show this text")
READING = (LABEL, TEXT, TASK, GROUP, KIND, RELABEL, FIX, IGNORE, STRICT)  # how DATA is read
PLAIN = (JSON, DEBUG, HELP)
COMMON = (JSON, QUIET, DEBUG, HELP)  # of verbs that show progress
RUN = "the folder that `warmstart fit` wrote"
DATA = "the labelled images"


# ---- A call as the request of a run.


def request_of(call: Call) -> Request:
    """The request of a run; options that were not typed have their defaults."""
    from warmstart.planning.plan_file import open_plan
    from warmstart.planning.settings import parse_settings
    from warmstart.planning.strategy import parse
    from warmstart.records.run_folder import seconds_alive
    from warmstart.request import Request

    values, settings = call.values, call.many.get("--set", ())
    if parallel := values.get("--parallel"):
        settings = (*settings, f"training.parallel={parallel}")
    return Request(
        data=call.places[0],
        base=values.get("--base", "lite0"),
        arch=values.get("--arch"),
        strategy=parse(values.get("--strategy", "auto")),
        budget=cast("Budget", values.get("--budget", "balanced")),
        out=call.path("--out"),
        label=values.get("--label"),
        group=values.get("--group"),
        text=values.get("--text"),
        kind=values.get("--kind", "auto"),
        task=values.get("--task", "auto"),
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
        plan=open_plan(Path(values["--plan"])) if "--plan" in values else None,
        settings=parse_settings(settings),
        track=names_in(values.get("--track", "")),
        given=frozenset(name.removeprefix("--") for name in values) & OPTIONS,
    )


def names_in(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
