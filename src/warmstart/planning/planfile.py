"""plan.toml: a plan as a file that a person can read, and back."""

from __future__ import annotations

import tomllib
from typing import Any

import tomli_w

from warmstart.errors import PlanError
from warmstart.folder import from_plain, to_plain
from warmstart.records import Plan


def write_plan(plan: Plan) -> str:
    """The text of plan.toml. Values that are None are left out; TOML has no null.

    Raises: nothing; `read_plan(write_plan(plan)) == plan`.
    """
    plain = _without_none(to_plain(plan))
    plain["part"] = plain.pop("parts")
    return tomli_w.dumps(plain)


def read_plan(text: str, where: str = "plan.toml") -> Plan:
    """Raises: PlanError if the text is not TOML or not a plan, with the place."""
    try:
        plain = tomllib.loads(text)
        return from_plain(Plan, {**plain, "parts": plain["part"]})
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{where} is not valid TOML ({error}); mend that line.") from error
    except KeyError as error:
        raise PlanError(
            f"{where} lacks {error}; write a plan with --dry-run to compare."
        ) from error


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
