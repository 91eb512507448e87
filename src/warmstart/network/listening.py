"""Which encoders of sounds there are, each in one line, and how they are built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from warmstart.network.designs import built, design, settings_of
from warmstart.network.heard import ClipEncoder
from warmstart.network.spectra import AST, WHISPER, AstNetwork, WhisperNetwork
from warmstart.network.waves import KINDS as OF_SAMPLES
from warmstart.network.waves import WaveNetwork

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
    lambda encoder, _: WaveNetwork(encoder), {},
    {"apply_spec_augment": False, "layerdrop": 0.0}, True,
    {  # as weight norm was kept before torch 2.1
        "conv.weight_g": "conv.parametrizations.weight.original0",
        "conv.weight_v": "conv.parametrizations.weight.original1",
    },
)  # fmt: skip
_AST = Listening(
    lambda encoder, told: AstNetwork(
        encoder, told["sampling_rate"], told["mean"], told["std"]
    ),
    {"sampling_rate": USUAL_RATE, "mean": -4.2677393, "std": 4.5689974, "do_normalize": True},
    {}, None,
    {  # as modules were called before transformers 5, and in its files still
        "encoder.layer.": "layers.", "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj", "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    },
)  # fmt: skip
_WHISPER = Listening(
    lambda encoder, told: WhisperNetwork(
        encoder.get_submodule("encoder"), told["sampling_rate"], told["n_fft"], told["hop_length"]
    ),
    {"sampling_rate": USUAL_RATE, "n_fft": 400, "hop_length": 160},
    {"encoder_layerdrop": 0.0, "decoder_layers": 0}, False,
)  # fmt: skip
ENCODERS = {**dict.fromkeys(OF_SAMPLES, _SAMPLES), AST: _AST, WHISPER: _WHISPER}
KINDS = tuple(ENCODERS)


def wave_arch(config: Told, feeding: Told | None = None) -> str:
    """A design in one line: its kind, and what differs from transformers' own defaults.

    >>> wave_arch({"model_type": "hubert", "hidden_size": 32})
    'wave:hubert{"hidden_size":32}'
    """
    told = feeding or {}
    usual = ENCODERS[str(config["model_type"])].feeding
    own = {
        f"heard_{name}": told[name] for name in usual if told.get(name, usual[name]) != usual[name]
    }
    return design(PREFIX, config, own)


def build_wave(arch: str) -> ClipEncoder:
    """The network that `wave_arch` named, with random weights; the global random state stays.

    Raises: StartError if transformers is missing, or the design is none that it can build.
    """
    kind, told = settings_of(arch, PREFIX, KINDS)
    listening = ENCODERS[kind]
    heard = {name: told.pop(f"heard_{name}", value) for name, value in listening.feeding.items()}
    if heard.get("do_normalize") is False:
        heard |= {"mean": 0.0, "std": 0.5}  # frames as they are
    return listening.make(built(kind, {**told, **listening.fixed})[1], heard).eval()
