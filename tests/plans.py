"""Facts, networks and plans for tests of planning; nothing is loaded or trained."""

from dataclasses import replace

from warmstart.errors import PlanError
from warmstart.planning.build import DataFacts, NetworkFacts, Wishes, build
from warmstart.planning.storing import with_store
from warmstart.records import Choice, NetworkRecord, PartRecord, Preprocessing

ENGINE = Choice(value="torch", because="few images", source="rule")
FACTS = DataFacts(n=300, n_blocks=300, n_classes=4, smallest_class=30, holdout=0)
PROFILES = ("last", "late")
PREPROCESSING = Preprocessing(size=(224, 224), resize=256, mean=(0.5,) * 3, std=(0.5,) * 3)
NAMES = ("stem", "blocks.0", "blocks.1", "top")


def network(names=NAMES, **changes):
    """The record of a network with these parts."""
    parts = [
        PartRecord(name=name, parameters=10, shape_in=(4, 8, 8), shape_out=(4, 8, 8), macs=5,
                   layout="NCHW")
        for name in names
    ]  # fmt: skip
    record = NetworkRecord(
        parts=tuple(parts), head_parameters=7, cut="traced", neck_width=4, neck_is_average=True
    )
    return replace(record, **changes)


def network_facts(names=NAMES, family="convnet", **facts):
    """What planning knows of such a network."""
    return NetworkFacts(record=network(names, family=family), **facts)


def wish(strategy="auto", budget="balanced", seed=0, start="lite0", **more):
    """What a user typed; `strategy`, `lr` and `arch` count as typed where they are no default."""
    typed = {"lr": more.get("lr"), "arch": more.get("arch")}
    given = {name for name, value in typed.items() if value is not None}
    given |= {"strategy"} if strategy != "auto" else set()
    given |= set(more.pop("given", ()))
    return Wishes(
        start=start, strategy=strategy, budget=budget, seed=seed, given=frozenset(given), **more
    )


def plan_for(strategy="auto", facts=FACTS, network=None, **wishes):
    """The plan for a strategy, on the small network unless another is given."""
    found = network or network_facts(preprocessing=PREPROCESSING)
    is_raw = wishes.pop("raw", False)  # as it is built, before it is settled what is stored
    plan = build(wish(strategy, **wishes), facts, found, PROFILES, ENGINE)
    return plan if is_raw else with_store(plan, found, facts)


def rates(plan):
    """Rate by part, without the parts that have none."""
    return {part.name: part.rate.value for part in plan.parts if part.rate is not None}


def actions(plan):
    """Action by part."""
    return {part.name: part.action.value for part in plan.parts}


def with_part(plan, place, **changes):
    """The plan with one part changed."""
    parts = list(plan.parts)
    parts[place] = replace(parts[place], **changes)
    return replace(plan, parts=tuple(parts))


def refusal(work, *arguments):
    """What a PlanError said of these arguments; None where there was none."""
    try:
        work(*arguments)
    except PlanError as error:
        return str(error)
    return None


def said(value, source="rule"):
    """A choice of this value."""
    return Choice(value=value, because="so", source=source)
