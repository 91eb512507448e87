"""`warmstart audit`: its options in numbers, and the work that they ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.cli.output import dumps, watcher
from warmstart.cli.parse import Call
from warmstart.errors import UsageError
from warmstart.events import Event, follow
from warmstart.formatting import count, interval, percent, printable
from warmstart.formatting import sentence as as_sentence
from warmstart.records.comparison import AuditedModel, ClassScore
from warmstart.records.data import Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import Audit, AuditGroup, Tally
from warmstart.records.run_folder import to_plain
from warmstart.records.summary import Scores
from warmstart.terminal.text import WIDTH, column

if TYPE_CHECKING:
    from warmstart.network.trained_elsewhere import InputHandling


_ON_IMAGES = ("--arch", "--labels", "--train", "--label", "--group", "--size", "--mean", "--std")


def audited(call: Call) -> tuple[Audit | None, AuditedModel | None]:
    """What moved against --base, and what the model is worth on DATA; one may be None.

    Raises: UsageError where there is neither, or an option belongs to the one that is missing.
    """
    model, *data = call.places
    base = call.values.get("--base")
    if not data and base is None:
        raise UsageError(
            "audit needs labelled images, or --base START, what MODEL was made from: "
            "warmstart audit MODEL photos/"
        )
    idle = next((name for name in _ON_IMAGES if name in call.values), None)
    if not data and idle:
        raise UsageError(f"{idle} is for images: warmstart audit {model} DATA {idle} …")
    feeding = _feeding(call) if data else None
    moved = None
    if base is not None:
        from warmstart.auditing.weights import audit as compare

        moved = compare(model, base)
    return moved, _judge(call, model, data[0], feeding) if feeding else None


def _judge(call: Call, model: str, data: str, feeding: InputHandling) -> AuditedModel:
    values = call.values
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.auditing.judge import judge as steps

        names = Path(values["--labels"]) if "--labels" in values else None
        return follow(
            steps(
                model,
                data,
                arch=values.get("--arch"),
                labels=names,
                train=values.get("--train"),
                label=values.get("--label"),
                group=values.get("--group"),
                feeding=feeding,
            ),
            watch.show,
        )


def _feeding(call: Call) -> InputHandling:
    from warmstart.network.trained_elsewhere import InputHandling as Feeding

    values = call.values
    std = numbers("--std", values["--std"]) if "--std" in values else ()
    if any(value <= 0 for value in std):
        raise UsageError(f"--std {values['--std']}: it needs numbers above 0 to divide by.")
    return Feeding(
        size=sides(values["--size"]) if "--size" in values else None,
        mean=numbers("--mean", values["--mean"]) if "--mean" in values else (),
        std=std,
    )


def sides(text: str) -> tuple[int, int]:
    """Height and width in px.

    Raises: UsageError for anything but one or two whole numbers.

    >>> sides("224"), sides("224x320")
    ((224, 224), (224, 320))
    """
    match = re.fullmatch(r"(\d{1,4})(?:[x,](\d{1,4}))?", text.strip().lower())
    found = tuple(int(side) for side in match.groups(match[1])) if match else ()
    if len(found) != 2 or min(found) < 1:
        raise UsageError(f"--size {text}: it needs px, such as 224, or height x width: 224x320.")
    return found[0], found[1]


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises: UsageError for anything else.

    >>> numbers("--mean", "0.5, 0.4,0.4")
    (0.5, 0.4, 0.4)
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(value) for value in found):
        raise UsageError(f"{name} {text}: it needs numbers such as 0.485,0.456,0.406.")
    return found


# ---- What became of a start's layers: a few lines, in the order of the network.


LINES = 14  # of the whole answer, at most
_NAME = 21  # columns at most of a group's name
_BEWARE = "a layer whose statistics moved gives other outputs: frozen in name only"
_HARDLY = "less than half of the start has a counterpart: hardly the same design"


def audit_text(found: Audit) -> str:
    """Both sides, what is the same and what is not, then a line for each layer or block.

    Neighbours of the same fate share a line where there would be too many.
    """
    head = [column("Model", found.model), column("Start", found.base)]
    if not found.is_related:
        return "\n".join([*head, "", *_strangers(found)])
    head += ["", *_tallies(found), ""]
    width = LINES - sum(block.count("\n") + 1 for block in head)
    return "\n".join([*head, *_table(found.groups, width)])


def _strangers(found: Audit) -> list[str]:
    sides = f"{_tensors(found.only_model.tensors + found.reshaped.tensors)} in the model"
    sides += f", {found.only_base.tensors + found.reshaped.tensors:,} in the start"
    return [
        column("Differ", f"no tensor has the same name and shape in both ({sides}):"),
        column("", "these two are not the same design, and nothing can be said of what moved."),
    ]


def _tallies(found: Audit) -> list[str]:
    both = found.same.tensors + found.moved.tensors
    lines = [
        column("Same", f"{_of(found.same)} of {both:,} in both: the same bytes"),
        column("Moved", f"{_of(found.moved)}" if found.moved.tensors else "none"),
    ]
    rest = [
        f"{found.reshaped.tensors:,} of another shape" if found.reshaped.tensors else "",
        f"{found.only_model.tensors:,} only in the model" if found.only_model.tensors else "",
        f"{found.only_base.tensors:,} only in the start" if found.only_base.tensors else "",
    ]
    if any(rest):
        lines.append(column("Other", ", ".join(filter(None, rest))))
    if found.rounded:
        kinds = ", ".join(found.rounded)
        lines.append(column("Rounded", f"{kinds} before comparing: one side was saved so"))
    if any(group.state == "frozen in name only" for group in found.groups):
        lines.append(column("Beware", _BEWARE))
    if found.carried < 0.5:
        lines.append(column("Beware", _HARDLY))
    return lines


def _of(tally: Tally) -> str:
    return f"{_tensors(tally.tensors)} ({tally.numbers:,} numbers)"


def _tensors(n: int) -> str:
    return count(n, "tensor")


def _table(groups: Sequence[AuditGroup], width: int) -> list[str]:
    rows = [[group] for group in groups]
    if len(rows) > width:
        rows = [list(run) for _, run in groupby(groups, key=lambda group: group.state)]
    left = min(max(len(_label(row)) for row in rows), _NAME)
    hidden = len(rows) - width + 1 if len(rows) > width else 0
    lines = [_line(row, left) for row in rows[: len(rows) - hidden]]
    return lines + ([f"and {hidden:,} more lines; --json has them all"] if hidden else [])


def _label(row: Sequence[AuditGroup]) -> str:
    first, last = printable(row[0].name), printable(row[-1].name)
    return first if len(row) == 1 else f"{first} to {last}"


def _line(row: Sequence[AuditGroup], left: int) -> str:
    label = _label(row)
    if len(label) > left:
        label = label[: left - 1] + "…"
    text = f"{label:<{left}}  {_SAID[row[0].state](row)}{_beside(row)}"
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _sum(row: Iterable[AuditGroup], *names: str) -> int:
    return sum(getattr(group, name) for group in row for name in names)


def _frozen(row: Sequence[AuditGroup]) -> str:
    n = _sum(row, "weights", "statistics")
    return f"frozen: {n:,} of {_tensors(n)} the same"


def _in_name(row: Sequence[AuditGroup]) -> str:
    moved = _sum(row, "statistics") - _sum(row, "statistics_same")
    return f"frozen in name only: {_sum(row, 'weights'):,} weights same, {moved:,} statistics not"


def _moved(row: Sequence[AuditGroup]) -> str:
    n = _sum(row, "weights", "statistics")
    moved = n - _sum(row, "weights_same", "statistics_same")
    return f"moved: {moved:,} of {_tensors(n)}{_by([g.change for g in row])}"


def _by(changes: Sequence[float | None]) -> str:
    """By how much, as a share of the weights' length."""
    known = sorted(change for change in changes if change is not None)
    if not known:
        return ""
    low, high = share(known[0]), share(known[-1])
    return f", by {low} %" if low == high else f", by {low} to {high} %"


def share(value: float) -> str:
    """A share in per cent with two digits that say something.

    >>> share(0.0312), share(0.00004), share(1.5), share(0.0)
    ('3.1', '0.004', '150', '0')
    """
    percent = 100 * value
    return f"{percent:.0f}" if percent >= 99.5 else f"{percent:.2g}"


def _beside(row: Sequence[AuditGroup]) -> str:
    """What else a group holds that was compared with nothing."""
    if row[0].state in ("another shape", "only in MODEL", "only in BASE"):
        return ""
    parts = [
        (_sum(row, "reshaped"), "of another shape"),
        (_sum(row, "only_model"), "new"),
        (_sum(row, "only_base"), "gone"),
    ]
    return "".join(f"; {n:,} {what}" for n, what in parts if n)


_SAID: dict[str, Callable[[Sequence[AuditGroup]], str]] = {
    "frozen": _frozen,
    "frozen in name only": _in_name,
    "moved": _moved,
    "another shape": lambda row: f"another shape: {_tensors(_sum(row, 'reshaped'))}",
    "only in MODEL": lambda row: f"new: {_tensors(_sum(row, 'only_model'))}",
    "only in BASE": lambda row: f"gone: {_tensors(_sum(row, 'only_base'))}",
}


# ---- What a finished model is worth on labelled images, for someone who never saw it before.


CLASSES = 8  # lines of the table; the weakest where there are more classes
NAMED = 3  # items named of one finding, classes named in one line
WIDE = 0.1  # to either side: from there on the interval is called wide
_CLASS_NAME = 18  # columns at most of a class's name
_NARROW = 0.05  # what more images are counted for
_T = 1.96


def judged_text(found: AuditedModel) -> str:
    """Model, accuracy, whether it is as sure as it is right, leaks, findings, classes."""
    groups = [
        [*_model(found), *_names(found)],
        [
            column("Accuracy", "\n".join(_accuracy(found))),
            column("Sure", "\n".join(_confident(found))),
        ],
        [column("Leaks", _leaks(found)), *_findings(found.findings)],
        _classes(found.classes, found.n_classes),
    ]
    return "\n\n".join("\n".join(block) for block in groups if block)


def _model(found: AuditedModel) -> list[str]:
    return [
        column("Model", f"{found.title}, {found.outputs:,} outputs"),
        column(
            "Data",
            f"{found.data}; judged on {count(found.test.n, 'image')}, "
            f"{_number(found.n_classes, 'class', 'classes')}",
        ),
        column("Fed in", f"{_shape(found.preprocessing)} ({found.preprocessing_from})"),
    ]


def _number(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _shape(prep: Preprocessing) -> str:
    """How an image becomes an input, in few words."""
    height, width = prep.size
    sides = f"{height} px" if height == width else f"{height} x {width} px"
    how = "whole picture squeezed" if prep.squash else f"centre of {prep.resize} px"
    values = [
        f"{x[0]:.3g}" if len(set(x)) == 1 else " ".join(f"{v:.3g}" for v in x)
        for x in (prep.mean, prep.std)
    ]
    return f"{sides}, {how}; mean {values[0]}, spread {values[1]}"


def _names(found: AuditedModel) -> list[str]:
    text = [f"outputs named {found.labels_from}"]
    if found.is_assumed:
        text = [f"order of the outputs {found.labels_from}; if that is wrong, give --labels FILE"]
    if found.better_order is not None:
        text.append(
            "That order seems wrong: under another one it would be right "
            f"{percent(found.better_order, found.test.n)} of the time."
        )
    if found.unknown_classes:
        images = _number(found.unknown_images, "image", "images")
        text.append(
            f"The model has no output for {_some(found.unknown_classes)}: {images} left out of all "
            "figures, and it would be wrong about all of them."
        )
    if found.unused_outputs:
        n = len(found.unused_outputs)
        text.append(
            f"{n:,} of its {found.outputs:,} outputs {'has' if n == 1 else 'have'} no image here "
            f"({_some(found.unused_outputs)}): it may still answer with them, and is wrong then."
        )
    return [column("Classes", "\n".join(text))]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _accuracy(found: AuditedModel) -> list[str]:
    test = found.without_leaks or found.test
    text = [_share(test)]
    if found.without_leaks:
        text = [f"{text[0]} on the {test.n:,} images that do not leak; {_share(found.test)} on all"]
    text[0] += "."
    guess = f"{percent(found.majority.accuracy, test.n)} of the time"
    if found.majority.accuracy >= test.low:
        text.append(
            f'Not clearly better than always answering "{found.majority.label}", which is right '
            f"{guess}."
        )
    else:
        text.append(f'Always answering "{found.majority.label}" would be right {guess}.')
    if found.n_classes > 1:
        balanced = percent(test.balanced_accuracy, test.n)
        text.append(f"Mean over classes {balanced}, macro F1 {test.macro_f1:.2f}.")
    return [*text, *_wide(found), *_gap(found)]


def _share(test: Scores) -> str:
    return interval(test.accuracy, test.low, test.high, test.n)


def _wide(found: AuditedModel) -> list[str]:
    """Said plainly where the images are too few to tell."""
    best = found.without_leaks or found.test
    half = (best.high - best.low) / 2
    if half < WIDE:
        return []
    spread = max(best.accuracy * (1 - best.accuracy), 0.05)
    return [
        f"That is a wide interval: {_number(best.n, 'image tells', 'images tell')} little. About "
        f"{round(_T**2 * spread / _NARROW**2, -1):,.0f} would tell it to 5 points."
    ]


def _gap(found: AuditedModel) -> list[str]:
    train = found.train
    if train is None:
        return []
    shown = interval(train.accuracy, train.low, train.high, train.n)
    drawn = f" ({train.n:,} drawn of {train.of:,})" if train.n < train.of else ""
    gap, low, high = (100 * x for x in (train.gap, train.gap_low, train.gap_high))
    more = f"{abs(gap):.0f} points {'more' if gap >= 0 else 'less'}"
    text = f"On the training images{drawn} {shown}: {more} ({low:.0f} to {high:.0f})"
    if train.gap_low > 0:
        text += ", which hints at images learnt by heart"
    return [text + "."]


def _confident(found: AuditedModel) -> list[str]:
    trust = found.calibration
    text = [trust.sentence, f"Calibration error (ECE) {trust.ece:.3f}"]
    if trust.temperature is not None and trust.ece_after is not None:
        text[1] += (
            f"; with logits divided by {trust.temperature:.2f}, {trust.ece_after:.3f} on images "
            "that this was not fitted on"
        )
    return [text[0], text[1] + "."]


def _leaks(found: AuditedModel) -> str:
    leaks = [finding for finding in found.findings if finding.kind == "leakage"]
    if leaks:
        return "\n".join(map(_finding, leaks))
    if found.leaks_by == "nothing":
        return (
            "Not looked for: no training images are known. --train DIR names what the model was "
            "trained on."
        )
    if found.leaks_by == "bytes":
        return f"None of the {count(found.trained_on, 'image')} that it learnt from, byte for byte."
    return f"None: no copy or near copy of {count(found.trained_on, 'training image')}."


def _findings(findings: Sequence[Finding]) -> list[str]:
    rest = [finding for finding in findings if finding.kind != "leakage"]
    return [column("Found", "\n".join(map(_finding, rest)))] if rest else []


def _finding(finding: Finding) -> str:
    is_told = finding.kind == "preprocessing"
    names = "" if is_told or not finding.items else f" ({_some(finding.items)})"
    return as_sentence(finding.sentence) + names


def _classes(rows: Sequence[ClassScore], n_classes: int) -> list[str]:
    """The table, the weakest class first."""
    if n_classes < 2:
        return []
    ordered = sorted(rows, key=lambda row: (row.recall, row.label))
    shown = ordered[:CLASSES]
    width = max(len("class"), *(len(_cut(row.label)) for row in shown))
    head = f"{'class':<{width}}  {'images':>6}  {'found':<16}  {'right when named':>16}  taken for"
    lines = [head[:WIDTH].rstrip(), *(_class(row, width) for row in shown)]
    hidden = len(ordered) - len(shown)
    return [*lines, f"and {hidden:,} that do better; --json has them all"] if hidden else lines


def _class(row: ClassScore, width: int) -> str:
    named = "never named" if row.precision is None else percent(row.precision, row.answers)
    taken = f"{_cut(row.taken_for)} ({row.taken:,})" if row.taken_for else ""
    found = interval(row.recall, row.low, row.high, row.n)
    text = f"{_cut(row.label):<{width}}  {row.n:>6,}  {found:<16}  {named:>16}  {taken}".rstrip()
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _cut(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _CLASS_NAME else name[: _CLASS_NAME - 1] + "…"


def audit(call: Call) -> int:
    """`warmstart audit`: a model on images, against its start, or both.

    Raises: UsageError with neither.
    """
    moved, judged = audited(call)
    found = [record for record in (moved, judged) if record is not None]
    if "--json" in call.switches:
        print(dumps({k: v for record in found for k, v in to_plain(record).items()}, indent=2))
    else:
        texts = [judged_text(judged)] if judged else []
        print("\n\n".join([*texts, *([audit_text(moved)] if moved else [])]))
    return 0
