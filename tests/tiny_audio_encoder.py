"""Folders of small encoders of sounds, as transformers writes them, with random weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_stride": (5, 8),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 12,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
NEAR = {"num_buckets": 16, "max_bucket_distance": 40}
DESIGNS = {
    "wav2vec2": ("wav2vec2", {}),
    "wav2vec2-stable": ("wav2vec2", STABLE),
    "hubert": ("hubert", {}),
    "data2vec": ("data2vec-audio", {}),
    "unispeech-sat": ("unispeech-sat", {}),
    "wavlm": ("wavlm", NEAR),
    "wavlm-stable": ("wavlm", STABLE | NEAR),
}
# Those that see log-mel frames: their designs, and how clips are fed in.
AST = {
    **{
        name: SMALL[name]
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    },
    "max_length": 40,
    "num_mel_bins": 16,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 16,
    "max_source_positions": 100,
    "vocab_size": 12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "max_target_positions": 8,
}
SEEN = {
    "ast": (
        "audio-spectrogram-transformer",
        AST,
        {"num_mel_bins": 16, "max_length": 40, "mean": -3.0, "std": 4.0},
    ),
    "ast-plain": (
        "audio-spectrogram-transformer",
        AST,
        {"num_mel_bins": 16, "max_length": 40, "do_normalize": False},
    ),
    "whisper": (
        "whisper",
        WHISPER,
        {"feature_size": 16, "n_fft": 200, "hop_length": 80, "chunk_length": 1},
    ),
}


@cache
def folder_of(design: str = "wav2vec2", with_output: bool = False) -> Path:
    """A folder that holds such an encoder; `with_output`: beneath the output of a speech model."""
    import transformers

    seen = SEEN.get(design)
    kind, told = (seen[0], seen[1]) if seen else (DESIGNS[design][0], SMALL | DESIGNS[design][1])
    config = transformers.AutoConfig.for_model(kind, **told)
    make = _with_output(kind) if with_output else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make.from_config(config)
    place = Path(mkdtemp()) / design
    model.save_pretrained(place)
    feeding = seen[2] if seen else {"sampling_rate": 8000, "do_normalize": True}
    (place / "preprocessor_config.json").write_text(json.dumps(feeding))
    return place


def _with_output(kind: str) -> type:
    import transformers

    return {
        "whisper": transformers.AutoModelForSpeechSeq2Seq,
        "audio-spectrogram-transformer": transformers.AutoModelForAudioClassification,
    }.get(kind, transformers.AutoModelForCTC)
