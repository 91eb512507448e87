"""What texts and clips ask of a start: how long they are, and whether it reads the language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from warmstart.data.dataset import Collection
from warmstart.errors import DataError, StartError
from warmstart.features.batches import LENGTHS
from warmstart.modalities import text as modalities_text
from warmstart.modalities.text import near_copies, normal_of
from warmstart.network.inputs import InputWish
from warmstart.network.load import Start
from warmstart.records.data import Example
from warmstart.records.inputs import WINDOWS, Inputs, TextInputs, WaveInputs

# Clips are drawn for a start that looks at pictures.
_TAKES = {"image": ("image",), "audio": ("image", "audio"), "text": ("text",), "table": ("table",)}
_CURES = {"text": "such as minilm", "table": "such as a run that learnt from one"}


def fitted(start: Start, collection: Collection, wish: InputWish | None) -> Start:
    """A start for texts or clips, as long as these need; another start as it is.

    Raises: StartError where the start takes another kind of data.
    """
    record, inputs, kind = start.record, start.record.preprocessing, collection.record.kind
    if inputs.kind not in _TAKES[kind]:
        taken, held = ("clip" if one == "audio" else one for one in (inputs.kind, kind))
        raise StartError(
            f"{record.name} takes {taken}s, {collection.record.name} holds {held}s; choose a "
            f"start for {held}s, {_CURES.get(kind, 'such as lite0')}."
        )
    if isinstance(inputs, WaveInputs) and wish is not None and wish.sound is not None:
        described = replace(record, preprocessing=replace(inputs, seconds=wish.sound.seconds))
        return replace(start, record=described, unchanged=start.origin)
    if not isinstance(inputs, TextInputs) or (wish is not None and wish.size is not None):
        return start
    longest = max((len(found) for found in all_tokens(collection, inputs)), default=1)
    described = replace(record, preprocessing=replace(inputs, length=_length(longest, inputs)))
    return replace(start, record=described, unchanged=start.origin)


def _length(longest: int, inputs: TextInputs) -> int:
    """Places of a row for texts of at most so many tokens."""
    if longest <= inputs.most:
        return min(next((n for n in _STEPS if n >= longest), inputs.most), inputs.most)
    n_windows = modalities_text.windows_for(longest, inputs)
    return inputs.most * min(next((n for n in _WINDOWS if n >= n_windows), WINDOWS), WINDOWS)


# Few lengths, so that a few more texts seldom ask for another one, and stored rows stay of use.
_STEPS = tuple(n for n in LENGTHS if n & (n - 1) == 0)
_WINDOWS = (2, 4)


def all_tokens(collection: Collection, inputs: TextInputs) -> list[list[int]]:
    """The tokens of every text that can be read, however long."""
    texts = texts_of(collection, collection.record.examples)
    return [modalities_text.all_tokens(text, inputs.tokenizer) for _, text in texts]


def in_order(examples: Sequence[Example], collection: Collection, inputs: Inputs) -> list[Example]:
    """Examples as they pass best: texts by their number of tokens, so that little is filled up."""
    if not isinstance(inputs, TextInputs):
        return list(examples)
    sizes = {
        id: len(modalities_text.all_tokens(text, inputs.tokenizer))
        for id, text in texts_of(collection, examples)
    }
    return sorted(examples, key=lambda example: sizes.get(example.id, 0))


def text_copies(collection: Collection) -> tuple[tuple[str, str], ...]:
    """Near copies among all parts: pairs of ids. Exact copies are no news here."""
    return near_copies(dict(texts_of(collection, collection.record.examples)))


def texts_of(collection: Collection, examples: Sequence[Example]) -> Iterator[tuple[str, str]]:
    """Id and text of each example that can still be read."""
    for example in examples:
        try:
            yield example.id, normal_of(collection.load(example.id))
        except (DataError, OSError):
            continue
