"""The whole report: one page of HTML that loads nothing and runs nothing."""

from __future__ import annotations

from pathlib import Path

from warmstart.formatting import duration, short_interval, size
from warmstart.reporting import html
from warmstart.reporting.data import data_section
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Bar, lying
from warmstart.reporting.first_screen import first_screen
from warmstart.reporting.plan import base_section, plan_section
from warmstart.reporting.proof import answers_section, proof_section
from warmstart.reporting.training import training_section
from warmstart.reporting.verdict import verdict_section
from warmstart.tasks.words import signed_points

STYLE = Path(__file__).with_name("report.css").read_text("utf-8")  # light, dark, narrow, print


def baselines_section(facts: ReportFacts) -> str:
    baselines, own, rows = facts.summary.baselines, facts.summary.estimate, []
    if baselines and own is not None and facts.ships:
        score = short_interval(own.value, own.low, own.high, own.n)
        rows.append(("this model", score, ""))
    for one in baselines:
        e = one.estimate
        low, gap, high = map(signed_points, (one.low, one.difference, one.high))
        difference = f"{gap} ({low} to {high})" if facts.ships else ""
        rows.append((one.name, short_interval(e.value, e.low, e.high, e.n), difference))
    return html.section(
        "beside",
        "Baselines: what other methods reach",
        *(html.paragraph(one.sentence) for one in baselines if facts.ships),
        html.table("Other methods", ("", "score (95 % CI)", "points more than the model"), rows),
    )


LEAST_S = 0.05  # stages that took less are not shown
STAGES = {
    "read": "reading the files",
    "features": "feature extraction",
    "checks": "checks",
    "plan": "the plan",
    "head": "fitting the linear probe",
    "fine_tune": "fine-tuning",
    "evaluate": "evaluation",
    "deliver": "writing the files",
}


def cost_section(facts: ReportFacts) -> str:
    total = duration(facts.summary.seconds.get("total", 0.0))
    memory = size(int(facts.summary.peak_rss_mb * 1e6))
    return html.section(
        "cost",
        "Cost, and how to repeat it",
        html.figures(((total, "in all"), (memory, "of memory at most"))),
        html.side_by_side(_stages(facts), _repeat(facts)),
    )


def _stages(facts: ReportFacts) -> str:
    seconds = facts.summary.seconds
    rows = [(STAGES[key], seconds[key]) for key in STAGES if seconds.get(key, 0) >= LEAST_S]
    if not rows or seconds.get("total", 0.0) <= 0:
        return ""
    most = max(value for _, value in rows)
    bars = [Bar(words, value / most, duration(value)) for words, value in rows]
    title = "Where the time went"
    about = ", ".join(f"{words} {duration(value)}" for words, value in rows)
    return html.figure(title, lying(bars, name="seconds", title=title, about=about))


def _repeat(facts: ReportFacts) -> str:
    repeat = facts.repeat
    if not repeat.command and not repeat.rows:
        return ""
    table = html.table("What the result depends on", ("what", "which"), repeat.rows)
    command = ""
    if repeat.command:
        command = html.command(repeat.command) + html.paragraph(
            "The plan was cut to fit the minutes, by the speed of this computer: another run may "
            f"be cut differently. --plan {facts.place}/plan.toml follows this one."
            if repeat.is_timed
            else "The same command, data and versions give the same model, byte for byte."
        )
    return f"<div>{html.heading('To repeat it')}{command}{table}</div>"


# Nothing may be loaded, run, framed or sent: only the style above and pictures inside the page.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
SECTIONS = {
    "data": data_section,
    "answers": answers_section,
    "base": base_section,
    "verdict": verdict_section,
    "plan": plan_section,
    "training": training_section,
    "proof": proof_section,
    "beside": baselines_section,
    "cost": cost_section,
}
TITLES = {"base": "Base model", "beside": "Baselines"}  # where the id is not the title


def page(facts: ReportFacts) -> str:
    """The text of report.html; the same facts give the same text."""
    bodies = {name: body for name, make in SECTIONS.items() if (body := make(facts))}
    links = html.items(
        f'<a href="#{name}">{TITLES.get(name, name.capitalize())}</a>' for name in bodies
    )
    footer = html.paragraph(
        f"Written by warmstart from the files in {facts.place}, which hold everything here as "
        "numbers: summary.json, inspection.json, plan.toml, predictions.jsonl, "
        f"weights_ledger.json. The numbers hold for {facts.nouns.many} like the training "
        f"{facts.nouns.many}."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escaped(f'{facts.name}: report')}</title>\n<style>\n{STYLE}</style></head>"
        '\n<body><a class="skip" href="#main">Skip to the result</a>\n'
        f'<main id="main"><div class="first">{first_screen(facts)}</div>\n'
        f'<nav aria-label="Sections of the report">{links}</nav>\n'
        f"{''.join(section + chr(10) for section in bodies.values())}</main>\n"
        f"<footer>{footer}</footer></body></html>\n"
    )
