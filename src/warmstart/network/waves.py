"""Encoders of sounds as transformers builds them: wav2vec 2.0 and its kin, cut by design.

    a_1 = frames(samples),  a_2 = positions(project(a_1)),  a_k = layer(a_k-1),  vector = mean(a_P)

Baevski et al. 2020, "wav2vec 2.0", §2: convolutions make a frame of each 20 ms, transformer layers
set it beside the others. Between parts goes one tensor (B, frames, C); clips are of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from warmstart.network.designs import built, design, settings_of
from warmstart.network.segment import Step, Steps

PREFIX = "wave:"
KINDS = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat")


class WaveNetwork(nn.Module):
    """An encoder without its output layers: samples (B, n) to vectors (B, C)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor) -> Tensor:
        """Samples (B, n) to (B, C)."""
        steps = self.steps()
        for step in (*steps.parts, steps.neck):
            inputs = step.run(self, inputs)
        return inputs

    def steps(self) -> Steps:
        """Frames, their places, then layer after layer; such a network needs no trace."""
        inner: Any = self.encoder.encoder
        places = ["encoder.feature_projection", "encoder.encoder.pos_conv_embed"]
        norm = ["encoder.encoder.layer_norm"]
        is_last = bool(getattr(inner.config, "do_stable_layer_norm", False))  # normed at the end
        layers = [f"encoder.encoder.layers.{n}" for n in range(len(inner.layers))]
        parts = (
            Step("frames", _frames, ("encoder.feature_extractor",), ()),
            Step("positions", _positions(not is_last), (*places, *([] if is_last else norm)), ()),
            *(Step(f"layer.{n}", _layer(name), (name,), ()) for n, name in enumerate(layers, 1)),
        )
        neck = Step("neck", _mean(is_last), tuple(norm if is_last else ()), ())
        return Steps(parts, neck, None, Step("finish", lambda _, x: x, (), ()))


def _frames(network: nn.Module, samples: Tensor) -> Tensor:
    whole: Any = network
    found: Tensor = whole.encoder.feature_extractor(samples).transpose(1, 2)
    return found


def _positions(is_normed: bool) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(network: nn.Module, frames: Tensor) -> Tensor:
        whole: Any = network
        found = whole.encoder.feature_projection(frames)
        hidden: Tensor = found[0] if isinstance(found, tuple) else found
        inner = whole.encoder.encoder
        hidden = hidden + inner.pos_conv_embed(hidden)
        return inner.dropout(inner.layer_norm(hidden) if is_normed else hidden)  # type: ignore[no-any-return]

    return run


def _layer(name: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(network: nn.Module, hidden: Tensor) -> Tensor:
        found: Any = network.get_submodule(name)(hidden)
        return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]

    return run


def _mean(is_normed: bool) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(network: nn.Module, hidden: Tensor) -> Tensor:
        whole: Any = network
        normed: Tensor = whole.encoder.encoder.layer_norm(hidden) if is_normed else hidden
        return normed.mean(dim=1)

    return run


def wave_arch(config: Mapping[str, Any]) -> str:
    """A design in one line: its kind, and what differs from transformers' own defaults.

    >>> wave_arch({"model_type": "hubert", "hidden_size": 32})
    'wave:hubert{"hidden_size":32}'
    """
    return design(PREFIX, config, {})


def build_wave(arch: str) -> WaveNetwork:
    """The network that `wave_arch` named, with random weights; the global random state stays.

    Raises: StartError if transformers is missing, or the design is none that it can build.
    """
    kind, told = settings_of(arch, PREFIX, KINDS)
    # Views that hide frames, and layers left out by chance, belong to pretraining.
    told |= {"apply_spec_augment": False, "layerdrop": 0.0}
    return WaveNetwork(built(kind, told)[1]).eval()
