"""What the code above asks of a kind of data: one object each, `registry` lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart.errors import installed_version
from warmstart.nouns import Nouns
from warmstart.records.inputs import Inputs, Kind, KindOption, Sound
from warmstart.records.plan import Choice, InputPlan, by_rule

Record = TypeVar("Record", bound=Inputs)
Payloads = Iterable[tuple[str, bytes]]  # id and bytes of each example, read when it is asked for
Encoded = NDArray[Any]  # of `inputs.shape` and `inputs.dtype`


Form = Literal["files", "texts", "rows", "arrays"]  # rows of tables; no server takes arrays


class Modality(ABC, Generic[Record]):
    """A kind of data. A new one defines `kind`, `nouns`, `encode` and `decoder`.

    The rest suits examples that are vectors or arrays of one shape.
    """

    kind: Kind
    nouns: Nouns
    suffixes: frozenset[str] = frozenset()  # of its files, in lower case
    form: Form = "arrays"  # in which examples are handed over, by Python or in a request
    example: str  # what a network takes, as a noun
    networks: tuple[str, ...] = ()  # kinds of networks that can learn from it
    has_base_models = True  # there are pretrained networks to choose among
    default_base = "lite0"
    base_example = default_base  # "such as …"
    input_name: str  # of the network's input in exported models, a plural
    hub_name: str  # in the names of tasks on the Hugging Face hub
    file = ""  # of the model folder, which the inputs need beside their record
    augmentations: tuple[Choice, Choice, Choice] | None = (  # crop, flip, jitter; None: by task
        by_rule(1.0, "numbers are not cropped: each has its place"),
        by_rule(False, "the order of numbers is fixed"),
        by_rule(0.0, "numbers have no light to vary"),
    )
    has_pixels = False  # the network's inputs are 8-bit images
    has_thumbnails = False  # an example can be shown as a picture
    has_tokens = False  # a tokenizer made numbers of it
    is_sound = False
    has_off_topic = False  # examples that do not belong are searched: false alarms were measured
    learns_from_pairs = False  # fine-tuned blocks learn by contrasting examples
    fixes_few_shot_head = False  # with few examples the head is fixed, not chosen: measured
    is_ragged = False  # examples differ in length: `inputs.blank` pads them

    @abstractmethod
    def encode(self, payload: bytes, name: str, inputs: Record) -> Encoded:
        """One example as an array of `inputs.shape` and `inputs.dtype`; `name` is for messages.

        Thread-safe. Raises: DataError if the bytes are not a valid example.
        """

    def open(self, payload: bytes, name: str, inputs: Record) -> Any:
        """One example decoded, before `prepare` brings it to the form of the network."""
        return self.encode(payload, name, inputs)

    def prepare(self, example: Any, inputs: Record) -> Encoded:
        """An opened example as `encode` returns it."""
        encoded: Encoded = example
        return encoded

    def is_rendered(self, inputs: Record) -> bool:
        """Whether the picture of an example depends on the inputs, such as a spectrogram."""
        return False

    def picture(self, example: Any) -> Image.Image:
        """An opened example to show, of mode "L" or "RGB", where the modality has thumbnails."""
        raise NotImplementedError

    @abstractmethod
    def decoder(self, inputs: Record) -> str:
        """The decoder from bytes to numbers and its version, on which cached features depend."""

    def fitted(self, inputs: Record, payloads: Payloads | None, sound: Sound | None) -> Record:
        """Inputs as long as the examples need; the same ones where all are of one length.

        `payloads`: None where the user chose a length; `sound`: how clips would become pictures.
        """
        return inputs

    def resized(self, inputs: Record, size: int, network: str) -> Record:
        """Inputs of the length that the user chose; the same ones where it cannot be chosen.

        Raises: ModelError, with the network's name, where that is too much.
        """
        return inputs

    def problem(self, inputs: Record) -> str:
        """Why inputs that were read from a file make no sense; empty where they do."""
        return ""

    def file_text(self, inputs: Record) -> str:
        """The content of `file`."""
        raise NotImplementedError

    def load_file(self, text: str, inputs: Record) -> None:
        """Use the content of `file`. Raises: ModelError where it is not that of the inputs."""
        raise NotImplementedError

    def lengths(self, payloads: Payloads, inputs: Record) -> dict[str, int]:
        """The length of each example by its id, for batches of like lengths; else empty."""
        return {}

    def batch(self, rows: Encoded, inputs: Record) -> Encoded:
        """Encoded examples as one array for the network, without padding that none needs."""
        return rows

    def padded_lengths(self, rows: Encoded, inputs: Record) -> NDArray[np.int64]:
        """The length that each row has in a batch of its like. Shapes: (n,)."""
        return np.ones(len(rows), np.int64)

    def rows_at_once(self, length: int, inputs: Record, size: int) -> int:
        """Rows of one padded length that are run together where `size` short ones are."""
        return size

    def window(self, inputs: Record) -> int:
        """Length of an example that a network encodes at once."""
        return inputs.shape[0]

    def network_shape(self, inputs: Record) -> tuple[int, ...]:
        """Shape of one example as the network takes it."""
        return inputs.shape

    def metadata(self, inputs: Record) -> dict[str, Any]:
        """What a server says about its inputs."""
        return {"shape": list(inputs.shape)}

    def network_input(self, inputs: Record) -> str:
        """What an exported model takes, in words, N examples at once."""
        shape = ", ".join(["N", *map(str, inputs.shape)])
        return f"{self.nouns.many} ({shape}) {inputs.dtype}, encoded by `prepare` in predict.py"

    def axes(self, inputs: Record) -> dict[int, str]:
        """Names of the axes of an exported model's input whose length is free."""
        return {0: "batch"}

    def integers(self, inputs: Record) -> tuple[int, int] | None:
        """The least and the largest whole number that an input holds; None: it holds any number."""
        return None

    def noise(self, n: int, inputs: Record) -> Encoded:
        """`n` encoded examples of noise from a fixed seed."""
        rng = np.random.default_rng(0)
        return rng.standard_normal((n, *inputs.shape)).astype(np.float32)

    @property
    def kind_option(self) -> KindOption:
        """--kind for data like that of a run: a text may look like the name of a file."""
        return "text" if self.form == "texts" else "auto"

    def plan(self, inputs: Record, base: Inputs) -> InputPlan | None:
        """The rows `input` of a plan; `base`: what the base model takes by itself."""
        return None

    # ---- What the examples are without any network.

    def fingerprints(self, payloads: Payloads) -> dict[str, str]:
        """What near-duplicates have in common, by id; those without it have no copy.

        Where there are thumbnails, near-duplicates are found by pictures instead.
        """
        return {}

    def plain_features(self, payloads: Payloads) -> dict[str, NDArray[np.float32]]:
        """Features (n, F) for the control without a network; empty: its pictures, or none."""
        return {}


def input_choice(value: int, base: int | None, because: str) -> Choice:
    """A value of the input; `because` explains why it differs from the base model's, if it does."""
    if value == base:
        return by_rule(value, "as in pretraining", rule=base)
    return Choice(value=value, because=because, source="measured", rule=base)


def suffixes_of(names: str) -> frozenset[str]:
    """Suffixes from their names, separated by spaces."""
    return frozenset(f".{suffix}" for suffix in names.split())


def with_version(package: str) -> str:
    """A package and its version, for the name of a decoder."""
    return f"{package} {installed_version(package) or 'none'}"
