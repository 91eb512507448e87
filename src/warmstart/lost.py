"""Words for a path that is not there."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def missing(path: Path, shown: str, otherwise: str = "check the spelling") -> str:
    """Name the first part of the path that is missing, and its nearest sibling.

    `otherwise` is said where nothing beside it has a name like it.
    """
    if path.is_symlink():
        return f"{shown} is a link that leads nowhere; point it to the data"
    lost = path
    while not os.path.exists(lost.parent) and lost.parent != lost:
        lost = lost.parent
    siblings = sorted(os.listdir(lost.parent)) if os.access(lost.parent, os.R_OK) else []
    if lost != path:
        siblings = [name for name in siblings if (lost.parent / name).is_dir()]
    near = difflib.get_close_matches(lost.name, siblings, 1)
    hint = f"did you mean {lost.with_name(near[0])}?" if near else otherwise
    what = "" if lost == path else f" ({lost} is missing)"
    return f"{shown} does not exist{what}; {hint}"


def no_folder(path: Path, otherwise: str) -> str:
    """What to say of a path that should have been a folder, and is none."""
    if path.exists():
        return f"{path} is a file; {otherwise}"
    return missing(path, str(path), otherwise)
