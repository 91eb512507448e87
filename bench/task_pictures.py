"""Real pictures with several labels, or a number: pairs side by side, pictures turned."""

from __future__ import annotations

import io
from argparse import Namespace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import sets

SIDE = 224
Pixels = NDArray[np.uint8]


def _files(args: Namespace, name: str) -> list[tuple[Path, str]]:
    root = sets.root(args) / name
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [(path, path.parent.name) for path in paths]


def _open(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def paired(args: Namespace, name: str) -> tuple[Pixels, list[list[str]]]:
    """Two pictures beside each other, each in one pair alone: pairs must not depend."""
    files, rng = _files(args, name), np.random.default_rng([1, len(name)])
    n = min(args.train + args.test, len(files) // 2)
    images, labels = [], []
    for rows in rng.permutation(len(files))[: 2 * n].reshape(n, 2):
        pair = [files[row] for row in rows]
        halves = [_open(path).resize((SIDE // 2, SIDE)) for path, _ in pair]
        images.append(np.concatenate([np.asarray(half) for half in halves], axis=1))
        labels.append(sorted({label for _, label in pair}))
    return np.stack(images), labels


def turned(args: Namespace, name: str) -> tuple[Pixels, NDArray[np.float64]]:
    """Pictures turned by -45 to 45 degrees, cut so that no corner shows it."""
    files, rng = _files(args, name), np.random.default_rng([2, len(name)])
    chosen = rng.permutation(len(files))[: args.train + args.test]
    angles = rng.uniform(-45, 45, size=len(chosen))
    images = []
    for row, angle in zip(chosen, angles, strict=True):
        image = _open(files[row][0])
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((2 * SIDE, 2 * SIDE))
        tilted = square.rotate(float(angle), Image.Resampling.BICUBIC)
        inner = int(2 * SIDE / np.sqrt(2)) - 4  # inside the picture at every angle
        edge = (2 * SIDE - inner) // 2
        cut = tilted.crop((edge, edge, edge + inner, edge + inner)).resize((SIDE, SIDE))
        images.append(np.asarray(cut))
    return np.stack(images), angles
