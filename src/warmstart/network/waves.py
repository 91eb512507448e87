"""Encoders that hear samples: wav2vec 2.0, WavLM and their kin, cut by design.

    a_1 = frames(samples),  a_2 = positions(project(a_1)),  a_k = layer(a_k-1),  vector = mean(a_P)

Baevski et al. 2020, "wav2vec 2.0", §2: convolutions make a frame of each 20 ms, transformer layers
set it beside the others. Between parts goes one tensor (B, frames, C); clips are of one length.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from warmstart.network.heard import ClipEncoder, ended, layers_of, too_short
from warmstart.network.segment import Run, Step, Steps

KINDS = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat", "wavlm")


class WaveNetwork(ClipEncoder):
    """wav2vec 2.0, or one of its kin."""

    def steps(self, window: int) -> Steps:
        """Frames, their places, then layer after layer. `window`: samples of a clip.

        Raises: StartError where these are too few for a single frame.
        """
        inner: Any = self.encoder.encoder
        _check_frames(window, inner.config)
        places = ["encoder.feature_projection", "encoder.encoder.pos_conv_embed"]
        norm = ["encoder.encoder.layer_norm"]
        is_last = bool(getattr(inner.config, "do_stable_layer_norm", False))  # normed at the end
        read = (*places, *([] if is_last else norm))
        parts = [
            Step("frames", _frames, ("encoder.feature_extractor",), ()),
            Step("positions", _positions(not is_last), read, ()),
            *_layers(inner),
        ]
        return ended(parts, Step("neck", _mean(is_last), tuple(norm if is_last else ()), ()))


def _check_frames(samples: int, config: Any) -> None:
    """Raises: StartError where the convolutions make no frame of so few samples."""
    n = samples
    for width, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        n = (n - width) // stride + 1
    if n < 1:
        raise too_short(samples)


def _frames(network: nn.Module, samples: Tensor) -> Tensor:
    whole: Any = network
    found: Tensor = whole.encoder.feature_extractor(samples).transpose(1, 2)
    return found


def _positions(is_normed: bool) -> Run:
    def run(network: nn.Module, frames: Tensor) -> Tensor:
        whole: Any = network
        found = whole.encoder.feature_projection(frames)
        hidden: Tensor = found[0] if isinstance(found, tuple) else found
        inner = whole.encoder.encoder
        hidden = hidden + inner.pos_conv_embed(hidden)
        return inner.dropout(inner.layer_norm(hidden) if is_normed else hidden)  # type: ignore[no-any-return]

    return run


def _layers(inner: Any) -> list[Step]:
    name, n = "encoder.encoder.layers", len(inner.layers)
    if inner.config.model_type != "wavlm":
        return layers_of(name, n, lambda _, __: {})
    relative = f"{name}.0.attention"  # the first layer holds what all of them know of distances
    return layers_of(
        name, n, lambda network, hidden: {"position_bias": _distances(network, relative, hidden)},
        shared=f"{relative}.rel_attn_embed",
    )  # fmt: skip


def _distances(network: nn.Module, relative: str, hidden: Tensor) -> Tensor:
    """What is added for each distance: (B, frames, C) to (B heads, frames, frames).

    Chen et al. 2022, "WavLM", §4.1: one table of distances, which each layer weighs by itself.
    """
    attention: Any = network.get_submodule(relative)
    n, length = hidden.shape[:2]
    found: Tensor = attention.compute_bias(length, length)
    return found.unsqueeze(0).repeat(n, 1, 1, 1).flatten(0, 1)


def _mean(is_normed: bool) -> Run:
    def run(network: nn.Module, hidden: Tensor) -> Tensor:
        whole: Any = network
        normed: Tensor = whole.encoder.encoder.layer_norm(hidden) if is_normed else hidden
        return normed.mean(dim=1)

    return run
