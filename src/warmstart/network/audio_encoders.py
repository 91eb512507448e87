"""Audio encoders of transformers: the supported kinds, and how they are built from one line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from warmstart.errors import ModelError
from warmstart.modalities.audio import AUDIO
from warmstart.network.encoder import (
    RENAMED_VIT,
    Encoder,
    Settings,
    build_encoder,
    design,
    encoder_steps,
    layers_of,
    settings_of,
)
from warmstart.network.hub import PROCESSOR, fill, settings
from warmstart.network.segments import Run, SegmentStep, SegmentSteps
from warmstart.records.inputs import WaveInputs


class ClipEncoder(Encoder):
    """An encoder of clips: samples (B, n) to vectors (B, C)."""

    layout = "NLC"
    modality = AUDIO

    def __init__(self, encoder: nn.Module, settings: Settings) -> None:
        super().__init__(encoder)


def _check_length(n_samples: int, n_frames: int) -> None:
    if n_frames < 1:
        raise ModelError(
            f"clips of {n_samples:,} samples are too short for this encoder's convolutions; raise "
            "input.seconds."
        )


# ---- Log-mel frames as the feature extractors of transformers make them: in torch, no weights.
#
# All steps before the power are linear: one matrix, computed once in double precision.


Matrix = NDArray[np.float64]


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
        """The natural logarithm of the power, never below that of the floor."""
        # Half precision would round the samples before a logarithm that spans 80 dB.
        with torch.autocast(samples.device.type, enabled=False):
            frames = samples.unfold(1, self.width, self.hop)
            spectra = frames @ self.spectrum.to(samples.device)
            real, imaginary = spectra.chunk(2, dim=-1)
            power = (real**2 + imaginary**2) @ self.bands.to(samples.device)
            return power.clamp(min=self.floor).log()


def kaldi(rate: int, n_bands: int) -> LogMel:
    """Kaldi's centred, pre-emphasised frames, 25 ms every 10 ms (Gong et al. 2021, "AST", §2.1)."""
    width, hop = round(0.025 * rate), round(0.01 * rate)
    size = 1 << (width - 1).bit_length()
    centred = np.eye(width) - 1 / width
    emphasised = np.eye(width) - 0.97 * np.eye(width, k=-1)
    emphasised[0, 0] = 1 - 0.97  # the first has no sample before it but itself
    window = np.hanning(width)[:, None]
    linear = (window * (emphasised @ centred)).T  # (in, out): frames stand on the left
    scale = {"norm": None, "mel_scale": "kaldi", "triangularize_in_mel_space": True}
    bands = _bands(rate, size, n_bands, 20.0, rate // 2, **scale)
    floor = 1.192092955078125e-07  # the float32 epsilon
    return LogMel(width, hop, _tensor(linear @ _fourier(width, size)), bands, floor)


def whisper(rate: int, n_bands: int, width: int, hop: int) -> LogMel:
    """A periodic Hann window, bands to 8 kHz (Radford et al. 2022, "Whisper", §2.2)."""
    window = np.hanning(width + 1)[:-1, None]
    bands = _bands(rate, width, n_bands, 0.0, 8000.0, norm="slaney", mel_scale="slaney")
    return LogMel(width, hop, _tensor(window * _fourier(width, width)), bands, floor=1e-10)


def _fourier(width: int, size: int) -> Matrix:
    """Of frames padded to `size`: (width, 2 F), real parts first."""
    angles = 2 * np.pi * np.outer(np.arange(width), np.arange(size // 2 + 1)) / size
    return np.hstack([np.cos(angles), -np.sin(angles)])


def _bands(rate: int, size: int, n_bands: int, low: float, high: float, **scale: Any) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():  # about bands so low that they hold no frequency
        warnings.simplefilter("ignore")
        bands = mel_filter_bank(
            num_frequency_bins=size // 2 + 1,
            num_mel_filters=n_bands,
            min_frequency=low,
            max_frequency=high,
            sampling_rate=rate,
            **scale,
        )
    return _tensor(np.asarray(bands))


def _tensor(values: Matrix) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


# ---- Encoders of log-mel frames: the Audio Spectrogram Transformer, and Whisper's encoder.
#
# Their first block makes frames of samples, and pads them with silence to the training length.


AST, WHISPER = "audio-spectrogram-transformer", "whisper"
TEN = float(torch.tensor(10.0, dtype=torch.float64).log())
DEEP = 8.0  # powers of ten below the loudest, where Whisper's frames end


class AstNetwork(ClipEncoder):
    """Attention among patches of a spectrogram and two class tokens (Gong et al. 2021, "AST")."""

    def __init__(self, encoder: nn.Module, settings: Settings) -> None:
        super().__init__(encoder, settings)
        config: Any = encoder.config
        self.frames = kaldi(settings["sampling_rate"], config.num_mel_bins)
        self.length = int(config.max_length)
        self.mean, self.std = settings["mean"], settings["std"]

    def steps(self, window: int) -> SegmentSteps:
        _check_length(window, (window - self.frames.width) // self.frames.hop + 1)
        name = "layers" if hasattr(self.encoder, "layers") else "encoder.layer"  # by version
        n_layers = len(list(self.encoder.get_submodule(name).children()))
        patches = SegmentStep("patches", _patches, ("encoder.embeddings",), ())
        blocks = [patches, *layers_of(f"encoder.{name}", n_layers)]

        def class_tokens(network: Any, hidden: Tensor) -> Tensor:
            return cast(Tensor, network.encoder.layernorm(hidden)[:, :2].mean(dim=1))

        return encoder_steps(blocks, class_tokens, ["encoder.layernorm"])


def _patches(network: Any, samples: Tensor) -> Tensor:
    frames = network.frames(samples)[:, : network.length]
    frames = pad(frames, (0, 0, 0, network.length - frames.shape[1]))
    scaled = (frames - network.mean) / (2 * network.std)
    return cast(Tensor, network.encoder.embeddings(scaled))


class WhisperNetwork(ClipEncoder):
    """Whisper's encoder: two convolutions over frames, their positions, then layers.

    Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", §2.2.
    """

    def __init__(self, encoder: nn.Module, settings: Settings) -> None:
        super().__init__(encoder.get_submodule("encoder"), settings)
        config: Any = self.encoder.config
        width, hop = settings["n_fft"], settings["hop_length"]
        self.frames = whisper(settings["sampling_rate"], config.num_mel_bins, width, hop)
        self.n_samples = 2 * int(config.max_source_positions) * hop  # of a training clip

    def steps(self, window: int) -> SegmentSteps:
        layers: Any = self.encoder.layers
        modules = ("encoder.conv1", "encoder.conv2", "encoder.embed_positions")
        arguments = set(signature(layers[0].forward).parameters)  # by version
        masks = dict.fromkeys({"attention_mask", "layer_head_mask"} & arguments)
        blocks = [
            SegmentStep("frames", _positioned_frames, modules, ()),
            *layers_of("encoder.layers", len(layers), lambda _, __: masks),
        ]
        norm = ["encoder.layer_norm"]
        return encoder_steps(blocks, _mean_of_frames(norm), norm)


def _positioned_frames(network: Any, samples: Tensor) -> Tensor:
    clip = samples[:, : network.n_samples]
    clip = pad(clip, (0, network.n_samples - clip.shape[1]))
    half = network.frames.width // 2
    mirrored = pad(clip[:, None], (half, half), mode="reflect")[:, 0]
    frames: Tensor = network.frames(mirrored)[:, :-1] / TEN
    frames = torch.maximum(frames, frames.amax(dim=(1, 2), keepdim=True) - DEEP)
    frames = ((frames + 4) / 4).transpose(1, 2)  # a clip's loudest near 1, the end at -1
    encoder = network.encoder
    hidden = gelu(encoder.conv2(gelu(encoder.conv1(frames)))).transpose(1, 2)
    return cast(Tensor, hidden + encoder.embed_positions.weight)


def _mean_of_frames(norms: list[str]) -> Run:
    def run(network: nn.Module, hidden: Tensor) -> Tensor:
        for name in norms:
            hidden = network.get_submodule(name)(hidden)
        return hidden.mean(dim=1)

    return run


# ---- Encoders of samples: wav2vec 2.0, WavLM and relatives, in blocks by design.
#
# a_1 = frames(samples),  a_2 = positions(project(a_1)),  a_k = layer(a_k-1),  vector = mean(a_P)
#
# Baevski et al. 2020, "wav2vec 2.0", §2: a frame is 20 ms. Between blocks passes one tensor
# (B, frames, C); clips are of one length.


WAVEFORM_KINDS = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat", "wavlm")


class WaveNetwork(ClipEncoder):
    """wav2vec 2.0, or one of its relatives."""

    def steps(self, window: int) -> SegmentSteps:
        inner: Any = self.encoder.encoder
        n_frames = window
        for width, stride in zip(inner.config.conv_kernel, inner.config.conv_stride, strict=True):
            n_frames = (n_frames - width) // stride + 1
        _check_length(window, n_frames)
        positions = ("encoder.feature_projection", "encoder.encoder.pos_conv_embed")
        norm = ["encoder.encoder.layer_norm"]
        is_last = bool(getattr(inner.config, "do_stable_layer_norm", False))  # normed at the end
        first, last = ([], norm) if is_last else (norm, [])
        blocks = [
            SegmentStep("frames", _frames, ("encoder.feature_extractor",), ()),
            SegmentStep("positions", _positions(first), (*positions, *first), ()),
            *_layers(inner),
        ]
        return encoder_steps(blocks, _mean_of_frames(last), last)


def _frames(network: Any, samples: Tensor) -> Tensor:
    return cast(Tensor, network.encoder.feature_extractor(samples).transpose(1, 2))


def _positions(norms: list[str]) -> Run:
    def run(network: Any, frames: Tensor) -> Tensor:
        projected = network.encoder.feature_projection(frames)
        hidden: Tensor = projected[0] if isinstance(projected, tuple) else projected
        inner = network.encoder.encoder
        hidden = hidden + inner.pos_conv_embed(hidden)
        for name in norms:
            hidden = network.get_submodule(name)(hidden)
        return cast(Tensor, inner.dropout(hidden))

    return run


def _layers(inner: Any) -> list[SegmentStep]:
    path, n_layers = "encoder.encoder.layers", len(inner.layers)
    if inner.config.model_type != "wavlm":
        return layers_of(path, n_layers)
    first = f"{path}.0.attention"  # holds the table of distances for all layers

    def bias(network: nn.Module, hidden: Tensor) -> dict[str, Any]:
        """(B, frames, C) to (B heads, frames, frames): Chen et al. 2022, "WavLM", §4.1."""
        attention: Any = network.get_submodule(first)
        n_clips, length = hidden.shape[:2]
        table: Tensor = attention.compute_bias(length, length)
        return {"position_bias": table.unsqueeze(0).repeat(n_clips, 1, 1, 1).flatten(0, 1)}

    return layers_of(path, n_layers, bias, shared=[f"{first}.rel_attn_embed"])


PREFIX = "wave:"
DEFAULT_RATE = 16_000  # samples per second: all of these were trained on it


@dataclass(frozen=True, slots=True)
class AudioArchitecture:
    """One kind of encoder.

    `defaults`: of the architecture's settings in preprocessor_config.json; `fixed`: settings that
    override the folder's; `is_scaled`: default of scaling clips, None for never; `renamed`: current
    names of parts of tensors' names.
    """

    network: type[ClipEncoder]
    defaults: Settings
    fixed: Settings
    is_scaled: bool | None
    renamed: Mapping[str, str] = field(default_factory=dict)


# Masked frames, and layers dropped at random, belong to pretraining.
_SAMPLES = AudioArchitecture(
    WaveNetwork,
    {},
    {"apply_spec_augment": False, "layerdrop": 0.0},
    True,
    {  # as weight norm was stored before torch 2.1
        "conv.weight_g": "conv.parametrizations.weight.original0",
        "conv.weight_v": "conv.parametrizations.weight.original1",
    },
)
_AST = AudioArchitecture(
    AstNetwork,
    {"sampling_rate": DEFAULT_RATE, "mean": -4.2677393, "std": 4.5689974, "do_normalize": True},
    {},
    None,
    RENAMED_VIT,
)
_WHISPER = AudioArchitecture(
    WhisperNetwork,
    {"sampling_rate": DEFAULT_RATE, "n_fft": 400, "hop_length": 160},
    {"encoder_layerdrop": 0.0, "decoder_layers": 0},
    False,
)
AUDIO_ENCODERS = {**dict.fromkeys(WAVEFORM_KINDS, _SAMPLES), AST: _AST, WHISPER: _WHISPER}


def wave_arch(config: Settings, processor: Settings) -> str:
    """The architecture in one line: its kind, and differences from transformers' defaults."""
    defaults = AUDIO_ENCODERS[str(config["model_type"])].defaults
    changed = [name for name in defaults if processor.get(name, defaults[name]) != defaults[name]]
    return design(PREFIX, config, {f"heard_{name}": processor[name] for name in changed})


def build_wave(arch: str) -> ClipEncoder:
    """The network of `wave_arch`, with random weights. Raises: ModelError if it cannot be built."""
    kind, config = settings_of(arch, PREFIX, AUDIO_ENCODERS)
    architecture = AUDIO_ENCODERS[kind]
    settings = {n: config.pop(f"heard_{n}", value) for n, value in architecture.defaults.items()}
    if settings.get("do_normalize") is False:
        settings |= {"mean": 0.0, "std": 0.5}  # frames unscaled
    encoder = build_encoder(kind, {**config, **architecture.fixed})[1]
    return architecture.network(encoder, settings).eval()


# ---- From a folder.


_DEFAULT_SECONDS = 1.0  # until the length of the data's clips is known
# Types and ranges of the numbers in preprocessor_config.json.
_NUMBERS: dict[str, tuple[Any, float, float]] = {
    "sampling_rate": (int, 1_000, 768_000),
    "n_fft": (int, 16, 65_536),
    "hop_length": (int, 1, 65_536),
    "mean": ((int, float), -1e3, 1e3),
    "std": ((int, float), 1e-6, 1e6),
}
_AUDIO_HEADS = (
    "quantizer. project_q. project_hid. lm_head. classifier. projector. speaker_proj. "
    "label_embeddings_concat dropout_features. final_proj. tdnn. feature_extractor.weights "
    "objective. layer_weights adapter. model.decoder. decoder. proj_out."
)


def load_wave(folder: Path, config: Settings) -> tuple[ClipEncoder, str, WaveInputs]:
    path = folder / PROCESSOR
    processor = settings(path) if path.is_file() else {}
    for key, (number, low, high) in _NUMBERS.items():
        value = processor.get(key)
        if key in processor and not (isinstance(value, number) and low <= value <= high):
            raise ModelError(f"{path} has {key} {value!r}; copy the folder again.")
    kind = AUDIO_ENCODERS[str(config["model_type"])]
    is_scaled = kind.is_scaled is not None and bool(processor.get("do_normalize", kind.is_scaled))
    rate = processor.get("sampling_rate", DEFAULT_RATE)
    inputs = WaveInputs(sample_rate=rate, seconds=_DEFAULT_SECONDS, is_scaled=is_scaled)
    arch = wave_arch(config, processor)
    network = build_wave(arch)
    fill(network.encoder, folder, _AUDIO_HEADS.split(), kind.renamed)
    return network, arch, inputs
