"""Text encoders of transformers, in blocks: embeddings, layer after layer, pooling.

Between blocks passes one tensor (B, L, C + 1), whose last channel is the mask: 1 at tokens, 0 at
padding (Vaswani et al. 2017, "Attention Is All You Need", §3.2.3). A row longer than `window` is
several windows in sequence: each is encoded separately, and pooling covers them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.modalities.text import TEXT, open_tokenizer, register_tokenizer
from warmstart.network.encoder import (
    Encoder,
    Settings,
    build_encoder,
    design,
    encoder_steps,
    settings_of,
)
from warmstart.network.hub import CONFIG, fill, settings
from warmstart.network.segments import Run, SegmentStep, SegmentSteps
from warmstart.records.inputs import TextInputs

PREFIX = "text:"
TEXT_KINDS = ("bert", "roberta", "distilbert", "mpnet", "xlm-roberta", "camembert")
_STEP = 4  # tokens by which lengths in a group may differ


class TextNetwork(Encoder):
    """An encoder without its output layers: token numbers (B, L) to vectors (B, C).

    `pooling` is "mean", over tokens, or "first", for the first token.
    """

    layout = "tokens"
    modality = TEXT

    def __init__(self, encoder: nn.Module, pooling: str, pad: int) -> None:
        super().__init__(encoder)
        self.pooling = pooling
        self.pad = pad

    def steps(self, window: int) -> SegmentSteps:
        shared: tuple[str, ...] = ()
        path = "encoder.transformer.layer"
        if not hasattr(self.encoder, "transformer"):
            path = "encoder.encoder.layer"
            if hasattr(self.encoder.encoder, "relative_attention_bias"):
                shared = ("encoder.encoder.relative_attention_bias",)  # owned by the first reader
        names = [f"{path}.{name}" for name, _ in self.get_submodule(path).named_children()]
        embed = SegmentStep("embeddings", _windowed(_embed, window), ("encoder.embeddings",), ())
        layers = (
            SegmentStep(f"layer.{n}", _windowed(_layer(name), window), (name, *shared), ())
            for n, name in enumerate(names, start=1)
        )

        def pool(network: nn.Module, state: Tensor) -> Tensor:
            firsts = state[:, ::window]  # windows of padding alone are masked
            return mean_of_tokens(firsts if network.pooling == "first" else state)

        return encoder_steps([embed, *layers], pool, ())


def _windowed(run: Run, window: int) -> Run:
    """A step for rows of any length: its windows, the last one padded, are encoded like rows."""

    def run_windows(network: nn.Module, state: Tensor) -> Tensor:
        n, length = state.shape[:2]
        if length <= window:
            return run(network, state)
        blank: Any = network.pad if state.ndim == 2 else 0
        rest = state.new_full((n, -length % window, *state.shape[2:]), blank)
        windows = torch.cat([state, rest], dim=1).reshape(-1, window, *state.shape[2:])
        return run(network, windows).reshape(n, length + rest.shape[1], -1)[:, :length]

    return run_windows


def _embed(network: Any, tokens: Tensor) -> Tensor:
    """Token numbers (B, L) to (B, L, C + 1)."""
    mask, values = tokens.ne(network.pad), network.encoder.embeddings(input_ids=tokens)
    return torch.cat([values, mask[..., None].to(values.dtype)], dim=2)


def _layer(name: str) -> Run:
    def run(network: Any, state: Tensor) -> Tensor:
        hidden, mask = state[..., :-1], state[..., -1]
        # Finite: a row without a token must not become NaN.
        bias = (1 - mask)[:, None, None, :] * torch.finfo(hidden.dtype).min
        layer = network.get_submodule(name)
        inner = getattr(network.encoder, "encoder", None)
        if inner is not None and hasattr(inner, "relative_attention_bias"):
            output = layer(hidden, bias, inner.compute_position_bias(hidden))
        else:
            output = layer(hidden, attention_mask=bias)
        hidden = output[0] if isinstance(output, tuple) else output
        return torch.cat([hidden, mask[..., None]], dim=2)

    return run


def mean_of_tokens(state: Tensor) -> Tensor:
    """The mean over unmasked tokens: (B, L, C + 1) to (B, C); zeros where there is none."""
    values, mask = state[..., :-1], state[..., -1:]
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def first_token(state: Tensor) -> Tensor:
    """The first token, BERT's [CLS], of the first window: (B, L, C + 1) to (B, C)."""
    return state[:, 0, :-1].clone()


def longest(state: Tensor) -> int:
    """Tokens of the longest row of (B, L, C + 1), at least 1; the rest is padding."""
    positions = state[..., -1].amax(dim=0).nonzero()
    return int(positions.max()) + 1 if len(positions) else 1


def group_by_length(network: nn.Module, rows: Tensor) -> list[tuple[Tensor, int]]:
    """Groups of texts of similar length: row numbers (b,) and a length in tokens.

    Padding costs as much as words: batched with the longest, short texts take twice the time.
    Shapes: token numbers (B, L), or a block's output, (B, L, C + 1). Other inputs are one group.
    """
    everything = torch.arange(len(rows), device=rows.device)
    if not isinstance(network, TextNetwork):
        return [(everything, rows.shape[1])]
    is_token = rows.ne(network.pad) if rows.ndim == 2 else rows[..., -1] > 0
    positions = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    ends = (is_token * positions).amax(dim=1).clamp(min=1)
    steps = (ends + _STEP - 1) // _STEP
    return [
        (everything[steps == step], min(_STEP * step, rows.shape[1]))
        for step in sorted({int(step) for step in steps})
    ]


def build_text(arch: str, *, is_random: bool = True) -> TextNetwork:
    """The network of a line of `design`, its weights initialised if `is_random`.

    Raises: ModelError if transformers is missing, or cannot build it.
    """
    kind, settings = settings_of(arch, PREFIX, TEXT_KINDS)
    pooling = str(settings.pop("pooling", "mean"))
    options = {} if kind == "distilbert" else {"add_pooling_layer": False}
    config, encoder = build_encoder(kind, settings, is_random=is_random, **options)
    return TextNetwork(encoder, pooling, int(config.pad_token_id or 0)).eval()


# ---- From a folder.


_TOKENIZER = "tokenizer.json"
_MOST_TOKENS = 512  # where the folder names no limit
_RENAMED_TEXT = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_TEXT_HEADS = (
    "pooler. cls. classifier. lm_head. pre_classifier. vocab_ qa_outputs. dropout. score. "
    "embeddings.position_ids"
)


def load_text(folder: Path, config: Settings) -> tuple[TextNetwork, str, TextInputs]:
    pooling = folder / "1_Pooling" / CONFIG  # by sentence-transformers; the mean without it
    is_first = pooling.is_file() and settings(pooling).get("pooling_mode_cls_token")
    arch = design(PREFIX, config, {"pooling": "first" if is_first else "mean"})
    network = build_text(arch, is_random=False)  # `fill` replaces every tensor, or raises
    fill(network.encoder, folder, _TEXT_HEADS.split(), _RENAMED_TEXT)
    return network, arch, _text_inputs(folder, config, network)


def _text_inputs(folder: Path, config: Settings, network: Any) -> TextInputs:
    file = folder / _TOKENIZER
    if not file.is_file():
        raise ModelError(
            f"{folder} has no {_TOKENIZER}; save the tokenizer again with "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)."
        )
    payload = file.read_text("utf-8")
    tokenizer = open_tokenizer(payload)
    embeddings = network.encoder.embeddings
    vocabulary = embeddings.word_embeddings.num_embeddings
    if tokenizer.get_vocab_size() > vocabulary:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size():,} tokens, the network "
            f"{vocabulary:,}; they do not belong together."
        )
    positions = embeddings.position_embeddings.num_embeddings
    if config["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= network.pad + 1  # counted from behind the padding token's number
    limits = folder / "sentence_bert_config.json"
    limit = settings(limits).get("max_seq_length") if limits.is_file() else None
    most = int(min(positions, limit or _MOST_TOKENS))
    unknown = (tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
    return TextInputs(
        tokenizer=register_tokenizer(payload),
        length=most,
        most=most,
        pad=network.pad,
        vocabulary=vocabulary,
        unknown=next(filter(None, unknown), None),
    )
