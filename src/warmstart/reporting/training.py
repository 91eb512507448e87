"""Plan and training: every choice with its reason, the curves, what the guards reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

from warmstart.events import Event
from warmstart.formatting import sentence
from warmstart.nouns import Nouns
from warmstart.records.plan import Choice, Plan
from warmstart.reporting.curves import Axis, CurveReader
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import (
    Axes,
    Curve,
    Figure,
    Point,
    chart,
    stacked,
    steps_to,
    thinned,
    upright,
)
from warmstart.reporting.markup import Values
from warmstart.tasks.words import change_text

# ---- Every choice of the run with its reason.


_SOURCES = {"rule": "rule", "measured": "measured here", "user": "you"}


def plan_values(facts: ReportFacts) -> Values:
    plan = facts.plan
    if plan is None:
        return {}
    own = []
    for name, choice in choices(plan):
        if choice.source == "user" and not name.startswith("block "):
            rule = "" if choice.rule is None else f"; the rule would choose {_value(choice.rule)}"
            own.append(f"{name} = {_value(choice.value)}{rule}")
    return {
        "strip": _strip(facts),
        "layers": _layers(facts, plan),
        "strategy": sentence(f"strategy {plan.strategy.value}: {plan.strategy.because}"),
        "own": own,
        "choices": [
            (name, _value(choice.value), choice.because, _SOURCES[choice.source])
            for name, choice in choices(plan)
        ],
    }


def _strip(facts: ReportFacts) -> Figure | None:
    if not facts.layers:
        return None
    total = sum(one.n for one in facts.layers) + 1
    pieces = []
    for one in facts.layers:
        pieces.append((f"{one.layers}: {one.action.row}", one.n / total, one.action.color))
    pieces.append(("head: new", 1 / total, "new"))
    title = f"The blocks, from the {facts.nouns.one} to the head"
    picture = stacked(pieces, name="layers", title=title, about=facts.in_words)
    names = {"frozen": "frozen: not a bit may change", "tuned": "fine-tuned", "new": "new"}
    classes = dict.fromkeys(class_ for _, _, class_ in pieces)
    return Figure(title, picture, legend=[(class_, names[class_]) for class_ in classes])


def _layers(facts: ReportFacts, plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in facts.layers:
        rows.append((one.layers, one.action.row, one.rates or "–", f"{one.weights:,}", one.names))
    if rows:
        lr = None if facts.is_discarded else plan.blocks[-1].lr
        words = f"{lr.number:g}" if lr is not None else "in closed form"
        outputs = facts.target.words.output.format(facts.summary.data.classes)
        rows.append(("head", "new", words, "", f"for {outputs}"))
    return rows


def choices(plan: Plan) -> Iterator[tuple[str, Choice]]:
    """Every choice of a plan with its name; equal ones of neighbouring blocks only once."""
    for name in ("base", "arch", "partial", "strategy"):
        choice = getattr(plan, name)
        if choice is not None:
            yield name, choice
    for name in ("head", "training", "input"):
        record = getattr(plan, name)
        for one in fields(record) if record is not None else ():
            choice = getattr(record, one.name)
            if isinstance(choice, Choice):
                yield f"{name}.{one.name}", choice
    before = None
    for block in plan.blocks:
        action = block.action.value, block.action.because
        if action != before:
            yield f"block {block.name}", block.action
        before = action


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- Curves of loss and accuracy.


UPDATES = "updates of the weights"
FOLD_CLASSES = ("first", "second", "third")
LOSSES = 48  # points of a loss curve: each the mean of some batches, for single ones jump


@dataclass(slots=True)
class TrainingCurve:
    """The events of a training: points by curve, and guards with their step, kind and text."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    guards: list[tuple[float, str, str]] = field(default_factory=list)

    def of(self, name: str) -> dict[str, list[Point]]:
        """The curves of one quantity, by training."""
        keys = [key.partition("/") for key in self.points]
        return {group: self.points[f"{group}/{name}"] for group, _, last in keys if last == name}


def read_curve(events: Sequence[Event]) -> TrainingCurve:
    reader, axis, curve = CurveReader(), Axis(), TrainingCurve()
    for event in events:
        values = reader.read(event)
        if not values:
            continue
        axis.see(event)
        step = float(axis.at)
        if event.kind == "guard":
            kind = str(event.values.get("guard", "guard"))
            curve.guards.append((step, kind, str(event.values.get("text", ""))))
            continue
        for name, value in values.items():
            curve.points.setdefault(name, []).append((step, value))
            if name.endswith("/val_accuracy") and "epoch" in event.values:
                epochs = name.replace("val_accuracy", "epoch")
                epoch = float(event.values["epoch"])
                curve.points.setdefault(epochs, []).append((step, epoch))
    return curve


def training_values(facts: ReportFacts) -> Values:
    curve = read_curve(facts.events)
    probe, gain, guards = facts.summary.linear_probe, facts.summary.fine_tuning_gain, []
    values: Values = {"probe": "", "gain": ""}
    if probe is not None and gain is not None:
        values["probe"] = facts.target.words.before.format(probe.interval)
        values["gain"] = change_text(gain.value, gain.low, gain.high)
    # Nothing of a network that was tried and discarded, unless a guard stopped it.
    is_guarded = bool(facts.summary.guards) or not facts.is_discarded
    if is_guarded:
        guards = [f"At update {step:,.0f}: {text}" for step, _, text in curve.guards] or [
            f"{note.kind}, at update {note.step:,}: {note.action}" for note in facts.summary.guards
        ]
    return values | {
        "is_trained": bool(curve.points),
        "is_guarded": is_guarded,
        "losses": _losses(curve, facts.nouns),
        "accuracies": _accuracies(facts, curve),
        "guards": [sentence(text) for text in guards],
    }


def _losses(curve: TrainingCurve, nouns: Nouns) -> Figure | None:
    curves = curve.of("loss")
    if not curves:
        return None
    rows = [
        ("curve pale" if group.startswith("fold") else "curve", thinned(points, LOSSES))
        for group, points in curves.items()
    ]
    top = max(y for _, points in rows for _, y in points)
    folds = sum(group.startswith("fold") for group in curves)
    caption = "Lower is better."
    if folds:
        pale = "a training on one fold" if folds == 1 else f"{folds} trainings on a fold each"
        last = "the last one" if len(curves) - folds < 2 else f"the last {len(curves) - folds}"
        caption += f" Pale: {pale}; dark: {last}, on all {nouns.many}."
    title = "Loss: how surprised the network is by the labels"
    return _figure(curve, rows, top, title, "loss", is_share=False, caption=caption)


def _accuracies(facts: ReportFacts, curve: TrainingCurve) -> Figure | None:
    curves, probes, epochs = (curve.of(name) for name in ("val_accuracy", "head_accuracy", "epoch"))
    if not curves or not epochs:
        return None
    rows, legend = [], []
    for number, (group, points) in enumerate(curves.items()):
        kind = FOLD_CLASSES[number % len(FOLD_CLASSES)]
        at = dict(epochs[group])
        rows.append((f"curve {kind}", [(at[step], value) for step, value in points if step in at]))
        legend.append((kind, group.replace("fold", "fold ")))
        if probes.get(group):
            level, last = probes[group][-1][1], max(epoch for _, epoch in epochs[group])
            rows.append((f"curve base {kind}", [(0.0, level), (last, level)]))
    if probes:
        legend.append(("base", "dashed: linear probe (a new output layer on the frozen network)"))
    name, many = facts.target.words.name, facts.nouns.many
    caption = (
        f"Each fold holds some {many} out and trains on the others; an epoch is one pass over "
        f"those. Few {many} only; the scores of the proof come from all of them."
    )
    title, words = f"Validation {name} during training", {"x_words": "epoch", "caption": caption}
    return _figure(curve, rows, 1.0, title, "held", is_share=True, legend=legend, **words)


def _figure(
    curve: TrainingCurve,
    rows: Sequence[tuple[str, list[Point]]],
    top: float,
    title: str,
    name: str,
    *,
    is_share: bool,
    caption: str,
    x_words: str = UPDATES,
    legend: Sequence[tuple[str, str]] = (),
) -> Figure:
    last = max(x for _, points in rows for x, _ in points)
    heights = [0.0, 0.25, 0.5, 0.75, 1.0] if is_share else steps_to(top)
    frame = Axes(
        (0.0, last),
        (0.0, max(top, heights[-1])),
        x_words=x_words,
        x_ticks=[(step, f"{step:,g}") for step in steps_to(last)],
        y_ticks=[(y, f"{100 * y:.0f} %" if is_share else f"{y:g}") for y in heights],
    )
    guards = curve.guards if x_words == UPDATES else []
    lines = "".join(upright(frame, step, kind, "peg thin") for step, kind, _ in guards)
    about = f"{len(rows)} curves over {last:,g} {x_words}; {caption}"
    curves = [Curve(points, class_) for class_, points in rows]
    picture = chart(frame, curves, lines, name=name, title=title, about=about)
    return Figure(title, picture, caption, legend=legend)
