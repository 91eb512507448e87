"""Cost: what it took, and all that is needed to do it again."""

from __future__ import annotations

from warmstart.delivery.figures.bars import Bar, lying
from warmstart.delivery.numbers import duration, size
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts

SHOWN = 0.05  # s: what took less is no part of the picture
STAGES = {
    "read": "reading the files", "look": "one look at every {one}", "check": "checks",
    "plan": "the plan", "head": "fitting the linear probe", "tune": "training layers",
    "evaluate": "measuring", "deliver": "writing it down",
}  # fmt: skip


def cost_section(facts: Facts) -> str:
    """Seconds by stage, memory, the command, and what else the result depends on."""
    summary = facts.summary
    total = summary.seconds.get("total", 0.0)
    return html.section(
        "cost", "Cost, and how to do it again",
        html.figures(((duration(total), "in all"), (size(int(summary.peak_rss_mb * 1e6)),
                                                    "of memory at most"))),
        html.side_by_side(_stages(facts, total), _again(facts)),
    )  # fmt: skip


def _stages(facts: Facts, total: float) -> str:
    seconds = facts.summary.seconds
    told = {key: words.format(one=facts.nouns.one) for key, words in STAGES.items()}
    spent = [(words, seconds[key]) for key, words in told.items() if seconds.get(key, 0) >= SHOWN]
    if not spent or total <= 0:
        return ""
    most = max(seconds for _, seconds in spent)
    bars = [Bar(words, seconds / most, duration(seconds)) for words, seconds in spent]
    title = "Where the time went"
    about = ", ".join(f"{words} {duration(seconds)}" for words, seconds in spent)
    return html.figure(title, lying(bars, name="seconds", title=title, about=about))


def _again(facts: Facts) -> str:
    repeat = facts.repeat
    if not repeat.command and not repeat.rows:
        return ""
    rows = [(html.escaped(name), html.escaped(value)) for name, value in repeat.rows]
    typed = html.command(repeat.command) if repeat.command else ""
    table = html.table("What the result depends on", ("what", "which"), rows)
    same = html.paragraph(
        "The plan was cut to fit the minutes, by how fast this computer was: another run may be "
        f"cut otherwise. --plan {facts.place}/plan.toml follows this one."
        if repeat.is_timed
        else "The same command, data and versions give the same model, byte for byte."
    )
    return f"<div>{html.heading('To repeat it')}{typed}{same if typed else ''}{table}</div>"
