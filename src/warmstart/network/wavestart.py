"""Encoders of sounds as starts: a folder of transformers, or its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart.errors import StartError
from warmstart.network.encoderfolder import CONFIG, PREFIX, fill, folder_of, kind_of, settings_in
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.network.waves import KINDS, build_wave, wave_arch
from warmstart.records import StartRecord, WaveInputs

_FEEDING = "preprocessor_config.json"
USUAL_RATE = 16_000  # samples a second, where the folder names none: all of these learnt from it
USUAL_SECONDS = 1.0  # until the data say how long their clips are
# Tensors of output layers and of pretraining: the encoder has no place for them.
_HEADS = (
    "quantizer.", "project_q.", "project_hid.", "lm_head.", "classifier.", "projector.",
    "speaker_proj.", "label_embeddings_concat", "dropout_features.", "final_proj.", "tdnn.",
    "feature_extractor.weights", "objective.", "layer_weights", "adapter.",
)  # fmt: skip
_RENAMED = {  # as weight norm was kept before torch 2.1
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}


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
    arch = wave_arch(settings_in(folder, CONFIG))
    network = build_wave(arch)
    fill(network.encoder, folder, _HEADS, _RENAMED)
    network.eval().requires_grad_(False)
    return network, StartRecord(
        name=name, title=Path(name.removeprefix(PREFIX)).name, arch=arch, source=str(folder),
        classes=0, sha256=tensor_digest(unique_tensors(network)),
        parameters=sum(p.numel() for p in network.parameters()),
        preprocessing=_inputs(folder),
    )  # fmt: skip


def _inputs(folder: Path) -> WaveInputs:
    told = settings_in(folder, _FEEDING) if (folder / _FEEDING).is_file() else {}
    rate, is_scaled = told.get("sampling_rate", USUAL_RATE), told.get("do_normalize", True)
    if not isinstance(rate, int) or not 1_000 <= rate <= 768_000:
        raise StartError(f"{folder / _FEEDING} has sampling_rate {rate!r}; copy the folder again.")
    return WaveInputs(rate=rate, seconds=USUAL_SECONDS, is_scaled=bool(is_scaled))
