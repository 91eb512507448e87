"""The time that a run may take for its trainings."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """Until when there is time for training, of `time.perf_counter`; None: as much as it takes."""

    until: float | None = None

    def share(self, n_left: int) -> float | None:
        """When the next of `n_left` equally long trainings should end.

        >>> Allowance().share(3) is None
        True
        """
        if self.until is None:
            return None
        now = time.perf_counter()
        return now + max(self.until - now, 0.0) / max(n_left, 1)
