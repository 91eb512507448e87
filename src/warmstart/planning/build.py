"""From facts to a plan: every value chosen, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from warmstart.errors import PlanError
from warmstart.planning import rules
from warmstart.planning.actions import blocks, rule_strategy
from warmstart.planning.contrastive import learns_from_pairs, pair_blocks
from warmstart.planning.facts import DataFacts, NetworkFacts, PlanOptions
from warmstart.planning.fine_tuning import lr_spread, with_training
from warmstart.planning.rules import Budget
from warmstart.planning.strategy import AUTO, HEAD, Strategy, n_tuned, parse, resolve, word
from warmstart.records.inputs import Inputs, Preprocessing, Sound, TextInputs, WaveInputs
from warmstart.records.plan import Choice, HeadPlan, InputPlan, Plan, TrainingPlan

# ---- The head of a handful of texts: with so few, a choice among depths follows chance.


# Texts a class, on average, up to which nothing is chosen among depths. On 10 draws of 8 a class
# (sst2, trec6; MiniLM) choosing among eight depths and seven penalties gave .592 and .599 on the
# test part, this one .615 and .617, the last layer alone .601 and .554; on 6 draws of 16 a class
# .667 and .712 against .683 and .718.
MOST = 16
DEPTHS = ("late",)
PENALTIES = (0.1, 0.3)


def are_few(kind: str, n: int, n_classes: int) -> bool:
    """Whether examples are too few to choose a head by: measured for texts alone.

    >>> are_few("text", 48, 6), are_few("text", 600, 6), are_few("image", 48, 6)
    (True, False, False)
    """
    return kind == "text" and n <= MOST * n_classes


def build(
    wishes: PlanOptions,
    facts: DataFacts,
    network: NetworkFacts,
    head_names: Sequence[str],
    engine: Choice,
) -> Plan:
    """The plan for a strategy, the user's or the rule's.

    Raises: PlanError for a strategy that is none, or that this network is too short for; for
    --lr where nothing is trained; and where a part would stay frozen at random values.
    """
    names = [block.name for block in network.record.blocks]
    rule = _ruled(wishes, facts, network, names)
    strategy = _strategy(wishes, network, rule)
    is_trained = n_tuned(strategy, len(names)) > 0 or "add" in strategy.extras
    training = _closed(wishes, engine)
    if is_trained:
        training = with_training(training, wishes, facts, network, strategy)
    elif wishes.lr is not None:
        raise PlanError(
            f"--lr {wishes.lr:g}: nothing is trained step by step with strategy head; add "
            "--strategy last:N, or leave --lr away."
        )
    is_explicit = "strategy" in wishes.explicit and parse(wishes.strategy) != AUTO
    return Plan(
        base=_base(wishes),
        arch=_typed(wishes.arch) if wishes.arch is not None else None,
        strategy=_strategy_choice(strategy, rule, network, is_explicit),
        blocks=blocks(
            strategy,
            network.record,
            lr_spread(training, strategy) if is_trained else None,
            fresh=network.fresh,
            partly_fresh=network.partly_fresh,
            no_lora=network.no_lora,
            rule=rule if is_explicit else None,
        ),
        head=_head(wishes.budget, facts, tuple(head_names), _kind(network.preprocessing)),
        training=training,
        input=_input(network),
        columns=facts.columns,
        examples=facts.n,
    )


def _ruled(
    wishes: PlanOptions, facts: DataFacts, network: NetworkFacts, names: Sequence[str]
) -> Strategy:
    """What the rule says without a wish. A network for tables is small: all of it, or nothing."""
    if not network.is_table:
        found = rule_strategy(network.depth_verdict, names, network.random)
        is_paired = network.depth_verdict == "fine-tune" and learns_from_pairs(wishes, facts, network, found)
        least = pair_blocks(len(names)) if is_paired else 0
        return replace(found, count=max(found.count, least))
    if network.depth_verdict != "fine-tune":
        return HEAD
    return Strategy(depth="scratch" if network.is_random else "frozen")


def _strategy(wishes: PlanOptions, network: NetworkFacts, rule: Strategy) -> Strategy:
    """What was typed; where that is auto, at least as deep as the rule."""
    typed = parse(wishes.strategy)
    if typed.depth != "auto":
        n_tuned(typed, network.n_blocks, wishes.base)
    if network.is_table and typed == AUTO:
        return rule
    found = resolve(typed, network.depth_verdict, network.n_blocks)
    if typed.depth == "auto":
        return replace(found, count=max(found.count, rule.count))
    return found


def _strategy_choice(
    strategy: Strategy, rule: Strategy, network: NetworkFacts, is_explicit: bool
) -> Choice:
    why = "a linear probe on the frozen network; nothing measured asks for more"
    if n_tuned(rule, network.n_blocks):
        why = "the verdict is that tuning upper layers pays: the upper half"
        if network.compares_fine_tuning:
            why = "fine-tuned beside a linear probe on the frozen network; the better one ships"
    if network.random and rule.count > resolve(AUTO, network.depth_verdict, network.n_blocks).count:
        why = "down to the lowest layer whose weights did not carry over from the start"
    return Choice(
        value=word(strategy),
        because="your choice" if is_explicit else why,
        source="user" if is_explicit else "rule",
        rule=word(rule),
    )


def _base(wishes: PlanOptions) -> Choice:
    if "base" in wishes.explicit:
        return replace(_typed(wishes.base), rule="lite0")
    return Choice(value=wishes.base, because="shipped with warmstart", source="rule", rule="lite0")


def _typed(value: str) -> Choice:
    return Choice(value=value, because="your choice", source="user")


def _closed(wishes: PlanOptions, engine: Choice) -> TrainingPlan:
    """Training where nothing is trained step by step."""
    seed = Choice(
        value=wishes.seed, source="rule", because="any fixed number repeats a run", rule=0
    )
    if "seed" in wishes.explicit:
        seed = replace(seed, source="user", because="your choice")
    batch = Choice(value=32, source="rule", because="fixed, so that a row never depends on others")
    return TrainingPlan(engine=engine, batch_size=batch, seed=seed)


def _input(network: NetworkFacts) -> InputPlan | None:
    """What the network takes, against what the start has learnt from.

    None where that is not a square, or not known.
    """
    prep, base_inputs = network.preprocessing, network.base_inputs or network.preprocessing
    if not (isinstance(prep, Preprocessing) and isinstance(usual, Preprocessing)):
        return _text_input(prep, usual)
    if prep.size[0] != prep.size[1]:
        return None
    size = usual.size[0] if usual.size[0] == usual.size[1] else None
    bands = f"your images have {prep.channels} bands"
    if prep.sound is not None:
        bands = "a sound is drawn in grey"
    return InputPlan(
        size=_taken(prep.size[0], size, "as it was set"),
        channels=_taken(prep.channels, usual.channels, bands),
        **_heard(prep.sound),
    )


def _text_input(inputs: Inputs | None, usual: Inputs | None) -> InputPlan | None:
    """The tokens of a text that the network is given, against those that it could take."""
    if isinstance(inputs, WaveInputs):
        return InputPlan(
            size=_taken(inputs.shape[0], None, "the samples of so many seconds"),
            channels=_taken(1, 1, "clips have one"),
            sample_rate=_taken(inputs.rate, inputs.rate, "the start's own"),
            seconds=_seconds(inputs.seconds),
        )
    if not (isinstance(inputs, TextInputs) and isinstance(usual, TextInputs)):
        return None
    why = f"your longest texts need no more; the network takes {usual.length}"
    if inputs.length > inputs.most:
        why = f"your longest texts are read in {inputs.n_windows} windows of {inputs.window}"
    return InputPlan(
        size=_taken(inputs.length, usual.length, why), channels=_taken(1, 1, "texts have one")
    )


def _heard(sound: Sound | None) -> dict[str, Choice]:
    """How clips become pictures; nothing where inputs are images."""
    if sound is None:
        return {}
    return {
        "sample_rate": Choice(
            value=sound.rate,
            source="measured",
            because="what nine of ten clips hold, up to 16,000; others are resampled",
        ),
        "seconds": _seconds(sound.seconds),
        "n_mels": Choice(value=sound.mels, because="more is finer than speech", source="rule"),
        "top_db": Choice(
            value=sound.range_db,
            source="rule",
            because="what is fainter than that below a clip's loudest is mostly noise",
        ),
    }


def _seconds(value: float) -> Choice:
    return Choice(
        value=value,
        source="measured",
        because="nineteen of twenty clips are no longer, up to ten seconds; of longer ones "
        "the middle is taken, shorter ones lie amid silence",
    )


def _taken(value: int, usual: int | None, because: str) -> Choice:
    """A value of the input; `because` tells why it is not the start's own, where it is not."""
    if value == usual:
        own = "what the start has learnt from"
        return Choice(value=value, because=own, source="rule", rule=usual)
    return Choice(value=value, because=because, source="measured", rule=usual)


def _begun(names: Sequence[str]) -> str:
    has_prior = any(name.endswith("+prior") for name in names)
    return ", begun from the start's output of classes with the same name" if has_prior else ""


def _kind(inputs: Inputs | None) -> str:
    return inputs.kind if inputs is not None else "image"


def _head(budget: Budget, facts: DataFacts, head_names: tuple[str, ...], kind: str) -> HeadPlan:
    names = rules.candidates(
        facts.n, facts.n_classes, facts.smallest_class, head_names, budget, facts.task
    )
    many = f"label-free depth profiles that {facts.n:,} examples can choose among"
    penalties, spaced = rules.penalties(facts.n), "half a decade apart or one"
    robust = tuple(n for n in head_names if n.partition("+")[0] in DEPTHS)
    if robust and facts.task == "classify" and are_few(kind, facts.n, facts.n_classes):
        names, penalties = robust, PENALTIES
        many = f"the depth profile that was best elsewhere: {facts.n:,} texts can choose none"
        spaced = "so few texts can choose no other"
    folds = 1 if facts.holdout else rules.outer_folds(facts.n_groups, facts.n)
    return HeadPlan(
        candidates=Choice(
            value=names,
            source="rule",
            because=many + _begun(names),
        ),
        penalties=Choice(value=penalties, source="rule", because=spaced),
        outer_folds=Choice(
            value=folds,
            source="rule",
            because="your hold-out is the only fold"
            if facts.holdout
            else "10 up to 500 independent examples, 5 above and for few groups",
        ),
        permutations=Choice(
            value=rules.permutations(budget), source="rule", because=f"--budget {budget}"
        ),
    )
