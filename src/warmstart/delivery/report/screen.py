"""The first screen of every report, whatever the model says: its pieces in their order."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.delivery.figures.line import Mark
from warmstart.delivery.numbers import percent, sentence
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.report.pictures import shots
from warmstart.delivery.report.steps import Step
from warmstart.evaluation.readiness import readiness_line
from warmstart.records import Level


def screen(
    facts: Facts,
    sizes: str,
    picture: str,
    use: Sequence[str],
    steps: Sequence[Step],
) -> str:
    """Readiness, sizes, verdict, picture, whether one would use it, what to do next.

    `picture` is markup, the rest is plain text.
    """
    verdict = facts.summary.verdict
    kind = "verdict bad" if verdict.kind in ("no-signal", "scratch-fair") else "verdict"
    cards = "".join(f"<li>{_card(facts, k, step)}</li>" for k, step in enumerate(steps, 1))
    return (
        f"<h1>{html.escaped(readiness_line(facts.summary.readiness))}</h1>"
        + html.paragraph(f"{facts.name}: {sizes}", "over")
        + html.paragraph(sentence(verdict.sentence), kind)
        + picture
        + "<h2>Would I use it?</h2>"
        + "".join(html.paragraph(text) for text in use)
        + "<h2>What to do next</h2>"
        + f'<ol class="cards">{cards}</ol>'
    )


def probe_marks(facts: Facts) -> list[Mark]:
    """The linear probe on the line of the score, where something else ships."""
    probe = facts.summary.linear_probe
    if probe is None or facts.summary.shipped.strategy in ("head", "none"):
        return []
    place = min(max(probe.value, 0.0), 1.0)
    return [Mark(f"linear probe {percent(probe.value, probe.n)}", place)]


def use_text(facts: Facts) -> str:
    """Whether one would use it, in a word; the reasons stand in the line above everything."""
    words: dict[Level, str] = {
        "ready": "Yes.",
        "review": "Yes, where a person looks at its answers before they matter.",
        "not-ready": "Not yet.",
    }
    return words[facts.summary.readiness.level]


def _card(facts: Facts, number: int, step: Step) -> str:
    """One step with its command and pictures."""
    return (
        f"<h3><span>{number}</span>{html.escaped(step.title)}</h3>{html.paragraph(step.text)}"
        + (html.command(step.command) if step.command else "")
        + shots(facts, step.shown)
    )
