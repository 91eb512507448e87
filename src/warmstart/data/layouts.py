"""Which layout a place has: class folders, train/val/test folders, or a table inside."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from warmstart.data.collection import Columns, Listing, Row, Wording, count, some, unreadable
from warmstart.data.grouping import propose_series
from warmstart.data.inner import list_inner_tables
from warmstart.data.kinds import counted, media_among, noun_of
from warmstart.data.parts import Part, find_parts
from warmstart.data.place import (
    ARCHIVE_SUFFIXES,
    DRAWN_SUFFIXES,
    FOREIGN_SUFFIXES,
    TEXT_SUFFIXES,
    Place,
    suffix,
)
from warmstart.data.saved import is_saved, list_saved
from warmstart.data.texts import normal_of
from warmstart.errors import DataError
from warmstart.records import Finding


def list_place(place: Place, columns: Columns) -> Listing:
    """Find the layout of a folder or archive and list its rows.

    A data set saved by `datasets` is known by its files. Then come tables that decide (see
    `inner.py`), then train/val/test folders, then class folders.
    Raises: DataError if no layout fits, naming what is there and what to do.
    """
    if is_saved(place):
        return list_saved(place, columns)
    images = media_among(place.files, columns.kind)
    listing = list_inner_tables(place, images, columns)
    if listing is not None:
        return listing
    texts = _texts(place, images, columns)
    if texts:
        return _as_texts(_list_class_folders(place, texts), place)
    if not images:
        raise DataError(_no_image(place, "clip" if columns.kind == "audio" else "image"))
    return _list_class_folders(place, images)


def _texts(place: Place, images: Sequence[str], columns: Columns) -> list[str]:
    """The files of texts, where these are what the folder is about."""
    found = [file for file in place.files if suffix(file) in TEXT_SUFFIXES]
    if columns.kind == "text":
        return found
    in_folders = [file for file in found if "/" in file]
    return in_folders if columns.kind == "auto" and not images else []


def _as_texts(listing: Listing, place: Place) -> Listing:
    """The same listing in words for texts."""
    return replace(
        listing, kind="text", title=f"{count(len(listing.rows), 'text')} in {place.shown}/",
        load=lambda id: normal_of(place.load(id)).encode(),
        wording=replace(listing.wording, noun="text"),
    )  # fmt: skip


def class_of(folder: str) -> str:
    """A folder's name as a class name: one spelling for é, whichever system wrote it.

    >>> class_of("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", folder).strip()


def _list_class_folders(place: Place, images: Sequence[str]) -> Listing:
    tops = sorted({image.split("/")[0] for image in images if "/" in image})
    parts = find_parts(place.shown, tops)
    rows: list[Row] = []
    strays: list[str] = []
    for part in parts:
        found, homeless = _rows(part, images)
        if not found:
            raise DataError(_no_class(place.shown, part, homeless))
        rows += found
        strays += homeless
    train = next(part for part in parts if part.split == "train")
    empty = _empty_folders(place, train, {row.id for row in rows})
    in_parts = {row.id for row in rows} | set(strays)
    strays += [image for image in images if image not in in_parts]
    n_others = len(place.files) - len(images)
    ignored = f" ({count(n_others, 'other file')} ignored)" if n_others else ""
    names = "/".join(part.path for part in parts)
    return Listing(
        name=place.name,
        layout=(f"{names} folders" if names else "class folders") + ignored,
        title=f"{counted(rows)} in {place.shown}/",
        rows=tuple(rows),
        load=place.load,
        wording=_wording(place.shown, train),
        spared=len(strays) + sum(suffix(file) in DRAWN_SUFFIXES for file in place.files),
        problems=place.problems
        + _passed_over(place, strays)
        + empty
        + propose_series(rows, f"{place.shown}/"),
    )


def _rows(part: Part, images: Sequence[str]) -> tuple[list[Row], list[str]]:
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


def _empty_folders(place: Place, train: Part, ids: set[str]) -> tuple[Finding, ...]:
    """Class folders without a usable image, as a finding.

    Raises: DataError where they would have been the second class.
    """
    filled = {part for id in ids if (part := train.below(id)) is not None}
    classes = {below.split("/")[0] for below in filled}
    noun, empty = noun_of(ids), dict[str, str]()
    for folder in place.folders:
        below = train.below(folder)
        if below is None or not below or "/" in below or below in classes:
            continue
        found = sorted({suffix(f) or f for f in place.files if f.startswith(folder + "/")})
        empty[folder] = (
            f"holds only files of other kinds ({some(found)})" if found else f"holds no {noun}"
        )
        if len(classes) < 2:
            such = "WAV, FLAC, …" if noun == "clip" else "JPEG, PNG, …"
            raise DataError(
                f"{place.shown}/{folder} {empty[folder]}; a class needs at least 2 {noun}s. "
                f"Add some ({such}) or remove the folder."
            )
    sentence = f"{count(len(empty), 'class folder')} without {noun}s left out."
    return unreadable(empty, sentence)


def _wording(shown: str, train: Part) -> Wording:
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
        f"{count(len(strays), noun_of(strays))} without a class folder left out.",
    ) + unreadable(
        {file: f"{suffix(file)} is not read; save it as JPEG or PNG" for file in foreign},
        f"{count(len(foreign), 'picture')} of a kind that is not read left out.",
    )


def _no_image(place: Place, noun: str) -> str:
    links = "".join(f" ({finding.sentence.rstrip('.')})" for finding in place.problems)
    if not place.files:
        return (
            f"{place.shown}/ is empty{links}; put the images of each class in a folder of its own"
        )
    archives = [file for file in place.files if suffix(file) in ARCHIVE_SUFFIXES]
    if archives:
        return (
            f"{place.shown}/ holds no image{links}, but {archives[0]}: an archive inside is not "
            "opened; unpack it and name its folder"
        )
    kinds = sorted({suffix(file) or file for file in place.files})
    return (
        f"{place.shown}/ holds no {noun}{links}, only {count(len(place.files), 'other file')} "
        f"({some(kinds)}); images are JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or .npy, sounds WAV, "
        "FLAC, OGG, MP3 or AIFF"
    )


def _no_class(shown: str, part: Part, strays: Sequence[str]) -> str:
    where = f"{shown}/{part.path}" if part.path else f"{shown}/"
    return (
        f"{where} holds {count(len(strays), noun_of(strays))} but no class folders; "
        "put each class in its own folder"
    )
