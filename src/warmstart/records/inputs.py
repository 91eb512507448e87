"""The inputs of a network: how an example of any kind becomes numbers.

`modalities` encodes examples, `features.batches` makes input tensors of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from warmstart.errors import ModelError
from warmstart.records.run_folder import ABSENT

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))  # cells, in lower case
SPAN = 8.0  # standard deviations at which a number is clipped, so that no outlier rules the row
ColumnKind = Literal["number", "category"]
Kind = str  # of data: the key of its modality
DEFAULT_KIND: Kind = "image"  # of data, and of what a record leaves out
KindOption = str  # a kind, or "auto"


class Inputs:
    """Base of every description. A file of the run folder is read as the one whose fields it has.

    Each has its own required fields.
    """

    __slots__ = ()
    members: ClassVar[dict[str, type[Inputs]]] = {}

    def __init_subclass__(cls) -> None:
        Inputs.members[cls.__name__] = cls  # twice with slots, where the second class counts

    if TYPE_CHECKING:  # else a dataclass would take a property for the default of its field

        @property
        def kind(self) -> Kind:
            """The kind of data."""

        @property
        def shape(self) -> tuple[int, ...]:
            """Of one encoded example."""

        @property
        def dtype(self) -> str:
            """Of one encoded example, as in NumPy."""

        @property
        def blank(self) -> int:
            """The value of padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRecord:
    """One column of a table, fitted on the training rows.

    A number x becomes (x - mean) / std, clipped at ±8, a missing one 0. A category is 1 in the
    slot of its value, and fills none if it is not among `values`. Where training rows lacked
    some, one more slot is 1 where the value is missing. `knots` are quantiles in scaled units,
    for the piecewise linear encoding of a number.
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
        """Names of its numbers in an encoded row.

        >>> ColumnRecord(name="cp", kind="category", values=("a", "b"), has_missing=True).slots
        ('cp = a', 'cp = b', 'cp is missing')
        """
        names = [f"{self.name} = {value}" for value in self.values]
        if self.kind == "number":
            names = [self.name]
        return (*names, f"{self.name} is missing") if self.has_missing else tuple(names)

    @property
    def bins(self) -> tuple[str, ...]:
        """Names of the bins between knots.

        >>> ColumnRecord(name="age", kind="number", knots=(-1.0, 0.0, 1.0)).bins
        ('age, span 1', 'age, span 2')
        """
        return tuple(f"{self.name}, span {n}" for n in range(1, len(self.knots)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInputs(Inputs):
    """How a row of a table becomes a vector (width,) float32: its columns in order."""

    columns: tuple[ColumnRecord, ...]

    kind: ClassVar[Kind] = "table"
    dtype: ClassVar[str] = "float32"
    blank: ClassVar[int] = 0

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the vector's numbers."""
        return tuple(slot for column in self.columns for slot in column.slots)

    @property
    def bins(self) -> tuple[str, ...]:
        """Names of the numbers that the network adds to the vector: one for each bin."""
        return tuple(name for column in self.columns for name in column.bins)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.slots),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """How a clip of sound becomes a grey image: a log-mel spectrogram, low pitches below.

    A clip longer than `seconds` is cut to its middle, a shorter one padded with silence.
    """

    sample_rate: int  # samples a second, after resampling
    seconds: float  # width of the image
    window: int  # samples of a frame, under a Hann window
    hop: int  # samples between the middles of two frames
    mels: int  # bands, evenly spaced in mel: rows of the image
    low: float  # Hz, of the lowest band
    high: float  # Hz, of the highest band
    range_db: float  # from black to the clip's loudest value


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInputs(Inputs):
    """Examples that are tensors of one shape and type already.

    `low` and `high` are the range of the first ones: test inputs of networks for whole numbers
    (tokens, say) lie between them.
    """

    shape: tuple[int, ...]  # of one example, without the batch axis
    dtype: str  # of NumPy: float32, int64, …
    low: float = 0.0
    high: float = 1.0

    kind: ClassVar[Kind] = "tensor"
    blank: ClassVar[int] = 0


LEAST_VARIANCE = 1e-7  # added to the variance of a clip, as in transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveInputs(Inputs):
    """How a clip becomes a waveform (n,) float32, of one rate and length.

    A clip longer than `seconds` is cut to its middle, a shorter one padded with silence.

    >>> WaveInputs(sample_rate=16_000, seconds=0.5, is_scaled=True).shape
    (8000,)
    """

    sample_rate: int  # samples a second, after resampling
    seconds: float
    is_scaled: bool  # each clip to mean 0 and variance 1, before padding

    kind: ClassVar[Kind] = "audio"
    dtype: ClassVar[str] = "float32"
    blank: ClassVar[int] = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (round(self.sample_rate * self.seconds),)


WINDOWS = 8  # most windows of a long text: cache and training grow with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing(Inputs):
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
    # Raw values of each band that become 0 and 1, for more than 8 bits or four bands; else empty.
    ranges: tuple[tuple[float, float], ...] = ()
    sound: Sound | None = field(default=None, metadata=ABSENT)  # None: images, not clips

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
class TextInputs(Inputs):
    """How a text becomes token ids (length,) int32, padded with `pad`.

    Where `length` is more than `most`, the network runs on windows of `most` tokens one by one.
    Longer texts are truncated.
    """

    tokenizer: str  # sha256 of tokenizer.json
    length: int  # tokens, with the special ones of every window
    most: int  # tokens of the network's longest input
    pad: int  # id of the padding token
    vocabulary: int  # ids of the network
    unknown: int | None = None  # id of the token for unknown words

    kind: ClassVar[Kind] = "text"
    dtype: ClassVar[str] = "int32"

    @property
    def window(self) -> int:
        """Tokens of one forward pass."""
        return min(self.length, self.most)

    @property
    def n_windows(self) -> int:
        """Windows of the longest text."""
        return -(-self.length // self.window)

    @property
    def blank(self) -> int:
        return self.pad

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


def pictures(inputs: Inputs) -> Preprocessing:
    """The inputs, for code that only makes sense for images.

    Raises: ModelError where the network takes something else.

    >>> pictures(Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))).channels
    1
    """
    if not isinstance(inputs, Preprocessing):
        many = "waveforms" if inputs.kind == "audio" else f"{inputs.kind}s"
        raise ModelError(f"the network takes {many}, and this is for images alone; leave it out.")
    return inputs
