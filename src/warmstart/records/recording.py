"""The log of a run: its events, seconds by stage, and the marker at its end."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO, TypeVar

from warmstart.errors import ProcessError, RunFolderError, TrainingError, WarmstartError
from warmstart.events import Event, Steps
from warmstart.machine import default_root
from warmstart.records.run_folder import RunFolder

Result = TypeVar("Result")
STAGES = ("read", "features", "checks", "plan", "head", "fine_tune", "evaluate", "deliver")
FULL = (errno.ENOSPC, errno.EDQUOT)
LOG = "progress.jsonl"


@dataclass
class Clock:
    """Seconds by stage; one stage runs at a time."""

    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    before: float = 0.0  # seconds of earlier processes of the same run
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def add(self, earlier: Mapping[str, float]) -> None:
        """Add the seconds by stage of earlier processes."""
        for stage, seconds in earlier.items():
            self.seconds[stage] += seconds
            self.before += seconds

    def table(self) -> dict[str, float]:
        """Seconds by stage and in total, to the millisecond."""
        total = self.before + time.perf_counter() - self.began
        return {k: round(v, 3) for k, v in {**self.seconds, "total": total}.items()}


def seconds_alive() -> float:
    """Seconds since this process began; its processor time where the system has no /proc."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.process_time()


def open_log(folder: RunFolder) -> TextIO:
    """progress.jsonl for appending, locked until it is closed or the process killed.

    Half a line, left by a kill, is cut off. Raises: RunFolderError if another process has the lock.
    """
    log = open(folder.path / LOG, "a", encoding="utf-8")  # noqa: SIM115  (the caller closes it)
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        raise RunFolderError(
            f"another process works on {folder.path}; wait until it ends, or stop it first."
        ) from None
    except OSError:  # the disk has no locks
        pass
    content = (folder.path / LOG).read_bytes()
    log.truncate(content.rfind(b"\n") + 1)
    return log


def earlier_events(path: Path) -> list[Event]:
    """The events of a log, oldest first; other lines are skipped."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return events


def seconds_worked(path: Path) -> dict[str, float]:
    """Seconds by stage in a log, without idle time.

    The first event of each process (`opening`) holds the seconds before the folder existed; those
    after its last event are unknown.
    """
    seconds = dict.fromkeys(STAGES, 0.0)
    last: float | None = None
    for event in earlier_events(path):
        if "folder" in event.values:
            for stage in STAGES:
                seconds[stage] += float(event.values.get(stage, 0.0))
        elif last is not None and event.stage in seconds:
            seconds[event.stage] += max(event.t - last, 0.0)
        last = event.t
    return seconds


def opening(folder: RunFolder, clock: Clock, text: str = "") -> Event:
    """The first event of a process: the folder, and seconds by stage so far; `text` for people."""
    seconds = {stage: round(s, 3) for stage, s in clock.seconds.items() if s}
    values: dict[str, float | int | str] = {"folder": str(folder.path), **seconds}
    if text:
        values |= {"title": "Resumed", "text": text}
    return Event(stage="read", kind="note", values=values)


def recorded(steps: Steps[Result], folder: RunFolder, log: TextIO | None = None) -> Steps[Result]:
    """Run steps, append each event to progress.jsonl, and mark how they ended.

    `log` is that of `open_log`, if already open. Checkpoints are removed at the end.
    Raises: TrainingError where disk or memory is full, or another process of the job has ended
    (INTERRUPTED: nothing is lost); errors of the steps, after marking FAILED or INTERRUPTED.
    """
    try:
        with log or open_log(folder) as file:
            result = yield from _logged(steps, file)
    except (KeyboardInterrupt, GeneratorExit):
        folder.mark("INTERRUPTED", "stopped by the user; what was computed is kept")
        raise
    except Exception as error:
        shortage = _shortage(error, folder)
        if shortage is not None:
            what, cure = shortage
            folder.mark("INTERRUPTED", what)
            raise TrainingError(
                f"{what}; what was computed is kept. {cure}, then run {folder.resume_command} to "
                "continue."
            ) from error
        folder.mark("FAILED", str(error) if isinstance(error, WarmstartError) else repr(error))
        raise
    folder.mark("DONE")
    clear_checkpoints(folder)
    return result


def clear_checkpoints(folder: RunFolder) -> None:
    """Remove the checkpoints of a finished run."""
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)


def _shortage(error: BaseException | None, folder: RunFolder) -> tuple[str, str] | None:
    """What the computer ran out of, if that caused the error, and the cure."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            places = [folder.path, default_root(), Path(tempfile.gettempdir())]
            places = [place for place in places if place.exists()]
            where = error.filename or min(places, key=lambda place: shutil.disk_usage(place).free)
            return f"the disk is full ({where})", "Make room"
        if isinstance(error, MemoryError):
            return "there is not enough memory", "Close other programs"
        if isinstance(error, ProcessError):
            return str(error), "Start the processes again"
        error = error.__cause__
    return None


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
        steps.close()  # interrupted extraction saves its features before the marker is written
