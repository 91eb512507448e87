"""The key of stored activations: what the frozen parts of a network gave for one view."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from warmstart.features.cache_key import Column, FeatureKey
from warmstart.records.network import Tap

MAIN = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationKey:
    """Everything that one view's stored activations depend on, apart from the images' bytes.

    `look` has the members that a look's features depend on, `view` among them; `cut` counts
    the parts that were run, `wanted` are the taps taken on the way.
    """

    look: FeatureKey
    cut: int
    wanted: tuple[Tap, ...]
    dtype: str

    @property
    def taps(self) -> tuple[Column, ...]:
        """The columns of a row: the output of part `cut`, then the taps."""
        return (Column(name=MAIN), *(Column(name=tap.name) for tap in self.wanted))

    @property
    def plain(self) -> dict[str, Any]:
        """All members as JSON gives them back."""
        names = [tap.name for tap in self.wanted]
        return {
            "activations": 1,
            **self.look.plain,
            "dtype": self.dtype,
            "cut": self.cut,
            "wanted": names,
        }

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all members."""
        text = json.dumps(self.plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def main_key(look: FeatureKey, cut: int) -> ActivationKey:
    """Of what part `cut` gives alone, as a look passes it on its way."""
    return ActivationKey(look=replace(look, taps=()), cut=cut, wanted=(), dtype=look.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchKey:
    """Of rows that belong to one run and end with it: their columns say all.

    >>> ScratchKey(taps=(Column(name="3.avg"),)).digest
    'scratch'
    """

    taps: tuple[Column, ...]
    dtype: str = "float32"
    digest: str = "scratch"

    @property
    def plain(self) -> dict[str, Any]:
        """All members as JSON gives them back."""
        return {"taps": [tap.name for tap in self.taps], "dtype": self.dtype}
