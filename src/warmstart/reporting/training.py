"""Training: what happened step by step, and what the guards saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from warmstart.events import Event
from warmstart.formatting import percent, percents, sentence
from warmstart.nouns import Nouns
from warmstart.reporting import html
from warmstart.reporting.curves import Axis, CurveReader
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Curve, Point, axes, chart, steps_to, thinned, upright
from warmstart.tasks.words import TASK_WORDS, change_text

UPDATES = "updates of the weights"
FOLD_CLASSES = ("first", "second", "third")
DRAWN = 48  # points of a loss: each the mean of some batches, for single ones jump


@dataclass(slots=True)
class TrainingCurve:
    """What the events of a training tell: points by curve, and what guards saw, at which step."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    guards: list[tuple[float, str, str]] = field(default_factory=list)  # step, kind, words

    def of(self, name: str) -> dict[str, list[Point]]:
        """The curves of one quantity, by training."""
        found = {}
        for key, points in self.points.items():
            group, _, quantity = key.partition("/")
            if quantity == name:
                found[group] = points
        return found


def course(events: Sequence[Event]) -> TrainingCurve:
    """Read the curves of a run from its events."""
    reader, axis, found = CurveReader(), Axis(), TrainingCurve()
    for event in events:
        values = reader.read(event)
        if not values:
            continue
        axis.see(event)
        if event.kind == "guard":
            kind = str(event.values.get("guard", "guard"))
            found.guards.append((float(axis.at), kind, str(event.values.get("text", ""))))
            continue
        for name, value in values.items():
            found.points.setdefault(name, []).append((float(axis.at), value))
            if name.endswith("/val_accuracy") and "epoch" in event.values:
                epochs = name.replace("val_accuracy", "epoch")
                epoch = float(event.values["epoch"])
                found.points.setdefault(epochs, []).append((float(axis.at), epoch))
    return found


def training_section(facts: ReportFacts) -> str:
    """The curves of loss and accuracy, and the guards."""
    found = course(facts.events)
    return html.section(
        "training",
        "Training: what happened",
        _nothing(facts, found),
        _tried(facts, found),
        html.side_by_side(_losses(found, facts.nouns), _accuracies(facts, found)),
        _before(facts),
        _guards(facts, found),
    )


def _before(facts: ReportFacts) -> str:
    """The linear probe on the same folds, and what fine-tuning changed."""
    probe, gain = facts.summary.linear_probe, facts.summary.fine_tuning_gain
    if probe is None or gain is None:
        return ""
    did = TASK_WORDS[facts.summary.task].before.format(percent(probe.value, probe.n))
    row = "fine-tuned" if facts.is_thrown_away else "what ships"
    low, high = percents(probe.low, probe.high, n=probe.n)
    return html.paragraph(
        f"On the same folds the linear probe {did} ({low} to {high}); {row} against it: "
        f"{change_text(gain.value, gain.low, gain.high)}."
    )


def _tried(facts: ReportFacts, found: TrainingCurve) -> str:
    """Whose curves these are, where what was trained is not in the model."""
    if not found.points or not facts.is_thrown_away:
        return ""
    end = "was given up" if facts.summary.guards else "was tried and not kept"
    return html.paragraph(
        f"Training {end}: these curves are those of a network that is not in the model."
    )


def _nothing(facts: ReportFacts, found: TrainingCurve) -> str:
    if found.points:
        return ""
    head = facts.summary.seconds.get("head", 0.0)
    return html.paragraph(
        "No layer was trained step by step: the head was computed in one go on what the "
        f"frozen network gives, in {head:.1f} s. There is no curve to show, and none that could "
        "have gone wrong."
    )


def _losses(found: TrainingCurve, nouns: Nouns) -> str:
    curves = found.of("loss")
    if not curves:
        return ""
    drawn = [(group, thinned(points, DRAWN)) for group, points in curves.items()]
    top = max(y for _, points in drawn for _, y in points)
    title = "Loss: how surprised the network is by the labels"
    return _figure(
        found,
        [
            (group, "curve pale" if _holds_out(group) else "curve", points)
            for group, points in drawn
        ],
        top,
        title,
        "loss",
        is_share=False,
        caption=_caption(curves, "Lower is better.", nouns),
    )


def _accuracies(facts: ReportFacts, found: TrainingCurve) -> str:
    curves, base = found.of("val_accuracy"), found.of("head_accuracy")
    epochs = found.of("epoch")
    if not curves or not epochs:
        return ""

    def by_epoch(group: str, points: list[Point]) -> list[Point]:
        at = dict(epochs[group])
        return [(at[step], value) for step, value in points if step in at]

    drawn, legend = [], []
    for number, group in enumerate(curves):
        kind = FOLD_CLASSES[number % len(FOLD_CLASSES)]
        drawn.append((group, f"curve {kind}", by_epoch(group, curves[group])))
        legend.append((kind, group.replace("fold", "fold ")))
        if base.get(group):
            level = base[group][-1][1]
            last = max(epoch for _, epoch in epochs[group])
            drawn.append((group, f"curve base {kind}", [(0.0, level), (last, level)]))
    if base:
        legend.append(("base", "dashed: linear probe (a new output layer on the frozen network)"))
    name = TASK_WORDS[facts.summary.task].name
    title = f"{name[0].upper()}{name[1:]} on {facts.nouns.many} held out, while it trains"
    return _figure(
        found,
        drawn,
        1.0,
        title,
        "held",
        is_share=True,
        x_words="epoch",
        caption=f"Each fold holds some {facts.nouns.many} out and learns from the others; an epoch "
        f"is once through those. A few {facts.nouns.many} only; the figures of the proof come from "
        "all of them.",
        legend=legend,
    )


def _caption(curves: dict[str, list[Point]], words: str, nouns: Nouns) -> str:
    folds = [group for group in curves if _holds_out(group)]
    if not folds:
        return words
    pale = "a training that" if len(folds) == 1 else f"{len(folds)} trainings that each"
    n_all = len(curves) - len(folds)
    last = "the last one" if n_all < 2 else f"the last {n_all}"
    dark = f"dark: {last}, on all {nouns.many}"
    return f"{words} Pale: {pale} held a part of the {nouns.many} out; {dark}."


def _holds_out(group: str) -> bool:
    return group.startswith("fold")


def _figure(
    found: TrainingCurve,
    drawn: Sequence[tuple[str, str, list[Point]]],
    top: float,
    title: str,
    name: str,
    *,
    is_share: bool,
    caption: str,
    x_words: str = UPDATES,
    legend: Sequence[tuple[str, str]] = (),
) -> str:
    last = max(x for _, _, points in drawn for x, _ in points)
    heights = [0.0, 0.25, 0.5, 0.75, 1.0] if is_share else steps_to(top)
    frame = axes(
        (0.0, last),
        (0.0, max(top, heights[-1])),
        x_words=x_words,
        x_ticks=[(step, f"{step:,g}") for step in steps_to(last)],
        y_ticks=[(y, f"{100 * y:.0f} %" if is_share else f"{y:g}") for y in heights],
    )
    guards = found.guards if x_words == UPDATES else []
    lines = "".join(upright(frame, step, kind, "peg thin") for step, kind, _ in guards)
    about = f"{len(drawn)} curves over {last:,g} {x_words}; {caption}"
    picture = chart(
        frame,
        [Curve(points, class_) for _, class_, points in drawn],
        lines,
        name=name,
        title=title,
        about=about,
    )
    return html.figure(title, picture + (html.legend(legend) if legend else ""), caption)


def _guards(facts: ReportFacts, found: TrainingCurve) -> str:
    """What the guards saw, as the events tell it, else as the summary does.

    Nothing of a network that was tried and not kept.
    """
    if facts.is_thrown_away and not facts.summary.guards:
        return ""
    rows = [
        html.escaped(sentence(f"At update {step:,.0f}: {words}")) for step, _, words in found.guards
    ]
    if not rows:
        rows = [
            html.escaped(sentence(f"{note.kind}, at update {note.step:,}: {note.action}"))
            for note in facts.summary.guards
        ]
    if rows:
        return html.heading("What the guards saw") + html.items(rows, "plain")
    if not found.points:
        return ""
    return html.paragraph(
        "The guards (stuck, diverged, overfit, forgetting) watched all of it and saw nothing."
    )
