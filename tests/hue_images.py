"""Pictures whose classes differ in hue, drawn under noise."""

import numpy as np
from PIL import Image


def draw(rng, hue, size=40):
    """One picture: a tinted gradient under noise."""
    ramp = np.linspace(0, 90, size)[:, None, None]
    tint = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[hue % 3] * 0.5
    noise = rng.normal(0, 25, size=(size, size, 3))
    return Image.fromarray(np.clip(ramp + tint + noise, 0, 255).astype(np.uint8))


def fill(folder, counts, seed=0):
    """Write counts[class] pictures into folder/class."""
    rng = np.random.default_rng(seed)
    for hue, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            draw(rng, hue).save(folder / name / f"{i:03d}.png")
    return folder
