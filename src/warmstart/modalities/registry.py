"""The kinds of data: a new one is a file with its class, and a line here."""

from __future__ import annotations

from typing import Any

from PIL import Image

from warmstart.modalities.audio import AUDIO, SPECTROGRAM, clip_picture, decode_sound, is_sound
from warmstart.modalities.image import IMAGE, decode
from warmstart.modalities.modality import Modality
from warmstart.modalities.table import TABLE
from warmstart.modalities.tensor import TENSOR
from warmstart.modalities.text import TEXT
from warmstart.records.inputs import Inputs

MODALITIES: dict[str, Modality[Any]] = {
    one.kind: one for one in (IMAGE, AUDIO, TEXT, TABLE, TENSOR)
}


def modality_of(inputs: Inputs | None) -> Modality[Any]:
    """The modality of a network's inputs; None stands for images.

    Clips become pictures for a network of images: these inputs are audio, with its own words,
    and are encoded, batched and drawn as images.

    >>> modality_of(None).kind
    'image'
    """
    if inputs is None:
        return IMAGE
    return SPECTROGRAM if getattr(inputs, "sound", None) else MODALITIES[inputs.kind]


def picture_of(payload: bytes, name: str, side: int) -> Image.Image:
    """A file as a picture to show, its short side at least `side` px; audio as a spectrogram.

    Raises: DataError if the bytes are not a valid image or audio clip.
    """
    if not is_sound(payload):
        return decode(payload, name, draft=side)
    return clip_picture(*decode_sound(payload, name))
