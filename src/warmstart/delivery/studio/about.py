"""What a studio's folder says of itself: project.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from warmstart.errors import RunFolderError, UsageError
from warmstart.folder import read_json
from warmstart.records import Task
from warmstart.records.absent import ABSENT

FACTS = "project.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """project.json. `source`: the data set it was begun from, nothing where there was none.

    `called`: what the data call their number.
    """

    name: str
    source: str = ""
    format: int = FORMAT
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class a picture
    called: str | None = field(default=None, metadata=ABSENT)


def about_of(path: Path, source: str) -> About:
    """Raises: RunFolderError for a later format, UsageError for another source."""
    about = read_json(path / FACTS, About)
    if about.format > FORMAT:
        raise RunFolderError(
            f"{path} was made by a later version of warmstart; open it with that one."
        )
    if source and source != about.source:
        begun = f"was begun from {about.source}" if about.source else "was begun without data"
        raise UsageError(f"{path} {begun}, not from {source}; choose another --out.")
    return about
