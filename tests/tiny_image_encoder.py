"""Tiny encoders of images with random weights, as transformers would save them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
KINDS = (
    "vit",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "siglip_vision_model",
    "clip_vision_model",
)
FEEDING = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
    "resample": 2,
}


def encoder(folder: Path, kind: str = "vit", feeding: dict[str, object] | None = FEEDING) -> Path:
    """A folder as `save_pretrained` writes it; `feeding` becomes preprocessor_config.json."""
    from transformers import AutoConfig, AutoModel

    wide = {} if kind.startswith("dinov2") else {"intermediate_size": 48}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = AutoModel.from_config(AutoConfig.for_model(kind, **SIZES, **wide))
        for tensor in module.parameters():  # biases of zero and tables of zero would tell nothing
            torch.nn.init.normal_(tensor, std=0.2)
    module.save_pretrained(folder)
    if feeding is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(feeding))
    return folder
