"""Beside: what another method gives on the same rows and folds."""

from __future__ import annotations

from collections.abc import Iterator

from warmstart.delivery.numbers import interval
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts
from warmstart.tasks.words import signed_points


def beside_section(facts: Facts) -> str:
    """The model and each other method, with how far they are apart; for tables."""
    told = facts.summary.beside
    if not told:
        return ""
    return html.section(
        "beside", "Beside: what another method gives",
        *(html.paragraph(one.sentence) for one in told if facts.ships),
        html.table("Other methods", ("", "right", "points more than the model"), _rows(facts)),
    )  # fmt: skip


def _rows(facts: Facts) -> Iterator[tuple[str, str, str]]:
    own, told = facts.summary.estimate, facts.summary.beside
    if told and own is not None and facts.ships:
        yield "this model", html.escaped(interval(own.value, own.low, own.high, own.n)), ""
    for one in told:
        e = one.estimate
        low, gap, high = map(signed_points, (one.low, one.difference, one.high))
        yield (
            html.escaped(one.name), html.escaped(interval(e.value, e.low, e.high, e.n)),
            html.escaped(f"{gap} ({low} to {high})") if facts.ships else "",
        )  # fmt: skip
