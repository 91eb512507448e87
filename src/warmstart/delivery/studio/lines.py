"""Files of JSON lines that only grow; a line is on disk before it is believed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import RunFolderError


def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines, forced to disk: all of them, or none. What a kill had left of one is cut off."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with open(path, "ab+") as file:
        end = _whole(file)
        file.truncate(end)
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)  # else a step would be there that the person was told had failed
            raise


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a file with their numbers, none where there is no file.

    Raises: RunFolderError for a line that is damaged.
    """
    if not path.exists():
        return
    *whole, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        try:
            told = json.loads(line)
        except ValueError as error:
            raise damaged(path, number, error) from None
        if not isinstance(told, dict):
            raise damaged(path, number, "it is no object")
        yield number, told


def damaged(path: Path, number: int, why: object) -> RunFolderError:
    """The error for a line that cannot be used."""
    return RunFolderError(
        f"{path}, line {number} is damaged ({why}); remove that line, or put the file back."
    )


def _whole(file: Any) -> int:
    """Where the last whole line ends."""
    end = int(file.seek(0, os.SEEK_END))
    while end:
        begin = max(end - 4096, 0)
        file.seek(begin)
        place = file.read(end - begin).rfind(b"\n")
        if place >= 0:
            return begin + int(place) + 1
        end = begin
    return 0
