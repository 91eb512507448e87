"""What a verb and an option are, and the options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a verb. `value` is what the help calls its value; None for a switch."""

    name: str
    help: str
    value: str | None = None
    choices: tuple[str, ...] = ()
    also: tuple[str, ...] = ()  # other words for a choice
    short: str | None = None
    is_many: bool = False  # may be given several times


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb: the arguments it takes, in order, and its options.

    `needs` tells, per argument that must be there, what it is. An argument that ends in
    "..." may be given many times; one in brackets may be left away.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    short: str  # the line of `warmstart --help`
    about: str  # the first paragraph of `warmstart VERB --help`
    options: tuple[Option, ...]
    examples: tuple[tuple[str, str], ...]  # command, what it is for

    @property
    def usage(self) -> str:
        """`warmstart predict RUN PATH... [options]`."""
        return f"warmstart {self.name} {' '.join(self.arguments)} [options]"

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the only argument may be, where it is one of a few: info, clear."""
        first = self.arguments[0] if self.arguments else ""
        return tuple(first.split("|")) if first.islower() and "|" in first else ()


JSON = Option(name="--json", help="print the result as JSON on stdout")
DEBUG = Option(name="--debug", help="on an error, show where in the program it arose")
HELP = Option(name="--help", short="-h", help="show this text")
LABEL = Option(
    name="--label",
    value="COLUMN",
    help="column that holds the class, or several: A,B of 0 and 1",
)
TASK = Option(
    name="--task",
    value="T",
    choices=("auto", "classify", "multilabel", "regress"),
    help="auto (default), classify, multilabel or regress (a number)",
)
GROUP = Option(
    name="--group",
    value="COLUMN",
    help="column of what belongs together (a person, a visit)",
)
KIND = Option(
    name="--kind",
    value="K",
    choices=("auto", "image", "audio", "text", "table"),
    help="image, audio, text or table (default auto: as it looks)",
)
TEXT = Option(name="--text", value="COLUMN", help="column of the table that holds texts")
SEED = Option(name="--seed", value="N", help="number that fixes every random draw (default 0)")
QUIET = Option(name="--quiet", short="-q", help="no progress, only the result and errors")
BASE = Option(
    name="--base",
    value="NAME",
    help="network to begin from (default lite0), or auto: the best of `warmstart models`",
)
ARCH = Option(name="--arch", value="NAME", help="its design, where --base is a file of weights")
RELABEL = Option(
    name="--relabel",
    value="FILE",
    help="table of corrected labels (path,label); an empty label leaves the image out",
)
FIX = Option(
    name="--fix",
    help="leave out copies of test images, exact copies and conflicts; lists them in clean.csv",
)
IGNORE = Option(
    name="--ignore",
    value="CODE,...",
    help="findings that are not reported, such as WS102 (docs/findings.md lists them)",
)
STRICT = Option(
    name="--strict",
    help="refuse unreadable files instead of leaving them out; exit with 4 if the result is not "
    "ready",
)
READ_ALL = Option(name="--strict", help="refuse unreadable files instead of leaving them out")
BUDGET = Option(
    name="--budget",
    value="B",
    choices=("fast", "balanced", "thorough"),
    help="how much to try: fast, balanced (default) or thorough",
)
MINUTES = Option(
    name="--minutes",
    value="M",
    help="time for everything; the plan is cut to fit",
)
DEVICE = Option(
    name="--device",
    value="D",
    choices=("auto", "cpu", "cuda", "mps"),
    help="auto (default: a GPU where there is one), cpu, cuda or mps",
)
PARALLEL = Option(
    name="--parallel",
    value="P",
    help="processes share data (default); fsdp: weights too; pipeline:N: layers",
)
SET = Option(
    name="--set",
    value="PATH=V",
    is_many=True,
    help="one value of the plan, such as training.epochs=20 or block.18.action=frozen",
)
TEST = Option(name="--test", value="DATA", help="images to measure the finished model on, once")
