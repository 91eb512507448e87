"""The whole report: one page of HTML that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from warmstart.formatting import duration, interval, size
from warmstart.records.data import Task
from warmstart.reporting import html, other_tasks
from warmstart.reporting.data import data_section
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Bar, lying
from warmstart.reporting.first_screen import first_screen
from warmstart.reporting.plan import base_section, plan_section
from warmstart.reporting.proof import proof_section
from warmstart.reporting.training import training_section
from warmstart.reporting.verdict import verdict_section
from warmstart.tasks.words import signed_points

# ---- Beside: what another method gives on the same rows and folds.


def beside_section(facts: ReportFacts) -> str:
    """The model and each other method, with how far they are apart; for tables."""
    told = facts.summary.baselines
    if not told:
        return ""
    return html.section(
        "beside",
        "Beside: what another method gives",
        *(html.paragraph(one.sentence) for one in told if facts.ships),
        html.table("Other methods", ("", "right", "points more than the model"), _rows(facts)),
    )


def _rows(facts: ReportFacts) -> Iterator[tuple[str, str, str]]:
    own, told = facts.summary.estimate, facts.summary.baselines
    if told and own is not None and facts.ships:
        yield "this model", html.escaped(interval(own.value, own.low, own.high, own.n)), ""
    for one in told:
        e = one.estimate
        low, gap, high = map(signed_points, (one.low, one.difference, one.high))
        yield (
            html.escaped(one.name),
            html.escaped(interval(e.value, e.low, e.high, e.n)),
            html.escaped(f"{gap} ({low} to {high})") if facts.ships else "",
        )


# ---- Cost: what it took, and all that is needed to do it again.


SHOWN = 0.05  # s: what took less is no part of the picture
STAGES = {
    "read": "reading the files",
    "features": "one look at every {one}",
    "check": "checks",
    "plan": "the plan",
    "head": "fitting the linear probe",
    "fine_tune": "training layers",
    "evaluate": "measuring",
    "deliver": "writing it down",
}


def cost_section(facts: ReportFacts) -> str:
    """Seconds by stage, memory, the command, and what else the result depends on."""
    summary = facts.summary
    total = summary.seconds.get("total", 0.0)
    return html.section(
        "cost",
        "Cost, and how to do it again",
        html.figures(
            (
                (duration(total), "in all"),
                (size(int(summary.peak_rss_mb * 1e6)), "of memory at most"),
            )
        ),
        html.side_by_side(_stages(facts, total), _again(facts)),
    )


def _stages(facts: ReportFacts, total: float) -> str:
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


def _again(facts: ReportFacts) -> str:
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


# ---- The style sheet of the report: light, dark, narrow, wide, on paper.


STYLE = """\
:root{color-scheme:light dark;--paper:#fdfcf9;--card:#fff;--ink:#1d1f23;--soft:#565b62;
--line:#d8d4cb;--ground:#ebe8e1;--accent:#1f5fa8;--pale:#a9c3e0;--good:#1d7049;--bad:#a83c1b;
--warm:#8a5a00}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--card:#1d2023;--ink:#e9e7e2;
--soft:#a9aeb5;--line:#3b3f45;--ground:#2a2d32;--accent:#82b5ee;--pale:#3f5f83;--good:#6fca9d;
--bad:#f39672;--warm:#e0b256}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,footer{max-width:1060px;margin:0 auto;padding:0 20px}
h1{font-size:clamp(1.55rem,4.5vw,2.3rem);line-height:1.2;margin:.2em 0 .5em;max-width:24em;
text-wrap:balance}
h2{font-size:1.4rem;line-height:1.25;margin:0 0 .7em}p+h2{margin-top:1.3em}
h3{font-size:1rem;margin:0 0 .5em}
p{margin:0 0 .8em;max-width:44em}p,h1,h2,h3,li,dd,figcaption{overflow-wrap:break-word}
section{padding:34px 0 26px;border-top:1px solid var(--line)}
a{color:var(--accent)}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.skip{position:absolute;left:-999px}.skip:focus{left:12px;top:8px;background:var(--card);padding:8px}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap}
.over{color:var(--soft);margin:26px 0 0;overflow-wrap:anywhere}
.soft,figcaption,.note{color:var(--soft);font-size:.9rem}
.verdict{font-size:1.05rem;border-left:4px solid var(--accent);padding-left:14px}
.verdict.bad{border-color:var(--bad)}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));
gap:26px 34px;margin:0 0 22px}
figure{margin:0 0 22px;min-width:0}
.beside>*{min-width:0}.beside figure{margin:0}figure>.beside{row-gap:0;margin:0}
figcaption{margin-top:6px;max-width:44em}
.cards{list-style:none;margin:0 0 30px;padding:0;display:grid;gap:16px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr))}
.cards>li{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;
min-width:0}
.cards h3{display:flex;gap:10px;align-items:baseline;font-size:1.05rem}
.cards h3 span{color:var(--accent);font-size:1.3rem}
nav{border-top:1px solid var(--line);margin-top:8px}
nav ul{display:flex;flex-wrap:wrap;gap:2px 20px;list-style:none;margin:0;padding:8px 0}
nav a{display:inline-block;padding:5px 0}
pre{background:var(--ground);border-radius:6px;padding:9px 11px;margin:.5em 0 .8em;
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
.option{white-space:nowrap}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.scroll{position:relative;overflow-x:auto;max-width:100%;margin-bottom:14px}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:7px 14px 7px 0;border-bottom:1px solid var(--line);
vertical-align:top}
thead th{color:var(--soft);font-weight:500;white-space:nowrap}
tbody th{font-weight:600;overflow-wrap:break-word}
td svg{min-width:110px}
.figures{display:flex;flex-wrap:wrap;gap:12px 34px;margin:0 0 20px}
.figures div{display:flex;flex-direction:column-reverse}
.figures dd{margin:0;font-size:1.5rem;font-weight:600;line-height:1.2}
.figures dt{color:var(--soft);font-size:.9rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0 0;padding:0;
font-size:.9rem;color:var(--soft)}
.key{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px}
.plain{padding-left:1.2em;margin:0 0 1em}.plain li{margin:.25em 0;max-width:46em;
overflow-wrap:anywhere}
details{margin:0 0 16px;border-bottom:1px solid var(--line)}
section>details:last-child{border:0;margin:0}
summary{cursor:pointer;padding:8px 0;font-weight:600}
details[open]{padding-bottom:10px}
.shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:18px 14px;
list-style:none;margin:0 0 18px;padding:0}
.cards .shots{grid-template-columns:repeat(3,minmax(0,1fr));gap:10px;margin:10px 0}
.shots li{min-width:0;font-size:.85rem;line-height:1.35;overflow-wrap:anywhere}
.shots img,.gone{display:block;width:100%;aspect-ratio:1;object-fit:contain;
background:var(--ground);border-radius:6px;margin-bottom:6px}
.gone{display:grid;place-items:center;color:var(--soft);font-size:.8rem;text-align:center}
img.tiny{image-rendering:pixelated}
.excerpt{display:block;quotes:none;background:var(--ground);border-radius:6px;padding:8px;
margin-bottom:6px;max-height:11em;overflow:auto}
.shots .path{color:var(--soft);font-size:.78rem;display:block}
footer{color:var(--soft);font-size:.9rem;padding-block:10px 50px}
svg{display:block;overflow:visible;font:13px system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
svg.fixed{width:100%;height:auto;font-size:12px}
svg text{fill:var(--ink);paint-order:stroke;stroke:var(--paper);stroke-width:0}
svg .halo{stroke-width:5px;stroke-linejoin:round}svg .soft{fill:var(--soft);font-size:inherit}
svg .small{font-size:11px}svg .tiny{font-size:7px}svg .strong{font-weight:700;font-size:16px}
.axis{stroke:var(--soft)}.rule{stroke:var(--line)}.lead{stroke:var(--line)}
.peg{stroke:var(--soft);stroke-width:3}.peg.thin{stroke-width:1.5;stroke-dasharray:5 4}
.range{stroke:var(--accent);stroke-width:6;stroke-linecap:round;opacity:.55}
.range.thin{stroke-width:2.5}
svg .dot{fill:var(--accent)}svg .ring{fill:var(--paper);stroke:var(--accent);stroke-width:2.5}
svg .bar{fill:var(--accent)}svg .bar.pale{fill:var(--pale)}svg .bar.bad{fill:var(--bad)}
svg .ground{fill:var(--ground)}svg .hit{fill:var(--accent)}svg .miss{fill:var(--bad)}
svg .band{fill:var(--accent);opacity:.15}
.none{fill:none;stroke:none}.curve{fill:none;stroke:var(--accent);stroke-width:2}.curve.pale{stroke:var(--pale);
stroke-width:1.3}
.curve.base{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:5 4}
.curve.second{stroke:var(--warm)}.curve.third{stroke:var(--good)}
.curve.base.first{stroke:var(--accent)}.curve.base.second{stroke:var(--warm)}
.curve.base.third{stroke:var(--good)}
.key.first{background:var(--accent)}.key.second{background:var(--warm)}
.key.third{background:var(--good)}
.curve.next{stroke-dasharray:4 4}
svg .frozen{fill:var(--pale)}.key.frozen,.key.pale{background:var(--pale)}
svg .tuned{fill:var(--accent)}.key.tuned,.key.accent{background:var(--accent)}
svg .new{fill:var(--warm)}.key.new{background:var(--warm)}
svg .gone-weights{fill:var(--line)}.key.gone-weights{background:var(--line)}
.key.base{background:var(--soft)}.key.bad{background:var(--bad)}
@media (max-width:480px){main,footer{padding-inline:16px}}
@media print{:root{color-scheme:light;--paper:#fff;--card:#fff;--ink:#000;--soft:#444;
--line:#bbb;--ground:#e8e8e8;--accent:#1f5fa8;--pale:#a9c3e0;--good:#1d7049;--bad:#a83c1b;
--warm:#8a5a00}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}body{font-size:11pt}
nav,.skip{display:none}figure,.cards>li,.shots li,tr,pre{break-inside:avoid}
h2,h3{break-after:avoid}.scroll{overflow:visible}
table{font-size:8.5pt}thead th{white-space:normal}th,td{padding-right:8px}td svg{min-width:60px}
svg.fixed{min-width:0!important}
details::details-content{content-visibility:visible;block-size:auto;height:auto}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
"""


Section = Callable[[ReportFacts], str]

# Nothing may be loaded, run, framed or sent: only the style above and pictures inside the page.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
SECTIONS = {
    "data": data_section,
    "base": base_section,
    "verdict": verdict_section,
    "plan": plan_section,
    "training": training_section,
    "proof": proof_section,
    "beside": beside_section,
    "cost": cost_section,
}


# Of models that name no class: what the page says of classes is said of their own answers.
OTHER = {
    "data": data_section,
    "answers": other_tasks.answers_section,
    "base": base_section,
    "verdict": verdict_section,
    "plan": plan_section,
    "training": training_section,
    "proof": other_tasks.weights_section,
    "cost": cost_section,
}
PAGES: dict[Task, tuple[Section, Mapping[str, Section]]] = {
    "classify": (first_screen, SECTIONS),
    "multilabel": (other_tasks.first_screen, OTHER),
    "regress": (other_tasks.first_screen, OTHER),
}


TITLES = {"base": "Base model", "beside": "Other methods"}  # where the id is not the title


def page(facts: ReportFacts) -> str:
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


def _footer(facts: ReportFacts) -> str:
    return html.paragraph(
        f"Written by warmstart from the files in {facts.place}; everything here stands there as "
        "numbers, too: summary.json, inspection.json, plan.toml, predictions.jsonl, "
        f"weights_ledger.json. The numbers hold for {facts.nouns.many} drawn like those it learnt "
        "from."
    )
