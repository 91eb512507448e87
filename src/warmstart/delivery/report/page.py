"""The whole report: one page of HTML that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from warmstart.delivery.report import html, other
from warmstart.delivery.report.beside import beside_section
from warmstart.delivery.report.cost import cost_section
from warmstart.delivery.report.data import data_section
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.report.first import first_screen
from warmstart.delivery.report.plan import plan_section
from warmstart.delivery.report.proof import proof_section
from warmstart.delivery.report.start import start_section
from warmstart.delivery.report.style import STYLE
from warmstart.delivery.report.training import training_section
from warmstart.delivery.report.verdict import verdict_section
from warmstart.records import Task

Section = Callable[[Facts], str]

# Nothing may be loaded, run, framed or sent: only the style above and pictures inside the page.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
SECTIONS = {
    "data": data_section, "start": start_section, "verdict": verdict_section,
    "plan": plan_section, "training": training_section, "proof": proof_section,
    "beside": beside_section, "cost": cost_section,
}  # fmt: skip


# Of models that name no class: what the page says of classes is said of their own answers.
OTHER = {
    "data": data_section, "answers": other.answers_section, "start": start_section,
    "verdict": verdict_section, "plan": plan_section, "training": training_section,
    "proof": other.weights_section, "cost": cost_section,
}  # fmt: skip
PAGES: dict[Task, tuple[Section, Mapping[str, Section]]] = {
    "classify": (first_screen, SECTIONS), "multilabel": (other.first_screen, OTHER),
    "regress": (other.first_screen, OTHER),
}  # fmt: skip


TITLES = {"start": "Base model", "beside": "Other methods"}  # where the id is not the title


def page(facts: Facts) -> str:
    """The text of report.html. The same facts give the same text; no clock is in it."""
    first, sections = PAGES[facts.summary.task]
    made = {name: make(facts) for name, make in sections.items()}
    shown = {name: body for name, body in made.items() if body}
    links = html.items(
        f'<a href="#{name}">{TITLES.get(name, name.capitalize())}</a>' for name in shown
    )
    title = html.escaped(f"{facts.name}: report")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body>"
        '<a class="skip" href="#main">Skip to the result</a>\n'
        f'<main id="main"><div class="first">{first(facts)}</div>\n'
        f'<nav aria-label="Parts of the report">{links}</nav>\n'
        f"{''.join(section + chr(10) for section in shown.values())}</main>\n"
        f"<footer>{_footer(facts)}</footer></body></html>\n"
    )


def _footer(facts: Facts) -> str:
    return html.paragraph(
        f"Written by warmstart from the files in {facts.place}; everything here stands there as "
        "numbers, too: summary.json, inspection.json, plan.toml, predictions.jsonl, "
        f"weights_ledger.json. The numbers hold for {facts.nouns.many} drawn like those it learnt "
        "from."
    )
