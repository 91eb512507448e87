"""Which layout a place has: class folders, train/val/test folders, or a table inside."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from warmstart.data.collection import Columns, Listing, Row, Wording, count, some, unreadable
from warmstart.data.place import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    Place,
    suffix,
)
from warmstart.data.tables import list_table
from warmstart.errors import DataError
from warmstart.records import Finding, Split

SPLITS: dict[str, Split] = {
    "train": "train",
    "val": "holdout",
    "valid": "holdout",
    "validation": "holdout",
    "dev": "holdout",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """One folder of class folders; `path` is "" for the place itself."""

    path: str
    split: Split

    def below(self, file: str) -> str | None:
        if not self.path:
            return file
        return file[len(self.path) + 1 :] if file.startswith(self.path + "/") else None


def list_place(place: Place, columns: Columns) -> Listing:
    """Find the layout of a folder or archive and list its rows.

    A table decides if it is called metadata.*, or if it is the only one at the top and there
    are no class folders. Then come train/val/test folders, then class folders.
    Raises: DataError if no layout fits, naming what is there and what to do.
    """
    images = [file for file in place.files if suffix(file) in IMAGE_SUFFIXES]
    table = _table(place, images)
    if table is not None:
        return _list_inner_table(place, table, columns)
    if not images:
        raise DataError(_no_image(place))
    parts = _parts(place.shown, images)
    rows: list[Row] = []
    strays: list[str] = []
    for part in parts:
        found, homeless = _rows(part, images)
        if not found:
            raise DataError(_no_class(place.shown, part, homeless))
        rows += found
        strays += homeless
    train = next(part for part in parts if part.split == "train")
    _check_folders(place, train, {row.id for row in rows})
    in_parts = {row.id for row in rows} | set(strays)
    strays += [image for image in images if image not in in_parts]
    n_others = len(place.files) - len(images)
    ignored = f" ({count(n_others, 'other file')} ignored)" if n_others else ""
    names = "/".join(part.path for part in parts)
    return Listing(
        name=place.name,
        layout=(f"{names} folders" if names else "class folders") + ignored,
        title=f"{count(len(rows), 'image')} in {place.shown}/",
        rows=tuple(rows),
        load=place.load,
        wording=_wording(place.shown, train),
        problems=place.problems + _passed_over(place, strays),
    )


def class_of(folder: str) -> str:
    """A folder's name as a class name: one spelling for é, whichever system wrote it.

    >>> class_of("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", folder).strip()


def _table(place: Place, images: Sequence[str]) -> str | None:
    tables = [f for f in place.files if "/" not in f and suffix(f) in TABLE_SUFFIXES]
    for table in tables:
        if table.lower().startswith("metadata."):
            return table
    return tables[0] if len(tables) == 1 and not _has_classes(images) else None


def _has_classes(images: Sequence[str]) -> bool:
    tops = {image.split("/")[0] for image in images if "/" in image}
    if len(tops) == 1:  # train/ alone is a layout if it has folders of its own
        return tops.pop().casefold() == "train" and any(i.count("/") > 1 for i in images)
    return len(tops) > 1


def _list_inner_table(place: Place, table: str, columns: Columns) -> Listing:
    files = set(place.files)
    listing = list_table(
        place.load(table),
        shown=f"{place.shown}/{table}",
        name=place.name,
        exists=files.__contains__,
        load=place.load,
        columns=columns,
    )
    return replace(listing, problems=place.problems + listing.problems)


def _parts(shown: str, images: Sequence[str]) -> list[_Part]:
    tops = sorted({image.split("/")[0] for image in images if "/" in image})
    known = [_Part(top, SPLITS[top.casefold()]) for top in tops if top.casefold() in SPLITS]
    splits = {part.split for part in known}
    others = [top for top in tops if top.casefold() not in SPLITS]
    if len(splits) > 1 and "train" in splits and others:
        raise DataError(
            f"{shown}/ holds {' and '.join(part.path + '/' for part in known)} but also "
            f"{some(top + '/' for top in others)}, which is no part; move it elsewhere"
        )
    if others or not known:  # "train" may also be a class, beside "bus" and "car"
        return [_Part("", "train")]
    if "train" not in splits:
        raise DataError(
            f"{shown}/ holds {' and '.join(part.path + '/' for part in known)} but no train/; "
            "add it, or name the folder that holds the class folders"
        )
    order = ("train", "holdout", "test")
    return sorted(known, key=lambda part: order.index(part.split))


def _rows(part: _Part, images: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The labelled images of a part, and those that lie beside its class folders."""
    rows, strays = [], []
    for image in images:
        below = part.below(image)
        if below is None:
            continue
        folder, inside, _ = below.partition("/")
        if inside:
            rows.append(Row(id=image, label=class_of(folder), split=part.split))
        else:
            strays.append(image)
    return rows, strays


def _check_folders(place: Place, train: _Part, ids: set[str]) -> None:
    """A class folder without a usable image is a mistake to name, not a class to lose."""
    filled = {part for id in ids if (part := train.below(id)) is not None}
    classes = {below.split("/")[0] for below in filled}
    for folder in place.folders:
        below = train.below(folder)
        if below is None or not below or "/" in below or below in classes:
            continue
        found = sorted({suffix(f) or f for f in place.files if f.startswith(folder + "/")})
        what = f"only files of other kinds ({some(found)})" if found else "no image"
        raise DataError(
            f"{place.shown}/{folder} holds {what}; a class needs at least 2 images. "
            "Add some (JPEG, PNG, …) or remove the folder."
        )


def _wording(shown: str, train: _Part) -> Wording:
    root = f"{shown}/{train.path}" if train.path else shown
    return Wording(
        source=f"{root}/",
        before=f"{root}/",
        remove="the folder",
        one_class="put each class in a folder of its own, or, if the folders one level down "
        "are the classes, name the folder that holds them",
    )


def _passed_over(place: Place, strays: Sequence[str]) -> tuple[Finding, ...]:
    foreign = [file for file in place.files if suffix(file) in FOREIGN_SUFFIXES]
    return unreadable(
        dict.fromkeys(strays, "lies in no class folder"),
        f"{count(len(strays), 'image')} without a class folder left out.",
    ) + unreadable(
        {file: f"{suffix(file)} is not read; save it as JPEG or PNG" for file in foreign},
        f"{count(len(foreign), 'picture')} of a kind that is not read left out.",
    )


def _no_image(place: Place) -> str:
    links = "".join(f" ({finding.sentence.rstrip('.')})" for finding in place.problems)
    if not place.files:
        return (
            f"{place.shown}/ is empty{links}; put the images of each class in a folder of its own"
        )
    kinds = sorted({suffix(file) or file for file in place.files})
    return (
        f"{place.shown}/ holds no image{links}, only {count(len(place.files), 'other file')} "
        f"({some(kinds)}); images are JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or .npy"
    )


def _no_class(shown: str, part: _Part, strays: Sequence[str]) -> str:
    where = f"{shown}/{part.path}" if part.path else f"{shown}/"
    return (
        f"{where} holds {count(len(strays), 'image')} but no class folders; "
        "put each class in its own folder"
    )
