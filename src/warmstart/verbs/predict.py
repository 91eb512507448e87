"""`warmstart predict RUN PATH…`"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.data.place import MEDIA_SUFFIXES
from warmstart.errors import DataError
from warmstart.records import Answer
from warmstart.verbs.predictor import load
from warmstart.verbs.texts import find_texts
from warmstart.words import IMAGES, Nouns, nouns_of


def predict(run: Path, paths: Sequence[str]) -> Iterator[Answer]:
    """Answer for every image; a folder stands for the images in and below it, sorted.

    A model of texts answers for each text: typed, in a .txt file, in a row of a table.
    A model for tables answers for every row of the tables that are named.

    Raises: RunFolderError if the run has no model, DataError if no image was named.
    """
    predictor = load(run)
    if predictor.kind == "text":
        return predictor.stream(find_texts(paths))
    if predictor.kind == "table":
        return predictor.stream(list(paths))
    return predictor.stream(find_images(paths, nouns_of(predictor.heard)))


def find_images(paths: Sequence[str], nouns: Nouns = IMAGES) -> list[str]:
    """Files as named, and the images, or clips, of folders.

    Raises: DataError if a folder holds no image, or nothing is there.
    """
    found: list[str] = []
    for name in paths:
        path = Path(name)
        if not path.is_dir():
            found.append(name)
            continue
        inside = [p for p in sorted(path.rglob("*")) if _is_image(p, path)]
        if not inside:
            many = nouns.many
            raise DataError(f"{name} holds no {many}; name {many}, or a folder that holds some.")
        found += map(str, inside)
    return found


def _is_image(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    # A pipe or a link that leads nowhere as well: its answer says why there is none.
    return path.suffix.lower() in MEDIA_SUFFIXES and not hidden and not path.is_dir()
