"""From facts to a plan: every value chosen, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.planning import rules
from warmstart.planning.rules import Budget
from warmstart.records import (
    Choice,
    HeadPlan,
    NetworkRecord,
    PartPlan,
    Plan,
    TrainingPlan,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What a plan needs to know of the training part."""

    n: int
    n_blocks: int
    n_classes: int
    smallest_class: int
    holdout: int  # examples of a hold-out that the user gave, 0 without


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user set; a wish always wins. `given` names the options that were typed."""

    start: str
    strategy: str
    budget: Budget
    seed: int
    given: frozenset[str] = frozenset()


def build(
    wishes: Wishes,
    facts: DataFacts,
    network: NetworkRecord,
    profile_names: Sequence[str],
    engine: Choice,
) -> Plan:
    """The plan of a head on a frozen network. Raises: nothing; wishes are checked before."""
    strategy = Choice(
        value="head",
        because="your choice" if "strategy" in wishes.given else _WHY_HEAD,
        source="user" if "strategy" in wishes.given else "rule",
        rule="head",
    )
    start = Choice(
        value=wishes.start,
        because="your choice" if "start" in wishes.given else "shipped with warmstart",
        source="user" if "start" in wishes.given else "rule",
        rule="lite0",
    )
    return Plan(
        start=start,
        strategy=strategy,
        parts=(*map(_frozen, [part.name for part in network.parts]), _OUTPUT),
        head=_head(wishes.budget, facts, tuple(profile_names)),
        training=TrainingPlan(
            engine=engine,
            batch=Choice(
                value=32, source="rule", because="fixed, so that a row never depends on others"
            ),
            seed=Choice(
                value=wishes.seed,
                source="user" if "seed" in wishes.given else "rule",
                because="your choice"
                if "seed" in wishes.given
                else "any fixed number repeats a run",
                rule=0,
            ),
        ),
    )


_WHY_HEAD = "a new output on the frozen network; this version does not tune deeper"
_OUTPUT = PartPlan(
    name="output",
    action=Choice(
        value="replaced", source="rule", because="your classes; an old output is never kept"
    ),
)


def _frozen(name: str) -> PartPlan:
    return PartPlan(
        name=name,
        action=Choice(value="frozen", source="rule", because="only the output is learnt"),
    )


def _head(budget: Budget, facts: DataFacts, profile_names: tuple[str, ...]) -> HeadPlan:
    names = rules.candidates(facts.n, facts.n_classes, facts.smallest_class, profile_names, budget)
    folds = 1 if facts.holdout else rules.outer_folds(facts.n_blocks)
    return HeadPlan(
        candidates=Choice(
            value=names,
            source="rule",
            because=f"label-free depth profiles that {facts.n:,} examples can choose among",
        ),
        penalties=Choice(
            value=rules.penalties(facts.n), source="rule", because="half a decade apart or one"
        ),
        outer_folds=Choice(
            value=folds,
            source="rule",
            because="your hold-out is the only fold"
            if facts.holdout
            else "10 up to 500 independent examples, 5 above",
        ),
        permutations=Choice(
            value=rules.permutations(budget), source="rule", because=f"--budget {budget}"
        ),
    )
