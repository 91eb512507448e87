"""Law 10 where the test set has copies of training images: reported, never acted on.

That its labels change nothing else: test_runs.py, over every modality, task and strategy.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_runs import same_model

from tiny import bytes_of, fit

pytestmark = pytest.mark.slow


@pytest.fixture
def run_cold(tmp_path, monkeypatch):
    """Fit a folder into a run of its own, with a cache of its own."""

    def run(data, kind, name):
        monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / f"cache-{name}"))
        return fit(data, kind=kind, out=tmp_path / name)

    return run


def permuted(root, to, seed=0):
    """The same pictures, those of the test set under each other's classes."""
    shutil.copytree(root / "train", to / "train")
    files = sorted((root / "test").rglob("*.png"))
    classes = [path.parent.name for path in files]
    for path, label in zip(files, np.random.default_rng(seed).permutation(classes), strict=True):
        (to / "test" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to / "test" / label / f"{path.parent.name}-{path.name}")
    return to


def test_a_leak_into_the_test_set_is_reported_and_not_acted_on(split_pictures, tmp_path, run_cold):
    leaky = tmp_path / "leaky" / "split"
    shutil.copytree(split_pictures, leaky)
    for number in range(5):  # as many test pictures as before, all seen in training
        shutil.copy(leaky / "train" / "red" / f"00{number}.png", leaky / "test" / "blue")
    clean, leaked = run_cold(split_pictures, "layers", "a"), run_cold(leaky, "layers", "b")
    assert bytes_of(clean.path / "model") == bytes_of(leaked.path / "model")
    assert (clean.estimate, clean.verdict) == (leaked.estimate, leaked.verdict)
    assert (clean.summary.data.leaks, leaked.summary.data.leaks) == (0, 5)
    (finding,) = [f for f in leaked.summary.findings if f.kind == "leakage"]
    assert set(finding.items) == {f"test/blue/00{n}.png" for n in range(5)}


def test_near_copies_in_the_test_part_change_nothing_either(split_pictures, tmp_path, run_cold):
    """Mirrored training pictures in the test set, under their own label or another."""
    near_duplicates = tmp_path / "near_duplicates" / "split"
    shutil.copytree(split_pictures, near_duplicates)
    for number in range(5):
        with Image.open(near_duplicates / "train" / "red" / f"00{number}.png") as picture:
            ImageOps.mirror(picture).save(near_duplicates / "test" / "red" / f"00{number}.png")
    honest = run_cold(near_duplicates, "layers", "a")
    shuffled = run_cold(permuted(near_duplicates, tmp_path / "permuted" / "split"), "layers", "b")
    same_model(honest, shuffled)
    for run in (honest, shuffled):
        assert run.summary.data.leaks == 5
        assert len(json.loads((run.path / "data.json").read_text())["near_duplicates"]) == 5
    clean = run_cold(split_pictures, "layers", "c")
    assert bytes_of(clean.path / "model") == bytes_of(honest.path / "model")
