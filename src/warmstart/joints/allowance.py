"""The time that a run may take for its trainings."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """Until when there is time for training, of `time.perf_counter`; None: as much as it takes."""

    until: float | None = None

    def share(self, part: float) -> float | None:
        """When a training should end that may take this part of the time that is left.

        >>> Allowance().share(0.5) is None
        True
        """
        if self.until is None:
            return None
        now = time.perf_counter()
        return now + part * max(self.until - now, 0.0)
