"""Synthetic pictures with detail at every scale, and near copies of them."""

import numpy as np
from PIL import Image

from warmstart.data.arrays import encode
from warmstart.data.thumbnails import make_thumbnail, unpack


def training_data(seed, width=160, height=120):
    """Coloured noise over a range of scales: every seed gives details of its own."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (4, 9, 20, 45):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(noise[..., c]).resize((width, height), Image.BICUBIC))
            for c in range(3)
        ]
        total += np.stack(layers, axis=-1) / np.sqrt(cells)
    spread = np.clip(128 + 110 * total, 0, 255).astype(np.uint8)
    return Image.fromarray(spread)


def glances(images):
    """What the product would keep of these pictures."""
    return unpack(np.stack([make_thumbnail(encode(np.asarray(i)), i) for i in images]))
