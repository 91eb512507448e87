"""What the stories are told with: folders made from the image sets, and the runs on them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

STAMPS = Path("/usr/share/tuxpaint/stamps")  # of the Debian package tuxpaint-stamps-default
LEAVES = 35  # classes of stamps
MORE = 3  # times the epochs, where training starts from random weights
COMMON = "--budget fast --set input.size=96"
Parts = Mapping[str, list[Path]]  # files by their folder: train/glass, test/glass


@dataclass(frozen=True)
class Story:
    """A source with its run, and a target that this run is the base model of.

    `rate`: learning rate of the uppermost blocks by the rule, a tenth of the source run's own.
    """

    name: str
    source: str
    target: str
    made: Mapping[str, Callable[[Path], Parts]]  # folders to be made, by name
    source_epochs: float
    epochs: float
    rate: float = 1e-4
    learnt_by: str = ""  # how the source run is trained, where not by the rule
    same_classes: bool = False  # the source run can answer as it is

    def commands(self) -> dict[str, str]:
        """What to type for each run, the source's first; `as-is` trains nothing."""
        target, first = self.target, f"runs/{self.source}"
        fit = f"warmstart fit {target}"
        own = f"{COMMON} --set training.epochs={self.epochs:g}"
        tuned = f"{fit} --base {first} --strategy last:6"
        few = "--strategy last:1 --set block.18.action=frozen --set block.1.action=fresh"
        known = {
            "source": f"warmstart fit {self.source} --strategy last:9 {self.learnt_by}{COMMON} "
            f"--set training.epochs={self.source_epochs:g} --out {first}",
            "check": f"warmstart check {target} --base {first}",
        }
        if self.same_classes:
            known["as-is"] = f"warmstart evaluate {first} {target}/test"
        arms = {
            "warm": f"{tuned} {own}",
            "head": f"{fit} --base {first} --strategy head {COMMON}",
            "imagenet": f"{fit} --strategy last:6 {own}",
            "stem": f"{fit} --base {first} {few} {own}",
            "x10": f"{tuned} --lr {10 * self.rate:g} {own}",
            "d1000": f"{tuned} --lr {self.rate / 1000:g} {own}",
            "scratch": f"{fit} --strategy scratch {COMMON} "
            f"--set training.epochs={MORE * self.epochs:g}",
        }
        return known | {arm: f"{typed} --out runs/{arm}" for arm, typed in arms.items()}


def make(story: Story, images: Path, place: Path) -> None:
    """Lay out the folders that are not there yet."""
    for name, blocks in story.made.items():
        if (place / name).is_dir():
            continue
        for block, files in blocks(images).items():
            (place / name / block).mkdir(parents=True)
            for number, file in enumerate(files):
                shutil.copyfile(file, place / name / block / f"{number:03}{file.suffix}")


# ---- folders -------------------------------------------------------------------------------


def _part(images: Path, name: str) -> dict[str, list[Path]]:
    """The pictures of each class of a part of a set, in the order of their names."""
    folder = images / name
    return {f"{c.parent.name}/{c.name}": sorted(c.iterdir()) for c in sorted(folder.iterdir())}


def _whole(images: Path, name: str) -> Parts:
    return _part(images, f"{name}/train") | _part(images, f"{name}/test")


def _few(files: Mapping[str, list[Path]], n: int) -> dict[str, list[Path]]:
    """The first `n` of all, shared out over the classes as they come; neighbours stay together."""
    each, more = divmod(n, len(files))
    return {k: own[: each + (place < more)] for place, (k, own) in enumerate(files.items())}


def _rubbish(images: Path) -> Parts:
    """Fifty of the test part to learn from, the rest of it to test on."""
    blocks = _part(images, "trashnet/test")
    few = _few(blocks, 50)
    rest = {k: files[len(few[k]) :] for k, files in blocks.items()}
    return {k.replace("test/", "train/"): files for k, files in few.items()} | rest


def _cells(images: Path) -> Parts:
    """Twenty to learn from, five of each kind; all others to test on."""
    blocks, tests = _part(images, "wbc_cells_site2/train"), _part(images, "wbc_cells_site2/test")
    few = _few(blocks, 20)
    rest = {k.replace("train/", "late-"): files[len(few[k]) :] for k, files in blocks.items()}
    return few | {k: files + rest[k.replace("test/", "late-")] for k, files in tests.items()}


def _kinds(blocks: Parts, kinds: tuple[str, ...]) -> dict[str, list[Path]]:
    return {k: files for k, files in blocks.items() if k.rpartition("/")[2] in kinds}


def _rare(images: Path) -> Parts:
    kinds = ("df", "nv", "vasc")
    few = _few(_kinds(_part(images, "skin_lesions/train"), kinds), 60)
    return few | _kinds(_part(images, "skin_lesions/test"), kinds)


def _vehicles(images: Path) -> Parts:
    """Cars are those that the brands are learnt from: the test part of the brands stays unseen."""
    blocks = _kinds(_part(images, "vehicles/train"), ("bicycle", "motorbike"))
    brands = _part(images, "car_brands/train").values()
    return blocks | {"train/car": [file for files in brands for file in files]}


def _leaves(images: Path) -> Parts:
    """The folders of stamps that hold most pictures and no folder; every third one tests."""
    if not STAMPS.is_dir():
        sys.exit(f"{STAMPS} is not there; install the Debian package tuxpaint-stamps-default")
    folders = [
        f for f in STAMPS.rglob("*") if f.is_dir() and not any(map(Path.is_dir, f.iterdir()))
    ]
    result = {"-".join(f.relative_to(STAMPS).parts): sorted(f.glob("*.png")) for f in folders}
    most = sorted(sorted(result, key=lambda name: (-len(result[name]), name))[:LEAVES])
    train = {f"train/{k}": [p for n, p in enumerate(result[k]) if n % 3 != 2] for k in most}
    return train | {f"test/{k}": result[k][2::3] for k in most}


STORIES = {
    story.name: story
    for story in (
        Story(
            "rubbish",
            "rubbish",
            "rubbish-50",
            {"rubbish": lambda images: _part(images, "trashnet/train"), "rubbish-50": _rubbish},
            source_epochs=3,
            epochs=12,
            same_classes=True,
        ),
        Story(
            "cells",
            "cells-first",
            "cells-second",
            {"cells-first": lambda images: _whole(images, "wbc_cells"), "cells-second": _cells},
            source_epochs=8.5,
            epochs=30,
            same_classes=True,
        ),
        Story(
            "skin",
            "lesions-four",
            "lesions-three",
            {
                "lesions-four": lambda images: _kinds(
                    _whole(images, "skin_lesions"), ("akiec", "bcc", "bkl", "mel")
                ),
                "lesions-three": _rare,
            },
            source_epochs=5.2,
            epochs=10,
        ),
        Story(
            "cars",
            "vehicles",
            "brands",
            {"vehicles": _vehicles, "brands": lambda images: _whole(images, "car_brands")},
            source_epochs=6.85,
            epochs=10.2,
        ),
        Story(
            "stamps",
            "vehicles",
            "stamps-35",
            {"vehicles": _vehicles, "stamps-35": _leaves},
            source_epochs=6.85,
            epochs=2.8,
        ),
        Story(
            "breeds",
            "cats-dogs",
            "breeds",
            {
                "cats-dogs": lambda images: _whole(images, "cats_dogs"),
                "breeds": lambda images: _whole(images, "cat_breeds"),
            },
            source_epochs=5,
            epochs=2.8,
            rate=1e-3,
            learnt_by="--set training.optimizer=sgd --lr 0.01 ",
        ),
    )
}
