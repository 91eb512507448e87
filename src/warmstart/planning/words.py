"""A plan in words: which layers are frozen, which are trained, at which learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from warmstart.records.block_actions import ACTIONS, BlockAction
from warmstart.records.data import Task
from warmstart.records.plan import BlockPlan, Choice, Plain, Plan
from warmstart.tasks.registry import TASKS


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
    """The layers in one line: `Layers 1–14 frozen · 15–18 fine-tuned at 0.0003`."""
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
            text = f"{count} layer block{'s' if count > 1 else ''} added {run.rates}"
        texts.append(text)
    lead = "Layer " if is_single else "Layers "
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
