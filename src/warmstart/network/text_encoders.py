"""Encoders of texts as transformers builds them: BERT, RoBERTa, DistilBERT, MPNet, cut by design.

    a_0 = embeddings(tokens),   a_k = layer_k(a_k-1, mask),   vector = pool(a_P)

Between parts goes one tensor (B, L, C + 1): the last channel is 1 where there is a token and 0
where the row is filled up, so that the mask passes with it, is stored with it, and every mean
leaves the filling out. Vaswani et al. 2017, "Attention Is All You Need", §3.2.3 on the mask.

A row longer than `window` is several windows after another, as a long text is told: each passes
by itself, and what is pooled is pooled over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from warmstart.network.encoder import Encoder, build_encoder, design, refused, settings_of
from warmstart.network.segments import Run, SegmentStep, SegmentSteps
from warmstart.records.inputs import Inputs, TextInputs

PREFIX = "text:"
TEXT_KINDS = ("bert", "roberta", "distilbert", "mpnet", "xlm-roberta", "camembert")
_OUR_OWN = "pooling"


class TextNetwork(Encoder):
    """An encoder without its output layers: token numbers (B, L) to vectors (B, C).

    `pooling` says what the vector is: the mean over tokens, or what stands at the first one.
    """

    layout = "tokens"

    def __init__(self, encoder: nn.Module, pooling: str, pad: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.pad = pad

    def window_of(self, inputs: Inputs) -> int:
        """Tokens that pass at a time. Raises: ModelError where there are no tokens."""
        if not isinstance(inputs, TextInputs):
            raise refused("texts", inputs)
        return inputs.window

    def steps(self, window: int) -> SegmentSteps:
        """Embeddings, then layer after layer; the parts of such a network need no trace.

        `window`: tokens that pass at a time.
        """
        blocks, shared = _blocks(self.encoder)
        first = SegmentStep("embeddings", _apart(_embed, window), ("encoder.embeddings",), ())
        also = (f"encoder.{shared}",) if shared else ()  # it belongs to the first that reads it
        names = [f"encoder.{blocks}.{n}" for n in range(_count(self.encoder, blocks))]
        layers = [
            SegmentStep(f"layer.{n}", _apart(_run_layer(name), window), (name, *also), ())
            for n, name in enumerate(names, start=1)
        ]
        neck = SegmentStep("neck", _pool(window), (), ())
        return SegmentSteps(
            (first, *layers), neck, None, SegmentStep("finish", lambda _, x: x, (), ())
        )


def _count(encoder: nn.Module, blocks: str) -> int:
    return sum(1 for _ in encoder.get_submodule(blocks).children())


def _blocks(encoder: nn.Module) -> tuple[str, str]:
    """Names of the list of layers, and of what all of them read, if there is such a thing."""
    if hasattr(encoder, "transformer"):
        return "transformer.layer", ""
    is_relative = hasattr(encoder.encoder, "relative_attention_bias")
    return "encoder.layer", "encoder.relative_attention_bias" if is_relative else ""


def _apart(run: Run, window: int) -> Run:
    """A step for rows of any length: its windows, the last one filled up, pass like rows."""

    def passed(network: nn.Module, state: Tensor) -> Tensor:
        n, length = state.shape[:2]
        if length <= window:
            return run(network, state)
        blank: Any = network.pad if state.ndim == 2 else 0
        rest = state.new_full((n, -length % window, *state.shape[2:]), blank)
        windows = torch.cat([state, rest], dim=1).reshape(-1, window, *state.shape[2:])
        return run(network, windows).reshape(n, length + rest.shape[1], -1)[:, :length]

    return passed


def _embed(network: nn.Module, tokens: Tensor) -> Tensor:
    """Token numbers (B, L) to (B, L, C + 1)."""
    whole: Any = network
    mask, found = tokens.ne(whole.pad), whole.encoder.embeddings(input_ids=tokens)
    return torch.cat([found, mask[..., None].to(found.dtype)], dim=2)


def _run_layer(name: str) -> Any:
    def run(network: nn.Module, state: Tensor) -> Tensor:
        hidden, mask = state[..., :-1], state[..., -1]
        # Finite: a row without a token must not become NaN.
        bias = (1 - mask)[:, None, None, :] * torch.finfo(hidden.dtype).min
        layer, encoder = network.get_submodule(name), network.encoder
        inner: Any = getattr(encoder, "encoder", None)
        if hasattr(inner, "relative_attention_bias"):
            found = layer(hidden, bias, inner.compute_position_bias(hidden))
        else:
            found = layer(hidden, attention_mask=bias)
        hidden = found[0] if isinstance(found, tuple) else found
        return torch.cat([hidden, mask[..., None]], dim=2)

    return run


def _pool(window: int) -> Run:
    def pool(network: nn.Module, state: Tensor) -> Tensor:
        firsts = state[:, ::window]  # where nothing follows, no token stands there: no say
        return mean_of_tokens(firsts if network.pooling == "first" else state)

    return pool


def mean_of_tokens(state: Tensor) -> Tensor:
    """The mean over the tokens that are there: (B, L, C + 1) to (B, C); zeros where none is.

    >>> mean_of_tokens(torch.tensor([[[1.0, 1.0], [3.0, 1.0], [9.0, 0.0]]])).tolist()
    [[2.0]]
    """
    values, mask = state[..., :-1], state[..., -1:]
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def first_token(state: Tensor) -> Tensor:
    """What stands at the first token, BERT's [CLS]: (B, L, C + 1) to (B, C).

    Of a long text that of its first window: how it begins.
    """
    return state[:, 0, :-1].clone()


def longest(state: Tensor) -> int:
    """Tokens of the longest row of (B, L, C + 1), at least 1; the rest is filling.

    >>> longest(torch.tensor([[[1.0, 1.0], [3.0, 1.0], [9.0, 0.0]]]))
    2
    """
    there = state[..., -1].amax(dim=0).nonzero()
    return int(there.max()) + 1 if len(there) else 1


def is_text(network: object) -> TypeGuard[TextNetwork]:
    """Whether a network reads texts."""
    return isinstance(network, TextNetwork)


def group_by_length(network: nn.Module, rows: Tensor) -> list[tuple[Tensor, int]]:
    """Row numbers of texts about as long, (b,), and how many tokens they go up to; all together.

    Filling costs as much as words: passed with the longest, short texts take twice the time.
    Shapes: token numbers (B, L), or what a part gave, (B, L, C + 1). What is no text is one group.
    """
    everything = torch.arange(len(rows), device=rows.device)
    if not is_text(network):
        return [(everything, rows.shape[1])]
    there = rows.ne(network.pad) if rows.ndim == 2 else rows[..., -1] > 0
    places = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    ends = (there * places).amax(dim=1).clamp(min=1)
    steps = (ends + _STEP - 1) // _STEP
    return [
        (everything[steps == step], min(_STEP * step, rows.shape[1]))
        for step in sorted({int(step) for step in steps})
    ]


_STEP = 4  # tokens by which lengths may differ


def arch_of(config: Mapping[str, Any], pooling: str) -> str:
    """A design in one line: its kind, and what differs from transformers' own defaults.

    >>> arch_of({"model_type": "bert", "hidden_size": 32, "vocab_size": 30522}, "mean")
    'text:bert{"hidden_size":32,"pooling":"mean"}'
    """
    return design(PREFIX, config, {_OUR_OWN: pooling})


def build_text(arch: str, *, is_drawn: bool = True) -> TextNetwork:
    """The network that `arch_of` named, with random weights; the global random state stays.

    Without `is_drawn` no weights are drawn that all are to be replaced: it takes half a second.
    Raises: ModelError if transformers is missing, or the design is none that it can build.
    """
    kind, told = settings_of(arch, PREFIX, TEXT_KINDS)
    pooling = str(told.pop(_OUR_OWN, "mean"))
    options = {} if kind == "distilbert" else {"add_pooling_layer": False}
    config, encoder = build_encoder(kind, told, is_drawn=is_drawn, **options)
    return TextNetwork(encoder, pooling, int(config.pad_token_id or 0)).eval()
