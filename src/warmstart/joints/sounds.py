"""How clips become pictures: what the files are like, what was set, what a plan says."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from warmstart.data.clips import drawn, sound_of
from warmstart.data.collection import Collection
from warmstart.errors import PlanError
from warmstart.joints.request import Request
from warmstart.planning.limits import SOUND_LIMITS
from warmstart.planning.paths import PATHS, parse_settings, typed
from warmstart.records import Choice, Plan, Sound, StartRecord, WaveInputs

NAMES = ("rate", "seconds", "mels", "range_db")


def sound_wish(asked: Request, collection: Collection) -> Sound:
    """The picture of a clip: by the training files' headers, by a plan, by --set, the last first.

    Raises: PlanError for a value out of bounds, DataError where no training clip can be read.
    """
    found = sound_of(collection.load, collection.record.examples)
    told = {name: value for name in NAMES if (value := _told(asked, name)) is not None}
    if not told:
        return found
    rate = int(told.get("rate", found.rate))
    made = drawn(rate, float(told.get("seconds", found.seconds)), int(told.get("mels", found.mels)))
    return replace(made, range_db=float(told.get("range_db", found.range_db)))


def check_unheard(asked: Request) -> None:
    """Raises: PlanError for a setting of sounds where the data holds images."""
    for name in NAMES:
        if (text := parse_settings(asked.settings).get(f"input.{name}")) is not None:
            raise PlanError(
                f"--set input.{name}={text}: the data holds images, not sounds; leave it away."
            )


def check_waves(asked: Request, start: StartRecord) -> None:
    """A start that takes samples has its own rate, and draws nothing.

    Raises: PlanError for a setting that it has no use for.
    """
    if not isinstance(start.preprocessing, WaveInputs):
        return
    settings = parse_settings(asked.settings)
    for name in ("size", "channels", "rate", "mels", "range_db"):
        if (text := settings.get(f"input.{name}")) is not None:
            raise PlanError(
                f"--set input.{name}={text}: {start.name} takes clips as they are, at "
                f"{start.preprocessing.rate:,} samples a second; leave it away."
            )


def _told(asked: Request, name: str) -> float | None:
    path = f"input.{name}"
    text = parse_settings(asked.settings).get(path)
    if text is None:
        planned = _planned(asked, name)
        return None if planned is None else planned.number
    value = cast(float, typed(path, text, PATHS[path]))
    test, kind = SOUND_LIMITS[path]
    if not test(value):
        raise PlanError(f"--set {path}={text}: it is {kind}.")
    return value


def _planned(asked: Request, name: str) -> Choice | None:
    plan = asked.plan if isinstance(asked.plan, Plan) and "start" not in asked.typed else None
    inputs = plan.input if plan is not None else None
    return None if inputs is None else cast("Choice | None", getattr(inputs, name))
