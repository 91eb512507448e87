"""`warmstart audit`: judge a model on labelled images, and compare its weights with its base."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from warmstart.cli.options import COMMON, GROUP, LABEL, Call, Option, Verb
from warmstart.cli.output import print_result, watched
from warmstart.errors import UsageError
from warmstart.events import follow
from warmstart.formatting import interval, percent, printable
from warmstart.modalities.nouns import IMAGES
from warmstart.nouns import count
from warmstart.records.comparison import AuditedModel
from warmstart.records.findings import Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import Audit, AuditGroup, Tally
from warmstart.records.run_folder import to_plain
from warmstart.records.summary import ClassScore
from warmstart.tasks.registry import test_estimate
from warmstart.terminal.text import column, named, shortened

if TYPE_CHECKING:
    from warmstart.network.external_classifier import InputHandling


_ON_IMAGES = ("--arch", "--labels", "--train", "--label", "--group", "--size", "--mean", "--std")


def audit(call: Call) -> int:
    """Run `warmstart audit`: a model on images, against its base model, or both.

    Raises: UsageError with neither, or where an option belongs to the one that is missing.
    """
    model, *data = call.places
    base = call.values.get("--base")
    if not data and base is None:
        raise UsageError(
            "audit needs labelled images, or --base NAME, what MODEL was fine-tuned from: "
            "warmstart audit MODEL photos/"
        )
    idle = next((name for name in _ON_IMAGES if name in call.values), None)
    if not data and idle:
        raise UsageError(f"{idle} is for images: warmstart audit {model} DATA {idle} …")
    handling = _input_handling(call) if data else None
    plain: dict[str, Any] = {}
    texts = []
    if base is not None:
        from warmstart.auditing.weights import audit as compare

        changes = compare(model, base)
        plain |= to_plain(changes)
        texts.append(audit_text(changes))
    if handling is not None:
        judged = _judge(call, handling)
        plain |= to_plain(judged)
        texts.insert(0, judged_text(judged))
    print_result(call, plain, lambda: "\n\n".join(texts))
    return 0


def _judge(call: Call, handling: InputHandling) -> AuditedModel:
    values = call.values
    with watched(call) as show:
        from warmstart.auditing.judge import judge as steps

        job = steps(
            *call.places,
            arch=values.get("--arch"),
            labels=call.path("--labels"),
            train=values.get("--train"),
            label=values.get("--label"),
            group=values.get("--group"),
            handling=handling,
        )
        return follow(job, show)


def _input_handling(call: Call) -> InputHandling:
    from warmstart.network.external_classifier import InputHandling

    values = call.values
    std = numbers("--std", values["--std"]) if "--std" in values else ()
    if any(value <= 0 for value in std):
        raise UsageError(f"--std {values['--std']}: it needs numbers above 0 to divide by.")
    return InputHandling(
        size=sides(values["--size"]) if "--size" in values else None,
        mean=numbers("--mean", values["--mean"]) if "--mean" in values else (),
        std=std,
    )


def sides(text: str) -> tuple[int, int]:
    """Height and width in px. Raises: UsageError for anything but one or two whole numbers."""
    match = re.fullmatch(r"(\d{1,4})(?:[x,](\d{1,4}))?", text.strip().lower())
    height, width = map(int, match.groups(match[1])) if match else (0, 0)
    if min(height, width) < 1:
        raise UsageError(f"--size {text}: it needs px, such as 224, or height x width: 224x320.")
    return height, width


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Comma-separated numbers of option `name`. Raises: UsageError for anything else."""
    try:
        values = tuple(float(number) for number in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) for value in values):
        raise UsageError(f"{name} {text}: it needs numbers such as 0.485,0.456,0.406.")
    return values


# ---- What changed against the base model: a few lines, in the order of the network.


LINES = 14  # at most in all
_NAME = 21  # columns of a group's name at most


def audit_text(audit: Audit) -> str:
    """Both sides, what is the same and what is not, then a line for each layer or block."""
    head = [column("Model", audit.model), column("Base", audit.base)]
    if not audit.is_related:
        in_model = audit.only_model.tensors + audit.reshaped.tensors
        in_base = audit.only_base.tensors + audit.reshaped.tensors
        text = (
            "no tensor has the same name and shape in both "
            f"({count(in_model, 'tensor')} in the model, {in_base:,} in the base model):\n"
            "these are not the same architecture, and nothing can be said of what changed."
        )
        return "\n".join([*head, "", column("Differ", text)])
    head += ["", *_tallies(audit), ""]
    width = LINES - sum(block.count("\n") + 1 for block in head)
    return "\n".join([*head, *_table(audit.groups, width)])


def _tallies(audit: Audit) -> Iterator[str]:
    both = audit.same.tensors + audit.moved.tensors
    yield column("Same", f"{_size(audit.same)} of {both:,} in both: the same bytes")
    yield column("Changed", _size(audit.moved) if audit.moved.tensors else "none")
    rest = (
        (audit.reshaped.tensors, "of another shape"),
        (audit.only_model.tensors, "only in the model"),
        (audit.only_base.tensors, "only in the base model"),
    )
    if any(n for n, _ in rest):
        yield column("Other", ", ".join(f"{n:,} {where}" for n, where in rest if n))
    if audit.rounded:
        kinds = ", ".join(audit.rounded)
        yield column("Rounded", f"{kinds} before comparing: one side was saved so")
    if any(group.state == "frozen in name only" for group in audit.groups):
        yield column("Beware", "a layer with changed statistics has other outputs: not frozen")
    if audit.carried < 0.5:
        yield column("Beware", "less than half of the base model matches: hardly the same network")


def _size(tally: Tally) -> str:
    return f"{count(tally.tensors, 'tensor')} ({tally.numbers:,} numbers)"


def _table(groups: Sequence[AuditGroup], width: int) -> list[str]:
    """A line for each group; neighbours in the same state share one if there are too many."""
    rows = [[group] for group in groups]
    if len(rows) > width:
        rows = [list(run) for _, run in groupby(groups, key=lambda group: group.state)]
    left = min(max(len(_label(row)) for row in rows), _NAME)
    hidden = len(rows) - width + 1 if len(rows) > width else 0
    lines = []
    for row in rows[: len(rows) - hidden]:
        label = shortened(_label(row), left)
        lines.append(shortened(f"{label:<{left}}  {_state(row)}{_unmatched(row)}"))
    return lines + ([f"and {hidden:,} more lines; --json has them all"] if hidden else [])


def _label(row: Sequence[AuditGroup]) -> str:
    first, last = printable(row[0].name), printable(row[-1].name)
    return first if len(row) == 1 else f"{first} to {last}"


def _sum(row: Iterable[AuditGroup], *names: str) -> int:
    return sum(getattr(group, name) for group in row for name in names)


def _state(row: Sequence[AuditGroup]) -> str:
    state, n = row[0].state, _sum(row, "weights", "statistics")
    if state in _UNMATCHED:
        word, name = _UNMATCHED[state]
        return f"{word}: {count(_sum(row, name), 'tensor')}"
    if state == "frozen":
        return f"frozen: {n:,} of {count(n, 'tensor')} the same"
    if state == "frozen in name only":
        gone = _sum(row, "statistics") - _sum(row, "statistics_same")
        return f"{state}: {_sum(row, 'weights'):,} weights same, {gone:,} statistics not"
    changed = n - _sum(row, "weights_same", "statistics_same")
    text = f"changed: {changed:,} of {count(n, 'tensor')}"
    changes = sorted(group.change for group in row if group.change is not None)
    if not changes:
        return text
    low, high = share(changes[0]), share(changes[-1])
    return f"{text}, by {low} %" if low == high else f"{text}, by {low} to {high} %"


def share(value: float) -> str:
    """A share in per cent with two significant digits."""
    percent = 100 * value
    return f"{percent:.0f}" if percent >= 99.5 else f"{percent:.2g}"


def _unmatched(row: Sequence[AuditGroup]) -> str:
    if row[0].state in _UNMATCHED:
        return ""
    rows = (
        (_sum(row, "reshaped"), "of another shape"),
        (_sum(row, "only_model"), "new"),
        (_sum(row, "only_base"), "gone"),
    )
    return "".join(f"; {n:,} {what}" for n, what in rows if n)


# States of groups without a counterpart: the word, and the field that counts their tensors.
_UNMATCHED = {
    "another shape": ("another shape", "reshaped"),
    "only in MODEL": ("new", "only_model"),
    "only in BASE": ("gone", "only_base"),
}


# ---- How good a finished model is on labelled images.


CLASSES = 8  # lines of the table; the weakest where there are more classes
WIDE = 0.1  # to either side: from there on the interval is called wide
_CLASS_NAME = 18  # columns of a class's name at most
_NARROW = 0.05  # half-width for which the images are counted
_T = 1.96


def judged_text(model: AuditedModel) -> str:
    """Model, accuracy, calibration, leakage, findings, classes."""
    others = [finding for finding in model.findings if finding.kind != "leakage"]
    findings = [column("Findings", "\n".join(map(_finding, others)))] if others else []
    sizes = f"{IMAGES.count(model.test.n)}, {count(model.n_classes, 'class')}"
    accuracy, calibration = "\n".join(_accuracy(model)), "\n".join(_calibration(model))
    groups = [
        [
            column("Model", f"{model.title}, {model.outputs:,} outputs"),
            column("Data", f"{model.data}; judged on {sizes}"),
            column("Input", f"{_shape(model.preprocessing)} ({model.preprocessing_from})"),
            column("Classes", "\n".join(_outputs(model))),
        ],
        [column("Accuracy", accuracy), column("Trust", calibration)],
        [column("Leakage", _leakage(model)), *findings],
        _classes(model.classes, model.n_classes),
    ]
    return "\n\n".join("\n".join(group) for group in groups if group)


def _shape(prep: Preprocessing) -> str:
    height, width = prep.size
    size = f"{height} px" if height == width else f"{height} x {width} px"
    crop = "whole picture squeezed" if prep.squash else f"centre of {prep.resize} px"
    mean, std = (
        f"{x[0]:.3g}" if len(set(x)) == 1 else " ".join(f"{v:.3g}" for v in x)
        for x in (prep.mean, prep.std)
    )
    return f"{size}, {crop}; mean {mean}, std {std}"


def _outputs(model: AuditedModel) -> Iterator[str]:
    if model.is_assumed:
        yield f"order of the outputs {model.labels_from}; if that is wrong, use --labels FILE"
    else:
        yield f"outputs named {model.labels_from}"
    if model.better_order is not None:
        yield (
            "That order seems wrong: in another one the model would be right "
            f"{percent(model.better_order, model.test.n)} of the time."
        )
    if model.unknown_classes:
        yield (
            f"The model has no output for {named(model.unknown_classes)}: "
            f"{IMAGES.count(model.unknown_images)} left out of all figures, and it would be "
            "wrong about all of them."
        )
    if model.unused_outputs:
        n = len(model.unused_outputs)
        yield (
            f"{n:,} of its {model.outputs:,} outputs {'has' if n == 1 else 'have'} no image here "
            f"({named(model.unused_outputs)}): it may still answer with them, and is wrong then."
        )


def _accuracy(model: AuditedModel) -> Iterator[str]:
    test = model.without_leaks or model.test
    score = test_estimate(test).interval
    if model.without_leaks:
        whole = test_estimate(model.test).interval
        score += f" on the {test.n:,} images without leakage; {whole} on all"
    yield f"{score}."
    majority = f"{percent(model.majority.accuracy, test.n)} of the time"
    if model.majority.accuracy >= test.low:
        yield (
            f'Not clearly better than always predicting "{model.majority.label}", which is right '
            f"{majority}."
        )
    else:
        yield f'Always predicting "{model.majority.label}" would be right {majority}.'
    if model.n_classes > 1:
        balanced = percent(test.balanced_accuracy, test.n)
        yield f"Mean over classes {balanced}, macro F1 {test.macro_f1:.2f}."
    if (test.high - test.low) / 2 >= WIDE:
        spread = max(test.accuracy * (1 - test.accuracy), 0.05)
        needed = f"{round(_T**2 * spread / _NARROW**2, -1):,.0f}"
        yield (
            f"That is a wide interval: {IMAGES.count(test.n)} say little. About {needed} "
            "would give ± 5 points."
        )
    if (train := model.train) is not None:
        score = interval(train.accuracy, train.low, train.high, train.n)
        sample = f" (a sample of {train.n:,} of {train.of:,})" if train.n < train.of else ""
        gap, low, high = (100 * x for x in (train.gap, train.gap_low, train.gap_high))
        more = f"{abs(gap):.0f} points {'more' if gap >= 0 else 'less'}"
        hint = ", which suggests overfitting" if train.gap_low > 0 else ""
        yield f"On the training images{sample} {score}: {more} ({low:z.0f} to {high:z.0f}){hint}."


def _calibration(model: AuditedModel) -> Iterator[str]:
    calibration = model.calibration
    yield calibration.sentence
    text = f"Calibration error (ECE) {calibration.ece:.3f}"
    if calibration.temperature is not None and calibration.ece_after is not None:
        text += (
            f"; with temperature {calibration.temperature:.2f}, {calibration.ece_after:.3f} on "
            "images that it was not fitted on"
        )
    yield f"{text}."


def _leakage(model: AuditedModel) -> str:
    leaks = [finding for finding in model.findings if finding.kind == "leakage"]
    if leaks:
        return "\n".join(map(_finding, leaks))
    if model.leaks_by == "nothing":
        return (
            "Not checked: the training images are not known. --train DIR names what the model was "
            "trained on."
        )
    n = count(model.trained_on, "training image")
    if model.leaks_by == "bytes":
        return f"None of the {n} is in the test set, byte for byte."
    return f"None: no near-duplicate of {n}."


def _finding(finding: Finding) -> str:
    is_complete = finding.kind == "preprocessing" or not finding.items
    return finding.text + ("" if is_complete else f" ({named(finding.items)})")


def _classes(rows: Sequence[ClassScore], n_classes: int) -> list[str]:
    if n_classes < 2:
        return []
    ordered = sorted(rows, key=lambda row: (row.recall, row.label))
    weakest = ordered[:CLASSES]
    width = max(len("class"), *(len(_class_name(row.label)) for row in weakest))
    lines = [f"{'class':<{width}}  {'images':>6}  {'recall':<16}  {'precision':>12}  taken for"]
    for row in weakest:
        precision = "never" if row.precision is None else percent(row.precision, row.answers)
        other = row.confused_with
        confused_with = f"{_class_name(other)} ({row.n_confused:,})" if other else ""
        recall = row.short_interval
        cells = f"{_class_name(row.label):<{width}}  {row.n:>6,}  {recall:<16}  {precision:>12}"
        lines.append(shortened(f"{cells}  {confused_with}".rstrip()))
    hidden = len(ordered) - len(weakest)
    return [*lines, f"and {hidden:,} that do better; --json has them all"] if hidden else lines


def _class_name(name: str) -> str:
    return shortened(printable(name), _CLASS_NAME)


VERB = Verb(
    words="audit MODEL [DATA]",
    needs=("a model trained elsewhere",),
    short="judge a model that was trained elsewhere",
    about="""With DATA, labelled images: the accuracy of MODEL and how far to trust it, data
    leakage, each class, calibration. With --base: which weights changed, tensor by tensor.
    MODEL is a file of weights (.safetensors, .pt, .pth, .bin) with --arch, an ONNX file, a
    folder of the Hugging Face hub, a run folder, or the name of a base model.""",
    options=(
        Option("--base NAME", "what MODEL was fine-tuned from"),
        Option("--arch NAME", "architecture: timm:NAME, torchvision:NAME or transformers:FOLDER"),
        Option("--labels FILE", "names of the outputs in order: one per line, or JSON"),
        Option("--train DATA", "training images, to look for data leakage"),
        LABEL,
        GROUP,
        Option("--size PX", "input size: 224 or 224x320"),
        Option("--mean X,...", "mean to subtract from pixel values 0 to 1"),
        Option("--std X,...", "standard deviation to divide by"),
        *COMMON,
    ),
    examples=(
        "warmstart audit best.pt photos/ --arch timm:resnet18",
        "warmstart audit model.onnx test/ --train train/",
        "warmstart audit tuned.safetensors --base timm:resnet18  # what changed",
    ),
    run=audit,
)
