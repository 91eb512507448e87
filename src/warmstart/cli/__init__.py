"""The command line: words in, an exit code out. Nothing heavy loads before a verb runs.

Each verb is the module of its name, which has a `VERB`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmstart.cli.options import Verb


# In the order of the help.
NAMES = (
    "fit",
    "resume",
    "check",
    "predict",
    "evaluate",
    "compare",
    "rank",
    "audit",
    "export",
    "suggest",
    "serve",
    "studio",
    "report",
    "models",
    "cache",
    "completion",
)


def verb_named(name: str) -> Verb:
    """The verb of one of `NAMES`; its module is loaded when it is needed."""
    verb: Verb = import_module(f"warmstart.cli.{name}").VERB
    return verb


def all_verbs() -> tuple[Verb, ...]:
    """Every verb, for help, completion and hints."""
    return tuple(map(verb_named, NAMES))
