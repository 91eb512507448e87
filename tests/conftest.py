"""Small picture folders for tests: classes differ in hue, pictures in noise."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several test processes share the cores

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # lets every test import `tiny`

import numpy as np
import pytest
from PIL import Image

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "images"


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


@pytest.fixture
def pictures(tmp_path):
    """A folder of 36 pictures in three classes."""
    return fill(tmp_path / "pictures", {"blue": 12, "green": 12, "red": 12})


@pytest.fixture
def split_pictures(tmp_path):
    """train/ with 36 and test/ with 15 pictures."""
    root = tmp_path / "split"
    fill(root / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or fills the user's feature cache."""
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real_images():
    """A folder of real image sets, <set>/{train,test}/<class>/*, if it lies beside the project."""
    if not REAL.is_dir():
        pytest.skip("no real image sets beside the project (../shared/data/images)")
    return REAL
