"""The first screen of every report, whatever the model says: its pieces in their order."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.delivery.numbers import sentence
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.report.pictures import shots
from warmstart.delivery.report.steps import Step
from warmstart.evaluation.readiness import readiness_line


def screen(
    facts: Facts,
    sizes: str,
    picture: str,
    use: Sequence[str],
    steps: Sequence[Step],
) -> str:
    """Sizes, readiness, verdict, picture, whether one would use it, what to do next.

    `picture` is markup, the rest is plain text.
    """
    verdict = facts.summary.verdict
    kind = "verdict bad" if verdict.kind in ("no-signal", "scratch-fair") else "verdict"
    cards = "".join(f"<li>{_card(facts, k, step)}</li>" for k, step in enumerate(steps, 1))
    return (
        html.paragraph(f"{facts.name}: {sizes}", "over")
        + f"<h1>{html.escaped(readiness_line(facts.summary.readiness))}</h1>"
        + html.paragraph(sentence(verdict.sentence), kind)
        + picture
        + "<h2>Would I use it?</h2>"
        + "".join(html.paragraph(text) for text in use)
        + "<h2>What to do next</h2>"
        + f'<ol class="cards">{cards}</ol>'
    )


def _card(facts: Facts, number: int, step: Step) -> str:
    """One step with its command and pictures."""
    return (
        f"<h3><span>{number}</span>{html.escaped(step.title)}</h3>{html.paragraph(step.text)}"
        + (html.command(step.command) if step.command else "")
        + shots(facts, step.shown)
    )
