"""Where an export goes: made beside its place, and moved there when it has been checked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warmstart.errors import UsageError
from warmstart.records.run_folder import sync_folder

_FILES = (".onnx", ".pt2", ".pt", ".pth", ".xml", ".bin", ".safetensors", ".zip")


def free_place(run: Path, name: str, out: Path | None) -> Path:
    """`out`, or RUN/export/NAME, with -2, -3 … where that is taken.

    Raises: UsageError if `out` is in use, or named like a file.
    """
    if out is None:
        place, n = run / "export" / name, 1
        while _is_taken(place):
            n += 1
            place = run / "export" / f"{name}-{n}"
        return place
    if out.suffix.lower() in _FILES:
        raise UsageError(
            f"--out {out}: an export is a folder (model, labels, card, script); "
            f"name one, such as {out.with_suffix('')}-{out.suffix[1:].lower()}."
        )
    if _is_taken(out):
        raise UsageError(
            f"--out {out} exists and is not empty; nothing was changed. Name another folder."
        )
    return out


def _is_taken(place: Path) -> bool:
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        return True
    return place.is_dir() and any(place.iterdir())


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new folder next to `place`; it becomes `place` if nothing is raised, else it goes.

    Raises: UsageError if no folder can be made there.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name[:40]}-", dir=place.parent))
    except OSError as error:
        raise UsageError(f"{place} cannot be written ({error.strerror}); name another.") from error
    try:
        yield made
        _settle(made, place)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _settle(made: Path, place: Path) -> None:
    """Move a finished folder to its place. Raises: UsageError if that was taken meanwhile."""
    made.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
    for path in sorted(made.iterdir()):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    try:
        if place.is_dir() and not place.is_symlink():
            place.rmdir()  # only if it is empty
        os.rename(made, place)
    except OSError as error:
        raise UsageError(
            f"{place} cannot be written ({error.strerror}); nothing was changed. Name another."
        ) from error
    sync_folder(place.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
