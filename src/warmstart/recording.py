"""Keeping a run's own record while it works: events, time by stage, the marker at its end."""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TextIO, TypeVar

from warmstart.errors import TrainingError, WarmstartError
from warmstart.events import Steps
from warmstart.folder import RunFolder

Result = TypeVar("Result")
STAGES = ("read", "look", "check", "plan", "head", "tune", "evaluate", "deliver")


@dataclass
class Clock:
    """Seconds by stage; one stage runs at a time, and gets the time until the next begins."""

    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Give the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def table(self) -> dict[str, float]:
        """Seconds by stage and in total, to the millisecond."""
        total = time.perf_counter() - self.began
        return {k: round(v, 3) for k, v in {**self.seconds, "total": total}.items()}


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


def seconds_alive() -> float:
    """Seconds since this process began; where the system does not tell, its processor time."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.process_time()


def recorded(steps: Steps[Result], folder: RunFolder) -> Steps[Result]:
    """Run steps, append each event to progress.jsonl, and mark how they ended.

    Raises: TrainingError where the disk is full (INTERRUPTED: nothing is lost, the same
    command goes on); whatever else the steps raise, after marking FAILED or INTERRUPTED.
    """
    try:
        with open(folder.path / "progress.jsonl", "a", encoding="utf-8") as log:
            result = yield from _logged(steps, log)
    except (KeyboardInterrupt, GeneratorExit):
        folder.mark("INTERRUPTED", "stopped by the user; what was computed is kept")
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            folder.mark("FAILED", repr(error))
            raise
        folder.mark("INTERRUPTED", "the disk is full")
        raise TrainingError(
            f"the disk is full ({error.filename or folder.path}); what was computed is kept. "
            "Make room, then run the same command again."
        ) from error
    except WarmstartError as error:
        folder.mark("FAILED", str(error))
        raise
    except Exception as error:
        folder.mark("FAILED", repr(error))
        raise
    folder.mark("DONE")
    return result


def _logged(steps: Steps[Result], log: TextIO) -> Steps[Result]:
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            log.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
            log.flush()
            yield event
    finally:
        steps.close()  # an interrupted look stores what it has before the marker is written
