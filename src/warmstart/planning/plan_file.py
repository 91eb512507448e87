"""plan.toml: a plan as a file that a person can read, and back."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from warmstart.errors import PlanError
from warmstart.planning.fine_tuning import allows_soup
from warmstart.planning.settings import update_lrs
from warmstart.planning.strategy import HEAD, PlanOptions, Strategy, nearest, strategy_of
from warmstart.records.block_actions import ACTIONS, BlockAction
from warmstart.records.data import Task
from warmstart.records.plan import (
    BlockPlan,
    Choice,
    Plain,
    Plan,
    TrainingPlan,
    format_value,
    wrong_value,
)
from warmstart.records.run_folder import to_plain
from warmstart.tasks.registry import TASKS

R = TypeVar("R")
FORMAT = 1
# Choices that follow from --strategy, and from --device.
_OF_CACHE = ("split_at", "augmentations", "cache_dtype")
_OF_STRATEGY = (*_OF_CACHE, "optimizer", "lr", "layer_decay", "weight_decay", "lora_rank", "l2_sp")
_OF_DEVICE = ("device", "precision", "workers", "compile")
_COMPARE = "write a plan with --dry-run --out plan.toml to compare"
_TABLES = {"columns": "column", "blocks": "block"}  # fields whose records have a table each
_SOURCES = ("rule", "measured", "user")


def options_for(file: Plan, options: PlanOptions) -> PlanOptions:
    """The options for `build`, whose plan `overlay` takes values from.

    Without --strategy, it trains like the file's plan, so that --lr and --budget have their
    effect; its blocks are not used.
    """
    if "strategy" in options.explicit:
        return options
    strategy = Strategy(depth="frozen") if file.is_trained else HEAD
    if file.is_trained and strategy_of(file).depth == "scratch":
        strategy = Strategy(depth="scratch")
    elif any(block.behaviour.has_updates for block in file.blocks):
        strategy = Strategy(depth="frozen", extras=frozenset({"lora"}))
    return replace(options, strategy=strategy)


def overlay(built: Plan, file: Plan, explicit: frozenset[str]) -> Plan:
    """The file's plan, with the values of `built` for the options in `explicit`.

    The columns of a table are always `built`'s. `base` brings the input with it, `strategy` the
    blocks and their learning rates, `budget` the candidate heads, permutations and folds, `lr`
    every learning rate that the user did not set for a block, `device` what follows from it.
    `built` comes from `options_for`. Raises: PlanError for --lr where the plan trains nothing.
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


def _overlay_training(built: Plan, file: Plan, explicit: frozenset[str]) -> TrainingPlan:
    theirs, ours = file.training, built.training
    # What suits contrastive training does not suit training with a head.
    is_alike = built.is_trained and file.is_trained and ours.is_paired == theirs.is_paired
    if "strategy" in explicit and is_alike:
        theirs = _replaced(theirs, ours, _OF_STRATEGY)
        if not allows_soup(strategy_of(built)):
            theirs = replace(theirs, model_soup=None)
    elif "strategy" in explicit:
        theirs = replace(ours, engine=theirs.engine, seed=theirs.seed)
    if "lr" in explicit and ours.lr is not None:
        theirs = replace(theirs, lr=ours.lr)
    if "device" in explicit and theirs.device is not None and ours.device is not None:
        theirs = _replaced(theirs, ours, _OF_DEVICE)
    if "budget" in explicit and theirs.folds is not None:
        theirs = replace(theirs, folds=ours.folds or theirs.folds)
        strategy = strategy_of(built if "strategy" in explicit else file)
        if is_alike and not ours.is_paired and allows_soup(strategy):
            theirs = replace(theirs, model_soup=ours.model_soup)
            for name in ("epochs", "ema_decay"):
                choice = getattr(theirs, name)
                if choice is None or choice.source != "user":
                    theirs = _replaced(theirs, ours, (name,))
    return replace(theirs, seed=ours.seed) if "seed" in explicit else theirs


def _replaced(theirs: TrainingPlan, ours: TrainingPlan, names: Iterable[str]) -> TrainingPlan:
    return replace(theirs, **{name: getattr(ours, name) for name in names})


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
            f"{where}: format is {format_value(version)}; this version reads format {FORMAT}; "
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

    Unlike `records/run_folder.py`, it names the key that a person got wrong.
    """

    where: str

    def record(self, kind: type[R], value: Any, key: str) -> R:
        """A record of type `kind` from a table."""
        if kind is Choice and not isinstance(value, dict):
            raise self._wrong(key, '{value = …, because = "…", source = "user"}', value)
        if not isinstance(value, dict):
            raise self._wrong(key, "a table", value)
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
            if name in value and kind is Choice:
                values[name] = self._choice_value(name, value[name], inner)
            elif name in value:
                values[field.name] = self._value(hints[field.name], value[name], inner)
            elif field.default is dataclasses.MISSING:
                raise PlanError(f"{self.where} lacks {inner!r}; {_COMPARE}.")
        return kind(**values)

    def _value(self, hint: Any, value: Any, key: str) -> Any:
        if typing.get_origin(hint) is types.UnionType:  # a record that may be left out
            (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, list):
                raise self._wrong(key, f"a list of tables, each under [[{key}]]", value)
            (kind, _) = typing.get_args(hint)
            return tuple(self.record(kind, item, f"{key} {n}") for n, item in enumerate(value, 1))
        if dataclasses.is_dataclass(hint):
            return self.record(typing.cast(type[Any], hint), value, key)
        if type(value) is not hint:
            raise self._wrong(key, {"str": "text", "int": "a whole number"}[hint.__name__], value)
        return value

    def _choice_value(self, name: str, value: Any, key: str) -> Any:
        """The value of a field of a choice."""
        if name == "because":
            if not isinstance(value, str) or not value:
                raise self._wrong(key, "the reason", value)
            return value
        if name == "source":
            if value not in _SOURCES:
                raise self._wrong(key, f"one of {', '.join(_SOURCES)}", value)
            return value
        for item in value if isinstance(value, list) else [value]:
            if not _is_plain(item):
                raise self._wrong(key, "a number, text, true or false", item)
        if name == "value" and value == "auto":
            raise self._wrong(key, "the value itself", value)
        return tuple(value) if isinstance(value, list) else value

    def _wrong(self, key: str, kind: str, value: object) -> PlanError:
        return wrong_value(f"{self.where}: {key}", kind, value)


def _is_plain(value: Any) -> bool:
    """Whether TOML can hold a value of a plan: text, truth, or a finite number of 64 bits."""
    if isinstance(value, (int, float)):
        return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63
    return isinstance(value, str)


# ---- A plan in words: which blocks are frozen, which are trained, at which learning rate.


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Neighbouring blocks with the same action, numbered 1..P from the input.

    `low` and `high` are their learning rates, None without any.
    """

    first: int
    last: int
    names: tuple[str, ...]
    action: str
    low: float | None
    high: float | None

    @property
    def behaviour(self) -> BlockAction:
        return ACTIONS[self.action]

    @property
    def layers(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}–{self.last}"

    @property
    def rates(self) -> str:
        """`at 0.0003`, `at 1e-05 to 0.0003`, or nothing."""
        if self.low is None or self.high is None:
            return ""
        low, high = f"{self.low:g}", f"{self.high:g}"
        return f"at {high}" if low == high else f"at {low} to {high}"


def runs(plan: Plan) -> Iterator[BlockRange]:
    """The blocks of a plan except its head, neighbours of one action together."""
    group: list[BlockPlan] = []
    body = [block for block in plan.blocks if block.name != "output"]
    for number, block in enumerate(body, 1):
        group.append(block)
        if number == len(body) or body[number].action.value != block.action.value:
            rates = [b.lr.number for b in group if b.lr is not None]
            names = tuple(b.name for b in group)
            low, high = (min(rates), max(rates)) if rates else (None, None)
            first = number - len(group) + 1
            yield BlockRange(first, number, names, block.behaviour.name, low, high)
            group = []


def user_choices(plan: Plan) -> Iterator[str]:
    """The user's values and the rule's, one line each, without blocks of --strategy."""
    choices: dict[str, Choice | None] = {"base": plan.base, "strategy": plan.strategy}
    sections = ("training", plan.training), ("head", plan.head), ("input", plan.input)
    for section, record in sections:
        if record is not None:
            choices |= {f"{section}.{f.name}": getattr(record, f.name) for f in fields(record)}
    for block in plan.blocks:
        choices[f"block.{block.name}.lr"] = block.lr
        if plan.strategy.source != "user" or "--set" in block.action.because:
            choices[f"block.{block.name}.action"] = block.action
    for name, choice in choices.items():
        if choice is not None and choice.source == "user":
            rule = "" if choice.rule is None else f"; the rule: {_format(choice.rule)}"
            yield f"{name} = {_format(choice.value)}{rule}"


def _format(value: Plain | tuple[Plain, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_format, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(plan: Plan) -> str:
    """The blocks in one line: `Blocks 1–14 frozen · 15–18 fine-tuned at 0.0003`."""
    ranges = list(runs(plan))
    is_single = bool(ranges) and ranges[0].first == ranges[0].last
    if len(ranges) == 1 and is_single:
        link = "with " if ranges[0].behaviour.has_updates else ""
        return f"The network {link}{_describe(ranges[0])}"
    texts = []
    for run in ranges:
        text = f"{run.layers} {_describe(run)}"
        if run.behaviour.place == "above":
            count = run.last - run.first + 1
            text = f"{count} block{'s' if count > 1 else ''} added {run.rates}"
        texts.append(text)
    lead = "Block " if is_single else "Blocks "
    return lead + " · ".join(texts) if texts else ""


def _describe(run: BlockRange) -> str:
    return f"{run.behaviour.words} {run.rates}".strip()


def describe_failure(plan: Plan, kind: str, scales: Sequence[float]) -> str:
    """Why a training was given up, by the kind of its guard and the learning rate scales tried."""
    lr = plan.training.lr
    value = lr.number if lr is not None else 0.0
    tried = [f"{value * scale:.3g}" for scale in scales]
    rates = f"learning rate {tried[0]}"
    if len(tried) > 1:
        rates = f"learning rates {', '.join(tried[:-1])} and {tried[-1]}"
    failed = "diverged" if kind == "diverged" else "made no progress"
    by_rule = value if lr is None or not isinstance(lr.rule, (int, float)) else float(lr.rule)
    rule = f"; the rule's is {by_rule:g}" if by_rule != value else ""
    return f"training {failed} at {rates}{rule}"


def output_words(task: Task, names: Sequence[str]) -> str:
    """The outputs of a model.

    >>> output_words("classify", ["a", "b"]), output_words("regress", ["age"])
    ('2 classes', 'the number "age"')
    """
    if TASKS[task].has_numbers:
        return f'the number "{next(iter(names), "value")}"'
    return TASKS[task].words.output.format(len(names))
