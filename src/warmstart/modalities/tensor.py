"""Tensors of one shape and type, as .npy bytes."""

from __future__ import annotations

import io

import numpy as np

from warmstart.errors import DataError
from warmstart.modalities.modality import Encoded, Modality
from warmstart.nouns import Nouns
from warmstart.records.inputs import Kind, TensorInputs


class TensorModality(Modality[TensorInputs]):
    """Tensors of any meaning."""

    kind: Kind = "tensor"
    input_name = "tensors"
    hub_name = "tensor"
    example = "tensor"
    has_base_models = False
    networks = ("tensor",)
    nouns = Nouns(
        one="tensor",
        picture="tensor",
        an="a tensor",
        plain="plain numbers",
        changed="the same but for a number",
        typed="signal.npy",
        quoted='"signal.npy"',
        new="new.npy",
        several="new.npy",
        labelled="more.npy",
    )

    def encode(self, payload: bytes, name: str, inputs: TensorInputs) -> Encoded:
        values: Encoded = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
        if values.shape != inputs.shape or str(values.dtype) != inputs.dtype:
            raise DataError(
                f"{name} is {values.dtype} of shape {values.shape}; the network takes "
                f"{inputs.dtype} of {inputs.shape}"
            )
        return values

    def decoder(self, inputs: TensorInputs) -> str:
        return "npy"

    def network_input(self, inputs: TensorInputs) -> str:
        return f"tensors ({', '.join(['N', *map(str, inputs.shape)])}) {inputs.dtype}"

    def integers(self, inputs: TensorInputs) -> tuple[int, int] | None:
        return (int(inputs.low), int(inputs.high)) if "int" in inputs.dtype else None

    def noise(self, n: int, inputs: TensorInputs) -> Encoded:
        if (span := self.integers(inputs)) is None:
            return super().noise(n, inputs)
        rng, (low, high) = np.random.default_rng(0), span
        return rng.integers(low, high + 1, (n, *inputs.shape)).astype(inputs.dtype)


TENSOR = TensorModality()
