"""Plan: every choice of the run, and its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from warmstart.delivery.figures.bars import Piece, stacked
from warmstart.delivery.numbers import sentence
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.task_words import TASK_WORDS
from warmstart.records import Choice, Plan

CLASSES = {"frozen": "frozen", "tuned": "tuned", "low-rank": "tuned", "fresh": "new",
           "added": "new", "replaced": "new"}  # fmt: skip
WORDS = {"frozen": "frozen", "tuned": "tuned", "low-rank": "low-rank updates",
         "fresh": "made new", "added": "added", "replaced": "new"}  # fmt: skip
_SOURCES = {"rule": "rule", "measured": "measured here", "user": "you"}


def plan_section(facts: Facts) -> str:
    """The layers as a strip, their table, and all other choices."""
    if facts.plan is None:
        return ""
    strategy = facts.plan.strategy
    return html.section(
        "plan", "Plan: what was decided, and why",
        _strip(facts), _layers(facts),
        html.paragraph(sentence(f"strategy {strategy.value}: {strategy.because}")),
        html.paragraph(_not_kept(facts)),
        _own(facts.plan),
        html.fold(
            "Every choice of the training that was tried, with its reason"
            if facts.is_thrown_away else "Every choice, with its reason", _choices(facts.plan),
        ),
    )  # fmt: skip


def _not_kept(facts: Facts) -> str:
    """That layers were trained and are not in the model, where that is so; else nothing."""
    if facts.plan is None or not facts.is_thrown_away or not facts.ships:
        return ""
    end = "given up" if facts.summary.guards else "not kept"
    return (
        f"{facts.plan.strategy.value} was tried and {end}: the linear probe ships, and in the "
        "model every layer is frozen, as the strip shows."
    )


def _strip(facts: Facts) -> str:
    """Each layer from the image to the output, and what was done with it in what ships."""
    if not facts.layers:
        return ""
    total = sum(one.n for one in facts.layers) + 1
    pieces = [
        Piece(f"{one.layers}: {WORDS.get(one.action, one.action)}", one.n / total,
              CLASSES.get(one.action, "new"))
        for one in facts.layers
    ]  # fmt: skip
    pieces.append(Piece("head: new", 1 / total, "new"))
    title = f"The layers, from the {facts.nouns.one} to the head"
    picture = stacked(pieces, name="layers", title=title, about=facts.in_words)
    used = dict.fromkeys((*(CLASSES.get(one.action, "new") for one in facts.layers), "new"))
    names = {"frozen": "frozen: not a bit may change", "tuned": "fine-tuned", "new": "new"}
    legend = html.legend((class_, names[class_]) for class_ in used)
    return f"<figure>{html.heading(title)}{picture}{legend}</figure>"


def _layers(facts: Facts) -> str:
    rows = [
        (html.escaped(one.layers), html.escaped(WORDS.get(one.action, one.action)),
         html.escaped(one.rates or "–"), f"{one.weights:,}", html.escaped(one.names))
        for one in facts.layers
    ]  # fmt: skip
    if facts.plan is not None and rows:
        rate = None if facts.is_thrown_away else facts.plan.parts[-1].rate
        words = f"{rate.number:g}" if rate is not None else "in closed form"
        names = TASK_WORDS[facts.summary.task].output.format(facts.summary.data.classes)
        rows.append(("head", "new", words, "", f"for {names}"))
    return html.table(
        "Layers", ("layers", "what happens", "learning rate", "weights", "called"), rows
    )


def _own(plan: Plan) -> str:
    """What the user set, beside what the rule would have said."""
    rows = [
        html.escaped(f"{name} = {_shown(choice.value)}" + (
            "" if choice.rule is None else f"; the rule would have said {_shown(choice.rule)}"))
        for name, choice in choices(plan)
        if choice.source == "user" and not name.startswith("layer ")
    ]  # fmt: skip
    return html.heading("What you set") + html.items(rows, "plain") if rows else ""


def _choices(plan: Plan) -> str:
    rows = [
        (html.escaped(name), html.escaped(_shown(choice.value)), html.escaped(choice.because),
         html.escaped(_SOURCES[choice.source]))
        for name, choice in choices(plan)
    ]  # fmt: skip
    return html.table("Choices", ("choice", "value", "because", "decided by"), rows)


def choices(plan: Plan) -> Iterator[tuple[str, Choice]]:
    """Every choice of a plan with its name; equal ones of neighbouring layers only once."""
    named = {"start": plan.start, "arch": plan.arch, "partial": plan.partial,
             "strategy": plan.strategy}  # fmt: skip
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
    for part in plan.parts:
        told = part.action.value, part.action.because
        if told != before:
            yield f"layer {part.name}", part.action
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
