"""Encoders of sounds as starts: a folder of transformers, or its cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.errors import StartError
from warmstart.network.encoderfolder import CONFIG, PREFIX, fill, folder_of, kind_of, settings_in
from warmstart.network.listening import ENCODERS, KINDS, USUAL_RATE, build_wave, wave_arch
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.records import StartRecord, WaveInputs

_FEEDING = "preprocessor_config.json"
USUAL_SECONDS = 1.0  # until the data say how long their clips are
# What numbers may be.
_NUMBERS: dict[str, tuple[Any, float, float]] = {
    "sampling_rate": (int, 1_000, 768_000), "n_fft": (int, 16, 65_536),
    "hop_length": (int, 1, 65_536), "mean": ((int, float), -1e3, 1e3),
    "std": ((int, float), 1e-6, 1e6),
}  # fmt: skip
# Tensors of output layers and of pretraining: the encoder has no place for them.
_HEADS = (
    "quantizer.", "project_q.", "project_hid.", "lm_head.", "classifier.", "projector.",
    "speaker_proj.", "label_embeddings_concat", "dropout_features.", "final_proj.", "tdnn.",
    "feature_extractor.weights", "objective.", "layer_weights", "adapter.", "model.decoder.",
    "decoder.", "proj_out.",
)  # fmt: skip


def is_wave_start(name: str) -> bool:
    """Whether a start is an encoder of sounds, by the config.json of its folder.

    >>> is_wave_start("lite0")
    False
    """
    folder = folder_of(name)
    return folder is not None and kind_of(folder) in KINDS


def load_wave(name: str) -> tuple[Any, StartRecord]:
    """An encoder in eval mode, and its record.

    Raises: StartError if a file is missing or damaged, or a tensor of the encoder is.
    """
    folder = folder_of(name)
    if folder is None:
        raise StartError(f"{name} is not on this machine; name a folder that holds it.")
    config, feeding = settings_in(folder, CONFIG), _feeding(folder)
    kind = str(config["model_type"])
    inputs = _inputs(kind, feeding)
    arch = wave_arch(config, feeding)
    network = build_wave(arch)
    fill(network.encoder, folder, _HEADS, ENCODERS[kind].renamed)
    network.eval().requires_grad_(False)
    return network, StartRecord(
        name=name, title=Path(name.removeprefix(PREFIX)).name, arch=arch, source=str(folder),
        classes=0, sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=inputs,
    )  # fmt: skip


def _feeding(folder: Path) -> dict[str, Any]:
    """What the folder says of how clips are fed in. Raises: StartError for what is no number."""
    told = settings_in(folder, _FEEDING) if (folder / _FEEDING).is_file() else {}
    for name, (kind, low, high) in _NUMBERS.items():
        value = told.get(name)
        if name in told and not (isinstance(value, kind) and low <= value <= high):
            raise StartError(f"{folder / _FEEDING} has {name} {value!r}; copy the folder again.")
    return told


def _inputs(kind: str, feeding: Mapping[str, Any]) -> WaveInputs:
    usual = ENCODERS[kind].is_scaled
    is_scaled = usual is not None and bool(feeding.get("do_normalize", usual))
    rate = feeding.get("sampling_rate", USUAL_RATE)
    return WaveInputs(rate=rate, seconds=USUAL_SECONDS, is_scaled=is_scaled)
