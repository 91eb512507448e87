"""The grammar of --strategy: what it reads, what it refuses, and how deep each word goes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import (
    FACTS,
    NAMES,
    PREPROCESSING,
    a_choice,
    actions,
    apply_settings,
    network,
    network_facts,
    plan_for,
    refusal,
)
from warmstart.errors import PlanError
from warmstart.planning.check import check_plan
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.strategy import (
    AUTO,
    HEAD,
    Strategy,
    added_name,
    body_actions,
    check_agreement,
    n_tuned,
    parse,
    reconcile_strategy,
    resolve,
    rule_strategy,
    strategy_of,
    word_of,
)

EXTRA_SETS = [
    frozenset(),
    *map(frozenset, ({"add"}, {"lora"}, {"gradual"}, {"add", "lora"}, {"add", "gradual"})),
]


@st.composite
def strategies(draw):
    """Every strategy that can be written."""
    depth = draw(st.sampled_from(["auto", "last", "frozen", "scratch"]))
    count = draw(st.integers(0, 10**9 - 1)) if depth in ("last", "frozen") else 0
    allowed = EXTRA_SETS
    if depth == "scratch":
        allowed = [frozenset()]
    elif (depth, count) == ("last", 0):
        allowed = [extras for extras in EXTRA_SETS if extras <= {"add"}]
    elif (depth, count) == ("last", 1):
        allowed = [extras for extras in EXTRA_SETS if "gradual" not in extras]
    return Strategy(depth=depth, count=count, extras=draw(st.sampled_from(allowed)))


@given(strategy=strategies())
def test_a_strategy_reads_back_as_it_was_written(strategy):
    text = str(strategy)
    assert parse(text) == strategy
    assert str(parse(text)) == text
    assert parse(f" {text.upper()} ") == strategy


@given(text=st.text() | st.text("ahedlst:0129frozn+gu -", max_size=20))
def test_any_text_is_a_strategy_or_a_plan_error_of_one_line(text):
    refused = refusal(parse, text)
    if refused is None:
        assert parse(str(parse(text))) == parse(text)
    else:
        assert refused.startswith("--strategy ")
        assert "\n" not in refused or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("head", "last:0"),
        ("full", "frozen:0"),
        ("add", "head+add"),
        ("lora", "full+lora"),
        ("gradual", "full+gradual"),
        ("lora+add", "full+add+lora"),
        ("add+lora", "full+lora+add"),
        ("last:02", "last:2"),
        (" last:2 + add ", "last:2+add"),
    ],
)
def test_short_words_stand_for_long_ones(text, full):
    assert parse(text) == parse(full)


WRONG = {
    "": "--strategy needs a value: auto, head, last:N",
    "hed": "--strategy hed: hed is not a word of it; did you mean head?",
    "last2": "did you mean last:2?",
    "frozen-3": "did you mean frozen:3?",
    "finetune": "did you mean full?",
    "lst": "did you mean last:N?",
    "froze": "did you mean frozen:K?",
    "xyzzy": "xyzzy is not a word of it; it takes auto, head, last:N, frozen:K",
    "head+gradul": "gradul is not a word of it; did you mean gradual?",
    "last:2+full": "last:2 and full are two depths; keep one of them.",
    "lora+last:2": "the depth comes first; write last:2+lora.",
    "last": "last: it needs a number of blocks; last:2 fine-tunes the last two.",
    "frozen:": "it needs a number of blocks; frozen:2 freezes the first two.",
    "last:-1": "-1 is not a whole number, 0 or more; last:2 fine-tunes the last two.",
    "last:two": "two is not a whole number",
    "last:²": "² is not a whole number",
    "last:" + "9" * 5000: "is not a whole number",
    "head:2": "head takes no number; last:N and frozen:K do.",
    "lora:8": "its rank is set by --set training.lora_rank=8",
    "head+add:2": "add takes no number",
    "head+lora": "head leaves no block to fine-tune; write last:2+lora or full+lora.",
    "last:0+gradual": "head leaves no block to fine-tune; write last:2+gradual or full+gradual.",
    "head+add+lora": "write last:2+add+lora or full+add+lora.",
    "scratch+lora": "every layer is new already, so lora has no use; write scratch.",
    "scratch+gradual": "gradual has no use; write scratch.",
    "scratch+add": "add has no use; write scratch.",
    "last:2+lora+gradual": "lora and gradual cannot be combined; keep one of them.",
    "full+add+add": "add stands twice; once is enough.",
    "lora+lora": "lora stands twice; once is enough.",
    "last:1+gradual": "gradual needs at least two fine-tuned blocks, which are unfrozen one after",
    "last:01+add+gradual": "write last:2+add+gradual or full+add+gradual.",
    "head+": "a word is missing beside a +; write for instance head+add.",
    "+add": "a word is missing beside a +",
}


@pytest.mark.parametrize(("text", "says"), WRONG.items(), ids=lambda text: text[:20])
def test_a_wrong_strategy_is_named_with_the_right_one(text, says):
    with pytest.raises(PlanError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(n_blocks=st.integers(1, 60), count=st.integers(0, 60))
def test_depth_counts_from_either_end(n_blocks, count):
    for depth, tuned in (("last", count), ("frozen", n_blocks - count)):
        strategy = Strategy(depth=depth, count=count)
        if count <= n_blocks:
            assert n_tuned(strategy, n_blocks) == tuned
        else:
            with pytest.raises(PlanError, match=r"the head excluded; use (last|frozen|full)"):
                n_tuned(strategy, n_blocks)
    assert n_tuned(parse("full"), n_blocks) == n_tuned(parse("scratch"), n_blocks) == n_blocks
    assert n_tuned(HEAD, n_blocks) == 0


@pytest.mark.parametrize(
    ("text", "n_blocks", "why", "cure"),
    [
        ("last:40", 18, "has 18 blocks", "use last:18 or full."),
        ("frozen:40", 18, "has 18 blocks", "use frozen:18 or head."),
        ("last:2+add", 1, "has 1 block,", "use full or head."),
        ("frozen:4+lora", 4, "all are frozen", "use last:2+lora or full+lora."),
        ("frozen:3+gradual", 4, "needs at least two", "use last:2+gradual or full+gradual."),
        ("full+gradual", 1, "has 1 block,", "leave out +gradual."),
    ],
)
def test_a_network_that_is_too_short_is_named(text, n_blocks, why, cure):
    message = refusal(n_tuned, parse(text), n_blocks, "lite0")
    assert message.startswith(f"--strategy {text}: lite0 has")
    assert why in message
    assert message.endswith(cure)


def test_auto_has_no_depth_of_its_own():
    with pytest.raises(ValueError, match="resolve"):
        n_tuned(AUTO, 18)


@pytest.mark.parametrize(
    ("text", "verdict", "becomes"),
    [
        ("auto", None, "head"),
        ("auto", "linear-probe", "head"),
        ("auto", "inconclusive", "head"),
        ("auto", "no-signal", "head"),
        ("auto", "no-transfer", "head"),
        ("auto", "fine-tune", "last:9"),
        ("auto+add", "linear-probe", "head+add"),
        ("auto+add", "fine-tune", "last:9+add"),
        ("auto+lora", "linear-probe", "last:9+lora"),
        ("auto+gradual", None, "last:9+gradual"),
        ("full", "linear-probe", "full"),
        ("head", "fine-tune", "head"),
        ("frozen:18", "fine-tune", "head"),
        ("frozen:18+add", None, "head+add"),
        ("scratch", "linear-probe", "scratch"),
    ],
)
def test_auto_follows_the_verdict_and_a_chosen_strategy_is_kept(text, verdict, becomes):
    assert str(resolve(parse(text), verdict, 18)) == becomes


@given(strategy=strategies(), n_blocks=st.integers(1, 30))
def test_what_is_resolved_has_a_depth_that_fits(strategy, n_blocks):
    try:
        found = resolve(strategy, "fine-tune", n_blocks)
    except PlanError:
        is_single = "gradual" in strategy.extras and (
            n_blocks == 1 or (strategy.depth, strategy.count) == ("frozen", n_blocks - 1)
        )
        is_idle = (strategy.depth, strategy.count) == ("frozen", n_blocks)
        assert strategy.count > n_blocks or is_idle or is_single
        return
    assert found.depth != "auto"
    assert 0 <= n_tuned(found, n_blocks) <= n_blocks
    assert found.extras == strategy.extras


@pytest.mark.parametrize("n_blocks", [2, 3, 5])
def test_gradual_without_a_depth_takes_two_blocks_where_half_are_fewer(n_blocks):
    assert str(resolve(parse("auto+gradual"), None, n_blocks)) == "last:2+gradual"


@given(strategy=strategies(), n_blocks=st.integers(1, 30))
def test_the_word_of_the_blocks_of_a_strategy_does_the_same(strategy, n_blocks):
    try:
        resolved = resolve(strategy, None, n_blocks)
    except PlanError:
        return
    above = ["added", "replaced"] if "add" in resolved.extras else ["replaced"]
    found = word_of([*body_actions(resolved, "x" * n_blocks), *above])
    assert found is not None
    assert body_actions(found, "x" * n_blocks) == body_actions(resolved, "x" * n_blocks)
    assert found.extras == resolved.extras - {"gradual"}
    assert (found.depth == "scratch") == (resolved.depth == "scratch")


@pytest.mark.parametrize(
    "text",
    [
        "tuned frozen",
        "frozen tuned low-rank",
        "fresh tuned",
        "frozen fresh",
        "tuned frozen tuned",
        "fresh fresh added",
    ],
)
def test_there_is_no_word_for_a_mixture(text):
    assert word_of([*text.split(), "replaced"]) is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("headd", "the plan has strategy 'headd': headd is not a word of it; did you mean head?"),
        ("auto+add", "the plan has strategy 'auto\\+add', which is not resolved; name a depth."),
        (3, "the plan has strategy 3: 3 is not a word of it"),
    ],
)
def test_a_plan_names_a_resolved_strategy(value, says):
    with pytest.raises(PlanError, match=says):
        strategy_of(replace(plan_for(), strategy=a_choice(value)))


# ---- What happens to each block, strategy by strategy.


TABLE = {
    "head": "frozen frozen frozen frozen replaced",
    "frozen:4": "frozen frozen frozen frozen replaced",
    "last:1": "frozen frozen frozen tuned replaced",
    "frozen:1": "frozen tuned tuned tuned replaced",
    "full": "tuned tuned tuned tuned replaced",
    "last:2+add": "frozen frozen tuned tuned added replaced",
    "add": "frozen frozen frozen frozen added replaced",
    "last:2+lora": "frozen frozen low-rank low-rank replaced",
    "gradual": "tuned tuned tuned tuned replaced",
    "scratch": "fresh fresh fresh fresh replaced",
    "auto+gradual": "frozen frozen tuned tuned replaced",
}


@pytest.mark.parametrize(("strategy", "expected"), TABLE.items())
def test_each_strategy_is_one_action_a_block(strategy, expected):
    plan = plan_for(strategy)
    assert [block.action.value for block in plan.blocks] == expected.split()
    assert plan.blocks[-1].name == "output"
    assert tuple(block.name for block in plan.blocks[:4]) == NAMES


def test_a_choice_of_the_user_says_what_the_rule_would_have_done():
    typed = plan_for("last:2")
    marks = [(p.action.value, p.action.source, p.action.rule) for p in typed.blocks]
    assert marks == [
        ("frozen", "user", "frozen"),
        ("frozen", "user", "frozen"),
        ("tuned", "user", "frozen"),
        ("tuned", "user", "frozen"),
        ("replaced", "rule", None),
    ]
    assert "last:2" in typed.blocks[2].action.because
    shallow = plan_for("head", network=network_facts(verdict="fine-tune"))
    assert [p.action.rule for p in shallow.blocks] == ["frozen", "frozen", "tuned", "tuned", None]
    for block in plan_for("auto", network=network_facts(verdict="fine-tune")).blocks:
        assert (block.action.source, block.action.rule) == ("rule", None)


def test_reasons_count_layers():
    assert "only the last of 4 blocks is fine-tuned" in plan_for("last:1").blocks[0].action.because
    assert (
        "only the last 2 of 4 blocks are fine-tuned" in plan_for("last:2").blocks[0].action.because
    )
    assert "all blocks" in plan_for("full").blocks[0].action.because
    assert (
        "only the added layers and the head are trained" in plan_for("add").blocks[0].action.because
    )


def test_added_layers_have_a_name_of_their_own():
    names = ("stem", "added", "added#2")
    assert added_name(names) == "added#3"
    plan = plan_for("last:1+add", network=network_facts(names))
    assert list(actions(plan)) == [*names, "added#3", "output"]


@pytest.mark.parametrize("strategy", ["last:1", "full", "full+lora", "add", "scratch", "auto"])
def test_blocks_that_did_not_carry_over_are_fresh_whatever_the_strategy(strategy):
    plan = plan_for(strategy, network=network_facts(fresh=frozenset({"blocks.0"})))
    block = plan.blocks[1]
    assert (block.action.value, block.action.source) == ("fresh", "rule")
    assert "did not carry over" in block.action.because
    times = 1 if strategy == "scratch" else 3
    assert block.lr.value == pytest.approx(times * plan.training.lr.value)


def test_auto_goes_down_to_what_did_not_carry_over():
    plan = plan_for(
        "auto", network=network_facts(fresh=frozenset({"blocks.0"}), verdict="fine-tune")
    )
    assert plan.strategy.value == "last:3"
    assert "did not carry over" in plan.strategy.because
    assert str(rule_strategy("fine-tune", NAMES, frozenset())) == "last:2"
    assert str(rule_strategy("fine-tune", NAMES, frozenset({"top"}))) == "last:2"


@pytest.mark.parametrize(
    ("strategy", "action", "source"),
    [
        ("last:1", "tuned", "rule"),
        ("full", "tuned", "user"),
        ("last:3+lora", "tuned", "rule"),
        ("scratch", "fresh", "user"),
        ("add", "tuned", "rule"),
        ("auto", "tuned", "rule"),
    ],
)
def test_blocks_that_carried_over_partly_are_fine_tuned_and_not_thrown_away(
    strategy, action, source
):
    facts = network_facts(partly_fresh=frozenset({"blocks.0"}))
    block = plan_for(strategy, network=facts).blocks[1]
    assert (block.action.value, block.action.source) == (action, source)
    raised = strategy in ("last:1", "last:3+lora", "add")
    assert block.action.because.startswith("holds weights that did not carry over: ") == raised
    assert block.lr is not None


def test_a_block_that_carried_over_partly_is_not_frozen_by_head_and_auto_goes_down_to_it():
    facts = network_facts(partly_fresh=frozenset({"blocks.1"}), fresh=frozenset({"top"}))
    with pytest.raises(PlanError, match=r"block blocks.1 would be frozen .*use --strategy last:2"):
        plan_for("head", network=facts)
    plan = plan_for("auto", network=facts)
    assert plan.strategy.value == "last:2"
    assert actions(plan) == dict(
        zip((*NAMES, "output"), ("frozen", "frozen", "tuned", "fresh", "replaced"), strict=True)
    )


# ---- The word of a plan's strategy follows its blocks; what cannot be trained is refused.


FACTS_OF_BASE = network_facts(preprocessing=PREPROCESSING)
WORDS = (
    "head",
    "last:1",
    "last:2",
    "frozen:1",
    "frozen:4",
    "full",
    "scratch",
    "add",
    "last:2+add",
    "full+lora",
    "last:2+lora+add",
    "last:2+gradual",
    "full+gradual",
    "auto",
)


def after(strategy, *settings):
    return reconcile_strategy(apply_settings(plan_for(strategy), settings), FACTS_OF_BASE)


@pytest.mark.parametrize("strategy", WORDS)
def test_a_plan_as_it_was_built_keeps_its_word(strategy):
    plan = plan_for(strategy)
    assert reconcile_strategy(plan, FACTS_OF_BASE) == plan
    check_agreement(plan)


@pytest.mark.parametrize("strategy", ["last:2", "last:4", "full+lora", "full+add", "scratch"])
def test_blocks_at_random_values_or_without_low_rank_layers_are_no_other_strategy(strategy):
    facts = network_facts(
        preprocessing=PREPROCESSING,
        fresh=frozenset({"blocks.1"}),
        partly_fresh=frozenset({"stem"}),
        no_lora=frozenset({"blocks.0"}),
    )
    plan = plan_for(strategy, network=facts)
    assert reconcile_strategy(plan, facts) == plan


@pytest.mark.parametrize(
    ("strategy", "settings", "word"),
    [
        ("last:1", ("block.3.action=tuned",), "last:2"),
        ("full", ("block.1.action=frozen",), "last:3"),
        ("last:1+add", ("block.4.action=frozen",), "head+add"),
        ("last:1+lora", ("block.4.action=tuned",), "last:1"),
        ("last:1", ("block.4.action=low-rank", "training.lora_rank=4"), "last:1+lora"),
        ("full+gradual", ("block.1.action=frozen",), "last:3+gradual"),
        ("full", tuple(f"block.{n}.action=fresh" for n in range(1, 5)), "scratch"),
    ],
)
def test_a_word_that_describes_the_blocks_is_their_strategy(strategy, settings, word):
    plan, before = after(strategy, *settings), plan_for(strategy)
    assert (plan.strategy.value, plan.strategy.source) == (word, "user")
    assert plan.strategy.rule == before.strategy.rule
    assert str(before.strategy.value) in plan.strategy.because
    assert replace(plan, strategy=before.strategy) == apply_settings(before, settings)
    assert reconcile_strategy(plan, FACTS_OF_BASE) == plan
    check_plan(plan_cache(plan, FACTS_OF_BASE, FACTS), network())


def test_a_mixture_keeps_the_word_and_its_reason_says_so():
    plan = after("full", "block.3.action=frozen")
    assert plan.strategy.value == "full"
    assert plan.strategy.because == "your choice, with single blocks set otherwise"
    assert reconcile_strategy(plan, FACTS_OF_BASE) == plan


@pytest.mark.parametrize("strategy", ["last:9", "frozen:4+lora"])
def test_a_word_that_the_network_is_too_short_for_is_replaced(strategy):
    plan = replace(plan_for("last:2"), strategy=a_choice(strategy))
    assert reconcile_strategy(plan, FACTS_OF_BASE).strategy.value == "last:2"


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (after("scratch", "block.1.action=frozen"), "strategy scratch and block stem frozen, and"),
        (replace(plan_for("head"), strategy=a_choice("last:2")), "write strategy head, or set"),
        (after("full+gradual", *(f"block.{n}.action=frozen" for n in (1, 2, 3))), "'last:1' in"),
    ],
)
def test_what_contradicts_itself_is_refused(plan, says):
    plan = reconcile_strategy(plan, FACTS_OF_BASE)
    found = refusal(check_agreement, plan)
    if says.startswith("'"):  # a single block is fine-tuned without gradual
        assert (found, plan.strategy.value) == (None, "last:1")
    else:
        assert says in found


@given(
    strategy=st.sampled_from(WORDS),
    places=st.dictionaries(
        st.integers(1, 4), st.sampled_from(["frozen", "tuned", "low-rank", "fresh"])
    ),
)
def test_a_plan_that_passes_has_the_word_of_its_blocks_or_a_mixture(strategy, places):
    settings = [f"block.{place}.action={action}" for place, action in places.items()]
    base = plan_for(strategy)
    if not base.is_trained or refusal(apply_settings, base, settings):
        return
    plan = reconcile_strategy(apply_settings(base, settings), FACTS_OF_BASE)
    if refusal(check_agreement, plan):
        return
    found = word_of([block.action.value for block in plan.blocks])
    named = strategy_of(plan)
    if found is None:
        assert named == parse(str(base.strategy.value))
        assert plan.strategy.because.endswith(", with single blocks set otherwise")
    else:
        assert (named.depth == "scratch") == (found.depth == "scratch")
        assert named.extras - {"gradual"} == found.extras


def test_added_layers_need_an_axis_of_channels():
    for layout in ("other", "NCL", "NCDHW"):
        record = network()
        top = replace(record.blocks[-1], layout=layout)
        odd = replace(record, blocks=(*record.blocks[:-1], top))
        facts = replace(FACTS_OF_BASE, record=odd)
        with pytest.raises(PlanError, match=r"block top has no axis of channels .* leave out"):
            plan_for("add", network=facts)


def test_low_rank_updates_need_a_layer():
    two = network_facts(no_lora=frozenset({"top", "blocks.1"}))
    with pytest.raises(PlanError, match=r"blocks blocks\.1, top have no linear or plain"):
        plan_for("last:2+lora", network=two)
    with pytest.raises(PlanError, match="block top has no linear or plain"):
        plan_for("last:1+lora", network=two)
    plan = plan_for("last:3+lora", network=two)
    assert [*actions(plan).values()] == ["frozen", "low-rank", "frozen", "frozen", "replaced"]
    assert "no linear or plain" in plan.blocks[3].action.because
