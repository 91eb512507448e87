"""Tensors of any shape as a network of the user's own takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


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
