"""Clips of sound among files, told by their names, and what messages call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from warmstart.data.dataset import Asked, Listing, Row
from warmstart.data.place import IMAGE_SUFFIXES, SOUND_SUFFIXES, suffix
from warmstart.nouns import count


def media_among(files: Sequence[str], asked: Asked = "auto") -> list[str]:
    """The images of a place, or its clips of sound where these were asked for or are more.

    Images in two folders, two in each, are what a folder of both is about: stamps that speak.

    >>> media_among(["a/1.wav", "a/1.png", "a/2.wav", "notes.txt"])
    ['a/1.wav', 'a/2.wav']
    """
    images = [file for file in files if suffix(file) in IMAGE_SUFFIXES]
    clips = [file for file in files if suffix(file) in SOUND_SUFFIXES]
    if asked == "auto":
        return clips if len(clips) > len(images) and not _are_classes(images) else images
    return clips if asked == "audio" else images


def _are_classes(images: Sequence[str]) -> bool:
    """Whether a network could learn from them: two folders that hold two."""
    sizes = Counter(image.partition("/")[0] for image in images if "/" in image)
    return sum(size >= 2 for size in sizes.values()) >= 2


def noun_of(names: Iterable[str]) -> str:
    """What one of these files is called: "clip" where more than half are sounds by their names.

    >>> noun_of(["a.wav", "b.wav", "c.png"]), noun_of(["0", "1"])
    ('clip', 'image')
    """
    are_clips = [suffix(name) in SOUND_SUFFIXES for name in names]
    return "clip" if 2 * sum(are_clips) > len(are_clips) else "image"


def counted(rows: Sequence[Row]) -> str:
    """How many images or clips there are.

    >>> counted([Row(id="a.wav", label="a")])
    '1 clip'
    """
    return count(len(rows), noun_of(row.id for row in rows))


def heard(listing: Listing) -> Listing:
    """A listing whose files are mostly sounds as one of clips; any other as it is."""
    if noun_of(row.id for row in listing.rows) == "image":
        return listing
    return replace(listing, kind="audio", wording=replace(listing.wording, noun="clip"))
