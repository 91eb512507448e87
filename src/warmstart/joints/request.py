"""What the user asked for: checked, given a folder, turned into a plan."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from warmstart.data.collection import Collection
from warmstart.data.read import read
from warmstart.errors import UsageError
from warmstart.events import Steps
from warmstart.folder import RunFolder
from warmstart.planning.build import DataFacts, Wishes, build
from warmstart.planning.rules import Budget
from warmstart.records import Choice, NetworkRecord, Plan, Preprocessing

BUDGETS = ("fast", "balanced", "thorough")
STRATEGIES = ("auto", "head", "last:0")
DEFAULT_START = "lite0"
AUTO = "auto"  # the start that a ranking of those on disk chooses


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; the defaults are the product's."""

    data: Any
    start: Any = DEFAULT_START
    start_choice: Choice | None = None  # how `start` was chosen, where it was `auto`
    arch: str | None = None
    preprocessing: Preprocessing | None = None
    strategy: str = "auto"
    budget: Budget = "balanced"
    out: Path | None = None
    test: Any = None
    label: str | None = None
    group: str | None = None
    relabel: Path | None = None
    fix: bool = False
    seed: int = 0

    @property
    def start_is_auto(self) -> bool:
        """Whether a ranking of what is on disk is to choose the start."""
        return isinstance(self.start, str) and self.start == AUTO


def check(asked: Request) -> None:
    """Refuse what cannot be done before anything is read.

    Raises: UsageError for a value that is none, RunFolderError for an --out in use.
    """
    if asked.budget not in BUDGETS:
        raise UsageError(f"--budget {asked.budget} is not one of {', '.join(BUDGETS)}.")
    if asked.strategy not in STRATEGIES:
        raise UsageError(
            f"--strategy {asked.strategy} is not part of this version; "
            f"it has {' and '.join(STRATEGIES[:2])}."
        )
    if asked.start_is_auto and asked.arch is not None:
        raise UsageError(
            f"--arch {asked.arch} belongs to a file of weights; leave it away with --start auto."
        )
    if asked.start_is_auto and asked.preprocessing is not None:
        raise UsageError(
            'preprocessing belongs to one start; leave it away with start="auto", where each '
            "start brings its own."
        )
    if not isinstance(asked.seed, int) or not 0 <= asked.seed < 2**32:
        raise UsageError(f"--seed {asked.seed} is not a whole number from 0 to 4294967295.")
    if asked.out is not None:
        RunFolder.check_free(asked.out)


def read_data(asked: Request) -> Steps[Collection]:
    """The data that was named, with the labels that were corrected. Raises: DataError."""
    return read(
        asked.data, label=asked.label, group=asked.group, test=asked.test, relabel=asked.relabel
    )


def open_folder(asked: Request, data_name: str) -> RunFolder:
    """The run folder: --out, or runs/<data name>, -2, -3 …; runs/latest points to it.

    Raises: RunFolderError if it cannot be made.
    """
    if asked.out is not None:
        return RunFolder.create(asked.out)
    folder = RunFolder.create_beside(Path("runs"), folder_name(data_name))
    folder.point_latest()
    return folder


def folder_name(data_name: str) -> str:
    """The name of a data set as the name of a folder.

    >>> folder_name("my photos (2).zip")
    'my-photos-2-.zip'
    """
    return re.sub(r"[^\w.-]+", "-", data_name).strip("-.") or "data"


def plan(
    asked: Request,
    facts: DataFacts,
    network: NetworkRecord,
    profile_names: tuple[str, ...],
    engine: Choice,
) -> Plan:
    """The plan; what the user set wins and is marked as theirs."""
    given = {
        name
        for name, default in (("start", DEFAULT_START), ("strategy", "auto"), ("seed", 0))
        if getattr(asked, name) != default
    }
    start = asked.start if isinstance(asked.start, (str, Path)) else type(asked.start).__name__
    wishes = Wishes(
        start=str(start),
        strategy=asked.strategy,
        budget=asked.budget,
        seed=asked.seed,
        given=frozenset(given),
    )
    made = build(wishes, facts, network, profile_names, engine)
    return made if asked.start_choice is None else replace(made, start=asked.start_choice)
