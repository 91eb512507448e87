"""Start: what it began from, and where in it the useful knowledge lies."""

from __future__ import annotations

from warmstart.delivery.figures.bars import Bar, lying, standing
from warmstart.delivery.numbers import percent
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.task_words import TASK_WORDS


def start_section(facts: Facts) -> str:
    """The pretrained network, what it knows of these images, and in which layer."""
    start = facts.summary.start
    parts = len(facts.network.parts) if facts.network is not None else 0
    rows = [(facts.title, "base model"), (f"{start.parameters / 1e6:.1f} M", "weights")]
    rows += [(f"{parts}", "layers")] if parts else []
    distance = facts.evidence("distance")
    return html.section(
        "start", "Base model: what it began from",
        html.figures(rows),
        html.side_by_side(_knowledge(facts), _depth(facts)),
        html.paragraph(distance.meaning if distance is not None else ""),
        html.paragraph(f"Weights: {start.name}, SHA-256 {start.sha256}", "note") if start.sha256
        else "",
    )  # fmt: skip


def _knowledge(facts: Facts) -> str:
    """The pretrained network against the same one with shuffled weights, and plain pixels."""
    found = facts.evidence("knowledge")
    if found is None:
        return ""
    arms = (("trained", "with the pretrained weights", "bar"),
            ("shuffled", "the same weights, shuffled", "bar pale"),
            ("pixels", f"{facts.nouns.plain}, no network", "bar pale"))  # fmt: skip
    shares = [(words, facts.detail("knowledge", key), class_) for key, words, class_ in arms]
    bars = [
        Bar(words, share, percent(share, found.n), class_)
        for words, share, class_ in shares
        if share is not None
    ]
    title = f"What pretraining is worth on these {facts.nouns.many}"
    picture = lying(bars, name="knowledge", title=title, about=found.meaning)
    return html.figure(title, picture, found.meaning)


def _depth(facts: Facts) -> str:
    """How well each layer alone does the task."""
    found = facts.evidence("depth")
    if found is None:
        return ""
    keys = [key for key in found.details if key.startswith("part.")]
    profile = {int(key.removeprefix("part.")): float(found.details[key]) for key in keys}
    if not profile:
        return ""
    numbers = sorted(profile)
    best = int(float(found.details.get("best_part", numbers[-1])))
    words = TASK_WORDS[facts.summary.task]
    title = f"How well each layer alone {words.apart.format(an=facts.nouns.an)}"
    picture = standing(
        [profile[number] for number in numbers],
        best=numbers.index(best) if best in numbers else None,
        first=f"layer {numbers[0]}, at the {facts.nouns.one}", last=f"layer {numbers[-1]}",
        mark=facts.guess[1] if facts.guess is not None else None,
        name="depth", title=title, about=found.meaning,
    )  # fmt: skip
    line = " A bar is a quick linear probe on that layer alone."
    line += f" The dashed line is {words.blind}." if facts.guess else ""
    return html.figure(title, picture, found.meaning + line)
