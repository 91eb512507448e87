"""The kinds of data: a new one is a file with its class, and a line here."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from warmstart.records.inputs import DEFAULT_KIND, Inputs

if TYPE_CHECKING:
    from PIL import Image

    from warmstart.modalities.modality import Modality


class _Modalities(MutableMapping[str, "Modality[Any]"]):
    """By kind. Loaded on first use, as decoders take long to import and help needs none."""

    @cached_property
    def _loaded(self) -> dict[str, Modality[Any]]:
        from warmstart.modalities.audio import AUDIO
        from warmstart.modalities.image import IMAGE
        from warmstart.modalities.table import TABLE
        from warmstart.modalities.tensor import TENSOR
        from warmstart.modalities.text import TEXT

        return {one.kind: one for one in (IMAGE, AUDIO, TEXT, TABLE, TENSOR)}

    def __getitem__(self, kind: str) -> Modality[Any]:
        return self._loaded[kind]

    def __setitem__(self, kind: str, modality: Modality[Any]) -> None:
        self._loaded[kind] = modality

    def __delitem__(self, kind: str) -> None:
        del self._loaded[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)


MODALITIES = _Modalities()


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
