"""Verdict: what was measured before anything was decided."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.formatting import percent, percents, sentence
from warmstart.nouns import Nouns
from warmstart.records.summary import Evidence
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Curve, MeasuredShare, Point, axes, band, chart, on_a_line
from warmstart.stats.learning_curve import PowerLaw
from warmstart.tasks.words import EVIDENCE_NAMES, signed_points

POINTS = (
    "transfer_gain",
    "depth",
    "learning_curve",
    "fine_tuning_gain",
    "preprocessing",
    "scratch",
)  # differences of shares
_POINTS_IN_CURVE = 24


def verdict_section(facts: ReportFacts) -> str:
    """The verdict's evidence: two pictures, then the table of all of it."""
    verdict, shipped = facts.summary.verdict, facts.summary.shipped
    permutation_test = against_shuffled(facts, "permutation_test")
    lead = "Nothing was shipped: " if shipped.strategy == "none" else "Shipped: "
    return html.section(
        "verdict",
        "Verdict: what it rests on",
        html.paragraph(sentence(lead + shipped.why)),
        html.side_by_side(
            html.figure(*permutation_test) if permutation_test is not None else "", _curve(facts)
        ),
        _table(verdict.evidence, facts.nouns),
    )


def against_shuffled(facts: ReportFacts, name: str) -> tuple[str, str, str] | None:
    """The right labels against shuffled ones: heading, picture, caption, where measured."""
    found = facts.evidence("permutation_test")
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    mean = facts.detail("permutation_test", "null_mean")
    middle = (found.low + found.high) / 2 if mean is None else mean
    low, high = percents(found.low, found.high, n=found.n)
    right = MeasuredShare(
        f"{percent(found.value, found.n)} with your labels", found.value, found.value, found.value
    )
    shuffled = MeasuredShare(
        f"{low} to {high} % with shuffled labels", middle, found.low, found.high, is_main=False
    )
    title = "Your labels against the same labels shuffled"
    picture = on_a_line((shuffled, right), (), name=name, title=title, about=found.meaning)
    p = facts.detail("permutation_test", "p")
    chance = f" p = {p:.2g}" if p is not None else ""
    times = facts.detail("permutation_test", "permutations")
    how = f" over {times:.0f} shuffles." if times is not None else "."
    return title, picture, f"{found.meaning}{chance}{how if chance else ''}"


def _curve(facts: ReportFacts) -> str:
    """The learning curve, carried on to twice as many images."""
    found = facts.evidence("learning_curve")
    scale, rate = facts.detail("learning_curve", "scale"), facts.detail("learning_curve", "rate")
    if found is None or found.value is None or scale is None or rate is None:
        return ""
    measured = _measured(found)
    nothing = facts.evidence("scratch")
    scratch = _measured(nothing) if nothing is not None else []
    if len(measured) < 2:
        return ""
    law, n = PowerLaw(scale, rate), float(facts.summary.data.train)
    first, last = measured[0][0], max(2.0 * n, measured[-1][0] * 1.1)
    ticks = [(size, f"{size:,.0f}") for size in dict.fromkeys((first, n, 2 * n))]
    frame = axes(
        (first, last),
        (0.0, 1.0),
        is_log=True,
        x_words=f"{facts.nouns.many} to learn from",
        x_ticks=ticks,
        y_ticks=[(share, f"{100 * share:.0f} %") for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
    )
    known = [(x, law.at(x)) for x in _between(first, min(n, last))]
    beyond = [(x, law.at(x)) for x in _between(min(n, last), last)]
    title = f"Would more {facts.nouns.many} help?"
    picture = chart(
        frame,
        (
            Curve(known, "curve pale"),
            Curve(beyond, "curve next"),
            Curve(measured, "none", has_dots=True),
            Curve(scratch, "curve base", has_dots=True),
        ),
        band(frame, _spread(found, law, n, last)),
        name="learning_curve",
        title=title,
        about=found.meaning,
    )
    caption = (
        f"{found.meaning} Dots: the linear probe with fewer {facts.nouns.many}, the last is its "
        "cross-validated score. Dashed: carried on to twice as many, the band is its 95 % interval."
    )
    if scratch:
        caption += " Grey: the same architecture trained from scratch."
    return html.figure(title, picture, caption)


def _measured(found: Evidence) -> list[Point]:
    """Accuracies by how many images were learnt from."""
    return sorted(
        (float(key.removeprefix("accuracy.")), float(value))
        for key, value in found.details.items()
        if key.startswith("accuracy.")
    )


def _between(low: float, high: float) -> list[float]:
    """Sizes that lie evenly on a logarithmic scale."""
    if not 0 < low < high:
        return [low]
    return [low * (high / low) ** (k / _POINTS_IN_CURVE) for k in range(_POINTS_IN_CURVE + 1)]


def _spread(
    found: Evidence, law: PowerLaw, n: float, last: float
) -> list[tuple[float, float, float]]:
    """The interval of the gain, growing from n examples to twice as many."""
    now, whole = law.at(n), law.at(2 * n) - law.at(n)
    if found.value is None or found.low is None or found.high is None:
        return []
    rows = []
    for x in _between(n, last):
        block = (law.at(x) - now) / whole if whole > 0 else (x - n) / n
        rows.append((x, now + block * found.low, min(now + block * found.high, 1.0)))
    return rows


def _table(evidence: Sequence[Evidence], nouns: Nouns) -> str:
    rows = [
        (
            html.escaped(EVIDENCE_NAMES.get(one.name, one.name).format(many=nouns.many)),
            html.escaped(_value(one)),
            html.escaped(one.meaning),
            f"{one.n:,}" if one.n else "",
        )
        for one in evidence
    ]
    return html.fold(
        "All evidence, with intervals",
        html.table("Evidence", ("measured", "95 % interval", "in words", nouns.many), rows),
    )


def _value(one: Evidence) -> str:
    """A measured value with its interval, in points, per cent or as it is.

    >>> _value(Evidence(name="depth", value=0.02, low=-0.01, high=0.05, n=9, meaning="…"))
    '+2 points (−1.0 to +5)'
    """
    if one.value is None:
        return "not measured"
    if one.name in POINTS:
        shown = [signed_points(x) for x in (one.value, one.low, one.high) if x is not None]
        unit = "points"
    elif one.name == "domain_gap":
        shown = [f"{x:.2f}" for x in (one.value, one.low, one.high) if x is not None]
        unit = ""
    else:
        numbers = (x for x in (one.value, one.low, one.high) if x is not None)
        shown = [f"{100 * x:.0f}".replace("-", "−") for x in numbers]
        unit = "%"
    text = f"{shown[0]} {unit}".strip()
    if len(shown) < 3:
        return text
    word = "shuffled: " if one.name == "permutation_test" else ""
    return f"{text} ({word}{shown[1]} to {shown[2]})"
