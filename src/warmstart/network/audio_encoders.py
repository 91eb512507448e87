"""Audio encoders of transformers: the supported kinds, and how they are built from one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from warmstart.errors import ModelError
from warmstart.network.encoder import (
    RENAMED_VIT,
    Encoder,
    Settings,
    build_encoder,
    design,
    encoder_steps,
    settings_of,
    wrong_inputs,
)
from warmstart.network.segments import Run, SegmentStep, SegmentSteps
from warmstart.records.inputs import Inputs, WaveInputs

# ---- Common to all audio encoders: clips come in as samples, one vector each comes out.


class ClipEncoder(Encoder):
    """An encoder without its output layers: samples (B, n) to vectors (B, C)."""

    layout = "NLC"

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def window_of(self, inputs: Inputs) -> int:
        if not isinstance(inputs, WaveInputs):
            raise wrong_inputs("clips", inputs)
        return inputs.shape[0]


def too_short(samples: int) -> ModelError:
    """The error for clips that make not a single frame."""
    return ModelError(
        f"clips of {samples:,} samples are too short for this encoder's convolutions; raise "
        "input.seconds."
    )


def layers_of(
    name: str, n: int, options: Callable[[nn.Module, Tensor], dict[str, Any]], shared: str = ""
) -> list[SegmentStep]:
    """Steps "layer.1" and so on for the modules `name`.0 and so on.

    `options`: a layer's arguments besides its input; `shared`: a module that all of them read.
    """
    also = (shared,) if shared else ()

    def layer(path: str) -> Run:
        def run(network: nn.Module, hidden: Tensor) -> Tensor:
            output: Any = network.get_submodule(path)(hidden, **options(network, hidden))
            return cast(Tensor, output[0] if isinstance(output, tuple) else output)

        return run

    return [
        SegmentStep(f"layer.{k + 1}", layer(f"{name}.{k}"), (f"{name}.{k}", *also), ())
        for k in range(n)
    ]


# ---- Log-mel frames as the feature extractors of transformers make them: in torch, no weights.
#
# All steps before the power are linear, so that one matrix does them: frames (T, n) to the real
# and imaginary parts of their spectra. It is computed once, in double precision.


Matrix = NDArray[np.float64]
KALDI_FLOOR = 1.192092955078125e-07  # least power of Kaldi's logarithm: the float32 epsilon
WHISPER_FLOOR = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class LogMel:
    """From samples (B, n) to each band's log power (B, T, M), frames of `width` every `hop`.

    `spectrum` (width, 2 F) gives F real parts, then F imaginary ones; `bands` (F, M).
    """

    width: int
    hop: int
    spectrum: Tensor
    bands: Tensor
    floor: float

    def __call__(self, samples: Tensor) -> Tensor:
        """The natural logarithm of the power, never below that of the floor.

        Without autocast: half precision would round the samples before a logarithm that spans
        80 dB.
        """
        with torch.autocast(samples.device.type, enabled=False):
            frames = samples.unfold(1, self.width, self.hop)
            spectra = frames @ self.spectrum.to(samples.device)
            real, imaginary = spectra.chunk(2, dim=-1)
            power = (real**2 + imaginary**2) @ self.bands.to(samples.device)
            return power.clamp(min=self.floor).log()

    def frames_of(self, samples: int) -> int:
        """Number of frames of a clip; below 1 where it is too short."""
        return (samples - self.width) // self.hop + 1


def kaldi(rate: int, n_bands: int) -> LogMel:
    """25 ms every 10 ms, as Gong et al. 2021, "AST", §2.1 have them by Kaldi.

    Each frame without its mean, pre-emphasised, under a Hann window.
    """
    width, hop = round(0.025 * rate), round(0.01 * rate)
    size = 1 << (width - 1).bit_length()
    centred = np.eye(width) - 1 / width
    emphasised = np.eye(width) - 0.97 * np.eye(width, k=-1)
    emphasised[0, 0] = 1 - 0.97  # the first has no sample before it but itself
    window = np.hanning(width)[:, None]
    linear = (window * (emphasised @ centred)).T  # (in, out): frames stand on the left
    bands = _bands(
        rate,
        size,
        n_bands,
        low=20.0,
        high=rate // 2,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return LogMel(width, hop, _tensor(linear @ _fourier(width, size)), bands, KALDI_FLOOR)


def whisper(rate: int, n_bands: int, width: int, hop: int) -> LogMel:
    """As Radford et al. 2022, "Whisper", §2.2 have them: a periodic Hann window, bands to 8 kHz."""
    window = np.hanning(width + 1)[:-1, None]
    bands = _bands(rate, width, n_bands, low=0.0, high=8000.0, norm="slaney", mel_scale="slaney")
    return LogMel(width, hop, _tensor(window * _fourier(width, width)), bands, WHISPER_FLOOR)


def _fourier(width: int, size: int) -> Matrix:
    """Of frames padded to `size`: (width, 2 F), real parts first."""
    angles = 2 * np.pi * np.outer(np.arange(width), np.arange(size // 2 + 1)) / size
    return np.hstack([np.cos(angles), -np.sin(angles)])


def _bands(
    rate: int, size: int, n_bands: int, *, low: float, high: float, **options: Any
) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():  # about bands so low that they hold no frequency
        warnings.simplefilter("ignore")
        bands = mel_filter_bank(
            num_frequency_bins=size // 2 + 1,
            num_mel_filters=n_bands,
            min_frequency=low,
            max_frequency=high,
            sampling_rate=rate,
            **options,
        )
    return _tensor(np.asarray(bands))


def _tensor(values: Matrix) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


# ---- Encoders of log-mel frames: the Audio Spectrogram Transformer, and Whisper's encoder.
#
# They take samples like all others; their first block makes the frames, which needs no weights,
# and pads them with silence to the length that they were trained on.


AST, WHISPER = "audio-spectrogram-transformer", "whisper"
TEN = float(torch.tensor(10.0, dtype=torch.float64).log())
DEEP = 8.0  # powers of ten below the loudest, where Whisper's frames end


class AstNetwork(ClipEncoder):
    """Attention among patches of a spectrogram and two class tokens.

    Gong et al. 2021, "AST", §2. `mean` and `spread` are those of the frames it was trained on.
    """

    def __init__(self, encoder: nn.Module, rate: int, mean: float, spread: float) -> None:
        super().__init__(encoder)
        config: Any = encoder.config
        self.frames = kaldi(rate, config.num_mel_bins)
        self.length = int(config.max_length)
        self.mean, self.spread = mean, spread

    def steps(self, window: int) -> SegmentSteps:
        """Patches and positions, then layer after layer. `window`: samples of a clip."""
        if self.frames.frames_of(window) < 1:
            raise too_short(window)
        name = "layers" if hasattr(self.encoder, "layers") else "encoder.layer"  # by version
        n = sum(1 for _ in self.encoder.get_submodule(name).children())
        blocks = [SegmentStep("patches", _patches, ("encoder.embeddings",), ())]
        blocks += layers_of(f"encoder.{name}", n, lambda _, __: {})
        return encoder_steps(blocks, SegmentStep("neck", _tokens, ("encoder.layernorm",), ()))


def _patches(network: Any, samples: Tensor) -> Tensor:
    frames = network.frames(samples)[:, : network.length]
    frames = pad(frames, (0, 0, 0, network.length - frames.shape[1]))
    scaled = (frames - network.mean) / (2 * network.spread)
    return cast(Tensor, network.encoder.embeddings(scaled))


def _tokens(network: Any, hidden: Tensor) -> Tensor:
    return cast(Tensor, network.encoder.layernorm(hidden)[:, :2].mean(dim=1))


class WhisperNetwork(ClipEncoder):
    """Whisper's encoder: two convolutions over frames, their positions, then layers.

    Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", §2.2.
    """

    def __init__(self, encoder: nn.Module, rate: int, width: int, hop: int) -> None:
        super().__init__(encoder)
        config: Any = encoder.config
        self.frames = whisper(rate, config.num_mel_bins, width, hop)
        self.samples = 2 * int(config.max_source_positions) * hop  # of a training clip

    def steps(self, window: int) -> SegmentSteps:
        """Frames and positions, then layer after layer; a short clip is padded."""
        layers: Any = self.encoder.layers
        read = ("encoder.conv1", "encoder.conv2", "encoder.embed_positions")
        blocks = [SegmentStep("frames", _positioned_frames, read, ())]
        arguments = set(signature(layers[0].forward).parameters)  # by version
        masks = dict.fromkeys({"attention_mask", "layer_head_mask"} & arguments)
        blocks += layers_of("encoder.layers", len(layers), lambda _, __: masks)
        return encoder_steps(blocks, SegmentStep("neck", _mean, ("encoder.layer_norm",), ()))


def _positioned_frames(network: Any, samples: Tensor) -> Tensor:
    encoder = network.encoder
    frames = _scaled_frames(network, samples).transpose(1, 2)
    hidden = gelu(encoder.conv2(gelu(encoder.conv1(frames)))).transpose(1, 2)
    return cast(Tensor, hidden + encoder.embed_positions.weight)


def _scaled_frames(network: Any, samples: Tensor) -> Tensor:
    """Log-mel frames (B, T, M): a clip's loudest near 1, eight powers of ten below at -1."""
    clip = samples[:, : network.samples]
    clip = pad(clip, (0, network.samples - clip.shape[1]))
    half = network.frames.width // 2
    mirrored = pad(clip[:, None], (half, half), mode="reflect")[:, 0]
    frames: Tensor = network.frames(mirrored)[:, :-1] / TEN
    frames = torch.maximum(frames, frames.amax(dim=(1, 2), keepdim=True) - DEEP)
    return (frames + 4) / 4


def _mean(network: Any, hidden: Tensor) -> Tensor:
    return cast(Tensor, network.encoder.layer_norm(hidden).mean(dim=1))


# ---- Encoders of samples: wav2vec 2.0, WavLM and relatives, in blocks by design.
#
# a_1 = frames(samples),  a_2 = positions(project(a_1)),  a_k = layer(a_k-1),  vector = mean(a_P)
#
# Baevski et al. 2020, "wav2vec 2.0", §2: convolutions make a frame of each 20 ms, transformer
# layers relate it to the others. Between blocks passes one tensor (B, frames, C); clips are of
# one length.


WAVEFORM_KINDS = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat", "wavlm")


class WaveNetwork(ClipEncoder):
    """wav2vec 2.0, or one of its relatives."""

    def steps(self, window: int) -> SegmentSteps:
        """Frames, positions, then layer after layer. `window`: samples of a clip."""
        inner: Any = self.encoder.encoder
        n_frames = window
        for width, stride in zip(inner.config.conv_kernel, inner.config.conv_stride, strict=True):
            n_frames = (n_frames - width) // stride + 1
        if n_frames < 1:
            raise too_short(window)
        positions = ["encoder.feature_projection", "encoder.encoder.pos_conv_embed"]
        norm = ["encoder.encoder.layer_norm"]
        is_last = bool(getattr(inner.config, "do_stable_layer_norm", False))  # normed at the end
        read = (*positions, *([] if is_last else norm))
        blocks = [
            SegmentStep("frames", _frames, ("encoder.feature_extractor",), ()),
            SegmentStep("positions", _positions(not is_last), read, ()),
            *_layers(inner),
        ]
        mean = _mean_of_frames(is_last)
        return encoder_steps(blocks, SegmentStep("neck", mean, tuple(norm if is_last else ()), ()))


def _frames(network: Any, samples: Tensor) -> Tensor:
    return cast(Tensor, network.encoder.feature_extractor(samples).transpose(1, 2))


def _positions(is_normed: bool) -> Run:
    def run(network: Any, frames: Tensor) -> Tensor:
        projected = network.encoder.feature_projection(frames)
        hidden: Tensor = projected[0] if isinstance(projected, tuple) else projected
        inner = network.encoder.encoder
        hidden = hidden + inner.pos_conv_embed(hidden)
        return cast(Tensor, inner.dropout(inner.layer_norm(hidden) if is_normed else hidden))

    return run


def _layers(inner: Any) -> list[SegmentStep]:
    name, n = "encoder.encoder.layers", len(inner.layers)
    if inner.config.model_type != "wavlm":
        return layers_of(name, n, lambda _, __: {})
    relative = f"{name}.0.attention"  # the first layer holds the table of distances for all

    def bias(network: nn.Module, hidden: Tensor) -> dict[str, Any]:
        """Attention bias by distance: (B, frames, C) to (B heads, frames, frames).

        Chen et al. 2022, "WavLM", §4.1: one table of distances, which each layer weighs itself.
        """
        attention: Any = network.get_submodule(relative)
        n_clips, length = hidden.shape[:2]
        table: Tensor = attention.compute_bias(length, length)
        return {"position_bias": table.unsqueeze(0).repeat(n_clips, 1, 1, 1).flatten(0, 1)}

    return layers_of(name, n, bias, shared=f"{relative}.rel_attn_embed")


def _mean_of_frames(is_normed: bool) -> Run:
    def run(network: Any, hidden: Tensor) -> Tensor:
        normed: Tensor = network.encoder.encoder.layer_norm(hidden) if is_normed else hidden
        return normed.mean(dim=1)

    return run


PREFIX = "wave:"
USUAL_RATE = 16_000  # samples per second, the default: all of these were trained on it


@dataclass(frozen=True, slots=True)
class AudioArchitecture:
    """One kind of encoder.

    `make` takes the transformers encoder and the settings of preprocessor_config.json that
    belong to the architecture, `defaults`; `fixed` are settings that override the folder's.
    `is_scaled`: default of scaling clips; None: never. `renamed`: today's names of parts of
    tensors' names.
    """

    make: Callable[[nn.Module, Settings], ClipEncoder]
    defaults: Settings
    fixed: Settings
    is_scaled: bool | None
    renamed: Mapping[str, str] = field(default_factory=dict)


# Masked frames, and layers dropped at random, belong to pretraining.
_SAMPLES = AudioArchitecture(
    lambda encoder, _: WaveNetwork(encoder),
    {},
    {"apply_spec_augment": False, "layerdrop": 0.0},
    True,
    {  # as weight norm was stored before torch 2.1
        "conv.weight_g": "conv.parametrizations.weight.original0",
        "conv.weight_v": "conv.parametrizations.weight.original1",
    },
)
_AST = AudioArchitecture(
    lambda encoder, own: AstNetwork(encoder, own["sampling_rate"], own["mean"], own["std"]),
    {"sampling_rate": USUAL_RATE, "mean": -4.2677393, "std": 4.5689974, "do_normalize": True},
    {},
    None,
    RENAMED_VIT,
)
_WHISPER = AudioArchitecture(
    lambda encoder, own: WhisperNetwork(
        encoder.get_submodule("encoder"), own["sampling_rate"], own["n_fft"], own["hop_length"]
    ),
    {"sampling_rate": USUAL_RATE, "n_fft": 400, "hop_length": 160},
    {"encoder_layerdrop": 0.0, "decoder_layers": 0},
    False,
)
AUDIO_ENCODERS = {**dict.fromkeys(WAVEFORM_KINDS, _SAMPLES), AST: _AST, WHISPER: _WHISPER}
AUDIO_KINDS = tuple(AUDIO_ENCODERS)


def wave_arch(config: Settings, processor: Settings | None = None) -> str:
    """The architecture in one line: its kind, and differences from transformers' defaults."""
    own = processor or {}
    usual = AUDIO_ENCODERS[str(config["model_type"])].defaults
    changed = [name for name in usual if own.get(name, usual[name]) != usual[name]]
    return design(PREFIX, config, {f"heard_{name}": own[name] for name in changed})


def build_wave(arch: str) -> ClipEncoder:
    """The network of a line of `wave_arch`, with random weights; the global random state stays.

    Raises: ModelError if transformers is missing, or cannot build it.
    """
    kind, settings = settings_of(arch, PREFIX, AUDIO_KINDS)
    architecture = AUDIO_ENCODERS[kind]
    own = {n: settings.pop(f"heard_{n}", value) for n, value in architecture.defaults.items()}
    if own.get("do_normalize") is False:
        own |= {"mean": 0.0, "std": 0.5}  # frames unscaled
    encoder = build_encoder(kind, {**settings, **architecture.fixed})[1]
    return architecture.make(encoder, own).eval()
