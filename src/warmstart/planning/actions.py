"""What happens to each part of the network, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import cast

from warmstart.errors import PlanError
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.learning_rates import LearningRateSpread, block_lrs
from warmstart.planning.strategy import (
    AUTO,
    HEAD,
    Strategy,
    n_tuned,
    resolve,
    strategy_of,
    word,
    word_of,
)
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Action, BlockPlan, Choice, Plan
from warmstart.records.summary import VerdictKind

NEW = frozenset[Action]({"fresh", "added"})  # parts that begin without the start's weights
OUTPUT = "output"  # the name of the new last layer among a plan's parts
_REPLACED = Choice(
    value="replaced", source="rule", because="your classes; an old output is never kept"
)
_ADDED = "new layers before the output; they begin by changing nothing"
_BARE = "it has no linear or plain convolution layer for low-rank updates"
_TOUCHED = "holds weights that did not carry over: they start at random and have to be trained"
_LOST = "starts at random: its weights did not carry over from the start"


def blocks(
    strategy: Strategy,
    network: NetworkRecord,
    spread: LearningRateSpread | None,
    *,
    fresh: frozenset[str] = frozenset(),
    partly_fresh: frozenset[str] = frozenset(),
    no_lora: frozenset[str] = frozenset(),
    rule: Strategy | None = None,
) -> tuple[BlockPlan, ...]:
    """Every part with its action and rate: 1..P, what is added, the output.

    `strategy` is resolved; `spread` is None where nothing is trained step by step. `fresh`
    names parts whose tensors did not carry over: they start at random whatever the strategy;
    `partly_fresh` those where some did not: they are tuned where they would be frozen or low-rank;
    `bare` those without a layer for low-rank updates: they stay frozen.
    `rule` is what the rule would have said, where the user chose the strategy.
    Raises: PlanError where a part would stay frozen at random values, and as `n_tuned` does.
    """
    names = [block.name for block in network.blocks]
    if strategy == HEAD:
        _refuse_frozen_noise(names, fresh | partly_fresh)
    said: Sequence[Action | None] = [None] * len(names)
    if rule is not None:
        said = body_actions(rule, names, fresh, partly_fresh)
    plain = body_actions(strategy, names)
    body = _without_bare(body_actions(strategy, names, fresh, partly_fresh), names, bare)
    rows: list[tuple[str, Choice]] = []
    for name, action, asked, usual in zip(names, body, plain, said, strict=True):
        is_raised = name in partly_fresh and name not in fresh and action != asked
        is_explicit = rule is not None and name not in fresh and not is_raised
        why = _why(action, strategy, len(names)) if name not in fresh else _LOST
        if is_raised:
            why = _TOUCHED
        if action == "frozen" and name in bare:
            why = _BARE
        rows.append((name, _choice(action, why, strategy if is_explicit else None, usual)))
    if "add" in strategy.extras:
        if network.blocks[-1].layout in ("other", "NCL", "NCDHW"):
            raise PlanError(
                f"--strategy {word(strategy)}: what part {names[-1]} gives has no axis of "
                "channels for added layers to work on; leave +add away."
            )
        wished = strategy if rule is not None else None
        rows.append((added_name(names), _choice("added", _ADDED, wished, None)))
    rows.append((OUTPUT, _REPLACED))
    actions = [cast(Action, choice.value) for _, choice in rows]
    rates = block_lrs(actions, spread) if spread else [None] * len(rows)
    return tuple(
        BlockPlan(name=name, action=choice, lr=rate)
        for (name, choice), rate in zip(rows, rates, strict=True)
    )


def body_actions(
    strategy: Strategy,
    names: Sequence[str],
    fresh: frozenset[str] = frozenset(),
    partly_fresh: frozenset[str] = frozenset(),
) -> list[Action]:
    """The action of each part 1..P; none keeps random values. Raises: PlanError as `n_tuned` does.

    >>> body_actions(Strategy(depth="last", count=1), ["stem", "top"])
    ['frozen', 'tuned']
    """
    n_frozen = len(names) - n_tuned(strategy, len(names))
    upper: Action = "low-rank" if "lora" in strategy.extras else "tuned"
    if strategy.depth == "scratch":
        upper = "fresh"
    found: list[Action] = []
    for place, name in enumerate(names):
        action: Action = "frozen" if place < n_frozen else upper
        if name in fresh:
            action = "fresh"
        elif name in partly_fresh and action != "fresh":
            action = "tuned"
        found.append(action)
    return found


def _without_bare(
    actions: Sequence[Action], names: Sequence[str], bare: frozenset[str]
) -> list[Action]:
    """Parts that low-rank updates cannot be added to stay frozen. Raises: PlanError if all are."""
    low = [name for name, action in zip(names, actions, strict=True) if action == "low-rank"]
    if low and bare.issuperset(low):
        some, have = ("blocks", "have") if len(low) > 1 else ("block", "has")
        raise PlanError(
            f"--strategy with +lora: {some} {', '.join(low)} {have} no linear or plain "
            "convolution layer for low-rank updates; leave +lora away."
        )
    return [
        "frozen" if action == "low-rank" and name in bare else action
        for name, action in zip(names, actions, strict=True)
    ]


def rule_strategy(verdict: VerdictKind | None, names: Sequence[str], random: frozenset[str]) -> Strategy:
    """What the rule says without a wish: the verdict's depth, and down to parts with random values.

    >>> word(rule_strategy("fine-tune", "abcdef", frozenset())), word(rule_strategy(None, "abcdef", frozenset("b")))
    ('last:3', 'last:5')
    """
    found = resolve(AUTO, verdict, len(names))
    heights = (len(names) - place for place, name in enumerate(names) if name in random)
    return Strategy(depth="last", count=max(found.count, *heights, 0))


def added_name(names: Iterable[str]) -> str:
    """What added layers are called: "added", or a numbered name where that is taken.

    >>> added_name(["stem"]), added_name(["stem", "added", "added#2"])
    ('added', 'added#3')
    """
    taken, name, number = set(names), "added", 1
    while name in taken:
        number += 1
        name = f"added#{number}"
    return name


def _refuse_frozen_noise(names: Sequence[str], random: frozenset[str]) -> None:
    for place, name in enumerate(names):
        if name in random:
            raise PlanError(
                f"--strategy head: part {name} would be frozen at random values, because its "
                f"weights did not carry over; use --strategy last:{len(names) - place}, which "
                "trains it."
            )


def _choice(action: Action, why: str, chosen: Strategy | None, rule: Action | None) -> Choice:
    """The choice of an action; the user's where they have `chosen` the strategy."""
    if chosen is None:
        return Choice(value=action, because=why, source="rule")
    because = f"your choice, {word(chosen)}: {why}"
    return Choice(value=action, because=because, source="user", rule=rule)


def _why(action: Action, strategy: Strategy, n_blocks: int) -> str:
    count = n_tuned(strategy, n_blocks)
    if action == "fresh":
        return "starts at random: nothing of the start is kept"
    if action == "frozen" and not count:
        also = "what is added and the output are" if "add" in strategy.extras else "the output is"
        return f"only {also} learnt"
    last = "the last" if count == 1 else f"the last {count}"
    upper = "all layers" if count == n_blocks else f"{last} of {n_blocks} layers"
    if action == "frozen":
        return f"only {upper} {'is' if count == 1 else 'are'} tuned"
    if action == "low-rank":
        return f"among {upper}; a low-rank update is learnt, its own weights stay"
    if "gradual" in strategy.extras:
        return f"among {upper}, which join from the top while validation improves"
    return f"among {upper}, tuned from the start's weights on"


# ---- A plan's strategy and its parts say the same: the word follows the parts, or is refused.


_ALWAYS = (
    "engine",
    "batch_size",
    "seed",
    "offload",
)  # choices of training that a look alone has, too
_OTHERWISE = ", with single parts set otherwise"


def reconcile_strategy(plan: Plan, network: NetworkFacts) -> Plan:
    """The plan under the strategy that its parts come to, where single parts were set.

    Where no word says what the parts do, the word stays, and its reason tells so. What cannot
    be trained at all is left for `check_agreement` to refuse.
    Raises: PlanError where the plan's strategy is none.
    """
    asked, actions = strategy_of(plan), _actions(plan)
    body = [action for action in actions if action not in ("added", "replaced")]
    if _is_said(asked, plan, network) or not set(actions) - {"frozen", "replaced"}:
        return plan
    found, old = word_of(actions), plan.strategy
    if found is None:
        is_told = asked.depth == "scratch" or old.because.endswith(_OTHERWISE)
        because = old.because if is_told else f"{old.because}{_OTHERWISE}"
        return replace(plan, strategy=replace(old, because=because))
    if "gradual" in asked.extras and body.count("tuned") > 1:
        found = replace(found, extras=found.extras | {"gradual"})
    rule = old.value if old.rule is None and old.source != "user" else old.rule
    because = f"what your choices for single parts come to; before them it was {old.value}"
    choice = Choice(value=word(found), because=because, source="user", rule=rule)
    return replace(plan, strategy=choice)


def check_agreement(plan: Plan) -> None:
    """Refuse a strategy that the parts contradict, and choices for training that trains nothing.

    Raises: PlanError that names the strategy, or the choice, and what to write instead.
    """
    strategy = strategy_of(plan)
    body = [block for block in plan.blocks if block.action.value != "replaced"]
    others = [block for block in body if block.action.value != "fresh"]
    n_tuned = sum(block.action.value == "tuned" for block in body)
    if all(block.action.value == "frozen" for block in body):
        _refuse_idle(plan, strategy, len(body))
    elif strategy.depth == "scratch" and others:
        raise PlanError(
            f"the plan has strategy scratch and part {others[0].name} {others[0].action.value}, "
            "and in scratch every part is fresh; write strategy full, in which each part can be "
            "set."
        )
    elif "gradual" in strategy.extras and any(p.action.value == "low-rank" for p in body):
        raise PlanError(
            "the plan has low-rank parts and strategy gradual, which do not go together; "
            "let those parts be tuned."
        )
    elif "gradual" in strategy.extras and n_tuned < 2:
        raise PlanError(
            f"the plan has strategy {word(strategy)} and {n_tuned or 'no'} tuned part; gradual "
            "needs at least two, such as last:2+gradual or full+gradual."
        )


def _refuse_idle(plan: Plan, strategy: Strategy, n_blocks: int) -> None:
    """Where every part is frozen and none added, the output is fitted in closed form."""
    depth = n_blocks - strategy.count if strategy.depth == "frozen" else strategy.count
    if strategy.depth == "scratch" or depth > 0 or strategy.extras:
        raise PlanError(
            f"the plan has strategy {word(strategy)}, and nothing is trained step by step: every "
            "part is frozen; write strategy head, or let parts be tuned."
        )
    names = [field.name for field in fields(plan.training) if field.name not in _ALWAYS]
    left = [f"training.{name}" for name in names if getattr(plan.training, name) is not None]
    if plan.blocks[-1].lr is not None:
        left.insert(0, "a rate for part output")
    if left:
        raise PlanError(
            f"the plan has {left[0]}, and nothing is trained step by step: every part is frozen; "
            "take it away, or add --strategy last:1."
        )


def _is_said(strategy: Strategy, plan: Plan, network: NetworkFacts) -> bool:
    """Whether the strategy gives the parts what they have.

    Parts at random values are fresh in any strategy, and those without a layer for low-rank
    updates stay frozen.
    """
    actions = _actions(plan)
    names = [p.name for p in plan.blocks if p.action.value not in ("added", "replaced")]
    try:
        expected = body_actions(strategy, names, network.fresh, network.partly_fresh)
    except PlanError:  # it names more parts than there are
        return False
    body = [action for action in actions if action not in ("added", "replaced")]
    is_same = all(
        has == says or (has == "frozen" and says == "low-rank" and name in network.no_lora)
        for name, has, says in zip(names, body, expected, strict=True)
    )
    return is_same and ("added" in actions) == ("add" in strategy.extras)


def _actions(plan: Plan) -> list[Action]:
    return [cast(Action, block.action.value) for block in plan.blocks]
