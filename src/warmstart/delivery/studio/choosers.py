"""What the page's choosers of files offer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from warmstart.words import NOUNS


def taken(files: Iterable[str]) -> str:
    """What choosers of files offer beside these, which are pictures or clips; both beside none.

    >>> taken(["a.jpg"]), taken(["a.wav"]).split(",")[0], taken([]).split(",")[:2]
    ('image/*', 'audio/*', ['image/*', 'audio/*'])
    """
    of = {kind: NOUNS[kind].accept for kind in ("image", "audio")}
    are_clips = {PurePath(file).suffix in of["audio"].split(",") for file in files}
    kinds = ["audio" if is_clip else "image" for is_clip in sorted(are_clips)]
    return ",".join(of[kind] for kind in kinds or of)
