"""A job in a process that is not the first of several: the same work, in a folder of its own.

It does all that the first does; its folder ends with it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from warmstart.distributed import here
from warmstart.events import Steps
from warmstart.request import Request
from warmstart.run.deliver import Finished
from warmstart.run.journal import FOLDER
from warmstart.run.resume import Fit, resume
from warmstart.training.checkpoint import JOINT


def fit_along(asked: Request, fit: Callable[[Request], Steps[Finished]]) -> Steps[Finished]:
    """A new run, beside the first process's. Raises: as `fit`, the flow."""
    with _own_folder() as place:
        return (yield from fit(replace(asked, out=place / "run", track=())))


def resume_along(run: Path, fit: Fit, objects: dict[str, object] | None = None) -> Steps[Finished]:
    """One that goes on, from a copy of the folder as the first process finds it.

    Raises: as `resume`.
    """
    with _own_folder() as place:
        if run.is_dir():
            shutil.copytree(run, place / "run", ignore=shutil.ignore_patterns(JOINT))
            for kept in (run / FOLDER).glob(JOINT):  # as large as the network: seen, not copied
                (place / "run" / FOLDER / kept.name).symlink_to(kept.resolve())
        here().gathered(None)  # the first goes on now
        return (yield from resume(place / "run", fit, objects))


@contextmanager
def _own_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="warmstart-") as place:
        yield Path(place)
