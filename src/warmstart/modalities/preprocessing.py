"""Encoded bytes to the pixels that a network takes: decode, resize, crop, in 8 bits."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart.errors import DataError, ModelError, installed_version
from warmstart.modalities.audio import (
    MAX_SECONDS,
    Samples,
    decode_sound,
    default_sound,
    draw_spectrogram,
    is_sound,
    prepare_wave,
)
from warmstart.modalities.image import as_picture as first_bands
from warmstart.modalities.image import decode, decode_alpha, decode_bands, on_white, scale_bands
from warmstart.modalities.table import encode_row
from warmstart.modalities.text import decode_utf8, token_numbers
from warmstart.nouns import count
from warmstart.records.inputs import (
    Inputs,
    Preprocessing,
    TableInputs,
    TensorInputs,
    TextInputs,
    WaveInputs,
)

Pixels = NDArray[np.uint8]
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
Box = tuple[float, float, float, float]


def load_image(payload: bytes, name: str, preprocessing: Preprocessing) -> Pixels:
    """One image, decoded and prepared. Shapes: returns (H, W, C) uint8."""
    return prepare(open_image(payload, name, preprocessing), preprocessing)


def open_image(payload: bytes, name: str, preprocessing: Preprocessing) -> Image.Image | Pixels:
    """Decode one image for the preprocessing; an audio clip becomes a grey picture.

    Returns: a picture of mode "L" or "RGB" for 1 or 3 channels, "RGBA" for 4, and for bands
    (more than four channels, or with ranges) their values scaled to 8 bits, (H, W, C).
    Raises: DataError if the bytes are not a valid image, or have another number of bands.
    """
    if preprocessing.sound is not None:
        wave, sample_rate = decode_sound(payload, name)
        return Image.fromarray(draw_spectrogram(wave, sample_rate, preprocessing.sound))
    if not has_bands(preprocessing):
        decoder = decode_alpha if preprocessing.channels == 4 else decode
        return decoder(payload, name, draft=draft_side(preprocessing))
    values, channels = decode_bands(payload, name), preprocessing.channels
    if values.shape[2] != channels and values.dtype == np.uint8 and channels in (1, 3):
        picture = decode(payload, name).convert("L" if channels == 1 else "RGB")
        values = np.asarray(picture).reshape(*picture.size[::-1], channels)
    if values.shape[2] != channels:
        raise DataError(
            f"{name} has {count(values.shape[2], 'band')}; the network takes {channels}"
        )
    return scale_bands(values, preprocessing.ranges, name)


def picture_of(payload: bytes, name: str, side: int) -> Image.Image:
    """A file as a picture to show, its short side at least `side` px; audio as a spectrogram.

    Raises: DataError if the bytes are not a valid image or audio clip.
    """
    if not is_sound(payload):
        return decode(payload, name, draft=side)
    return clip_picture(*decode_sound(payload, name))


def clip_picture(wave: Samples, sample_rate: int) -> Image.Image:
    """The default spectrogram of a clip, or of the middle of a long one. Shapes: wave (n,)."""
    sound = default_sound(sample_rate, min(len(wave) / sample_rate, MAX_SECONDS))
    return Image.fromarray(draw_spectrogram(wave, sample_rate, sound))


def has_bands(preprocessing: Preprocessing) -> bool:
    """Whether the network takes bands, not pictures."""
    return bool(preprocessing.ranges) or preprocessing.channels not in (1, 3, 4)


def as_picture(image: Image.Image | Pixels) -> Image.Image:
    """The result of `open_image` as a picture of mode "L" or "RGB", to show."""
    if isinstance(image, Image.Image):
        return on_white(image) if image.mode == "RGBA" else image
    return first_bands(image)


def draft_side(preprocessing: Preprocessing) -> int:
    """The short side, in px, that a decoder must not go below for this preprocessing.

    >>> draft_side(Preprocessing(size=(224, 224), resize=256, mean=(0.5,), std=(0.5,)))
    256
    """
    return max(preprocessing.resize, *preprocessing.size)


def prepare(image: Image.Image | Pixels, preprocessing: Preprocessing) -> Pixels:
    """Resize the short side (both if `squash`) and crop the centre, all in one resampling.

    `image` is the result of `open_image`. Images too small for the crop are enlarged. Bands are
    resized one by one, bilinearly; alpha like the colours.
    Returns: (H, W, C) uint8, C-contiguous, with H, W = preprocessing.size.
    Raises: ModelError if the network takes another number of channels.

    >>> small = Preprocessing(size=(2, 3), resize=4, mean=(0.5,), std=(0.5,))
    >>> prepare(Image.new("L", (10, 10), 7), small)[..., 0].tolist()
    [[7, 7, 7], [7, 7, 7]]
    """
    if not isinstance(image, Image.Image):
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(image, 2, 0)]
        return _stack(bands, preprocessing, Image.Resampling.BILINEAR)
    if preprocessing.channels == 4 and image.mode == "RGBA":
        # Channel by channel: Pillow would weight the colours by alpha.
        return _stack(image.split(), preprocessing, _FILTERS[preprocessing.interpolation])
    if preprocessing.channels not in (1, 3):
        raise ModelError(
            f"the base model takes {preprocessing.channels} channels, images have 1 or 3; "
            "choose another base model"
        )
    if preprocessing.channels == 1 and image.mode != "L":
        image = image.convert("L")
    height, width = preprocessing.size
    # One call with a box is about twice as fast as resizing all and cropping, with the same
    # pixels. No reducing_gap: it is faster on huge PNGs only, and changes the values.
    image = image.resize(
        (width, height),
        _FILTERS[preprocessing.interpolation],
        box=crop_box(image.size, preprocessing),
    )
    if preprocessing.channels == 3 and image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.array(image, dtype=np.uint8, order="C")
    return pixels.reshape(height, width, preprocessing.channels)


def _stack(
    bands: Sequence[Image.Image], preprocessing: Preprocessing, resampling: Image.Resampling
) -> Pixels:
    """Grey pictures, resized alike, as one array. Shapes: (H, W, C)."""
    height, width = preprocessing.size
    box = crop_box(bands[0].size, preprocessing)
    resized = [np.asarray(band.resize((width, height), resampling, box=box)) for band in bands]
    return np.ascontiguousarray(np.stack(resized, axis=-1))


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The region of the original that resizing and then cropping would leave.

    Units: px of the original; `size` is (width, height). Returns (left, top, right, bottom).

    >>> crop_box((200, 100), Preprocessing(size=(50, 50), resize=50, mean=(0.5,), std=(0.5,)))
    (50.0, 0.0, 150.0, 100.0)
    """
    width, height = size
    crop_height, crop_width = preprocessing.size
    if preprocessing.squash:
        wide = max(preprocessing.resize, crop_width)
        high = max(preprocessing.resize, crop_height)
    else:
        short = min(width, height)
        scale = max(preprocessing.resize / short, crop_width / width, crop_height / height)
        # Whole px, as in the two-step form; floor, but 7 / 3 * 3 must stay 7.
        wide = max(int(width * scale + 1e-6), crop_width)
        high = max(int(height * scale + 1e-6), crop_height)
    left, top = round((wide - crop_width) / 2), round((high - crop_height) / 2)
    return (
        left * width / wide,
        top * height / high,
        min((left + crop_width) * width / wide, width),
        min((top + crop_height) * height / high, height),
    )


# ---- Bytes of an example to an array of a batch: a modality adds its record and a case here.

CELLS = 1  # raise it when `encode_row` changes
Encoded = NDArray[Any]  # of `inputs.shape` and `inputs.dtype`


def encode(payload: bytes, name: str, inputs: Inputs) -> Encoded:
    """One example as an array of `inputs.shape` and `inputs.dtype`; `name` is for messages.

    Thread-safe. Raises: DataError if the bytes are not a valid example of that kind.
    """
    if isinstance(inputs, TextInputs):
        try:
            text = decode_utf8(payload)
        except DataError as error:
            raise DataError(f"{name} {error}") from error
        return token_numbers(text, inputs)
    if isinstance(inputs, TableInputs):
        return encode_row(payload, name, inputs)
    if isinstance(inputs, TensorInputs):
        return decode_tensor(payload, name, inputs)
    if isinstance(inputs, WaveInputs):
        return prepare_wave(*decode_sound(payload, name), inputs)
    return load_image(payload, name, inputs)


def decoder_name(inputs: Inputs) -> str:
    """The decoder from bytes to numbers and its version, on which cached features depend.

    A file may be unreadable for lack of a package.

    >>> decoder_name(Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,)))[:7]
    'pillow '
    """
    if isinstance(inputs, TextInputs):
        return _with_version("tokenizers")
    if isinstance(inputs, TableInputs):
        return f"cells {CELLS}"
    if isinstance(inputs, TensorInputs):
        return "npy"
    if isinstance(inputs, WaveInputs):
        return f"wave v1, {_with_version('soundfile')}"
    name = _with_version("pillow")
    if inputs.sound is not None:
        return f"{name}, log-mel v1, {_with_version('soundfile')}"
    if not has_bands(inputs):
        return f"{name}, alpha" if inputs.channels == 4 else name
    ranges = hashlib.sha256(repr(inputs.ranges).encode()).hexdigest()[:16]
    return f"{name}, {_with_version('tifffile')}, {inputs.channels} bands {ranges}"


def _with_version(package: str) -> str:
    return f"{package} {installed_version(package) or 'none'}"


def decode_tensor(payload: bytes, name: str, inputs: TensorInputs) -> NDArray[Any]:
    values: NDArray[Any] = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
    if values.shape != inputs.shape or str(values.dtype) != inputs.dtype:
        raise DataError(
            f"{name} is {values.dtype} of shape {values.shape}; the network takes {inputs.dtype} "
            f"of {inputs.shape}"
        )
    return values
