"""Small runs that end in every way: each verdict, each strategy, each kind of input and task."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import audio_clips
import tables
import test_other_tasks
import tiny
import tiny_text_encoder
import warmstart
from hue_images import fill
from warmstart.api.run import Run

QUICK = ["training.epochs=2", "training.folds=2"]
NAMES = ("blue", "green", "red")


def tinted(n: int, seed: int = 0, light: float = 60.0) -> tuple[np.ndarray, list[str]]:
    """n pictures of grey noise with a tint that tells three classes apart, now and then."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    X = rng.normal(120, light, (n, 1, 1, 3)) + rng.normal(0, 20, (n, 32, 32, 3))
    for k in range(3):
        X[labels == k, ..., k] += 60
    return np.clip(X, 0, 255).astype(np.uint8), [NAMES[k] for k in labels]


def stripes(n: int, seed: int = 0, depth: float = 18) -> tuple[np.ndarray, list[str]]:
    """Faint stripes, across or upright, at any phase: an untrained layer hardly sees them."""
    rng = np.random.default_rng(seed)
    X, names = np.empty((n, 32, 32, 3)), []
    for i in range(n):
        wave = depth * np.sin(np.arange(32) * 1.2 + rng.uniform(0, 2 * np.pi))
        X[i] = 120 + (wave[None, :, None] if i % 2 else wave[:, None, None])
        names.append(("across", "upright")[i % 2])
    X += rng.normal(0, 14, X.shape)
    return np.clip(X, 0, 255).astype(np.uint8), names


def saved(folder: Path, X: np.ndarray, labels: list[str]) -> Path:
    """Pictures as files in folder/class."""
    for number, (pixels, name) in enumerate(zip(X, labels, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def linear_probe(root: Path) -> Run:
    """Pictures that are easily told apart, with a test set."""
    for block, each, seed in (("train", 16, 0), ("test", 6, 1)):
        fill(root / "split" / block, dict.fromkeys(NAMES, each), seed=seed)
    return tiny.fit(root / "split", base=tiny.weights(root), arch=tiny.ARCH, out=root / "run")


def fine_tuned(root: Path) -> Run:
    """The depth is ours to choose, and the fine-tuned network ships."""
    settings = ["training.epochs=10"]
    return tiny.fit(
        tinted(54, seed=6, light=70), budget="balanced", settings=settings, out=root / "run"
    )


def not_kept(root: Path) -> Run:
    """Fine-tuning was tried, and the linear probe ships."""
    return tiny.fit(
        tinted(48, seed=2, light=30),
        budget="balanced",
        out=root / "run",
        settings=["training.epochs=1"],
    )


def gained(root: Path) -> Run:
    """A strategy of the user's own that is plainly better than the linear probe."""
    return tiny.fit(
        stripes(96, depth=7),
        strategy="full",
        out=root / "run",
        settings=["training.epochs=20.8333", "training.folds=2", "training.lr=3e-3"],
    )


def given_up(root: Path) -> Run:
    """A training of the user's own that diverges at every rate."""
    return tiny.fit(
        tinted(48), strategy="last:1", out=root / "run", settings=[*QUICK, "training.lr=1e9"]
    )


def from_scratch(root: Path) -> Run:
    saved(root / "data", *tinted(60, light=20))
    return tiny.fit(
        root / "data",
        strategy="scratch",
        base=tiny.weights(root, tiny.CONVNEXT),
        arch=tiny.CONVNEXT,
        out=root / "run",
        settings=["training.epochs=10", "training.folds=2"],
    )


def no_signal(root: Path) -> Run:
    X, labels = tinted(72)
    mixed = np.random.default_rng(4).permutation(labels).tolist()
    saved(root / "data" / "train", X[:60], mixed[:60])
    saved(root / "data" / "test", X[60:], mixed[60:])
    return tiny.fit(root / "data", out=root / "run")


def too_few(root: Path) -> Run:
    return tiny.fit(tinted(9), out=root / "run")


def no_transfer(root: Path) -> Run:
    """Scans of handwriting, and a network with random weights, which know nothing of them."""
    scans, rng = load_digits(), np.random.default_rng(0)
    rows = rng.permutation(len(scans.target))[:140]
    X = np.rint(scans.images[rows] * 255 / 16).astype(np.uint8)
    return tiny.fit(
        (X, [str(t) for t in scans.target[rows]]),
        budget="balanced",
        settings=["training.epochs=10"],
        out=root / "run",
    )


def texts(root: Path) -> Run:
    table = tiny_text_encoder.table(root / "texts.csv", 16)
    test = tiny_text_encoder.table(root / "test.csv", 5, seed=9)
    base = f"transformers:{tiny_text_encoder.encoder(root / 'encoder')}"
    return warmstart.fit(
        table,
        test=test,
        base=base,
        strategy="last:1+lora",
        budget="fast",
        settings=QUICK,
        out=root / "run",
    )


def sounds(root: Path) -> Run:
    data = audio_clips.fill(root / "train", {"a note": 14, "clicks": 14, "hiss": 14})
    test = audio_clips.fill(root / "test", {"a note": 4, "clicks": 4, "hiss": 4}, seed=1)
    return warmstart.fit(
        data,
        test=test,
        base=tiny.weights(root),
        arch=tiny.ARCH,
        budget="fast",
        settings=["input.size=64"],
        out=root / "run",
    )


def signs(n: int, seed: int) -> list[list[str]]:
    """Rows of four numbers; the label is whether the first two have one sign."""
    X = np.random.default_rng(seed).normal(size=(n, 4))
    names = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    return [[*(f"{value:.3f}" for value in row), name] for row, name in zip(X, names, strict=True)]


COLUMNS = ("a", "b", "c", "d", "label")


def ensemble(root: Path) -> Run:
    """Rows of a table: layers that began with nothing and the linear probe ship in one network."""
    data = tables.write(root / "t.csv", signs(96, 0), COLUMNS)
    test = tables.write(root / "test.csv", signs(24, 9), COLUMNS)
    return warmstart.fit(
        data, test=test, budget="fast", settings=["training.epochs=12.5"], out=root / "run"
    )


def without_network(root: Path) -> Run:
    """Rows of a table of which the linear probe tells nothing, and boosting much."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(96, 6))
    names = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")
    rows = [[*(f"{v:.3f}" for v in row), name] for row, name in zip(X, names, strict=True)]
    data = tables.write(root / "t.csv", rows, (*(f"c{i}" for i in range(6)), "label"))
    return warmstart.fit(data, budget="fast", settings=["training.epochs=2"], out=root / "run")


def labels(root: Path) -> Run:
    """Several labels a picture, with a test set; the last layer trained as the user said."""
    X, has, _ = test_other_tasks.pictures()
    named = ["|".join(np.array(["red", "blue"])[row]) for row in has]
    data = test_other_tasks.written(root / "sets", "label", named, X)
    return tiny.fit(data, task="multilabel", strategy="last:1", settings=QUICK, out=root / "run")


def numbers(root: Path) -> Run:
    """A number a picture, with a test set; the depth is ours to choose."""
    X, _, light = test_other_tasks.pictures()
    data = test_other_tasks.written(root / "n", "light", [f"{v:.3f}" for v in light], X)
    return tiny.fit(
        data, label="light", budget="balanced", settings=["training.epochs=5"], out=root / "run"
    )


def shifted(root: Path) -> Run:
    """A test set from another source, on which the model is much worse."""
    saved(root / "data" / "train", *tinted(72, light=20))
    X, names = tinted(60, seed=5, light=20)
    coarse = (X[:, ::4, ::4] // 2).repeat(4, axis=1).repeat(4, axis=2)
    saved(root / "data" / "test", coarse[..., ::-1], names)
    return tiny.fit(root / "data", out=root / "run")


def leaking(root: Path) -> Run:
    """Test pictures that are among the training pictures, and labels that are wrong."""
    X, names = tinted(120, light=5)
    names[:7] = [NAMES[(NAMES.index(name) + 1) % 3] for name in names[:7]]
    data = saved(root / "data" / "train", X, names)
    saved(root / "data" / "test", *tinted(18, seed=6, light=20))
    for path in sorted(data.rglob("*.png"))[10:16]:
        shutil.copy(path, root / "data" / "test" / path.parent.name / f"x{path.name}")
    return tiny.fit(root / "data", out=root / "run")


RUNS: dict[str, Callable[[Path], Run]] = {
    make.__name__: make
    for make in (
        linear_probe,
        fine_tuned,
        gained,
        not_kept,
        ensemble,
        given_up,
        from_scratch,
        no_signal,
        too_few,
        no_transfer,
        texts,
        sounds,
        without_network,
        labels,
        numbers,
        shifted,
        leaking,
    )
}
# Runs of the other laws (runs.py) that serve here as well.
SHARED = {
    "tensors": "tensors full",
}
