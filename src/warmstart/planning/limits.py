"""What the values of a plan may be, each by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

from warmstart.errors import PlanError
from warmstart.planning import piping
from warmstart.planning.machine import DEVICES, MOST_WORKERS, PRECISIONS
from warmstart.planning.rates import OPTIMIZERS
from warmstart.planning.storing import FORMATS, MOST_VIEWS
from warmstart.records import Action, Choice, Plan

LEAST_SIZE = 16  # px: less leaves nothing after a few halvings
MOST_CHANNELS = 13  # bands of Sentinel-2, the most that the input surgery was made for
MOST_RANK = 256  # of updates: above it they are hardly smaller than what they are added to
MOST_SHUFFLES = 100_000  # permutations: more tell nothing new and take hours
ACTIONS: tuple[str, ...] = get_args(Action)
AGAIN = "make a new plan with --dry-run"

Test = Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> Test:
    return lambda value: type(value) is int and least <= value <= most


def _number(test: Callable[[float], bool]) -> Test:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and test(value)


_TEXT: tuple[Test, str] = (lambda value: type(value) is str, "a text")
_SWITCH: tuple[Test, str] = (lambda value: type(value) is bool, "true or false")
_RATE = (_number(lambda value: value > 0), "a number above 0")
_POSITIVE = (_whole(1), "a whole number, 1 or more")
_SHARE = (_number(lambda value: 0 < value <= 1), "a number above 0, at most 1")
SOUND_LIMITS: dict[str, tuple[Test, str]] = {
    "input.rate": (_whole(2_000, 48_000), "a whole number from 2000 to 48000 samples a second"),
    "input.seconds": (_number(lambda value: 0.05 <= value <= 60), "a number from 0.05 to 60"),
    "input.mels": (_whole(8, 512), "a whole number from 8 to 512"),
    "input.range_db": (_number(lambda value: 5 <= value <= 200), "a number from 5 to 200"),
}
_LIMITS: dict[str, tuple[Test, str]] = {
    "start": _TEXT,
    "arch": _TEXT,
    "strategy": _TEXT,
    "partial": _SWITCH,
    "training.batch": _POSITIVE,
    "training.seed": (_whole(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    "training.optimizer": (lambda value: value in tuple(OPTIMIZERS), " or ".join(OPTIMIZERS)),
    "training.rate": _RATE,
    "training.layer_decay": _SHARE,
    "training.weight_decay": (_number(lambda value: value >= 0), "a number, 0 or more"),
    "training.passes": _POSITIVE,
    "training.warm_up": (_number(lambda value: 0 <= value <= 1), "a number from 0 to 1"),
    "training.crop": _SHARE,
    "training.flip": _SWITCH,
    "training.folds": _POSITIVE,
    "training.soup": _POSITIVE,
    "training.colour": (_number(lambda value: 0 <= value < 1), "a number from 0, below 1"),
    "training.shift": (_number(lambda value: 0 <= value < 1), "a number from 0, below 1"),
    "training.mask": (_number(lambda value: 0 <= value < 1), "a number from 0, below 1"),
    "training.views": (_whole(0, MOST_VIEWS), f"a whole number from 0 to {MOST_VIEWS}"),
    "training.cut": (_whole(0), "a whole number, 0 or more"),
    "training.store": (lambda value: value in FORMATS, " or ".join(FORMATS)),
    "training.stream": (lambda value: value in FORMATS, " or ".join(FORMATS)),
    "training.average": (_number(lambda value: 0 <= value < 1), "a number from 0, below 1"),
    "training.l2_sp": (_number(lambda value: value >= 0), "a number, 0 or more"),
    "training.micro_batch": _POSITIVE,
    "training.parallel": (piping.is_way, piping.KIND),
    "training.pairs": _SWITCH,
    "training.temperature": (_number(lambda value: 0 <= value <= 10), "a number from 0 to 10"),
    "training.recompute": _SWITCH,
    "training.device": (lambda value: value in DEVICES, " or ".join(DEVICES)),
    "training.precision": (lambda value: value in PRECISIONS, " or ".join(PRECISIONS)),
    "training.workers": (_whole(0, MOST_WORKERS), f"a whole number from 0 to {MOST_WORKERS}"),
    "training.compile": _SWITCH,
    "training.rank": (_whole(1, MOST_RANK), f"a whole number from 1 to {MOST_RANK}"),
    "head.outer_folds": _POSITIVE,
    "head.permutations": (_whole(1, MOST_SHUFFLES), f"a whole number from 1 to {MOST_SHUFFLES}"),
    "input.size": _POSITIVE,
    "input.channels": _POSITIVE,
    **SOUND_LIMITS,
}
# Of what the user sets; a start of their own may bring anything.
_SET_LIMITS: dict[str, tuple[Test, str]] = {
    "input.size": (_whole(LEAST_SIZE), f"a whole number of px, {LEAST_SIZE} or more"),
    "input.channels": (_whole(1, MOST_CHANNELS), f"a whole number from 1 to {MOST_CHANNELS}"),
}


def check_values(plan: Plan) -> None:
    """Refuse values of a wrong type or out of bounds, before anything is read by this plan.

    Raises: PlanError that names the value, and what it may be.
    """
    limits = _LIMITS | {path: limit for path, limit in _SET_LIMITS.items() if _is_set(plan, path)}
    for path, (test, kind) in limits.items():
        value = value_at(plan, path)
        if value is not None and not test(value):
            raise PlanError(f"the plan has {path} {_shown(value)}; it is {kind}.")
    _check_lists(plan)
    if not plan.parts:
        raise PlanError(f"the plan has no parts; {AGAIN} to compare.")
    for part in plan.parts:
        if part.action.value not in ACTIONS:
            raise PlanError(
                f"the plan has {_shown(part.action.value)} as action of part {part.name}; there "
                "are frozen, tuned, low-rank and fresh."
            )
        if part.rate is not None and not _RATE[0](part.rate.value):
            raise PlanError(
                f"the plan has rate {_shown(part.rate.value)} for part {part.name}; it is "
                f"{_RATE[1]}."
            )


def _check_lists(plan: Plan) -> None:
    """The choices of several values: heads, penalties, bands."""
    for penalty in items(plan.head.penalties):
        if not _RATE[0](penalty):
            raise PlanError(f"the plan has {penalty!r} in head.penalties; each is {_RATE[1]}.")
    for name in ("candidates", "penalties"):
        if not items(getattr(plan.head, name)):
            raise PlanError(f"the plan has nothing in head.{name}; name at least one.")
    if plan.input is not None and plan.input.rgb is not None:
        rgb, channels = items(plan.input.rgb), int(value_at(plan, "input.channels"))
        if len(set(rgb)) != 3 or len(rgb) != 3 or not all(map(_whole(0, channels - 1), rgb)):
            raise PlanError(
                f"the plan has input.rgb {','.join(map(str, rgb))}; it is three different bands "
                f"from 0 to {channels - 1}."
            )


def _is_set(plan: Plan, path: str) -> bool:
    section, _, name = path.partition(".")
    choice = getattr(getattr(plan, section), name, None)
    return choice is not None and choice.source == "user"


def value_at(plan: Plan, path: str) -> Any:
    """The value at a path such as `training.batch` or `start`; None where the plan has none."""
    section, _, name = path.partition(".")
    record = getattr(plan, section)
    choice: Choice | None = getattr(record, name) if name and record is not None else record
    return None if choice is None else choice.value


def items(choice: Choice) -> tuple[Any, ...]:
    """The values of a choice of several, or its one."""
    return choice.value if isinstance(choice.value, tuple) else (choice.value,)


def _shown(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
