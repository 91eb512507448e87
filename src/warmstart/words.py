"""What examples are called in sentences for people: sentences are written for images.

Hundreds of sentences name the examples. Where a run is about something else they are put into
its words here, at the places where they leave the package: findings, verdict, terminal, report.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

Value = TypeVar("Value")
SENTENCES = ("sentence", "meaning", "because", "why", "action")
NOUNS = {"audio": "clip", "text": "text", "table": "row", "tensor": "tensor"}
_PHRASES = {
    "audio": {
        "re-encoded, resized, mirrored, cropped or exposed differently":
            "re-encoded, resampled, cut or of another loudness",
        "photo.jpg": "clip.wav",
    },
    "text": {
        "re-encoded, resized, mirrored, cropped or exposed differently":
            "the same but for case, marks or spaces",
        "plain pixels": "plain words",
        "photo.jpg": "'a text'",
    },
    "table": {"plain pixels": "plain columns", "photo.jpg": "new.csv"},
    "tensor": {"plain pixels": "plain numbers"},
}  # fmt: skip
# Not beside what stands in names, paths, addresses and markup.
_AHEAD, _BEHIND = r"(?<![\w/.\-\"'“=:&])", r"(?![\w/\-\"'”=(:]|\.\w)"


@cache
def _table(kind: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """What is looked for, and what stands for it."""
    noun, new = NOUNS[kind], dict(_PHRASES[kind])
    new |= {"an image": f"a {noun}", "An image": f"A {noun}"}
    for old in ("image", "picture"):
        for end in ("s", ""):
            new |= {old + end: noun + end, old.title() + end: noun.title() + end}
    return re.compile(_AHEAD + "(" + "|".join(map(re.escape, new)) + ")" + _BEHIND), new


def in_words_of(kind: str, text: str, names: Iterable[str] = ()) -> str:
    """A text written for images in the words for `kind`, where that has its own.

    `names` are the user's, such as classes: where one of them would change, nothing does.

    >>> in_words_of("audio", "3 images in my/images; an image is a picture.")
    '3 clips in my/images; a clip is a clip.'
    >>> in_words_of("image", "3 images"), in_words_of("audio", "3 images", ["image", "word"])
    ('3 images', '3 images')
    """
    if kind not in NOUNS:
        return text
    old, new = _table(kind)
    if any(old.search(name) for name in names):
        return text
    return old.sub(lambda found: new[found[1]], text)


def reworded(kind: str, value: Value, names: Iterable[str] = ()) -> Value:
    """The same for every sentence of a record, and of the records in it."""
    if kind not in NOUNS or any(_table(kind)[0].search(name) for name in names):
        return value
    found: Value = _reworded(kind, value)
    return found


def _reworded(kind: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_reworded(kind, item) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        is_said = isinstance(old, str) and field.name in SENTENCES
        new = in_words_of(kind, old) if is_said else _reworded(kind, old)
        if new != old:
            changed[field.name] = new
    return dataclasses.replace(value, **changed) if changed else value
