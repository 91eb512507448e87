"""From facts to a plan: every value with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from warmstart.errors import PlanError
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.planning import rules
from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.fine_tuning import learns_from_pairs, lr_spread, pair_blocks, with_training
from warmstart.planning.rules import Budget
from warmstart.planning.strategy import (
    AUTO,
    HEAD,
    PlanOptions,
    Strategy,
    blocks,
    n_tuned,
    resolve,
    rule_strategy,
)
from warmstart.records.inputs import Inputs
from warmstart.records.plan import Choice, HeadPlan, InputPlan, Plan, TrainingPlan, by_rule
from warmstart.tasks.registry import TASKS

# Texts a class up to which no depth is chosen, as that would be chance. On 10 samples of 8 a class
# (sst2, trec6; MiniLM) choosing among eight depths and seven penalties gave .592 and .599 on the
# test set, this one .615 and .617; on 6 samples of 16 a class .667 and .712 against .683 and .718.
MOST = 16
DEPTHS = ("late",)
PENALTIES = (0.1, 0.3)


def are_few(kind: str, n: int, n_classes: int) -> bool:
    """Whether examples are too few to choose a head.

    >>> are_few("text", 48, 6), are_few("text", 600, 6), are_few("image", 48, 6)
    (True, False, False)
    """
    return MODALITIES[kind].fixes_few_shot_head and n <= MOST * n_classes


def build(
    options: PlanOptions,
    facts: DataFacts,
    network: NetworkFacts,
    head_names: Sequence[str],
    engine: Choice,
) -> Plan:
    """The plan for a strategy, the user's or the rule's.

    Raises: PlanError for an invalid strategy, or one with more blocks than the network has; for
    --lr where nothing is trained; and where a block would stay frozen at random values.
    """
    rule = _rule_strategy(options, facts, network)
    strategy = _resolve_strategy(options, network, rule)
    is_trained = n_tuned(strategy, network.n_blocks) > 0 or "add" in strategy.extras
    training = _closed_form_training(options, engine)
    if is_trained:
        training = with_training(training, options, facts, network, strategy)
    elif options.lr is not None:
        raise PlanError(
            f"--lr {options.lr:g}: nothing is trained step by step with strategy head; add "
            "--strategy last:N, or leave out --lr."
        )
    is_explicit = "strategy" in options.explicit and options.strategy != AUTO
    base = by_rule(options.base, "shipped with warmstart", rule="lite0")
    if "base" in options.explicit:
        base = replace(_users(options.base), rule="lite0")
    return Plan(
        base=base,
        arch=_users(options.arch) if options.arch is not None else None,
        strategy=_choose_strategy(strategy, rule, network, is_explicit),
        blocks=blocks(
            strategy,
            network,
            lr_spread(training, strategy) if is_trained else None,
            rule=rule if is_explicit else None,
        ),
        head=_plan_head(options.budget, facts, tuple(head_names), network.preprocessing),
        training=training,
        input=_plan_input(network),
        columns=facts.columns,
        examples=facts.n,
    )


def _rule_strategy(options: PlanOptions, facts: DataFacts, network: NetworkFacts) -> Strategy:
    """The rule's strategy; a network for tables is trained as a whole, or not at all."""
    if network.modality.form != "rows":
        names = [block.name for block in network.record.blocks]
        rule = rule_strategy(network.depth_verdict, names, network.random)
        is_deep = network.depth_verdict == "fine-tune"
        is_paired = is_deep and learns_from_pairs(options, facts, network, rule)
        return replace(rule, count=max(rule.count, pair_blocks(len(names)) if is_paired else 0))
    if network.depth_verdict != "fine-tune":
        return HEAD
    return Strategy(depth="scratch" if network.is_random else "frozen")


def _resolve_strategy(options: PlanOptions, network: NetworkFacts, rule: Strategy) -> Strategy:
    """The user's strategy; where that is auto, at least as deep as the rule."""
    strategy = options.strategy
    if strategy.depth != "auto":
        n_tuned(strategy, network.n_blocks, options.base)
    if network.modality.form == "rows" and strategy == AUTO:
        return rule
    resolved = resolve(strategy, network.depth_verdict, network.n_blocks)
    if strategy.depth == "auto":
        return replace(resolved, count=max(resolved.count, rule.count))
    return resolved


def _choose_strategy(
    strategy: Strategy, rule: Strategy, network: NetworkFacts, is_explicit: bool
) -> Choice:
    why = "a linear probe on the frozen network; no measurement calls for more"
    if n_tuned(rule, network.n_blocks):
        why = "the verdict is that fine-tuning upper layers pays: the upper half"
        if network.compares_fine_tuning:
            why = "fine-tuned beside a linear probe on the frozen network; the better one ships"
    default = resolve(AUTO, network.depth_verdict, network.n_blocks)
    if network.random and rule.count > default.count:
        why = "down to the lowest layer whose weights did not carry over from the base model"
    return Choice(
        value=str(strategy),
        because="your choice" if is_explicit else why,
        source="user" if is_explicit else "rule",
        rule=str(rule),
    )


def _users(value: str) -> Choice:
    return Choice(value=value, because="your choice", source="user")


def _closed_form_training(options: PlanOptions, engine: Choice) -> TrainingPlan:
    seed = by_rule(options.seed, "any fixed number makes a run repeatable", rule=0)
    if "seed" in options.explicit:
        seed = replace(seed, source="user", because="your choice")
    batch = by_rule(32, "fixed, so that a row never depends on others")
    return TrainingPlan(engine=engine, batch_size=batch, seed=seed)


def _plan_input(network: NetworkFacts) -> InputPlan | None:
    """The network's input, compared with the base model's; None if that is not planned."""
    inputs = network.preprocessing
    if inputs is None:
        return None
    return network.modality.plan(inputs, network.base_inputs or inputs)


def _plan_head(
    budget: Budget, facts: DataFacts, head_names: tuple[str, ...], inputs: Inputs | None
) -> HeadPlan:
    names = rules.candidates(
        facts.n, facts.n_classes, facts.smallest_class, head_names, budget, facts.task
    )
    many = f"layer weightings, fixed without labels, that {facts.n:,} examples can choose among"
    penalties, spaced = rules.penalties(facts.n), "half a decade apart or one"
    robust = tuple(n for n in head_names if n.partition("+")[0] in DEPTHS)
    kind = modality_of(inputs).kind
    if robust and TASKS[facts.task].has_classes and are_few(kind, facts.n, facts.n_classes):
        names, penalties = robust, PENALTIES
        many = f"the layer weighting that was best elsewhere: {facts.n:,} texts cannot choose one"
        spaced = "so few texts cannot choose another"
    if any(name.endswith("+prior") for name in names):
        many += ", initialised with the base model's head for classes of the same name"
    folds = 1 if facts.holdout else rules.outer_folds(facts.n_groups, facts.n)
    return HeadPlan(
        candidates=by_rule(names, many),
        penalties=by_rule(penalties, spaced),
        outer_folds=by_rule(
            folds,
            "your validation set is the only fold"
            if facts.holdout
            else "10 up to 500 independent examples, 5 above and for few groups",
        ),
        permutations=by_rule(rules.PERMUTATIONS[budget], f"--budget {budget}"),
    )
