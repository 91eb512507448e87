"""plan.toml: a plan as a file that a person can read, and back."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from warmstart.errors import PlanError
from warmstart.planning.facts import PlanOptions
from warmstart.planning.fine_tuning import allows_soup
from warmstart.planning.settings import update_lrs
from warmstart.planning.strategy import nearest, strategy_of
from warmstart.records.plan import Choice, Plan, TrainingPlan
from warmstart.records.run_folder import to_plain

# ---- --plan FILE: a plan from a file, overlaid with the options of the command.


def options_for(file: Plan, options: PlanOptions) -> PlanOptions:
    """The options under which `build` returns what `overlay` takes from it.

    Without a --strategy of the user's own, that is a plan which trains as the file's does,
    so that --lr and --budget find what they change. Its blocks are not used.
    """
    if "strategy" in options.explicit:
        return options
    strategy = "full" if file.is_trained else "head"
    if file.is_trained and strategy_of(file).depth == "scratch":
        strategy = "scratch"
    elif any(block.action.value == "low-rank" for block in file.blocks):
        strategy = "full+lora"
    return replace(options, strategy=strategy)


def overlay(built: Plan, file: Plan, explicit: frozenset[str]) -> Plan:
    """The file's plan, with the values of `built` for the options in `explicit`.

    The columns of a table are `built`'s: it was read as the file says. `base` brings the input
    with it, `strategy` the blocks and their learning rates, `budget` the heads to try, the
    permutations and the folds of training, `lr` every learning rate that the user did not set
    for a block, `device` all that follows from it. `built` comes from `options_for`.
    Raises: PlanError where --lr meets a plan that trains nothing.
    """
    head = file.head
    if "budget" in explicit:
        head = replace(head, candidates=built.head.candidates, permutations=built.head.permutations)
    plan = replace(
        file,
        head=head,
        training=_overlay_training(built, file, explicit),
        columns=built.columns,
        examples=built.examples,
    )
    if "base" in explicit:
        plan = replace(plan, base=built.base, partial=built.partial, input=built.input)
    if {"base", "arch"} & explicit:
        plan = replace(plan, arch=built.arch)
    if "strategy" in explicit:
        return replace(plan, strategy=built.strategy, blocks=built.blocks)
    if "lr" in explicit:
        if plan.training.lr is None or not plan.is_trained:
            raise PlanError(
                "--lr: nothing is trained step by step in this plan; add --strategy last:N, or "
                "leave out --lr."
            )
        return update_lrs(plan, range(len(plan.blocks)))
    return plan


def _unless_users(file: Choice | None, ours: Choice | None) -> Choice | None:
    return file if file is not None and file.source == "user" else ours


def _overlay_training(built: Plan, file: Plan, explicit: frozenset[str]) -> TrainingPlan:
    """The file's training, with the choices that follow from the options."""
    theirs, ours = file.training, built.training
    # What suits contrastive training does not suit training with a head.
    is_alike = built.is_trained and file.is_trained and ours.is_paired == theirs.is_paired
    if "strategy" in explicit and is_alike:
        theirs = replace(
            theirs,
            optimizer=ours.optimizer,
            lr=ours.lr,
            layer_decay=ours.layer_decay,
            weight_decay=ours.weight_decay,
            lora_rank=ours.lora_rank,
            split_at=ours.split_at,
            augmentations=ours.augmentations,
            cache_dtype=ours.cache_dtype,
            l2_sp=ours.l2_sp,
            model_soup=theirs.model_soup if allows_soup(strategy_of(built)) else None,
        )
    elif "strategy" in explicit:
        theirs = replace(ours, engine=theirs.engine, seed=theirs.seed)
    if "lr" in explicit and ours.lr is not None:
        theirs = replace(theirs, lr=ours.lr)
    if "device" in explicit and theirs.device is not None and ours.device is not None:
        theirs = replace(
            theirs,
            device=ours.device,
            precision=ours.precision,
            workers=ours.workers,
            compile=ours.compile,
        )
    if "budget" in explicit and theirs.folds is not None:
        theirs = replace(theirs, folds=ours.folds or theirs.folds)
        strategy = strategy_of(built if "strategy" in explicit else file)
        if is_alike and not ours.is_paired and allows_soup(strategy):
            theirs = replace(
                theirs,
                model_soup=ours.model_soup,
                epochs=_unless_users(theirs.epochs, ours.epochs),
                ema_decay=_unless_users(theirs.ema_decay, ours.ema_decay),
            )
    return replace(theirs, seed=ours.seed) if "seed" in explicit else theirs


R = TypeVar("R")
FORMAT = 1
_COMPARE = "write a plan with --dry-run --out plan.toml to compare"
_TABLES = {"columns": "column", "blocks": "block"}  # fields whose records have a table each
_SOURCES = ("rule", "measured", "user")


def write_plan(plan: Plan) -> str:
    """The text of plan.toml: `read_plan(write_plan(plan)) == plan`. None is left out."""
    plain = _without_none(to_plain(plan))
    for field, key in _TABLES.items():
        if field in plain:
            plain[key] = plain.pop(field)
    return tomli_w.dumps(plain)


def open_plan(path: Path) -> Plan:
    """Read plan.toml. Raises: PlanError if it cannot be read, or as `read_plan` does."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise PlanError(f"--plan {path} does not exist; {_COMPARE}.") from None
    except (OSError, ValueError) as error:  # a NUL in the name, or bytes that are no UTF-8
        raise PlanError(
            f"--plan {path} cannot be read as text ({error}); name a plan.toml."
        ) from None
    return read_plan(text, str(path))


def read_plan(text: str, where: str = "plan.toml") -> Plan:
    """The plan in a text; unknown and missing keys are errors.

    Raises: PlanError, with the place, if the text is not TOML or not a plan.
    """
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise PlanError(f"{where} is not valid TOML ({error}); fix that line.") from None
    version = plain.get("format", FORMAT)
    if type(version) is not int or version != FORMAT:
        raise PlanError(
            f"{where}: format is {_format(version)}; this version reads format {FORMAT}; "
            f"{_COMPARE}."
        )
    return _PlanReader(where).record(Plan, plain, "")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class _PlanReader:
    """Converts plain values to records by their type hints; `where` is the file, for errors.

    `records/run_folder.py` does the same for files that warmstart wrote; this reader names the
    key that a person got wrong.
    """

    where: str

    def record(self, kind: type[R], value: Any, key: str) -> R:
        """A record of type `kind` from a table."""
        if not isinstance(value, dict):
            raise self._error(key, f"is {_format(value)}; it is a table")
        hints = typing.get_type_hints(kind)
        fields = {
            _TABLES.get(f.name, f.name): f
            for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        }
        for name in value:
            if name not in fields:
                like = nearest(name, fields)
                cure = f"did you mean {like}?" if like else f"it has {', '.join(fields)}."
                place = f" in [{key}]" if key else ""
                raise PlanError(f"{self.where}: unknown key {name!r}{place}; {cure}")
        values: dict[str, Any] = {}
        for name, field in fields.items():
            inner = f"{key}.{name}" if key else name
            if name in value:
                values[field.name] = self._value(hints[field.name], value[name], inner)
            elif field.default is dataclasses.MISSING:
                raise PlanError(f"{self.where} lacks {inner!r}; {_COMPARE}.")
        return kind(**values)

    def _value(self, hint: Any, value: Any, key: str) -> Any:
        if typing.get_origin(hint) is types.UnionType:  # a record that may be left away
            (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        if typing.get_origin(hint) is tuple:
            return self._records(typing.get_args(hint)[0], value, key)
        if hint is Choice:
            return self._choice(value, key)
        if dataclasses.is_dataclass(hint):
            return self.record(typing.cast(type[Any], hint), value, key)
        if type(value) is not hint:
            kind = {"str": "a text", "int": "a whole number"}[hint.__name__]
            raise self._error(key, f"is {_format(value)}; it is {kind}")
        return value

    def _records(self, kind: type[R], value: Any, key: str) -> tuple[R, ...]:
        if not isinstance(value, list):
            raise self._error(key, f"is {_format(value)}; write [[{key}]] above each")
        return tuple(self.record(kind, item, f"{key} {n}") for n, item in enumerate(value, 1))

    def _choice(self, value: Any, key: str) -> Choice:
        if not isinstance(value, dict):
            raise self._error(
                key, f'is {_format(value)}; write {{value = …, because = "…", source = "user"}}'
            )
        names = [field.name for field in dataclasses.fields(Choice)]
        for name in value:
            if name not in names:
                like = nearest(name, names)
                cure = f"did you mean {like}?" if like else f"a value has {', '.join(names)}."
                raise PlanError(f"{self.where}: unknown key {name!r} in [{key}]; {cure}")
        for name in ("value", "because", "source"):
            if name not in value:
                raise PlanError(f"{self.where} lacks '{key}.{name}'; {_COMPARE}.")
        because, source = value["because"], value["source"]
        if not isinstance(because, str) or not because:
            raise self._error(f"{key}.because", f"is {_format(because)}; give the reason")
        if source not in _SOURCES:
            raise self._error(
                f"{key}.source", f"is {_format(source)}; it is one of {', '.join(_SOURCES)}"
            )
        rule = self._plain(value["rule"], f"{key}.rule") if "rule" in value else None
        plain = self._plain(value["value"], f"{key}.value")
        if plain == "auto":
            raise self._error(f"{key}.value", 'is "auto"; write the value itself')
        return Choice(value=plain, because=because, source=source, rule=rule)

    def _plain(self, value: Any, key: str) -> Any:
        """A number, a text, true or false, or a list of these."""
        items = value if isinstance(value, list) else [value]
        for item in items:
            if not _is_plain(item):
                raise self._error(
                    key, f"is {_format(item)}; a value is a number, a text, true or false"
                )
        return tuple(items) if isinstance(value, list) else value

    def _error(self, key: str, why: str) -> PlanError:
        return PlanError(f"{self.where}: {key} {why}.")


def _is_plain(value: Any) -> bool:
    """Whether TOML can hold a value of a plan: text, truth, or a finite number of 64 bits."""
    if isinstance(value, (int, float)):
        return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63
    return isinstance(value, str)


def _format(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
