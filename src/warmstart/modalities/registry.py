"""The kinds of data: a new one is a file with its class, and a line here."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from warmstart.records.inputs import DEFAULT_KIND, Inputs

if TYPE_CHECKING:
    from PIL import Image

    from warmstart.modalities.modality import Modality


class _Modalities(MutableMapping[str, "Modality[Any]"]):
    """By kind. Each is loaded on first use, as decoders take long to import and help needs none."""

    def __init__(self, *kinds: str) -> None:
        self._members: dict[str, Modality[Any] | None] = dict.fromkeys(kinds)

    def __getitem__(self, kind: str) -> Modality[Any]:
        modality = self._members[kind]
        if modality is None:
            modality = getattr(import_module(f"warmstart.modalities.{kind}"), kind.upper())
            self._members[kind] = modality
        return modality

    def __setitem__(self, kind: str, modality: Modality[Any]) -> None:
        self._members[kind] = modality

    def __delitem__(self, kind: str) -> None:
        del self._members[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


IN_MEMORY = "tensor"  # the kind that no file holds
MODALITIES = _Modalities("image", "audio", "text", "table", IN_MEMORY)


def kind_options() -> tuple[str, ...]:
    """The values of --kind: the kinds that files hold, and auto.

    >>> kind_options()
    ('auto', 'image', 'audio', 'text', 'table')
    """
    return ("auto", *(kind for kind in MODALITIES if kind != IN_MEMORY))


def modality_of(inputs: Inputs | None) -> Modality[Any]:
    """The modality of a network's inputs; None stands for images.

    Clips become pictures for a network of images: these inputs are audio, with its own words,
    and are encoded, batched and drawn as images.

    >>> modality_of(None).kind
    'image'
    """
    from warmstart.modalities.audio import SPECTROGRAM

    if inputs is None:
        return MODALITIES[DEFAULT_KIND]
    return SPECTROGRAM if getattr(inputs, "sound", None) else MODALITIES[inputs.kind]


def picture_of(payload: bytes, name: str, side: int) -> Image.Image:
    """A file as a picture to show, its short side at least `side` px; audio as a spectrogram.

    Raises: DataError if the bytes are not a valid image or audio clip.
    """
    from warmstart.modalities.audio import clip_picture, decode_sound, is_sound
    from warmstart.modalities.image import decode

    if not is_sound(payload):
        return decode(payload, name, draft=side)
    return clip_picture(*decode_sound(payload, name))
