"""Plan: every choice of the run, and its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from warmstart.formatting import percent, sentence
from warmstart.records.plan import Choice, Plan
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Bar, BarPiece, lying, stacked, standing
from warmstart.tasks.words import TASK_WORDS

CLASSES = {
    "frozen": "frozen",
    "tuned": "tuned",
    "low-rank": "tuned",
    "fresh": "new",
    "added": "new",
    "replaced": "new",
}
WORDS = {
    "frozen": "frozen",
    "tuned": "tuned",
    "low-rank": "low-rank updates",
    "fresh": "made new",
    "added": "added",
    "replaced": "new",
}
_SOURCES = {"rule": "rule", "measured": "measured here", "user": "you"}


def plan_section(facts: ReportFacts) -> str:
    """The layers as a strip, their table, and all other choices."""
    if facts.plan is None:
        return ""
    strategy = facts.plan.strategy
    return html.section(
        "plan",
        "Plan: what was decided, and why",
        _strip(facts),
        _layers(facts),
        html.paragraph(sentence(f"strategy {strategy.value}: {strategy.because}")),
        html.paragraph(_not_kept(facts)),
        _own(facts.plan),
        html.fold(
            "Every choice of the training that was tried, with its reason"
            if facts.is_thrown_away
            else "Every choice, with its reason",
            _choices(facts.plan),
        ),
    )


def _not_kept(facts: ReportFacts) -> str:
    """That layers were trained and are not in the model, where that is so; else nothing."""
    if facts.plan is None or not facts.is_thrown_away or not facts.ships:
        return ""
    end = "given up" if facts.summary.guards else "not kept"
    return (
        f"{facts.plan.strategy.value} was tried and {end}: the linear probe ships, and in the "
        "model every layer is frozen, as the strip shows."
    )


def _strip(facts: ReportFacts) -> str:
    """Each layer from the image to the output, and what was done with it in what ships."""
    if not facts.layers:
        return ""
    total = sum(one.n for one in facts.layers) + 1
    pieces = [
        BarPiece(
            f"{one.layers}: {WORDS.get(one.action, one.action)}",
            one.n / total,
            CLASSES.get(one.action, "new"),
        )
        for one in facts.layers
    ]
    pieces.append(BarPiece("head: new", 1 / total, "new"))
    title = f"The layers, from the {facts.nouns.one} to the head"
    picture = stacked(pieces, name="layers", title=title, about=facts.in_words)
    used = dict.fromkeys((*(CLASSES.get(one.action, "new") for one in facts.layers), "new"))
    names = {"frozen": "frozen: not a bit may change", "tuned": "fine-tuned", "new": "new"}
    legend = html.legend((class_, names[class_]) for class_ in used)
    return f"<figure>{html.heading(title)}{picture}{legend}</figure>"


def _layers(facts: ReportFacts) -> str:
    rows = [
        (
            html.escaped(one.layers),
            html.escaped(WORDS.get(one.action, one.action)),
            html.escaped(one.rates or "–"),
            f"{one.weights:,}",
            html.escaped(one.names),
        )
        for one in facts.layers
    ]
    if facts.plan is not None and rows:
        rate = None if facts.is_thrown_away else facts.plan.blocks[-1].lr
        words = f"{rate.number:g}" if rate is not None else "in closed form"
        names = TASK_WORDS[facts.summary.task].output.format(facts.summary.data.classes)
        rows.append(("head", "new", words, "", f"for {names}"))
    return html.table(
        "Layers", ("layers", "what happens", "learning rate", "weights", "called"), rows
    )


def _own(plan: Plan) -> str:
    """What the user set, beside what the rule would have said."""
    rows = [
        html.escaped(
            f"{name} = {_shown(choice.value)}"
            + ("" if choice.rule is None else f"; the rule would have said {_shown(choice.rule)}")
        )
        for name, choice in choices(plan)
        if choice.source == "user" and not name.startswith("layer ")
    ]
    return html.heading("What you set") + html.items(rows, "plain") if rows else ""


def _choices(plan: Plan) -> str:
    rows = [
        (
            html.escaped(name),
            html.escaped(_shown(choice.value)),
            html.escaped(choice.because),
            html.escaped(_SOURCES[choice.source]),
        )
        for name, choice in choices(plan)
    ]
    return html.table("Choices", ("choice", "value", "because", "decided by"), rows)


def choices(plan: Plan) -> Iterator[tuple[str, Choice]]:
    """Every choice of a plan with its name; equal ones of neighbouring layers only once."""
    named = {
        "base": plan.base,
        "arch": plan.arch,
        "partial": plan.partial,
        "strategy": plan.strategy,
    }
    yield from ((name, choice) for name, choice in named.items() if choice is not None)
    for name, record in (
        ("head", plan.head),
        ("training", plan.training),
        ("input", plan.input),
    ):
        for field in fields(record) if record is not None else ():
            choice = getattr(record, field.name)
            if isinstance(choice, Choice):
                yield f"{name}.{field.name}", choice
    before = None
    for block in plan.blocks:
        told = block.action.value, block.action.because
        if told != before:
            yield f"layer {block.name}", block.action
        before = told


def _shown(value: object) -> str:
    """A value as a person reads it.

    >>> _shown((0.01, 1.0)), _shown(True), _shown("adamw")
    ('0.01, 1', 'yes', 'adamw')
    """
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- Start: what it began from, and where in it the useful knowledge lies.


def base_section(facts: ReportFacts) -> str:
    """The pretrained network, what it knows of these images, and in which layer."""
    base = facts.summary.base
    blocks = len(facts.network.blocks) if facts.network is not None else 0
    rows = [(facts.title, "base model"), (f"{base.parameters / 1e6:.1f} M", "weights")]
    rows += [(f"{blocks}", "layers")] if blocks else []
    domain_gap = facts.evidence("domain_gap")
    return html.section(
        "base",
        "Base model: what it began from",
        html.figures(rows),
        html.side_by_side(_transfer_gain(facts), _depth(facts)),
        html.paragraph(domain_gap.meaning if domain_gap is not None else ""),
        html.paragraph(f"Weights: {base.name}, SHA-256 {base.sha256}", "note")
        if base.sha256
        else "",
    )


def _transfer_gain(facts: ReportFacts) -> str:
    """The pretrained network against the same one with shuffled weights, and plain pixels."""
    found = facts.evidence("transfer_gain")
    if found is None:
        return ""
    arms = (
        ("trained", "with the pretrained weights", "bar"),
        ("shuffled", "the same weights, shuffled", "bar pale"),
        ("pixels", f"{facts.nouns.plain}, no network", "bar pale"),
    )
    shares = [(words, facts.detail("transfer_gain", key), class_) for key, words, class_ in arms]
    bars = [
        Bar(words, share, percent(share, found.n), class_)
        for words, share, class_ in shares
        if share is not None
    ]
    title = f"What pretraining is worth on these {facts.nouns.many}"
    picture = lying(bars, name="transfer_gain", title=title, about=found.meaning)
    return html.figure(title, picture, found.meaning)


def _depth(facts: ReportFacts) -> str:
    """How well each layer alone does the task."""
    found = facts.evidence("depth")
    if found is None:
        return ""
    keys = [key for key in found.details if key.startswith("block.")]
    layer_weights = {int(key.removeprefix("block.")): float(found.details[key]) for key in keys}
    if not layer_weights:
        return ""
    numbers = sorted(layer_weights)
    best = int(float(found.details.get("best_block", numbers[-1])))
    words = TASK_WORDS[facts.summary.task]
    title = f"How well each layer alone {words.apart.format(an=facts.nouns.an)}"
    picture = standing(
        [layer_weights[number] for number in numbers],
        best=numbers.index(best) if best in numbers else None,
        first=f"layer {numbers[0]}, at the {facts.nouns.one}",
        last=f"layer {numbers[-1]}",
        mark=facts.guess[1] if facts.guess is not None else None,
        name="depth",
        title=title,
        about=found.meaning,
    )
    line = " A bar is a quick linear probe on that layer alone."
    line += f" The dashed line is {words.blind}." if facts.guess else ""
    return html.figure(title, picture, found.meaning + line)
