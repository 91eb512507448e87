"""File locks: one writer at a time in a cache folder, and a sign that a file is in use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    @contextmanager
    def exclusive(path: Path) -> Iterator[None]:
        """Hold the lock file `path`, alone among all threads and processes."""
        with open(path, "ab", buffering=0) as file:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

    def mark_in_use(file: FileIO) -> None:
        """Nothing to do: Windows does not remove a file that is open."""

    def is_in_use(path: Path) -> bool:
        """Whether another holder has this file open."""
        try:
            path.rename(path)
        except PermissionError:
            return True
        return False

else:
    import fcntl

    @contextmanager
    def exclusive(path: Path) -> Iterator[None]:
        """Hold the lock file `path`, alone among all threads and processes.

        The file is made where it is missing, and stays: removing a lock file would let
        two holders lock two different files of one name.
        """
        with open(path, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file gives the lock back, a killed process too

    def mark_in_use(file: FileIO) -> None:
        """Mark an open file as in use until it is closed; several may do so at once."""
        fcntl.flock(file, fcntl.LOCK_SH)

    def is_in_use(path: Path) -> bool:
        """Whether anyone, this process included, has marked the file as in use."""
        with open(path, "rb", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
