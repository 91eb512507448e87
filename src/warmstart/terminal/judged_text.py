"""What a finished model is worth on labelled images, for someone who never saw it before."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.formatting import count, interval, percent, printable
from warmstart.formatting import sentence as as_sentence
from warmstart.records.data import Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.judged import ClassScore, Judged
from warmstart.records.summary import Scores
from warmstart.terminal.text import WIDTH, column

CLASSES = 8  # lines of the table; the weakest where there are more classes
NAMED = 3  # items named of one finding, classes named in one line
WIDE = 0.1  # to either side: from there on the interval is called wide
_NAME = 18  # columns at most of a class's name
_NARROW = 0.05  # what more images are counted for
_T = 1.96


def judged_text(found: Judged) -> str:
    """Model, accuracy, whether it is as sure as it is right, leaks, findings, classes."""
    blocks = [
        [*_model(found), *_names(found)],
        [column("Accuracy", "\n".join(_accuracy(found))), column("Sure", "\n".join(_sure(found)))],
        [column("Leaks", _leaks(found)), *_findings(found.findings)],
        _classes(found.classes, found.n_classes),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _model(found: Judged) -> list[str]:
    return [
        column("Model", f"{found.title}, {found.outputs:,} outputs"),
        column(
            "Data",
            f"{found.data}; judged on {count(found.test.n, 'image')}, "
            f"{_number(found.n_classes, 'class', 'classes')}",
        ),
        column("Fed in", f"{_shape(found.preprocessing)} ({found.fed_as})"),
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


def _names(found: Judged) -> list[str]:
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


def _accuracy(found: Judged) -> list[str]:
    test = found.without_leaks or found.test
    text = [_share(test)]
    if found.without_leaks:
        text = [f"{text[0]} on the {test.n:,} images that do not leak; {_share(found.test)} on all"]
    text[0] += "."
    guess = f"{percent(found.guess.accuracy, test.n)} of the time"
    if found.guess.accuracy >= test.low:
        text.append(
            f'Not clearly better than always answering "{found.guess.label}", which is right '
            f"{guess}."
        )
    else:
        text.append(f'Always answering "{found.guess.label}" would be right {guess}.')
    if found.n_classes > 1:
        balanced = percent(test.balanced_accuracy, test.n)
        text.append(f"Mean over classes {balanced}, macro F1 {test.macro_f1:.2f}.")
    return [*text, *_wide(found), *_gap(found)]


def _share(test: Scores) -> str:
    return interval(test.accuracy, test.low, test.high, test.n)


def _wide(found: Judged) -> list[str]:
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


def _gap(found: Judged) -> list[str]:
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


def _sure(found: Judged) -> list[str]:
    trust = found.calibration
    text = [trust.sentence, f"Calibration error (ECE) {trust.ece:.3f}"]
    if trust.temperature is not None and trust.ece_after is not None:
        text[1] += (
            f"; with logits divided by {trust.temperature:.2f}, {trust.ece_after:.3f} on images "
            "that this was not fitted on"
        )
    return [text[0], text[1] + "."]


def _leaks(found: Judged) -> str:
    leaks = [finding for finding in found.findings if finding.kind == "leak"]
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
    rest = [finding for finding in findings if finding.kind != "leak"]
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
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"
