"""A plan's strategy and its parts say the same: the word follows the parts, or is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import cast

from warmstart.errors import PlanError
from warmstart.planning.actions import body_actions
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.strategy import Strategy, strategy_of, word, word_of
from warmstart.records import Action, Choice, Plan

_ALWAYS = ("engine", "batch", "seed", "stream")  # choices of training that a look alone has, too
_OTHERWISE = ", with single parts set otherwise"


def as_parts_say(plan: Plan, network: NetworkFacts) -> Plan:
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
    body = [part for part in plan.parts if part.action.value != "replaced"]
    others = [part for part in body if part.action.value != "fresh"]
    n_tuned = sum(part.action.value == "tuned" for part in body)
    if all(part.action.value == "frozen" for part in body):
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


def _refuse_idle(plan: Plan, strategy: Strategy, n_parts: int) -> None:
    """Where every part is frozen and none added, the output is fitted in closed form."""
    depth = n_parts - strategy.count if strategy.depth == "frozen" else strategy.count
    if strategy.depth == "scratch" or depth > 0 or strategy.extras:
        raise PlanError(
            f"the plan has strategy {word(strategy)}, and nothing is trained step by step: every "
            "part is frozen; write strategy head, or let parts be tuned."
        )
    names = [field.name for field in fields(plan.training) if field.name not in _ALWAYS]
    left = [f"training.{name}" for name in names if getattr(plan.training, name) is not None]
    if plan.parts[-1].rate is not None:
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
    names = [p.name for p in plan.parts if p.action.value not in ("added", "replaced")]
    try:
        expected = body_actions(strategy, names, network.fresh, network.touched)
    except PlanError:  # it names more parts than there are
        return False
    body = [action for action in actions if action not in ("added", "replaced")]
    is_same = all(
        has == says or (has == "frozen" and says == "low-rank" and name in network.bare)
        for name, has, says in zip(names, body, expected, strict=True)
    )
    return is_same and ("added" in actions) == ("add" in strategy.extras)


def _actions(plan: Plan) -> list[Action]:
    return [cast(Action, part.action.value) for part in plan.parts]
