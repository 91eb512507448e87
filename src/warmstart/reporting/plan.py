"""Plan: every choice of the run with its reason; the base model and its layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from warmstart.formatting import percent, sentence
from warmstart.records.plan import Choice, Plan
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Bar, lying, stacked, standing

_SOURCES = {"rule": "rule", "measured": "measured here", "user": "you"}


def plan_section(facts: ReportFacts) -> str:
    if facts.plan is None:
        return ""
    strategy, discarded, which = facts.plan.strategy, "", "Every choice, with its reason"
    if facts.is_discarded:
        which = "Every choice of the training that was tried, with its reason"
    if facts.is_discarded and facts.ships:
        end = "given up" if facts.summary.guards else "not kept"
        discarded = (
            f"{strategy.value} was tried and {end}: the linear probe ships, and in the "
            "model every layer is frozen, as the strip shows."
        )
    return html.section(
        "plan",
        "Plan: what was decided, and why",
        _strip(facts),
        _layers(facts, facts.plan),
        html.paragraph(sentence(f"strategy {strategy.value}: {strategy.because}")),
        html.paragraph(discarded),
        _own(facts.plan),
        html.fold(which, _choices(facts.plan)),
    )


def _strip(facts: ReportFacts) -> str:
    if not facts.layers:
        return ""
    total = sum(one.n for one in facts.layers) + 1
    pieces = []
    for one in facts.layers:
        pieces.append((f"{one.layers}: {one.action.row}", one.n / total, one.action.color))
    pieces.append(("head: new", 1 / total, "new"))
    title = f"The layers, from the {facts.nouns.one} to the head"
    picture = stacked(pieces, name="layers", title=title, about=facts.in_words)
    names = {"frozen": "frozen: not a bit may change", "tuned": "fine-tuned", "new": "new"}
    classes = dict.fromkeys(class_ for _, _, class_ in pieces)
    legend = html.legend((class_, names[class_]) for class_ in classes)
    return f"<figure>{html.heading(title)}{picture}{legend}</figure>"


def _layers(facts: ReportFacts, plan: Plan) -> str:
    rows = []
    for one in facts.layers:
        rows.append((one.layers, one.action.row, one.rates or "–", f"{one.weights:,}", one.names))
    if rows:
        lr = None if facts.is_discarded else plan.blocks[-1].lr
        words = f"{lr.number:g}" if lr is not None else "in closed form"
        outputs = facts.target.words.output.format(facts.summary.data.classes)
        rows.append(("head", "new", words, "", f"for {outputs}"))
    head = ("layers", "action", "learning rate", "weights", "names")
    return html.table("Layers", head, rows)


def _own(plan: Plan) -> str:
    rows = []
    for name, choice in choices(plan):
        if choice.source == "user" and not name.startswith("layer "):
            rule = "" if choice.rule is None else f"; the rule would choose {_value(choice.rule)}"
            rows.append(html.escaped(f"{name} = {_value(choice.value)}{rule}"))
    return html.heading("What you set") + html.items(rows, "plain") if rows else ""


def _choices(plan: Plan) -> str:
    rows = [
        (name, _value(choice.value), choice.because, _SOURCES[choice.source])
        for name, choice in choices(plan)
    ]
    return html.table("Choices", ("choice", "value", "because", "decided by"), rows)


def choices(plan: Plan) -> Iterator[tuple[str, Choice]]:
    """Every choice of a plan with its name; equal ones of neighbouring layers only once."""
    for name in ("base", "arch", "partial", "strategy"):
        choice = getattr(plan, name)
        if choice is not None:
            yield name, choice
    for name in ("head", "training", "input"):
        record = getattr(plan, name)
        for field in fields(record) if record is not None else ():
            choice = getattr(record, field.name)
            if isinstance(choice, Choice):
                yield f"{name}.{field.name}", choice
    before = None
    for block in plan.blocks:
        action = block.action.value, block.action.because
        if action != before:
            yield f"layer {block.name}", block.action
        before = action


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- The base model, and which of its layers are useful here.


def base_section(facts: ReportFacts) -> str:
    base, network = facts.summary.base, facts.network
    rows = [(facts.title, "base model"), (f"{base.parameters / 1e6:.1f} M", "weights")]
    rows += [(f"{len(network.blocks)}", "layers")] if network and network.blocks else []
    gap = facts.evidence("domain_gap")
    sha256 = f"Weights: {base.name}, SHA-256 {base.sha256}" if base.sha256 else ""
    return html.section(
        "base",
        "Base model: what was fine-tuned",
        html.figures(rows),
        html.side_by_side(_transfer_gain(facts), _depth(facts)),
        html.paragraph(gap.meaning if gap is not None else ""),
        html.paragraph(sha256, "note"),
    )


def _transfer_gain(facts: ReportFacts) -> str:
    evidence = facts.evidence("transfer_gain")
    if evidence is None:
        return ""
    bars = []
    for key, words, class_ in (
        ("trained", "with the pretrained weights", "bar"),
        ("shuffled", "the same weights, shuffled", "bar pale"),
        ("pixels", f"{facts.nouns.plain}, no network", "bar pale"),
    ):
        share = facts.detail("transfer_gain", key)
        if share is not None:
            bars.append(Bar(words, share, percent(share, evidence.n), class_))
    title = f"Transfer gain: what pretraining is worth on these {facts.nouns.many}"
    picture = lying(bars, name="transfer_gain", title=title, about=evidence.meaning)
    return html.figure(title, picture, evidence.meaning)


def _depth(facts: ReportFacts) -> str:
    evidence = facts.evidence("depth")
    details = evidence.details if evidence is not None else {}
    keys = [key for key in details if key.startswith("block.")]
    if evidence is None or not keys:
        return ""
    scores = {int(key.removeprefix("block.")): float(details[key]) for key in keys}
    numbers = sorted(scores)
    best = int(float(details.get("best_block", numbers[-1])))
    words = facts.target.words
    title = f"How well each layer alone {words.apart.format(an=facts.nouns.an)}"
    picture = standing(
        [scores[number] for number in numbers],
        best=numbers.index(best) if best in numbers else None,
        first=f"layer {numbers[0]}, at the {facts.nouns.one}",
        last=f"layer {numbers[-1]}",
        mark=facts.majority[1] if facts.majority is not None else None,
        name="depth",
        title=title,
        about=evidence.meaning,
    )
    caption = f"{evidence.meaning} A bar is a quick linear probe on that layer alone."
    caption += f" The dashed line is {words.blind}." if facts.majority else ""
    return html.figure(title, picture, caption)
