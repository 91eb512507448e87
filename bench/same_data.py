"""Data and networks of `python -m bench same`, made anew from fixed seeds: nothing is downloaded.

Every maker writes into the working directory and names files relative to it, so that no path of
a machine enters a run. Networks are tiny and have random weights.
"""

from __future__ import annotations

import csv
import json
import math
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 48  # px
SAMPLE_RATE = 8000  # Hz
SHAPES = ("bar", "disc", "ring")
TOPICS = {
    "food": ("soup", "bread", "cheese", "salt", "oven", "plate"),
    "sky": ("star", "moon", "cloud", "rain", "wind", "sun"),
    "sport": ("ball", "goal", "team", "match", "score", "coach"),
}
FILLERS = ("the", "a", "was", "very", "good", "near", "with", "and", "seen", "today")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
N_NEW = 6  # inputs that a finished model is asked about


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a run learns from, and new inputs for its model.

    `data` is a path relative to the working directory, or an object of Python.
    """

    data: Any
    inputs: Sequence[Any]


# ---- pictures ------------------------------------------------------------------------------


def draw(
    rng: np.random.Generator, shapes: Sequence[str], angle: float | None = None
) -> Image.Image:
    """Shapes of any colour at any place, under noise; `angle`: of bars, in degrees.

    The ground leans to the colour of the first shape, which networks with random weights see.
    """
    lean = 28.0 * np.eye(3)[SHAPES.index(shapes[0])]
    ground = np.clip(rng.normal(110 + lean, 16), 20, 235).astype(int)
    picture = Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in ground))
    pen = ImageDraw.Draw(picture)
    for shape in shapes:
        colour = tuple(int(value) for value in (ground + rng.integers(60, 196, size=3)) % 256)
        x, y = rng.uniform(0.3 * SIDE, 0.7 * SIDE, size=2)
        radius = rng.uniform(0.15 * SIDE, 0.28 * SIDE)
        if shape == "bar":
            turn = math.radians(rng.uniform(0, 180) if angle is None else angle)
            dx, dy = radius * math.cos(turn), radius * math.sin(turn)
            pen.line([x - dx, y - dy, x + dx, y + dy], fill=colour, width=5)
        else:
            box = [x - radius, y - radius, x + radius, y + radius]
            pen.ellipse(box, outline=colour, width=4, fill=colour if shape == "disc" else None)
    noisy = np.asarray(picture, np.float64) + rng.normal(0, 12, size=(SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _fill(folder: Path, n: int, seed: int, grain: float = 0.0) -> list[str]:
    """Write n pictures of each shape into folder/shape, `grain` on top; their paths."""
    rng, paths = np.random.default_rng(seed), []
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(n):
            path = folder / shape / f"{number:02}.png"
            pixels = np.asarray(draw(rng, [shape]), np.float64)
            pixels += rng.normal(0, grain, pixels.shape) if grain else 0
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
            paths.append(path.as_posix())
    return paths


def shapes_in_folders() -> Made:
    """48 pictures of three classes to learn from, 15 to test on."""
    _fill(Path("shapes/train"), 16, seed=1)
    _fill(Path("shapes/test"), 5, seed=2)
    return Made(data="shapes", inputs=_fill(Path("new"), N_NEW // 3, seed=3))


def grainy_shapes() -> Made:
    """48 pictures of three classes, so grainy that no network gets all of them right."""
    _fill(Path("grainy"), 16, seed=3, grain=60.0)
    return Made(data="grainy", inputs=_fill(Path("new"), N_NEW // 3, seed=12, grain=60.0))


def shapes_in_arrays() -> Made:
    """54 pictures as one array, each with any of three labels: a matrix of 0 and 1."""
    rng = np.random.default_rng(4)
    y = np.array([[code & 1, code >> 1 & 1, code >> 2 & 1] for code in range(1, 7)] * 9)
    rows = [[shape for shape, has in zip(SHAPES, row, strict=True) if has] for row in y]
    x = np.stack([np.asarray(draw(rng, row)) for row in rows])
    new = [np.asarray(draw(rng, row)) for row in rows[:N_NEW]]
    return Made(data=(x, y), inputs=new)


def angles_in_a_table() -> Made:
    """48 pictures of a bar, and the angle of each in a table."""
    rng = np.random.default_rng(5)
    Path("bars").mkdir()
    rows, paths = [], []
    for number in range(48 + N_NEW):
        angle = rng.uniform(10, 170)
        path = f"bars/{number:02}.png"
        draw(rng, ["bar"], angle).save(path)
        rows.append((path, f"{angle:.2f}"))
        paths.append(path)
    _table(Path("angles.csv"), ("path", "angle"), rows[:48])
    return Made(data="angles.csv", inputs=paths[48:])


def digits() -> Made:
    """60 handwritten digits of four classes that scikit-learn brings, as arrays."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    rows = np.flatnonzero(scans.target < 4)[: 60 + N_NEW]
    pixels = np.uint8(scans.images[rows] * 255 / 16).repeat(4, axis=1).repeat(4, axis=2)
    x = np.stack([pixels] * 3, axis=-1)
    return Made(data=(x[:60], scans.target[rows[:60]]), inputs=[*x[60:]])


# ---- texts, sounds, tables, tensors --------------------------------------------------------


def _sentence(rng: np.random.Generator, topics: Sequence[str]) -> str:
    words = [word for topic in topics for word in rng.choice(TOPICS[topic], 2)]
    words += [*rng.choice(FILLERS, int(rng.integers(2, 9)))]
    rng.shuffle(words)
    return " ".join(words)


def texts() -> Made:
    """48 texts of three topics in a table."""
    rng = np.random.default_rng(6)
    rows = [(_sentence(rng, [topic]), topic) for _ in range(16) for topic in TOPICS]
    _table(Path("texts.csv"), ("text", "label"), rows)
    return Made(data="texts.csv", inputs=[_sentence(rng, [topic]) for topic in TOPICS] * 2)


def texts_of_many_topics() -> Made:
    """48 texts, each with one or two of three topics."""
    rng = np.random.default_rng(7)
    pairs = [["food"], ["sky"], ["sport"], ["food", "sky"], ["sky", "sport"], ["food", "sport"]]
    rows = [(_sentence(rng, pair), ";".join(pair)) for _ in range(8) for pair in pairs]
    _table(Path("texts.csv"), ("text", "label"), rows)
    return Made(data="texts.csv", inputs=[_sentence(rng, pair) for pair in pairs])


def sounds() -> Made:
    """48 clips: clicks, noise, a tone."""
    _clips(Path("sounds"), 16, seed=8)
    return Made(data="sounds", inputs=_clips(Path("new"), N_NEW // 3, seed=9))


def _clips(folder: Path, n: int, seed: int) -> list[str]:
    rng, paths = np.random.default_rng(seed), []
    for name in ("clicks", "hiss", "tone"):
        (folder / name).mkdir(parents=True)
        for number in range(n):
            time = np.arange(round(rng.uniform(0.25, 0.4) * SAMPLE_RATE)) / SAMPLE_RATE
            clip = rng.normal(0, 0.02, len(time))
            if name == "clicks":
                clip[rng.random(len(time)) < 0.004] = rng.uniform(0.3, 0.9)
            elif name == "hiss":
                clip *= rng.uniform(5, 15)
            else:
                clip += rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * rng.uniform(300, 900) * time)
            path = folder / name / f"{number:02}.wav"
            _write_wav(path, np.clip(clip, -1, 1))
            paths.append(path.as_posix())
    return paths


def _write_wav(path: Path, samples: NDArray[np.float64]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())


def prices() -> Made:
    """80 rows of numbers and words, cells missing, and a number that goes with them."""
    rng = np.random.default_rng(10)
    columns, rows = ("area", "year", "town", "price"), []
    for number in range(80 + N_NEW):
        area, year, town = rng.uniform(30, 150), int(rng.integers(1920, 2020)), rng.integers(3)
        price = 2.5 * area * (1 + 0.4 * town) + 0.5 * (year - 1920) + rng.normal(0, 12)
        cell = "" if number % 9 == 4 else f"{area:.1f}"
        rows.append((cell, year, ("hill", "lake", "wood")[town], f"{price:.2f}"))
    _table(Path("prices.csv"), columns, rows[:80])
    _table(Path("new.csv"), columns[:3], [row[:3] for row in rows[80:]])
    return Made(data="prices.csv", inputs=["new.csv"])


def signals() -> Made:
    """48 tensors (2, 32) of three classes, as a data set of torch."""
    import torch
    from torch.utils.data import TensorDataset

    rng = torch.Generator().manual_seed(11)
    y = torch.arange(48 + N_NEW) % 3
    time = torch.arange(32) / 32
    wave = torch.sin(
        2 * math.pi * (1 + y[:, None, None]) * (time + torch.rand(54, 2, 1, generator=rng))
    )
    x = wave + 0.6 * torch.randn(54, 2, 32, generator=rng)
    return Made(data=TensorDataset(x[:48], y[:48]), inputs=[*x[48:]])


def _table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


DATA: dict[str, Callable[[], Made]] = {
    maker.__name__: maker
    for maker in (
        shapes_in_folders,
        grainy_shapes,
        shapes_in_arrays,
        angles_in_a_table,
        digits,
        texts,
        texts_of_many_topics,
        sounds,
        prices,
        signals,
    )
}


# ---- networks ------------------------------------------------------------------------------


def _timm(name: str) -> str:
    """A file of random weights of an architecture of timm."""
    import timm
    from safetensors.torch import save_file

    path = f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=7).state_dict(), path)
    return path


def convnext() -> str:
    """LayerNorm, 4 stages."""
    return _timm("test_convnext")


def resnet() -> str:
    """BatchNorm, residual blocks."""
    return _timm("test_resnet")


def vit() -> str:
    """Patches and attention."""
    return _timm("test_vit")


def _encoder(kind: str, sizes: dict[str, Any]) -> str:
    """A folder with an encoder of transformers and a tokenizer that knows whole words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel

    words = [*SPECIAL, *FILLERS, *(word for many in TOPICS.values() for word in many)]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(mark, known[mark]) for mark in ("[CLS]", "[SEP]")]
    )
    config = AutoConfig.for_model(
        kind, vocab_size=len(known), max_position_embeddings=48, pad_token_id=0, **sizes
    )
    AutoModel.from_config(config).save_pretrained(kind)
    tokenizer.save(f"{kind}/tokenizer.json")
    return f"transformers:{kind}"


def bert() -> str:
    """Two layers, 32 wide."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    return _encoder("bert", sizes)


def distilbert() -> str:
    """Two layers, 32 wide."""
    return _encoder("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64})


def wav2vec2() -> str:
    """Two convolutions and two layers of attention on samples."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        "wav2vec2",
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 8),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        vocab_size=12,
    )
    AutoModel.from_config(config).save_pretrained("wav2vec2")
    feeding = {"sampling_rate": SAMPLE_RATE, "do_normalize": True}
    Path("wav2vec2/preprocessor_config.json").write_text(json.dumps(feeding))
    return "transformers:wav2vec2"


def own_pixels() -> Any:
    """A module of one's own on pictures of 32 px."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def own_signals() -> Any:
    """A module of one's own on tensors (2, 32)."""
    from torch import nn

    return nn.Sequential(
        nn.Conv1d(2, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 16, 5, stride=2, padding=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 5, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


NETWORKS: dict[str, Callable[[], Any]] = {
    maker.__name__: maker
    for maker in (convnext, resnet, vit, bert, distilbert, wav2vec2, own_pixels, own_signals)
}


def network(name: str) -> Any:
    """The path, name or module of a network, always with the same weights."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name]()
