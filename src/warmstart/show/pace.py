"""How fast a job counts, and how long it will still take: smoothed, so that it does not jump."""

from __future__ import annotations

import math
from dataclasses import dataclass

RECENT_S = 15.0  # seconds after which what was seen counts a third
CALM_S = 5.0  # the same for a change of mind about the end
SOONEST_S = 1.0  # seconds of counting before the end is guessed


@dataclass(slots=True)
class Pace:
    """The recent speed of something that counts, and the time at which it will be done.

    Speed is steps over seconds, both fading with age; the end that follows from it is
    approached, not jumped to. Times are seconds since the epoch.
    """

    at: float  # when `step` was reached
    step: int = 0
    done: float = 0.0  # steps and seconds, the older the less they count
    spent: float = 0.0
    counted: float = 0.0  # seconds in all
    end: float | None = None

    def skip(self, at: float, step: int) -> None:
        """Go on from here: what lies between says nothing about the speed."""
        self.at, self.step = at, step

    def see(self, at: float, step: int, of: int | None) -> None:
        """Take in that `step` of `of` was reached."""
        passed, made = at - self.at, step - self.step
        self.skip(at, step)
        if passed < 0 or made < 0:  # a clock that was set back, a job that began anew
            return
        fading = math.exp(-passed / RECENT_S)
        self.done, self.spent = fading * self.done + made, fading * self.spent + passed
        self.counted += passed
        if of is None or self.counted < SOONEST_S or not self.done:
            return
        guess = at + max(of - step, 0) * self.spent / self.done
        kept = 0.0 if self.end is None else math.exp(-passed / CALM_S)
        self.end = guess + kept * ((self.end or guess) - guess)

    def left(self, now: float) -> float | None:
        """Seconds until it is done; None as long as that cannot be told.

        >>> pace = Pace(at=0.0)
        >>> pace.see(2.0, step=100, of=300)
        >>> pace.left(2.0), pace.left(3.5)
        (4.0, 2.5)
        """
        return None if self.end is None else max(self.end - now, 0.0)
