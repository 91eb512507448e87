"""The first screen of every report, whatever the model says: its pieces in their order."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.delivery.numbers import sentence
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts


def screen(
    facts: Facts, sizes: str, headline: str, picture: str, use: Sequence[str], steps: Sequence[str]
) -> str:
    """Sizes, headline, verdict, picture, whether one would use it, what to do next.

    `picture` and each of `steps` are markup, the rest is plain text.
    """
    verdict = facts.summary.verdict
    kind = "verdict bad" if verdict.kind in ("no-signal", "scratch-fair") else "verdict"
    cards = "".join(f"<li>{step}</li>" for step in steps)
    return (
        html.paragraph(f"{facts.name}: {sizes}", "over")
        + f"<h1>{html.escaped(headline)}</h1>"
        + html.paragraph(sentence(verdict.sentence), kind)
        + picture
        + "<h2>Would I use it?</h2>"
        + "".join(html.paragraph(text) for text in use)
        + "<h2>What to do next</h2>"
        + f'<ol class="cards">{cards}</ol>'
    )
