"""Folders of small encoders of sounds, as transformers writes them, with random weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": (8, 8), "conv_stride": (5, 8), "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "vocab_size": 12,
}  # fmt: skip
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
DESIGNS = {
    "wav2vec2": ("wav2vec2", {}), "wav2vec2-stable": ("wav2vec2", STABLE), "hubert": ("hubert", {}),
    "data2vec": ("data2vec-audio", {}), "unispeech-sat": ("unispeech-sat", {}),
}  # fmt: skip


@cache
def folder_of(design: str = "wav2vec2", with_output: bool = False) -> Path:
    """A folder that holds such an encoder; `with_output`: beneath the output of a speech model."""
    import transformers

    kind, told = DESIGNS[design]
    config = transformers.AutoConfig.for_model(kind, **SMALL, **told)
    make = transformers.AutoModelForCTC if with_output else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make.from_config(config)
    place = Path(mkdtemp()) / design
    model.save_pretrained(place)
    feeding = {"sampling_rate": 8000, "do_normalize": True}
    (place / "preprocessor_config.json").write_text(json.dumps(feeding))
    return place
