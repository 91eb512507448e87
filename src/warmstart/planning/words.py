"""A plan in words: which layers are frozen, which move, at which rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from warmstart.records.data import Task
from warmstart.records.plan import BlockPlan, Choice, Plain, Plan

_WORDS = {
    "frozen": "frozen",
    "tuned": "tuned",
    "low-rank": "low-rank updates",
    "fresh": "made new",
    "added": "added",
}


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Neighbouring parts with the same action; numbers count from the input, from 1.

    `low` and `high` are their learning rates, None where nothing moves.
    """

    first: int
    last: int
    names: tuple[str, ...]
    action: str
    low: float | None
    high: float | None

    @property
    def layers(self) -> str:
        """`1–13` or `18`."""
        return f"{self.first}" if self.first == self.last else f"{self.first}–{self.last}"

    @property
    def rates(self) -> str:
        """`at 0.0003`, `at 1e-05 to 0.0003`, or nothing."""
        if self.low is None or self.high is None:
            return ""
        low, high = f"{self.low:g}", f"{self.high:g}"
        return f"at {high}" if low == high else f"at {low} to {high}"


def runs(plan: Plan) -> Iterator[BlockRange]:
    """The parts of a plan but its output, neighbours of one action together."""
    group: list[BlockPlan] = []
    body = [block for block in plan.blocks if block.name != "output"]
    for number, block in enumerate(body, 1):
        group.append(block)
        is_last = number == len(body) or body[number].action.value != block.action.value
        if is_last:
            rates = [p.lr.number for p in group if p.lr is not None]
            names = tuple(p.name for p in group)
            low, high = (min(rates), max(rates)) if rates else (None, None)
            first = number - len(group) + 1
            yield BlockRange(first, number, names, str(block.action.value), low, high)
            group = []


def user_choices(plan: Plan) -> Iterator[str]:
    """What the user set, and what the rule would have said, one line a value.

    Parts that follow from a strategy of the user's own are not listed one by one.
    """
    named: dict[str, Choice | None] = {"base": plan.base, "strategy": plan.strategy}
    for section, record in (
        ("training", plan.training),
        ("head", plan.head),
        ("input", plan.input),
    ):
        if record is not None:
            named |= {f"{section}.{f.name}": getattr(record, f.name) for f in fields(record)}
    for block in plan.blocks:
        named[f"block.{block.name}.rate"] = block.lr
        if plan.strategy.source != "user" or "--set" in block.action.because:
            named[f"block.{block.name}.action"] = block.action
    for name, choice in named.items():
        if choice is not None and choice.source == "user":
            rule = "" if choice.rule is None else f"; the rule: {_value(choice.rule)}"
            yield f"{name} = {_value(choice.value)}{rule}"


def _value(value: Plain | tuple[Plain, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(plan: Plan) -> str:
    """What happens to the layers, in one line: `Layers 1–14 frozen · 15–18 tuned at 0.0003`."""
    found = list(runs(plan))
    if len(found) == 1 and found[0].first == found[0].last:
        link = "with " if found[0].action == "low-rank" else ""
        return f"The network {link}{_words(found[0])}"
    texts = [_words_of(run) for run in found]
    lead = "Layer " if found and found[0].first == found[0].last else "Layers "
    return lead + " · ".join(texts) if texts else ""


def _words_of(run: BlockRange) -> str:
    if run.action == "added":
        count = run.last - run.first + 1
        return f"{count} layer block{'s' if count > 1 else ''} added {run.rates}"
    return f"{run.layers} {_words(run)}"


def _words(run: BlockRange) -> str:
    return f"{_WORDS[run.action]} {run.rates}".strip()


def describe_failure(plan: Plan, kind: str, scales: Sequence[float]) -> str:
    """Why a training was given up, and what the rule says of its rate.

    `kind` is that of the guard that saw it, `scales` those of the rates that were tried.
    """
    rate = plan.training.lr
    own = rate.number if rate is not None else 0.0
    tried = [f"{own * scale:.3g}" for scale in scales]
    rates = f"rate {tried[0]}"
    if len(tried) > 1:
        rates = f"rates {', '.join(tried[:-1])} and {tried[-1]}"
    went = "diverged" if kind == "diverged" else "got nowhere"
    usual = own if rate is None or not isinstance(rate.rule, (int, float)) else float(rate.rule)
    return f"training {went} at {rates}" + (f"; the rule says {usual:g}" if usual != own else "")


def output_words(task: Task, names: Sequence[str]) -> str:
    """What the outputs of a model stand for.

    >>> output_words("classify", ["a", "b"]), output_words("regress", ["age"])
    ('2 classes', 'the number "age"')
    """
    words = {"classify": f"{len(names)} classes", "multilabel": f"{len(names)} labels"}
    return words.get(task, f'the number "{next(iter(names), "value")}"')
