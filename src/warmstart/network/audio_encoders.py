"""Which encoders of sounds there are, each in one line, and how they are built from it."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from warmstart.errors import ModelError
from warmstart.network.encoder import Encoder, build_encoder, design, refused, settings_of
from warmstart.network.segments import Run, SegmentStep, SegmentSteps
from warmstart.records.inputs import Inputs, WaveInputs

# ---- What all encoders of sounds share: clips come in as samples, a vector each goes out.


class ClipEncoder(Encoder):
    """An encoder without its output layers: samples (B, n) to vectors (B, C)."""

    layout = "NLC"

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def window_of(self, inputs: Inputs) -> int:
        """Samples of a clip, which passes as a whole. Raises: ModelError for no samples."""
        if not isinstance(inputs, WaveInputs):
            raise refused("clips", inputs)
        return inputs.shape[0]

    @abstractmethod
    def steps(self, window: int) -> SegmentSteps:
        """Its parts; `window`: samples of a clip."""


def too_short(samples: int) -> ModelError:
    """What is raised where so few samples make not a single frame."""
    return ModelError(
        f"clips of {samples:,} samples are too short for this encoder's convolutions; raise "
        "input.seconds."
    )


def layers_of(
    name: str, n: int, given: Callable[[nn.Module, Tensor], dict[str, Any]], shared: str = ""
) -> list[SegmentStep]:
    """Steps "layer.1" and so on for the modules `name`.0 and so on.

    `given`: what a layer is told besides its input; `shared`: a module that all of them read.
    """
    also = (shared,) if shared else ()
    return [
        SegmentStep(f"layer.{k + 1}", _layer(f"{name}.{k}", given), (f"{name}.{k}", *also), ())
        for k in range(n)
    ]


def _layer(name: str, given: Callable[[nn.Module, Tensor], dict[str, Any]]) -> Run:
    def run(network: nn.Module, hidden: Tensor) -> Tensor:
        found: Any = network.get_submodule(name)(hidden, **given(network, hidden))
        return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]

    return run


def ended(blocks: list[SegmentStep], neck: SegmentStep) -> SegmentSteps:
    """Parts and what makes a vector of the last one's frames; nothing comes after that."""
    return SegmentSteps(tuple(blocks), neck, None, SegmentStep("finish", lambda _, x: x, (), ()))


# ---- Log-mel frames as the feature extractors of transformers make them: in torch, no weights.
#
# Everything before the power is linear, so that one matrix does it: frames (T, n) to the real and
# imaginary parts of their spectra. It is made once, in double precision.


Matrix = NDArray[np.float64]
KALDI_FLOOR = 1.192092955078125e-07  # what Kaldi's logarithm begins from: the float32 epsilon
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

        In the numbers it is given, whatever a training multiplies in: half ones would round the
        samples before a logarithm that spans 80 dB.
        """
        with torch.autocast(samples.device.type, enabled=False):
            frames = samples.unfold(1, self.width, self.hop)
            found = frames @ self.spectrum.to(samples.device)
            real, imaginary = found.chunk(2, dim=-1)
            power = (real**2 + imaginary**2) @ self.bands.to(samples.device)
            return power.clamp(min=self.floor).log()

    def frames_of(self, samples: int) -> int:
        """How many frames so many samples make; below 1 where they make none."""
        return (samples - self.width) // self.hop + 1


def kaldi(rate: int, n_bands: int) -> LogMel:
    """25 ms every 10 ms, as Gong et al. 2021, "AST", §2.1 have them by Kaldi.

    Each frame without its mean, emphasised towards high pitches, under a Hann window.
    """
    width, hop = round(0.025 * rate), round(0.01 * rate)
    size = 1 << (width - 1).bit_length()
    centred = np.eye(width) - 1 / width
    raised = np.eye(width) - 0.97 * np.eye(width, k=-1)
    raised[0, 0] = 1 - 0.97  # the first has no sample before it but itself
    window = np.hanning(width)[:, None]
    linear = (window * (raised @ centred)).T  # (in, out): frames stand on the left
    return LogMel(
        width,
        hop,
        _tensor(linear @ _fourier(width, size)),
        _bands(
            rate,
            size,
            n_bands,
            low=20.0,
            high=rate // 2,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        ),
        KALDI_FLOOR,
    )


def whisper(rate: int, n_bands: int, width: int, hop: int) -> LogMel:
    """As Radford et al. 2022, "Whisper", §2.2 have them: a periodic Hann window, bands to 8 kHz."""
    window = np.hanning(width + 1)[:-1, None]
    return LogMel(
        width,
        hop,
        _tensor(window * _fourier(width, width)),
        _bands(rate, width, n_bands, low=0.0, high=8000.0, norm="slaney", mel_scale="slaney"),
        WHISPER_FLOOR,
    )


def _fourier(width: int, size: int) -> Matrix:
    """Of frames filled up to `size`: (width, 2 F), real parts first."""
    angles = 2 * np.pi * np.outer(np.arange(width), np.arange(size // 2 + 1)) / size
    return np.hstack([np.cos(angles), -np.sin(angles)])


def _bands(
    rate: int, size: int, n_bands: int, *, low: float, high: float, **options: Any
) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():  # of bands so low that none of the frequencies lies in them
        warnings.simplefilter("ignore")
        found = mel_filter_bank(
            num_frequency_bins=size // 2 + 1,
            num_mel_filters=n_bands,
            min_frequency=low,
            max_frequency=high,
            sampling_rate=rate,
            **options,
        )
    return _tensor(np.asarray(found))


def _tensor(values: Matrix) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


# ---- Encoders that see log-mel frames: the Audio Spectrogram Transformer, and Whisper's encoder.
#
# They take samples like all others; frames are made in their first part, which needs no weights for
# that, and filled up with what silence looks like to the length that they learnt from.


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

    def steps(self, window: int) -> SegmentSteps:
        """Patches and their places, then layer after layer. `window`: samples of a clip.

        Raises: ModelError where these are too few for a single frame.
        """
        if self.frames.frames_of(window) < 1:
            raise too_short(window)
        name = "layers" if hasattr(self.encoder, "layers") else "encoder.layer"  # by version
        n = sum(1 for _ in self.encoder.get_submodule(name).children())
        blocks = [SegmentStep("patches", _patches, ("encoder.embeddings",), ())]
        blocks += layers_of(f"encoder.{name}", n, _nothing)
        return ended(blocks, SegmentStep("neck", _tokens, ("encoder.layernorm",), ()))


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

    def steps(self, window: int) -> SegmentSteps:
        """Frames and their places, then layer after layer; a short clip is filled up."""
        layers: Any = self.encoder.layers
        read = ("encoder.conv1", "encoder.conv2", "encoder.embed_positions")
        blocks = [SegmentStep("frames", _placed, read, ())]
        told = signature(layers[0].forward).parameters
        masks = dict.fromkeys({"attention_mask", "layer_head_mask"} & set(told))  # by version
        blocks += layers_of("encoder.layers", len(layers), lambda _, __: masks)
        return ended(blocks, SegmentStep("neck", _mean, ("encoder.layer_norm",), ()))


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


# ---- Encoders that hear samples: wav2vec 2.0, WavLM and their kin, cut by design.
#
# a_1 = frames(samples),  a_2 = positions(project(a_1)),  a_k = layer(a_k-1),  vector = mean(a_P)
#
# Baevski et al. 2020, "wav2vec 2.0", §2: convolutions make a frame of each 20 ms, transformer
# layers set it beside the others. Between parts goes one tensor (B, frames, C); clips are of
# one length.


WAVEFORM_KINDS = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat", "wavlm")


class WaveNetwork(ClipEncoder):
    """wav2vec 2.0, or one of its kin."""

    def steps(self, window: int) -> SegmentSteps:
        """Frames, their places, then layer after layer. `window`: samples of a clip.

        Raises: ModelError where these are too few for a single frame.
        """
        inner: Any = self.encoder.encoder
        _check_frames(window, inner.config)
        places = ["encoder.feature_projection", "encoder.encoder.pos_conv_embed"]
        norm = ["encoder.encoder.layer_norm"]
        is_last = bool(getattr(inner.config, "do_stable_layer_norm", False))  # normed at the end
        read = (*places, *([] if is_last else norm))
        blocks = [
            SegmentStep("frames", _frames, ("encoder.feature_extractor",), ()),
            SegmentStep("positions", _positions(not is_last), read, ()),
            *_layers(inner),
        ]
        return ended(
            blocks,
            SegmentStep("neck", _mean_of_samples(is_last), tuple(norm if is_last else ()), ()),
        )


def _check_frames(samples: int, config: Any) -> None:
    """Raises: ModelError where the convolutions make no frame of so few samples."""
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


def _layers(inner: Any) -> list[SegmentStep]:
    name, n = "encoder.encoder.layers", len(inner.layers)
    if inner.config.model_type != "wavlm":
        return layers_of(name, n, lambda _, __: {})
    relative = f"{name}.0.attention"  # the first layer holds what all of them know of distances
    return layers_of(
        name,
        n,
        lambda network, hidden: {"position_bias": _distances(network, relative, hidden)},
        shared=f"{relative}.rel_attn_embed",
    )


def _distances(network: nn.Module, relative: str, hidden: Tensor) -> Tensor:
    """What is added for each distance: (B, frames, C) to (B heads, frames, frames).

    Chen et al. 2022, "WavLM", §4.1: one table of distances, which each layer weighs by itself.
    """
    attention: Any = network.get_submodule(relative)
    n, length = hidden.shape[:2]
    found: Tensor = attention.compute_bias(length, length)
    return found.unsqueeze(0).repeat(n, 1, 1, 1).flatten(0, 1)


def _mean_of_samples(is_normed: bool) -> Run:
    def run(network: nn.Module, hidden: Tensor) -> Tensor:
        whole: Any = network
        normed: Tensor = whole.encoder.encoder.layer_norm(hidden) if is_normed else hidden
        return normed.mean(dim=1)

    return run


PREFIX = "wave:"
USUAL_RATE = 16_000  # samples a second, where the folder names none: all of these learnt from it
Told = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listening:
    """One sort of encoder.

    `make` takes what transformers builds, and the settings `feeding` of preprocessor_config.json
    (with their usual values) that belong to the design; `fixed` are settings of the design that
    are not the folder's. `is_scaled`: whether clips are scaled where that file says nothing;
    None: never. `renamed`: what parts of the names of tensors are called today.
    """

    make: Callable[[nn.Module, Told], ClipEncoder]
    feeding: Told
    fixed: Told
    is_scaled: bool | None
    renamed: Mapping[str, str] = field(default_factory=dict)


# Views that hide frames, and layers left out by chance, belong to pretraining.
_SAMPLES = Listening(
    lambda encoder, _: WaveNetwork(encoder),
    {},
    {"apply_spec_augment": False, "layerdrop": 0.0},
    True,
    {  # as weight norm was kept before torch 2.1
        "conv.weight_g": "conv.parametrizations.weight.original0",
        "conv.weight_v": "conv.parametrizations.weight.original1",
    },
)
_AST = Listening(
    lambda encoder, told: AstNetwork(encoder, told["sampling_rate"], told["mean"], told["std"]),
    {"sampling_rate": USUAL_RATE, "mean": -4.2677393, "std": 4.5689974, "do_normalize": True},
    {},
    None,
    {  # as modules were called before transformers 5, and in its files still
        "encoder.layer.": "layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    },
)
_WHISPER = Listening(
    lambda encoder, told: WhisperNetwork(
        encoder.get_submodule("encoder"), told["sampling_rate"], told["n_fft"], told["hop_length"]
    ),
    {"sampling_rate": USUAL_RATE, "n_fft": 400, "hop_length": 160},
    {"encoder_layerdrop": 0.0, "decoder_layers": 0},
    False,
)
AUDIO_ENCODERS = {**dict.fromkeys(WAVEFORM_KINDS, _SAMPLES), AST: _AST, WHISPER: _WHISPER}
AUDIO_KINDS = tuple(AUDIO_ENCODERS)


def wave_arch(config: Told, feeding: Told | None = None) -> str:
    """A design in one line: its kind, and what differs from transformers' own defaults.

    >>> wave_arch({"model_type": "hubert", "hidden_size": 32})
    'wave:hubert{"hidden_size":32}'
    """
    told = feeding or {}
    usual = AUDIO_ENCODERS[str(config["model_type"])].feeding
    own = {
        f"heard_{name}": told[name] for name in usual if told.get(name, usual[name]) != usual[name]
    }
    return design(PREFIX, config, own)


def build_wave(arch: str) -> ClipEncoder:
    """The network that `wave_arch` named, with random weights; the global random state stays.

    Raises: ModelError if transformers is missing, or the design is none that it can build.
    """
    kind, told = settings_of(arch, PREFIX, AUDIO_KINDS)
    listening = AUDIO_ENCODERS[kind]
    heard = {name: told.pop(f"heard_{name}", value) for name, value in listening.feeding.items()}
    if heard.get("do_normalize") is False:
        heard |= {"mean": 0.0, "std": 0.5}  # frames as they are
    return listening.make(build_encoder(kind, {**told, **listening.fixed})[1], heard).eval()
