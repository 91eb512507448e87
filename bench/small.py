"""Small copies of image sets: at most so many training images, evenly over the classes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

MOST = 100  # training images
SIZE = ("--set", "input.size=96")  # px at which the small sets are learnt


def copy_few(source: Path, place: Path, most: int = MOST, seed: int = 0) -> Path:
    """Copy a part of <set>/{train,test}/<class>/* to place/<set>; returns that folder."""
    draw = random.Random(seed)
    target = place / source.name
    for block in ("train", "test"):
        classes = sorted(folder.name for folder in (source / block).iterdir())
        for name in classes:
            files = sorted((source / block / name).iterdir())
            draw.shuffle(files)
            (target / block / name).mkdir(parents=True)
            for file in files[: max(most // len(classes), 4)]:
                shutil.copy(file, target / block / name / file.name)
    return target
