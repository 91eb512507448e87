"""What a user names as data: a sample, a web address or a path. Loads no decoder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from warmstart.errors import DataError, missing

PREFIX = "sample:"


def is_address(text: str) -> bool:
    """Whether a source is named by a web address, which is not read."""
    return re.match(r"[a-z0-9]+://", text, re.IGNORECASE) is not None


def check_exists(text: str) -> None:
    """Raise a DataError early, before anything heavy loads, if `text` names a missing path."""
    path = Path(text).expanduser()
    is_path = text.strip() and not text.startswith(PREFIX) and not is_address(text)
    if is_path and not os.path.exists(path):
        raise DataError(missing(path, str(Path(text))))
