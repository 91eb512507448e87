"""Tensors of any shape, as a data set of one's own gives them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError
from warmstart.records.inputs import TensorInputs


def decode_tensor(payload: bytes, name: str, inputs: TensorInputs) -> NDArray[Any]:
    """One example as it was listed. Raises: DataError where it is of another shape or type."""
    values: NDArray[Any] = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
    if values.shape != inputs.shape or str(values.dtype) != inputs.dtype:
        raise DataError(
            f"{name} is {values.dtype} of shape {values.shape}; the network takes {inputs.dtype} "
            f"of {inputs.shape}"
        )
    return values
