"""`warmstart audit`: its options in numbers, and the work that they ask for."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.cli.output import watcher
from warmstart.cli.parse import Call
from warmstart.errors import UsageError
from warmstart.events import Event, follow

if TYPE_CHECKING:
    from warmstart.network.trained_elsewhere import Feeding
    from warmstart.records.judged import Judged
    from warmstart.records.network import Audit


_ON_IMAGES = ("--arch", "--labels", "--train", "--label", "--group", "--size", "--mean", "--std")


def audit(call: Call) -> tuple[Audit | None, Judged | None]:
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
        from warmstart.run.weights_audit import audit as compare

        moved = compare(model, base)
    return moved, _judge(call, model, data[0], feeding) if feeding else None


def _judge(call: Call, model: str, data: str, feeding: Feeding) -> Judged:
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


def _feeding(call: Call) -> Feeding:
    from warmstart.network.trained_elsewhere import Feeding

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
