"""What a network takes: how an example of any kind becomes numbers.

The seam between kinds of data. A start's record carries one of these descriptions, and each
question that depends on the kind is answered in one place, by which description it is:

    bytes of an example -> encoded example       data.encode.encode, decoder_name for cache keys
    batch of encoded examples -> input tensor    features.feeding.to_tensor, noise
    an example for people to look at             joints.thumbnails

Every description has `kind`; `shape` and `dtype` of an encoded example, as NumPy has them; and
`blank`, which fills an example that stands for none. Code that only makes sense for pictures
asks for them by `pictures`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from warmstart.errors import StartError
from warmstart.records.absent import ABSENT
from warmstart.records.columns import TableInputs
from warmstart.records.sound import Sound
from warmstart.records.tensors import TensorInputs
from warmstart.records.waves import WaveInputs

WINDOWS = 8  # of a long text, at most: what is stored and trained grows with them
Kind = Literal["image", "audio", "text", "table", "tensor"]
_MANY = {"audio": "samples of clips"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes an input tensor (C, height, width).

    The short side is resized to `resize` px (both sides when `squash`), the centre
    `size` is cut out, values are scaled to 0..1, then (x - mean) / std per channel.
    """

    size: tuple[int, int]  # height, width in px
    resize: int  # px of the short side before the crop
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] = "bicubic"
    squash: bool = False
    # Raw values of each band that become 0 and 1, for images of more than 8 bits or more than
    # four bands; empty for ordinary pictures.
    ranges: tuple[tuple[float, float], ...] = ()
    # How clips become pictures; None, and left out of every file and key, where inputs are images.
    sound: Sound | None = field(default=None, metadata=ABSENT)

    kind: ClassVar[Kind] = "image"
    dtype: ClassVar[str] = "uint8"
    blank: ClassVar[int] = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an encoded example: (height, width, channels)."""
        return (*self.size, self.channels)

    @property
    def channels(self) -> int:
        """Number of input channels: 1 grey, 3 colour, 4 colour and alpha, or bands."""
        return len(self.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInputs:
    """How a text becomes token numbers, (length,) int32, those beyond its end being `pad`.

    The tokens are those of a tokenizer, named by the SHA-256 of its tokenizer.json: see
    `warmstart.tokens`. Where `length` is more than the network has places for it is so many
    windows of `most` places, each of which passes by itself. What is longer is cut off.
    """

    tokenizer: str  # sha256 of the bytes of tokenizer.json
    length: int  # tokens kept, the special ones of every window included
    most: int  # tokens that the network has places for
    pad: int  # number of the token that fills a row
    vocabulary: int  # numbers of tokens that the network knows
    unknown: int | None = None  # number of the token for what the tokenizer has no word for

    kind: ClassVar[Kind] = "text"
    dtype: ClassVar[str] = "int32"

    @property
    def window(self) -> int:
        """Tokens that pass the network at a time."""
        return min(self.length, self.most)

    @property
    def n_windows(self) -> int:
        """Windows of the longest text that is read whole."""
        return -(-self.length // self.window)

    @property
    def blank(self) -> int:
        """A row of these is an empty text."""
        return self.pad

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an encoded example: (length,)."""
        return (self.length,)


Inputs = Preprocessing | TextInputs | TableInputs | TensorInputs | WaveInputs


def kind_of(inputs: Inputs | None) -> Kind:
    """What a network is given: clips of sound apart from images, though both may be drawn.

    >>> kind_of(None)
    'image'
    """
    if isinstance(inputs, Preprocessing):
        return "image" if inputs.sound is None else "audio"
    return "image" if inputs is None else inputs.kind


def pictures(inputs: Inputs) -> Preprocessing:
    """The description of pictures, where the question makes sense for them alone.

    Raises: StartError where the network takes something else.

    >>> pictures(Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))).channels
    1
    """
    if not isinstance(inputs, Preprocessing):
        taken = _MANY.get(inputs.kind, f"{inputs.kind}s")
        raise StartError(
            f"the network takes {taken}, and this is done for images alone; leave it away."
        )
    return inputs
