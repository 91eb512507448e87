"""The grammar of --strategy: what it reads, what it refuses, and how deep each word goes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import a_choice, plan_for, refusal
from warmstart.errors import PlanError
from warmstart.planning.strategy import (
    AUTO,
    EXTRAS,
    HEAD,
    Strategy,
    body_actions,
    n_tuned,
    nearest,
    parse,
    resolve,
    strategy_of,
    word,
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
    text = word(strategy)
    assert parse(text) == strategy
    assert word(parse(text)) == text
    assert parse(f" {text.upper()} ") == strategy


@given(text=st.text() | st.text("ahedlst:0129frozn+gu -", max_size=20))
def test_any_text_is_a_strategy_or_a_plan_error_of_one_line(text):
    refused = refusal(parse, text)
    if refused is None:
        assert parse(word(parse(text))) == parse(text)
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
    "last:1+gradual": "gradual needs at least two fine-tuned blocks, which are "
    "unfrozen one after the other; write last:2+gradual or full+gradual.",
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
    ("text", "n_blocks", "says"),
    [
        (
            "last:40",
            18,
            "--strategy last:40: lite0 has 18 blocks, the head excluded; use last:18 or full.",
        ),
        (
            "frozen:40",
            18,
            "--strategy frozen:40: lite0 has 18 blocks, the head excluded; use frozen:18 or head.",
        ),
        (
            "last:2+add",
            1,
            "--strategy last:2+add: lite0 has 1 block, the head excluded; use full or head.",
        ),
        (
            "frozen:4+lora",
            4,
            "--strategy frozen:4+lora: lite0 has 4 blocks, the head excluded, and all are frozen; "
            "use last:2+lora or full+lora.",
        ),
        (
            "frozen:3+gradual",
            4,
            "--strategy frozen:3+gradual: lite0 has 4 blocks, the head excluded; gradual needs at "
            "least two fine-tuned blocks, which are unfrozen one after the other; use "
            "last:2+gradual or full+gradual.",
        ),
        (
            "full+gradual",
            1,
            "--strategy full+gradual: lite0 has 1 block, the head excluded; gradual needs at "
            "least two fine-tuned blocks, which are unfrozen one after the other; leave out "
            "+gradual.",
        ),
    ],
)
def test_a_network_that_is_too_short_is_named(text, n_blocks, says):
    with pytest.raises(PlanError) as caught:
        n_tuned(parse(text), n_blocks, "lite0")
    assert str(caught.value) == says


def test_the_cure_of_a_short_network_works():
    for text, cure in (("last:9+add", "last:4+add"), ("frozen:9+add", "frozen:4+add")):
        with pytest.raises(PlanError, match=cure.replace("+", r"\+")):
            n_tuned(parse(text), 4)
        n_tuned(parse(cure), 4)


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
    assert word(resolve(parse(text), verdict, 18)) == becomes


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
    assert word(resolve(parse("auto+gradual"), None, n_blocks)) == "last:2+gradual"


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


def test_nearest_is_none_for_what_is_nothing_alike():
    assert nearest("qqq", EXTRAS) is None
