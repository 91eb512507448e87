"""What became of a start's layers: a few lines, in the order of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from warmstart.formatting import count, printable
from warmstart.records.network import Audit, AuditGroup, Tally
from warmstart.terminal.text import WIDTH, column

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
    room = LINES - sum(block.count("\n") + 1 for block in head)
    return "\n".join([*head, *_table(found.groups, room)])


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


def _table(groups: Sequence[AuditGroup], room: int) -> list[str]:
    rows = [[group] for group in groups]
    if len(rows) > room:
        rows = [list(run) for _, run in groupby(groups, key=lambda group: group.state)]
    left = min(max(len(_label(row)) for row in rows), _NAME)
    hidden = len(rows) - room + 1 if len(rows) > room else 0
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
    if row[0].state in ("another shape", "only in MODEL", "only in START"):
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
    "only in START": lambda row: f"gone: {_tensors(_sum(row, 'only_base'))}",
}
