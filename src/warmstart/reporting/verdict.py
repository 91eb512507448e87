"""Verdict: the evidence that was measured before anything was decided."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.formatting import percent, percents, sentence
from warmstart.nouns import Nouns
from warmstart.records.summary import Evidence
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Axes, Curve, MeasuredShare, Point, band, chart, on_a_line
from warmstart.stats.learning_curve import PowerLaw
from warmstart.tasks.words import EVIDENCE_NAMES, signed_points

# Evidence that is a difference of shares, in points.
POINTS = frozenset(
    {"transfer_gain", "depth", "learning_curve", "fine_tuning_gain", "preprocessing", "scratch"}
)
_POINTS_IN_CURVE = 24


def verdict_section(facts: ReportFacts) -> str:
    shipped, test = facts.summary.shipped, against_shuffled(facts, "permutation_test")
    prefix = "Nothing was shipped: " if shipped.strategy == "none" else "Shipped: "
    return html.section(
        "verdict",
        "Verdict: the evidence",
        html.paragraph(sentence(prefix + shipped.why)),
        html.side_by_side(html.figure(*test) if test else "", _learning_curve(facts)),
        _table(facts.summary.verdict.evidence, facts.nouns),
    )


def against_shuffled(facts: ReportFacts, name: str) -> tuple[str, str, str] | None:
    """Heading, picture and caption of the permutation test, if it was measured."""
    evidence = facts.evidence("permutation_test")
    if evidence is None or evidence.value is None or evidence.low is None or evidence.high is None:
        return None
    value, low, high = evidence.value, evidence.low, evidence.high
    mean = facts.detail("permutation_test", "null_mean")
    middle = (low + high) / 2 if mean is None else mean
    least, most = percents(low, high, n=evidence.n)
    right = MeasuredShare(f"{percent(value, evidence.n)} with your labels", value, value, value)
    words = f"{least} to {most} % with shuffled labels"
    shuffled = MeasuredShare(words, middle, low, high, is_main=False)
    title = "Your labels against the same labels shuffled"
    picture = on_a_line((shuffled, right), (), name=name, title=title, about=evidence.meaning)
    p = facts.detail("permutation_test", "p")
    times = facts.detail("permutation_test", "permutations")
    over = f" over {times:.0f} permutations." if times is not None else "."
    return title, picture, evidence.meaning + (f" p = {p:.2g}{over}" if p is not None else "")


def _learning_curve(facts: ReportFacts) -> str:
    evidence, scratch = facts.evidence("learning_curve"), facts.evidence("scratch")
    scale, exponent = (
        facts.detail("learning_curve", "scale"),
        facts.detail("learning_curve", "exponent"),
    )
    if evidence is None or scale is None or exponent is None:
        return ""
    points = _accuracies(evidence)
    scratch_points = _accuracies(scratch) if scratch is not None else []
    if len(points) < 2:
        return ""
    law, n, many = PowerLaw(scale, exponent), float(facts.summary.data.train), facts.nouns.many
    first, last = points[0][0], max(2.0 * n, points[-1][0] * 1.1)
    frame = Axes(
        (first, last),
        (0.0, 1.0),
        is_log=True,
        x_words=f"training {many}",
        x_ticks=[(size, f"{size:,.0f}") for size in dict.fromkeys((first, n, 2 * n))],
        y_ticks=[(share, f"{100 * share:.0f} %") for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
    )
    curves = (
        Curve([(x, law.at(x)) for x in _between(first, min(n, last))], "curve pale"),
        Curve([(x, law.at(x)) for x in _between(min(n, last), last)], "curve next"),
        Curve(points, "none", has_dots=True),
        Curve(scratch_points, "curve base", has_dots=True),
    )
    title, about = f"Would more {many} help?", evidence.meaning
    interval = band(frame, _gain_interval(evidence, law, n, last))
    picture = chart(frame, curves, interval, name="learning_curve", title=title, about=about)
    caption = (
        f"{evidence.meaning} Dots: the linear probe with fewer {many}, the last is its "
        "cross-validated score. Dashed: extrapolated to twice as many, with a 95 % interval."
    )
    if scratch_points:
        caption += " Grey: the same architecture trained from scratch."
    return html.figure(title, picture, caption)


def _accuracies(evidence: Evidence) -> list[Point]:
    return sorted(
        (float(key.removeprefix("accuracy.")), float(value))
        for key, value in evidence.details.items()
        if key.startswith("accuracy.")
    )


def _between(low: float, high: float) -> list[float]:
    if not 0 < low < high:
        return [low]
    return [low * (high / low) ** (k / _POINTS_IN_CURVE) for k in range(_POINTS_IN_CURVE + 1)]


def _gain_interval(
    evidence: Evidence, law: PowerLaw, n: float, last: float
) -> list[tuple[float, float, float]]:
    """The interval of the gain, from n examples to twice as many."""
    now, whole = law.at(n), law.at(2 * n) - law.at(n)
    if evidence.value is None or evidence.low is None or evidence.high is None:
        return []
    rows = []
    for x in _between(n, last):
        share = (law.at(x) - now) / whole if whole > 0 else (x - n) / n
        rows.append((x, now + share * evidence.low, min(now + share * evidence.high, 1.0)))
    return rows


def _table(evidence: Sequence[Evidence], nouns: Nouns) -> str:
    rows = []
    for one in evidence:
        name = EVIDENCE_NAMES.get(one.name, one.name).format(many=nouns.many)
        rows.append((name, _value(one), one.meaning, f"{one.n:,}" if one.n else ""))
    head = ("measured", "95 % interval", "in words", nouns.many)
    return html.fold("All evidence, with intervals", html.table("Evidence", head, rows))


def _value(one: Evidence) -> str:
    """A measured value with its interval, in points, per cent or as a number."""
    if one.value is None:
        return "not measured"
    numbers, unit = [x for x in (one.value, one.low, one.high) if x is not None], "%"
    if one.name in POINTS:
        texts, unit = [signed_points(x) for x in numbers], "points"
    elif one.name == "domain_gap":
        texts, unit = [f"{x:.2f}" for x in numbers], ""
    else:
        texts = [f"{100 * x:.0f}".replace("-", "−") for x in numbers]
    text = f"{texts[0]} {unit}".strip()
    if len(texts) < 3:
        return text
    word = "shuffled: " if one.name == "permutation_test" else ""
    return f"{text} ({word}{texts[1]} to {texts[2]})"
