"""What the user asked for: checked, given a folder, turned into a plan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.errors import UsageError
from warmstart.folder import RunFolder
from warmstart.planning.build import DataFacts, Wishes, build
from warmstart.planning.rules import Budget
from warmstart.records import Choice, NetworkRecord, Plan, Preprocessing

BUDGETS = ("fast", "balanced", "thorough")
STRATEGIES = ("auto", "head", "last:0")
DEFAULT_START = "lite0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; the defaults are the product's."""

    data: Any
    start: Any = DEFAULT_START
    arch: str | None = None
    preprocessing: Preprocessing | None = None
    strategy: str = "auto"
    budget: Budget = "balanced"
    out: Path | None = None
    test: Any = None
    label: str | None = None
    group: str | None = None
    seed: int = 0


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
    if not isinstance(asked.seed, int) or not 0 <= asked.seed < 2**32:
        raise UsageError(f"--seed {asked.seed} is not a whole number from 0 to 4294967295.")
    if asked.out is not None:
        RunFolder.check_free(asked.out)


def open_folder(asked: Request, data_name: str) -> RunFolder:
    """The run folder: --out, or runs/<data name>, -2, -3 …; runs/latest points to it.

    Raises: RunFolderError if it cannot be made.
    """
    if asked.out is not None:
        return RunFolder.create(asked.out)
    name = re.sub(r"[^\w.-]+", "-", data_name).strip("-.") or "data"
    folder = RunFolder.create_beside(Path("runs"), name)
    folder.point_latest()
    return folder


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
    return build(wishes, facts, network, profile_names, engine)
