"""A path that is not there: said before anything heavy loads."""

from __future__ import annotations

import os
import re
from pathlib import Path

from warmstart.errors import DataError
from warmstart.lost import missing

PREFIX = "sample:"


def is_address(text: str) -> bool:
    """Whether a source is named by a web address, which is not read.

    >>> is_address("https://example.org/photos.zip"), is_address("photos")
    (True, False)
    """
    return re.match(r"[a-z0-9]+://", text, re.IGNORECASE) is not None


def look_for(text: str) -> None:
    """Raises: DataError where `text` names a path, and nothing is there.

    >>> look_for("sample:digits")
    """
    path = Path(text).expanduser()
    is_path = text.strip() and not text.startswith(PREFIX) and not is_address(text)
    if is_path and not os.path.exists(path):
        raise DataError(missing(path, str(Path(text))))
