"""What a network takes: how an example of any kind becomes numbers.

The seam between kinds of data. A start's record carries one of these descriptions, and each
question that depends on the kind is answered in one place, by which description it is:

    bytes of an example -> encoded example       modalities.preprocessing.encode, and
                                                 decoder_name for cache keys
    batch of encoded examples -> input tensor    features.batches.to_tensor, noise
    an example for people to look at             reporting.report

Every description has `kind`; `shape` and `dtype` of an encoded example, as NumPy has them; and
`blank`, which fills an example that stands for none. Code that only makes sense for pictures
asks for them by `pictures`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from warmstart.errors import ModelError
from warmstart.records.run_folder import ABSENT

# ---- Columns of a table as a network takes them (data.json, model/preprocess.json).


MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))  # cells, in lower case
SPAN = 8.0  # standard deviations at which a number is cut off: one wild value is not the row
ColumnKind = Literal["number", "category"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRecord:
    """One column, as the training rows have it.

    A number x is given as (x - mean) / std, cut off at ±8, one that is missing as 0. A category
    is 1 in the slot of its value; a value that is none of `values` fills no slot. Where
    training rows lacked some, one more slot is 1 where the value is missing. `knots` are
    quantiles in scaled units, between which a network sees how far a number has come.
    """

    name: str
    kind: ColumnKind
    mean: float = 0.0
    std: float = 1.0
    knots: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    has_missing: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the numbers that a row has for it.

        >>> ColumnRecord(name="cp", kind="category", values=("a", "b"), has_missing=True).slots
        ('cp = a', 'cp = b', 'cp is missing')
        """
        own = (self.name,) if self.kind == "number" else self._values
        return (*own, f"{self.name} is missing") if self.has_missing else own

    @property
    def bins(self) -> tuple[str, ...]:
        """Names of the spans between knots.

        >>> ColumnRecord(name="age", kind="number", knots=(-1.0, 0.0, 1.0)).bins
        ('age, span 1', 'age, span 2')
        """
        return tuple(f"{self.name}, span {n}" for n in range(1, len(self.knots)))

    @property
    def _values(self) -> tuple[str, ...]:
        return tuple(f"{self.name} = {value}" for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInputs:
    """How a row of a table becomes a vector (width,) float32: its columns, one after the other."""

    columns: tuple[ColumnRecord, ...]

    kind: ClassVar[Literal["table"]] = "table"
    dtype: ClassVar[str] = "float32"
    blank: ClassVar[int] = 0

    @property
    def slots(self) -> tuple[str, ...]:
        """What each number of the vector is."""
        return tuple(slot for column in self.columns for slot in column.slots)

    @property
    def bins(self) -> tuple[str, ...]:
        """What each number is that the network adds to the vector: one for each span."""
        return tuple(name for column in self.columns for name in column.bins)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an encoded row: (width,)."""
        return (len(self.slots),)


# ---- How a clip of sound becomes a picture: part of a network's description of its inputs.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Log-mel power as a grey picture, low pitches below, time to the right.

    Of a clip longer than `seconds` the middle is taken, a shorter one lies amid silence.
    """

    rate: int  # samples a second that every clip is brought to
    seconds: float  # what the picture's width stands for
    window: int  # samples of a frame, under a Hann window
    hop: int  # samples between the middles of two frames
    mels: int  # bands, evenly spaced in mel: the picture's rows
    low: float  # Hz where the lowest band begins
    high: float  # Hz where the highest ends
    range_db: float  # how far below the clip's loudest value black lies


# ---- Tensors of any shape as a network of the user's own takes them.


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInputs:
    """Examples that are tensors already: of one shape and type, given to the network as they are.

    `low` and `high` are the least and the greatest number among the first ones: for a network
    that takes whole numbers (tokens, say) a trial lies between them.
    """

    shape: tuple[int, ...]  # of one example, without the batch axis
    dtype: str  # as NumPy names it: float32, int64, …
    low: float = 0.0
    high: float = 1.0

    kind: ClassVar[Literal["tensor"]] = "tensor"
    blank: ClassVar[int] = 0


# ---- How a clip of sound becomes the waveform that an encoder of sounds takes.


# Beside which the variance of a clip counts, as the feature extractors of transformers have it.
LEAST_VARIANCE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveInputs:
    """A clip as its samples, (n,) float32, all clips at one rate and of one length.

    Of a clip longer than `seconds` the middle is taken, a shorter one lies amid silence.

    >>> WaveInputs(rate=16_000, seconds=0.5, is_scaled=True).shape
    (8000,)
    """

    rate: int  # samples a second that every clip is brought to
    seconds: float
    is_scaled: bool  # each clip by itself to mean 0 and variance 1, before silence is put around it

    kind: ClassVar[Literal["audio"]] = "audio"
    dtype: ClassVar[str] = "float32"
    blank: ClassVar[int] = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an encoded example: (samples,)."""
        return (round(self.rate * self.seconds),)


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
    `warmstart.modalities.text`. Where `length` is more than the network has places for it is so
    many windows of `most` places, each of which passes by itself. What is longer is cut off.
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

    Raises: ModelError where the network takes something else.

    >>> pictures(Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))).channels
    1
    """
    if not isinstance(inputs, Preprocessing):
        taken = _MANY.get(inputs.kind, f"{inputs.kind}s")
        raise ModelError(
            f"the network takes {taken}, and this is done for images alone; leave it out."
        )
    return inputs
