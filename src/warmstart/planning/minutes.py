"""--minutes M: a plan cut down until its forecast fits, saying what was given up.

What the user set stays as it is. What goes first costs least: trainings that only sharpen the
estimate, then images passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from warmstart.records import Choice, Plan

MARGIN = 0.9  # share of the minutes that the forecast may fill: it may be wrong by a tenth
LEAST_STEPS = 20  # updates below which a training says little
_FROM = "cut from "
_CUTS = (2, 4, 8)  # by which the images passed are divided


def within(plan: Plan, seconds: float, forecast: Callable[[Plan], float]) -> Plan:
    """The first of ever cheaper plans whose forecast fits; the cheapest, where none does.

    `forecast` gives the seconds that following a plan takes in all.
    """
    found = plan
    for cheaper in (plan, *_cheaper(plan, seconds / 60)):
        found = cheaper
        if forecast(found) <= MARGIN * seconds:
            break
    return found


def given_up(plan: Plan) -> str:
    """What was cut from a plan, in words; nothing where nothing was."""
    found = []
    for name, what in (("folds", "trainings that hold images out"), ("passes", "images passed")):
        choice: Choice | None = getattr(plan.training, name)
        if choice is not None and choice.because.startswith(_FROM):
            before = choice.because.removeprefix(_FROM).partition(" ")[0]
            found.append(f"{what} {choice.number:,.0f} instead of {before}")
    return "; ".join(found)


def _cheaper(plan: Plan, minutes: float) -> Iterator[Plan]:
    """Plans in the order in which they are tried, each cheaper than the one before."""
    training, batch = plan.training, plan.training.batch.number
    folds, passes = training.folds, training.passes
    if folds is None or passes is None or not plan.is_trained:
        return
    if folds.source != "user" and folds.number > 1:
        training = replace(training, folds=_cut(folds, 1, minutes))
        yield replace(plan, training=training)
    if passes.source == "user":
        return
    least = int(LEAST_STEPS * batch)
    fewer = [int(passes.number) // divisor for divisor in _CUTS]
    for count in (*(c for c in fewer if c > least), least):
        if count < passes.number:
            cut = _cut(passes, count, minutes)
            yield replace(plan, training=replace(training, passes=cut))


def _cut(choice: Choice, value: int, minutes: float) -> Choice:
    because = f"{_FROM}{choice.number:,.0f} to fit --minutes {minutes:g}"
    rule = choice.value if choice.rule is None else choice.rule
    return Choice(value=value, because=because, source="measured", rule=rule)
