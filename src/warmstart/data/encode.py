"""Bytes of an example to what is stacked into a batch: the one place where kinds differ.

A kind of data adds its description to `records.inputs` and a case here.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from numpy.typing import NDArray

from warmstart import tokens
from warmstart.data import prepare
from warmstart.data.cells import encode_row
from warmstart.data.tensors import decode_tensor
from warmstart.data.texts import decode_text
from warmstart.data.waves import decode_wave, decoder_of_waves
from warmstart.records import Inputs, TableInputs, TensorInputs, TextInputs, WaveInputs

CELLS = 1  # raise it when `cells` makes other numbers of the same cells
Encoded = NDArray[Any]  # of `inputs.shape` and `inputs.dtype`


def encode(payload: bytes, name: str, inputs: Inputs) -> Encoded:
    """One example as the network's description of its inputs says; `name` stands in messages.

    Returns: an array of `inputs.shape` and `inputs.dtype`. Thread-safe.
    Raises: DataError if the bytes are no usable example of that kind.
    """
    if isinstance(inputs, TextInputs):
        return tokens.token_numbers(decode_text(payload, name), inputs)
    if isinstance(inputs, TableInputs):
        return encode_row(payload, name, inputs)
    if isinstance(inputs, TensorInputs):
        return decode_tensor(payload, name, inputs)
    if isinstance(inputs, WaveInputs):
        return decode_wave(payload, name, inputs)
    return prepare.load_image(payload, name, inputs)


def decoder_name(inputs: Inputs) -> str:
    """Names what turns bytes into numbers, with its version: what was kept depends on it."""
    if isinstance(inputs, TextInputs):
        try:
            return f"tokenizers {version('tokenizers')}"
        except PackageNotFoundError:
            return "tokenizers none"
    if isinstance(inputs, TableInputs):
        return f"cells {CELLS}"
    if isinstance(inputs, TensorInputs):
        return "npy"
    if isinstance(inputs, WaveInputs):
        return decoder_of_waves()
    return prepare.decoder_name(inputs)
