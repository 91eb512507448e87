"""Which folders are the training, hold-out and test part, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.data.collection import some
from warmstart.errors import DataError
from warmstart.records import Split

SPLITS: dict[str, Split] = {
    "train": "train",
    "val": "holdout",
    "valid": "holdout",
    "validation": "holdout",
    "dev": "holdout",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One folder of class folders; `path` is "" for the place itself."""

    path: str
    split: Split

    def below(self, file: str) -> str | None:
        """The path of a file as seen from here, None if it lies elsewhere."""
        if not self.path:
            return file
        return file[len(self.path) + 1 :] if file.startswith(self.path + "/") else None


def find_parts(shown: str, tops: Sequence[str]) -> list[Part]:
    """The parts among the top folders, the training part first; the place itself if none is one.

    Raises: DataError if there is a part but none to train on, or a folder beside the parts.

    >>> [part.split for part in find_parts("photos", ["test", "train"])]
    ['train', 'test']
    >>> find_parts("photos", ["bus", "car", "train"])
    [Part(path='', split='train')]
    """
    known = [Part(top, SPLITS[top.casefold()]) for top in tops if top.casefold() in SPLITS]
    splits = {part.split for part in known}
    others = [top for top in tops if top.casefold() not in SPLITS]
    if len(splits) > 1 and "train" in splits and others:
        raise DataError(
            f"{shown}/ holds {' and '.join(part.path + '/' for part in known)} but also "
            f"{some(top + '/' for top in others)}, which is no part; move it elsewhere"
        )
    if others or not known:  # "train" may also be a class, beside "bus" and "car"
        return [Part("", "train")]
    if "train" not in splits:
        raise DataError(
            f"{shown}/ holds {' and '.join(part.path + '/' for part in known)} but no train/; "
            "add it, or name the folder that holds the class folders"
        )
    order = ("train", "holdout", "test")
    return sorted(known, key=lambda part: order.index(part.split))
