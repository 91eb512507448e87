"""Small texts, and a tiny encoder of them with random weights, as transformers would save it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

WORDS = {
    "sport": ("ball", "goal", "team", "match", "score", "coach"),
    "food": ("soup", "bread", "cheese", "salt", "oven", "plate"),
    "sky": ("star", "moon", "cloud", "rain", "wind", "sun"),
}
FILLERS = ("the", "a", "was", "very", "good", "near", "with", "and", "seen", "today")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def sentence(label: str, rng: np.random.Generator) -> str:
    """Three to twelve words, two of which tell the class."""
    told = list(rng.choice(WORDS[label], 2)) if label in WORDS else []
    words = told + list(rng.choice(FILLERS, int(rng.integers(1, 11))))
    rng.shuffle(words)
    return " ".join(words)


def rows(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """So many texts of each class, with their labels."""
    rng = np.random.default_rng(seed)
    return [(sentence(label, rng), label) for _ in range(n) for label in WORDS]


def table(path: Path, n: int = 16, seed: int = 0) -> Path:
    """A CSV of texts and labels."""
    lines = ["text,label", *(f"{text},{label}" for text, label in rows(n, seed))]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def vocabulary() -> dict[str, int]:
    """Numbers of all tokens."""
    words = [*SPECIAL, *FILLERS, *(word for many in WORDS.values() for word in many)]
    return {word: number for number, word in enumerate(words)}


def tokenizer_json() -> str:
    """A tokenizer that knows whole words, with [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    known = vocabulary()
    made = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = [(mark, known[mark]) for mark in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=marks
    )
    return made.to_str()


def encoder(folder: Path, kind: str = "bert", **settings: object) -> Path:
    """A folder with config.json, tokenizer.json and model.safetensors of a tiny encoder."""
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, object] = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
        "pad_token_id": 0,
    }
    if kind == "distilbert":
        sizes = {
            "vocab_size": len(vocabulary()),
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 64,
            "max_position_embeddings": 48,
            "pad_token_id": 0,
        }
    config = AutoConfig.for_model(kind, **{**sizes, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str), "utf-8")
    (folder / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    return folder
