"""Encoders that see log-mel frames: the Audio Spectrogram Transformer, and Whisper's encoder.

They take samples like all others; frames are made in their first part, which needs no weights for
that, and filled up with what silence looks like to the length that they learnt from.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from warmstart.network.heard import ClipEncoder, ended, layers_of, too_short
from warmstart.network.mels import kaldi, whisper
from warmstart.network.segment import Step, Steps

AST, WHISPER = "audio-spectrogram-transformer", "whisper"
TEN = float(torch.tensor(10.0, dtype=torch.float64).log())
DEEP = 8.0  # powers of ten below the loudest, where Whisper's frames end


def _nothing(_: nn.Module, __: Tensor) -> dict[str, Any]:
    return {}


class AstNetwork(ClipEncoder):
    """Patches of a spectrogram among each other, and two tokens that gather what they find.

    Gong et al. 2021, "AST", §2. `mean` and `spread` are those of the frames it learnt from.
    """

    def __init__(self, encoder: nn.Module, rate: int, mean: float, spread: float) -> None:
        super().__init__(encoder)
        config: Any = encoder.config
        self.frames = kaldi(rate, config.num_mel_bins)
        self.length = int(config.max_length)
        self.mean, self.spread = mean, spread

    def steps(self, window: int) -> Steps:
        """Patches and their places, then layer after layer. `window`: samples of a clip.

        Raises: StartError where these are too few for a single frame.
        """
        if self.frames.frames_of(window) < 1:
            raise too_short(window)
        name = "layers" if hasattr(self.encoder, "layers") else "encoder.layer"  # by version
        n = sum(1 for _ in self.encoder.get_submodule(name).children())
        parts = [Step("patches", _patches, ("encoder.embeddings",), ())]
        parts += layers_of(f"encoder.{name}", n, _nothing)
        return ended(parts, Step("neck", _tokens, ("encoder.layernorm",), ()))


def _patches(network: nn.Module, samples: Tensor) -> Tensor:
    whole: Any = network
    frames = whole.frames(samples)[:, : whole.length]
    frames = pad(frames, (0, 0, 0, whole.length - frames.shape[1]))
    found: Tensor = whole.encoder.embeddings((frames - whole.mean) / (2 * whole.spread))
    return found


def _tokens(network: nn.Module, hidden: Tensor) -> Tensor:
    whole: Any = network
    found: Tensor = whole.encoder.layernorm(hidden)[:, :2].mean(dim=1)
    return found


class WhisperNetwork(ClipEncoder):
    """Whisper's encoder: two convolutions over frames, their places, then layers.

    Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", §2.2.
    """

    def __init__(self, encoder: nn.Module, rate: int, width: int, hop: int) -> None:
        super().__init__(encoder)
        config: Any = encoder.config
        self.frames = whisper(rate, config.num_mel_bins, width, hop)
        self.samples = 2 * int(config.max_source_positions) * hop  # of the length it learnt from

    def steps(self, window: int) -> Steps:
        """Frames and their places, then layer after layer; a short clip is filled up."""
        layers: Any = self.encoder.layers
        read = ("encoder.conv1", "encoder.conv2", "encoder.embed_positions")
        parts = [Step("frames", _placed, read, ())]
        told = signature(layers[0].forward).parameters
        masks = dict.fromkeys({"attention_mask", "layer_head_mask"} & set(told))  # by version
        parts += layers_of("encoder.layers", len(layers), lambda _, __: masks)
        return ended(parts, Step("neck", _mean, ("encoder.layer_norm",), ()))


def _placed(network: nn.Module, samples: Tensor) -> Tensor:
    whole: Any = network
    encoder = whole.encoder
    frames = _brightness(whole, samples).transpose(1, 2)
    hidden = gelu(encoder.conv2(gelu(encoder.conv1(frames)))).transpose(1, 2)
    found: Tensor = hidden + encoder.embed_positions.weight
    return found


def _brightness(whole: Any, samples: Tensor) -> Tensor:
    """Log-mel frames (B, T, M): a clip's loudest near 1, eight powers of ten below at -1."""
    clip = samples[:, : whole.samples]
    clip = pad(clip, (0, whole.samples - clip.shape[1]))
    half = whole.frames.width // 2
    mirrored = pad(clip[:, None], (half, half), mode="reflect")[:, 0]
    found: Tensor = whole.frames(mirrored)[:, :-1] / TEN
    found = torch.maximum(found, found.amax(dim=(1, 2), keepdim=True) - DEEP)
    return (found + 4) / 4


def _mean(network: nn.Module, hidden: Tensor) -> Tensor:
    whole: Any = network
    found: Tensor = whole.encoder.layer_norm(hidden).mean(dim=1)
    return found
