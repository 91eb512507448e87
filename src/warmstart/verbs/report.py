"""`warmstart report RUN`: the report of a run, written again from its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from warmstart.data.collection import Load
from warmstart.data.named import PREFIX
from warmstart.data.read import listed
from warmstart.errors import DataError, RunFolderError, WarmstartError
from warmstart.joints.report import write_report
from warmstart.joints.request import columns_of
from warmstart.joints.requestfile import RequestFile, read_request
from warmstart.lost import no_folder


def report(run: Path) -> Path:
    """Write RUN/report.html and return its path. What an older run lacks is left out.

    Raises: RunFolderError where RUN is no finished run, or a file in it is damaged.
    """
    if not run.is_dir():
        raise RunFolderError(no_folder(run, "name a folder that `warmstart fit` wrote."))
    return write_report(run, _loader(run))


def _loader(run: Path) -> Load:
    """The bytes of the run's examples, as far as the data are where they were."""
    try:
        file = read_request(run)
        asked = file.request
        columns = columns_of(asked)
        return listed(_found(asked.data, file), columns, _found(asked.test, file)).load
    except (WarmstartError, OSError):  # the latter where a folder may not be read
        return _nothing


def _found(source: Any, file: RequestFile) -> Any:
    """A source as it was typed, from where it was typed. Raises: DataError for an object's name."""
    if source is None or (isinstance(source, str) and source.startswith(PREFIX)):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise DataError("the data were Python objects, which no file holds")
    return file.place / Path(source).expanduser()


def _nothing(id: str) -> bytes:
    raise DataError(f"{id} is not where it was")
