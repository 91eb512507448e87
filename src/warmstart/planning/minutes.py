"""--minutes M: a plan cut down until its forecast fits, saying what was given up.

What the user set stays as it is. What goes first costs least: trainings that only sharpen the
estimate, then images passed, then training itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from warmstart.nouns import IMAGES, Nouns
from warmstart.planning.contrastive import LEAST_UPDATES, reaveraged
from warmstart.planning.forecast import control_passes
from warmstart.planning.rules import usual_seconds
from warmstart.planning.schedule import head_alone
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan

# ---- The time that a run may take for its trainings.


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


MARGIN = 0.9  # share of the minutes that the forecast may fill: it may be wrong by a tenth
LEAST_STEPS = 40  # updates below which a training says little
CLOSE = 0.08  # share of the minutes that a close look at what the start knows may take
TRIES = 6  # times that the number of images passed is halved in on
_FROM, _GONE = "cut from ", " was given up: "
_NO_TIME = "the minutes leave no time for it"


def hurries(minutes: float, network: NetworkRecord, n: int) -> bool:
    """Whether a close look at what the start knows would take too much of the minutes.

    By multiply-adds, so that two runs agree.
    """
    macs = sum(part.macs for part in network.parts)
    return usual_seconds(control_passes(n) * macs) > CLOSE * 60 * minutes


def within(plan: Plan, seconds: float, forecast: Callable[[Plan], float]) -> Plan:
    """The plan, cut no more than it takes for its forecast to fit.

    Where not even `LEAST_STEPS` updates fit, the output alone is learnt; a plan whose images
    passed are the user's own is left as it is. Views of which a streamed network was given few
    become as many as fit. `forecast` gives the seconds that following a plan takes in all.
    """

    def fits(other: Plan) -> bool:
        return forecast(other) <= MARGIN * seconds

    folds, passes = plan.training.folds, plan.training.passes
    if not plan.is_trained or folds is None or passes is None:
        return plan
    minutes, once = seconds / 60, plan
    if fits(plan):
        return _with_views(plan, minutes, fits)
    soup = plan.training.soup
    fewer = [("folds", folds, n) for n in (3, 2, 1)]
    fewer += [("soup", soup, n) for n in range(int(soup.number) - 1, 0, -1)] if soup else []
    for name, choice, value in fewer:
        if choice.source != "user" and choice.number > value:
            cut = {name: _cut(choice, value, minutes)}
            once = replace(once, training=replace(once.training, **cut))
            if fits(once):
                return once
    return once if passes.source == "user" else _shortened(once, minutes, fits) or _without(plan)


def _with_views(plan: Plan, minutes: float, fits: Callable[[Plan], bool]) -> Plan:
    """The plan with as many of the views that were given up for time as there is time for."""
    seen = plan.training.views
    if plan.training.stream is None or seen is None or seen.source != "rule" or seen.rule is None:
        return plan
    for count in range(int(float(str(seen.rule))), int(seen.number), -1):
        views = replace(
            seen, value=count, because=f"as many as --minutes {minutes:g} allow", source="measured"
        )
        more = replace(plan, training=replace(plan.training, views=views))
        if fits(more):
            return more
    return plan


def _shortened(plan: Plan, minutes: float, fits: Callable[[Plan], bool]) -> Plan | None:
    """The longest training that fits, to some hundredths; None where none does."""
    training, batch = plan.training, int(plan.training.batch.number)
    passes = training.passes
    if passes is None:
        return None

    def of(n_steps: int) -> Plan:
        cut = _cut(passes, n_steps * batch, minutes)
        average = training.average
        if training.is_paired and average is not None and average.source == "rule":
            average = reaveraged(average, n_steps * batch, batch)
        return replace(plan, training=replace(training, passes=cut, average=average))

    least = LEAST_UPDATES if training.is_paired else LEAST_STEPS
    most = -(-int(passes.number) // batch)
    if least >= most or not fits(of(least)):
        return None
    for _ in range(TRIES):
        middle = (least + most) // 2
        least, most = (middle, most) if fits(of(middle)) else (least, middle)
    return of(least)


def _without(plan: Plan) -> Plan:
    """The plan of the output alone, where there is no time for layers."""
    if plan.strategy.source == "user":
        return head_alone(plan, _NO_TIME, f"{plan.strategy.value}{_GONE}{_NO_TIME}")
    return head_alone(plan, f"{plan.strategy.value} was not tried: {_NO_TIME}")


def gave_way(plan: Plan) -> str:
    """Why a training that the user chose was left out; nothing where none was."""
    because = plan.strategy.because
    return _NO_TIME if because.endswith(f"{_GONE}{_NO_TIME}") else ""


def given_up(plan: Plan, nouns: Nouns = IMAGES) -> str:
    """What was cut from a plan, in words; nothing where nothing was."""
    if plan.strategy.because.endswith(_NO_TIME):
        return plan.strategy.because
    found = []
    held, passed = f"trainings that hold {nouns.many} out", f"{nouns.many} passed"
    alike = "trainings whose weights are averaged"
    for name, what in (("folds", held), ("soup", alike), ("passes", passed)):
        choice: Choice | None = getattr(plan.training, name)
        if choice is not None and choice.because.startswith(_FROM):
            before = choice.because.removeprefix(_FROM).partition(" ")[0]
            found.append(f"{what} {choice.number:,.0f} instead of {before}")
    return "; ".join(found)


def _cut(choice: Choice, value: int, minutes: float) -> Choice:
    because = f"{_FROM}{choice.number:,.0f} to fit --minutes {minutes:g}"
    rule = choice.value if choice.rule is None else choice.rule
    return Choice(value=value, because=because, source="measured", rule=rule)
