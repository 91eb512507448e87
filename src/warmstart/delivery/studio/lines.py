"""Files of JSON lines that only grow; a line is on disk before it is believed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines, forced to disk. What a kill had left of a line is cut off first."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with open(path, "ab+") as file:
        file.truncate(_whole(file))
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file, none where there is no file."""
    if not path.exists():
        return
    *whole, _ = path.read_bytes().split(b"\n")
    for line in whole:
        yield json.loads(line)


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
