"""plan.toml: what is written reads back, and what is wrong in a file is named."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from plans import (
    ENGINE,
    FACTS,
    PREPROCESSING,
    PROFILES,
    a_choice,
    actions,
    apply_settings,
    network,
    network_facts,
    plan_for,
    plan_options,
    rates,
    refusal,
    with_block,
)
from warmstart.errors import PlanError
from warmstart.planning.build import build
from warmstart.planning.check import check_plan
from warmstart.planning.facts import Machine
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.plan_file import (
    describe_failure,
    in_words,
    open_plan,
    options_for,
    output_words,
    overlay,
    read_plan,
    runs,
    user_choices,
    write_plan,
)
from warmstart.records.plan import BlockPlan, Choice, HeadPlan, InputPlan, Plan, TrainingPlan
from warmstart.records.run_folder import to_plain

TEXT = write_plan(plan_for("last:2+add", lr=1e-05))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = texts.filter(lambda t: t != "auto") | st.integers(-(2**63) + 1, 2**63 - 1) | numbers
values = scalars | st.booleans() | st.lists(scalars | st.booleans(), max_size=4).map(tuple)
choices = st.builds(
    Choice,
    value=values,
    because=texts.filter(bool),
    rule=st.none() | values,
    source=st.sampled_from(["rule", "measured", "user"]),
)
maybe = st.none() | choices
plans = st.builds(
    Plan,
    base=choices,
    strategy=choices,
    arch=maybe,
    partial=maybe,
    format=st.just(1),
    examples=st.integers(0, 2**63 - 1),
    blocks=st.lists(st.builds(BlockPlan, name=texts, action=choices, lr=maybe), max_size=4).map(
        tuple
    ),
    head=st.builds(
        HeadPlan, candidates=choices, penalties=choices, outer_folds=choices, permutations=choices
    ),
    training=st.builds(
        TrainingPlan,
        engine=choices,
        batch_size=choices,
        seed=choices,
        lr=maybe,
        epochs=maybe,
        flip=maybe,
        lora_rank=maybe,
    ),
    input=st.none() | st.builds(InputPlan, size=choices, channels=choices, rgb=maybe),
)


def same(one, other):
    """Equal, and of the same types: 1 == 1.0 == True is not enough."""
    return one == other and repr(one) == repr(other)


@given(plan=plans)
def test_any_plan_reads_back_as_it_was_written(plan):
    assert same(read_plan(write_plan(plan)), plan)


def test_small_numbers_and_far_letters_survive():
    plan = plan_for("last:2", lr=1e-05, base="gewöhnlich/模型.pt", explicit={"base"})
    assert same(read_plan(write_plan(plan)), plan)
    assert plan.training.lr.value == 1e-05


@given(text=st.text(max_size=200) | st.text("[]block={}\n\"'.#0123e-+_format", max_size=80))
def test_any_text_is_a_plan_or_a_plan_error(text):
    with pytest.raises(PlanError):
        read_plan(text)


@given(data=st.data())
def test_a_plan_with_damage_is_a_plan_or_a_plan_error(data):
    place = data.draw(st.integers(0, len(TEXT)))
    length = data.draw(st.integers(0, 60))
    damaged = TEXT[:place] + data.draw(st.text(max_size=8)) + TEXT[place + length :]
    refused = refusal(read_plan, damaged)
    assert refused is None or refused.startswith("plan.toml")


tables = st.recursive(
    scalars | st.booleans() | st.dates() | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data(), value=tables)
def test_any_value_at_any_place_is_a_plan_or_a_plan_error(data, value):
    plain = to_plain(read_plan(TEXT))
    plain["block"] = plain.pop("blocks")
    node = plain
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else [0, -1]))
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            break
        node = inner
    node[key] = value
    text = tomli_w.dumps(_without_none(plain))
    refused = refusal(read_plan, text)
    if refused is None:
        assert same(read_plan(write_plan(read_plan(text))), read_plan(text))
    else:
        assert refused.startswith("plan.toml")


def _without_none(value):
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def edited(old, new):
    """The good file with one edit."""
    assert old in TEXT
    return TEXT.replace(old, new, 1)


BAD = {
    "not TOML": ("format = 1\nbase = =", r"^plan.toml is not valid TOML \(.*line 2.*\); fix"),
    "too deep": ("x = " + "[" * 5000, "is not valid TOML"),
    "a number too long": (f"format = {'9' * 5000}", "is not valid TOML"),
    "a number too long in hex": (f"format = 0x{'f' * 5000}", "format is a number of more than 64"),
    "empty": ("", "^plan.toml lacks 'base'; write a plan with --dry-run --out plan.toml to comp"),
    "only a format": ("format = 1", "plan.toml lacks 'base'; write a plan"),
    "a later format": ("format = 2\nnew = 3", "^plan.toml: format is 2; this version reads"),
    "a format in words": ('format = "one"', "format is 'one'; this version reads format 1"),
    "a format of true": ("format = true", "format is True; this version reads format 1"),
    "an unknown key": (edited("[training.epochs]", "[training.epocs]"), "^plan.toml: unknown"),
    "an unknown table": (edited("[strategy]", "[strateggy]"), "unknown key 'strateggy'; did you"),
    "a key like nothing": ("xyzzy = 3\n" + TEXT, "unknown key 'xyzzy'; it has base, strategy, b"),
    "an unknown key of a value": (edited("because =", "becuase ="), "unknown key 'becuase' in"),
    "a key of a value like nothing": (edited("because =", "zzz ="), "unknown key 'zzz' in"),
    "an unknown key of a block": (edited("[block.action]", "[block.acton]"), "unknown key"),
    "a missing table": (
        re.sub(r"\[training.engine\]\n(.+\n)+", "", TEXT),
        "lacks 'training.engine'; write a plan",
    ),
    "a missing name": (edited('name = "stem"\n', ""), "^plan.toml lacks 'block 1.name'; write a"),
    "a missing value": (edited('value = "lite0"\n', ""), "lacks 'base.value'; write a plan with"),
    "no reason": (re.sub("because = .*\\n", "", TEXT, count=1), "lacks 'base.because'; write a"),
    "an empty reason": (
        re.sub(r"because = .*\n", 'because = ""\n', TEXT, count=1),
        "base.because must be the reason, not ''.",
    ),
    "a reason in numbers": (
        re.sub(r"because = .*\n", "because = 3\n", TEXT, count=1),
        "base.because must be the reason",
    ),
    "an unknown source": (edited('source = "rule"', 'source = "me"'), "base.source must be one"),
    "a source of lists": (edited('source = "rule"', "source = []"), "base.source must be one"),
    "auto": (edited('value = "lite0"', 'value = "auto"'), "base.value must be the value itself,"),
    "a date": (edited('value = "lite0"', "value = 2026-01-01"), "base.value must be a number,"),
    "a table as value": (edited('value = "lite0"', "value = {}"), "true or false, not a table."),
    "a list of lists": (edited('value = "lite0"', "value = [[1]]"), "true or false, not a list."),
    "an endless number": (edited('value = "lite0"', "value = inf"), "or false, not inf."),
    "a number of 65 bits": (edited('value = "lite0"', f"value = {2**64}"), "not a number of"),
    "an endless rule": (edited('rule = "lite0"', "rule = nan"), "base.rule must be a number"),
    "a bare value": (
        edited(TEXT[TEXT.index("[base]") : TEXT.index("[strategy]")], 'base = "lite0"\n'),
        r"base must be {value = …, because = \"…\", source = \"user\"}, not 'lite0'.",
    ),
    "a name in numbers": (edited('name = "stem"', "name = 1"), "block 1.name must be text, not 1."),
    "a section in numbers": (
        "training = 3\n" + re.sub(r"\[training\.\w+\]\n(.+\n)+", "", TEXT),
        "training must be a table, not 3.",
    ),
    "blocks in one": ('block = "stem"\n' + TEXT[: TEXT.index("[[block]]")], "block must be a"),
    "a long text": (edited('name = "stem"', f"name = {list(range(99))}"), "block 1.name must be"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD.keys())
def test_a_broken_plan_names_its_fault_and_the_cure(text, says):
    with pytest.raises(PlanError, match=says) as caught:
        read_plan(text)
    assert str(caught.value).startswith("plan.toml")
    assert "\n" not in str(caught.value)


def test_long_values_are_cut_short_in_errors():
    with pytest.raises(
        PlanError, match=r"base.source must be one of .*, not 'xxx.*\.\.\.\."
    ) as caught:
        read_plan(edited('source = "rule"', f'source = "{"x" * 999}"'))
    assert len(str(caught.value)) < 120


def test_a_file_is_read_by_its_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT, "utf-8")
    assert open_plan(path) == read_plan(TEXT)
    path.write_text(edited('value = "lite0"', 'value = "auto"'), "utf-8")
    with pytest.raises(PlanError, match=r"mine.toml: base.value must"):
        open_plan(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"--plan .*none.toml does not exist; write a plan with"):
        open_plan(tmp_path / "none.toml")
    with pytest.raises(PlanError, match=r"cannot be read as text .*name a plan\.toml"):
        open_plan(tmp_path)
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(PlanError, match=r"cannot be read as text .*name a plan\.toml"):
        open_plan(tmp_path / "picture.toml")


# ---- A plan from a file with options typed beside it: what was typed wins, all else stays.


FACTS_OF_BASE = network_facts(preprocessing=PREPROCESSING)
FILES = {
    "head": plan_for("head", budget="fast", seed=5),
    "last:2": apply_settings(
        plan_for("last:2", budget="fast", seed=5), ["training.epochs=23.3333", "block.top.lr=0.5"]
    ),
    "lora": plan_for("lora", budget="fast", seed=5),
    "scratch": plan_for("scratch", budget="fast", seed=5),
}


def laid(file, wishes):
    """The whole way: wishes for the file, a plan built, the file's laid over it."""
    built = build(options_for(file, wishes), FACTS, FACTS_OF_BASE, PROFILES, ENGINE)
    return plan_cache(overlay(built, file, wishes.explicit), FACTS_OF_BASE, FACTS)


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_with_nothing_typed_the_file_is_followed_to_the_letter(file):
    assert laid(file, plan_options()) == file
    assert laid(read_plan(write_plan(file)), plan_options()) == file


@given(
    file=st.sampled_from(list(FILES.values())),
    strategy=st.sampled_from(["auto", "head", "last:1", "full+lora", "scratch", "add"]),
    budget=st.sampled_from(["fast", "balanced", "thorough"]),
    lr=st.none() | st.floats(1e-6, 1),
    explicit=st.sets(st.sampled_from(["base", "budget", "seed"])),
)
def test_whatever_is_typed_the_plan_is_sound_or_refused(file, strategy, budget, lr, explicit):
    wishes = plan_options(strategy, budget, seed=9, lr=lr, explicit=explicit)
    is_still = not file.is_trained if strategy == "auto" else strategy == "head"
    if lr is not None and is_still:
        with pytest.raises(PlanError, match="nothing is trained step by step"):
            laid(file, wishes)
        return
    plan = laid(file, wishes)
    check_plan(plan, network())
    assert plan.training.seed.value == (9 if "seed" in explicit else 5)
    if strategy != "auto":
        assert plan.strategy.value == ("head+add" if strategy == "add" else strategy)
    else:
        assert (plan.strategy, actions(plan)) == (file.strategy, actions(file))


def test_a_typed_device_sets_what_follows_from_it():
    gpu = Machine(device="cuda", has_bfloat16=True, threads=16, is_explicit=True)
    file = plan_for("last:2", seed=5, machine=gpu)
    assert file.training.precision.value == "bfloat16"
    assert laid(file, plan_options()) == file
    plan = laid(file, plan_options(machine=Machine(is_explicit=True), explicit={"device"}))
    found, expected = plan.training, plan_for("last:2").training
    assert (found.device.value, found.device.source) == ("cpu", "user")
    for name in ("precision", "workers", "compile"):
        assert getattr(found, name) == getattr(expected, name)
    assert plan.blocks == file.blocks
    assert (
        laid(FILES["head"], plan_options(machine=gpu, explicit={"device"})).training.device is None
    )


def test_a_typed_strategy_sets_blocks_and_learning_rates_and_leaves_the_rest():
    file = FILES["last:2"]
    plan = laid(file, plan_options("full"))
    fresh = plan_for("full")
    assert (plan.blocks, plan.strategy) == (fresh.blocks, fresh.strategy)
    assert plan.training.epochs == file.training.epochs
    assert plan.head == file.head
    low = laid(file, plan_options("full+lora"))
    assert low.training.lora_rank.value == 8
    assert laid(FILES["lora"], plan_options("full")).training.lora_rank is None


def test_a_typed_budget_sets_the_model_soup_and_the_epochs_of_its_trainings():
    thorough = plan_options(budget="thorough", explicit={"budget"})
    plan = laid(plan_for("last:2"), thorough)
    found, expected = plan.training, plan_for("last:2", budget="thorough").training
    for name in ("folds", "model_soup", "epochs", "ema_decay"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.model_soup.value == 3
    once = replace(expected, model_soup=None, epochs=replace(expected.epochs, value=20.0))
    older = replace(plan_for("last:2"), training=once)  # of a version with twenty epochs
    assert laid(older, thorough).training.epochs == expected.epochs
    mine = apply_settings(plan_for("last:2"), ["training.epochs=2.3333"])
    assert laid(mine, thorough).samples_seen == 700
    assert (
        laid(
            plan_for("last:2", budget="thorough"), plan_options(explicit={"budget"})
        ).training.model_soup
        is None
    )


@pytest.mark.parametrize("strategy", ["full+gradual", "full+lora", "scratch", "last:2+add"])
def test_where_no_model_soup_is_possible_there_is_one_training(strategy):
    plan = laid(plan_for(strategy), plan_options(budget="thorough", explicit={"budget"}))
    assert plan.training.model_soup is None
    assert plan.training.epochs == plan_for(strategy).training.epochs
    check_plan(plan, network())


def test_a_typed_strategy_keeps_the_model_soup_where_one_is_possible():
    file = plan_for("last:2", budget="thorough")
    assert laid(file, plan_options("full")).training.model_soup == file.training.model_soup
    assert laid(file, plan_options("full+gradual")).training.model_soup is None


def test_from_a_head_to_training_and_back():
    plan = laid(FILES["head"], plan_options("full"))
    assert plan.training == replace(plan_for("full").training, seed=FILES["head"].training.seed)
    back = laid(FILES["last:2"], plan_options("head"))
    assert not back.is_trained
    assert back.training.epochs is None
    assert back.training.batch_size.value == 32


def test_a_typed_learning_rate_changes_every_block_that_was_not_set_by_itself():
    plan = laid(FILES["last:2"], plan_options(lr=0.01))
    assert rates(plan) == {"blocks.1": 0.0075, "top": 0.5, "output": 0.01}
    assert (plan.training.lr.source, plan.training.lr.rule) == ("user", 0.001)
    assert plan.samples_seen == 7000
    assert rates(laid(FILES["lora"], plan_options(lr=0.0002)))["top"] == 0.002
    new = laid(FILES["scratch"], plan_options(lr=0.01))
    assert set(rates(new).values()) == {0.01}
    assert new.training.lr.rule == 0.001
    edited = replace(FILES["last:2"], strategy=a_choice("head"))
    assert rates(laid(edited, plan_options(lr=0.01)))["blocks.1"] == 0.0075


def test_a_typed_budget_changes_heads_permutations_and_folds():
    file = FILES["last:2"]
    plan = laid(file, plan_options(budget="thorough", explicit={"budget"}))
    expected = plan_for("last:2", budget="thorough")
    assert plan.head.candidates == expected.head.candidates != file.head.candidates
    assert plan.head.permutations.value == 999
    assert plan.head.penalties == file.head.penalties
    assert (plan.training.folds.value, file.training.folds.value) == (5, 1)
    assert plan.blocks == file.blocks
    assert (
        laid(FILES["head"], plan_options(budget="thorough", explicit={"budget"})).training.folds
        is None
    )


def test_another_base_model_brings_its_architecture_and_its_input():
    file = replace(FILES["last:2"], arch=a_choice("timm:old"), partial=a_choice(True))
    plan = laid(file, plan_options(base="mine.pt", arch="timm:new", explicit={"base"}))
    assert (plan.base.value, plan.arch.value, plan.partial) == ("mine.pt", "timm:new", None)
    assert plan.input == plan_for().input
    bare = laid(file, plan_options(base="lite1", explicit={"base"}))
    assert (bare.base.value, bare.arch) == ("lite1", None)
    assert laid(file, plan_options(arch="timm:new")).base == file.base


def test_a_learning_rate_is_refused_by_a_plan_that_trains_nothing():
    with pytest.raises(PlanError, match="--lr: nothing is trained step by step in this plan; add"):
        overlay(plan_for("full", lr=0.1), FILES["head"], frozenset({"lr"}))
    with pytest.raises(PlanError, match=r"--lr 0\.1: nothing is trained step by step"):
        laid(FILES["head"], plan_options(lr=0.1))


def test_a_file_for_a_longer_network_is_not_taken_for_a_typed_strategy():
    long = plan_for("last:9", network=network_facts([f"p{n}" for n in range(12)]))
    plan = laid(long, plan_options())
    with pytest.raises(
        PlanError, match="made for another network: it has block p0, lite0 has stem"
    ):
        check_plan(plan, network())


# ---- A plan in words: every block is listed once, with its action.


NAMES = tuple(f"p{i}" for i in range(18))
WORDS = (
    "head",
    "last:1",
    "last:4",
    "frozen:3",
    "full",
    "full+gradual",
    "head+add",
    "last:4+add",
    "full+lora",
    "last:2+lora",
    "scratch",
)


def plan(strategy, names=NAMES, **wishes):
    return plan_for(strategy, network=network_facts(names), **wishes)


@pytest.mark.parametrize("strategy", WORDS)
@pytest.mark.parametrize("n_blocks", [4, 18])
def test_every_block_is_listed_once_with_its_action_and_learning_rates(strategy, n_blocks):
    made = plan(strategy, NAMES[:n_blocks])
    found = [*runs(made)]
    listed = [name for run in found for name in run.names]
    assert listed == [block.name for block in made.blocks if block.name != "output"]
    assert [(run.first, run.last) for run in found] == [
        (listed.index(run.names[0]) + 1, listed.index(run.names[-1]) + 1) for run in found
    ]
    for run in found:
        assert {actions(made)[name] for name in run.names} == {run.action}
        moving = [rates(made)[name] for name in run.names if name in rates(made)]
        assert (run.low, run.high) == ((min(moving), max(moving)) if moving else (None, None))
        assert (run.rates == "") == (run.action == "frozen")
    assert all(a.action != b.action for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        ("head", "Blocks 1–18 frozen"),
        ("last:4", "Blocks 1–14 frozen · 15–18 fine-tuned at 0.000562 to 0.001"),
        ("last:1", "Blocks 1–17 frozen · 18 fine-tuned at 0.001"),
        ("scratch", "Blocks 1–18 randomly initialised at 0.001"),
        ("head+add", "Blocks 1–18 frozen · 1 block added at 0.003"),
    ],
)
def test_one_line_names_what_is_frozen_and_what_moves(strategy, text):
    assert in_words(plan(strategy)) == text


def test_low_rank_updates_are_called_so():
    text = in_words(plan("full+lora", NAMES[:2], lr=0.01))
    assert text == "Blocks 1–2 low-rank updates at 0.0075 to 0.01"


def test_a_network_of_one_block_is_called_the_network():
    one = NAMES[:1]
    assert in_words(plan("head", one)) == "The network frozen"
    assert in_words(plan("full", one)) == "The network fine-tuned at 0.001"


def test_neighbours_are_separated_by_their_action():
    made = plan("full", NAMES[:5], lr=0.01)
    made = with_block(made, 2, action=a_choice("frozen"), lr=None)
    assert [(run.layers, run.action) for run in runs(made)] == [
        ("1–2", "tuned"),
        ("3", "frozen"),
        ("4–5", "tuned"),
    ]
    assert in_words(made).startswith("Blocks 1–2 fine-tuned at ")
    assert " · 3 frozen · 4–5 fine-tuned at 0.0075 to 0.01" in in_words(made)


def test_every_block_that_is_added_is_counted():
    made = plan("head+add", NAMES[:2])
    (block,) = [block for block in made.blocks if block.name == "added"]
    two = (*made.blocks[:3], replace(block, name="added#2"), made.blocks[-1])
    assert in_words(replace(made, blocks=two)) == ("Blocks 1–2 frozen · 2 blocks added at 0.003")


@pytest.mark.parametrize("strategy", WORDS)
def test_the_line_is_plain_and_short(strategy):
    text = in_words(plan(strategy))
    assert "\n" not in text
    assert len(text) < 90
    assert "  " not in text


# ---- what the user set -------------------------------------------------------------------


def test_a_plan_of_the_rules_has_no_user_choice():
    assert [*user_choices(plan("auto"))] == []


def test_every_user_choice_is_listed_with_the_value_of_the_rule():
    made = plan("last:2", NAMES[:4], lr=0.002, seed=3, explicit={"seed"})
    made = apply_settings(
        made,
        ["training.epochs=3", "block.p3.lr=0.5", "block.p0.action=tuned", "head.penalties=0.1,1"],
    )
    found = dict(line.split(" = ", 1) for line in user_choices(made))
    assert found == {
        "strategy": "last:2; the rule: head",
        "training.lr": "0.002; the rule: 0.001",
        "training.seed": "3; the rule: 0",
        "training.epochs": "3; the rule: 10",
        "head.penalties": "0.1, 1; the rule: 0.01, 0.03, 0.1, 0.3, 1, 3, 10",
        "block.p3.lr": "0.5; the rule: 0.002",
        "block.p0.action": "tuned; the rule: frozen",
    }


@pytest.mark.parametrize("strategy", WORDS)
def test_no_choice_of_the_rules_is_listed_as_the_users(strategy):
    made = plan(strategy)
    assert [line.partition(" = ")[0] for line in user_choices(made)] == ["strategy"]


@pytest.mark.parametrize(
    ("lr", "kind", "scales", "says"),
    [
        (10.0, "diverged", (1.0, 1 / 3, 1 / 9), "diverged at learning rates 10, 3.33 and 1.11"),
        (1e-9, "stuck", (1.0,), "made no progress at learning rate 1e-09; the rule's is 0.001"),
        (None, "stuck", (1 / 3, 1 / 9), "learning rates 0.000333 and 0.000111"),
    ],
)
def test_a_training_that_was_given_up_is_described_with_its_learning_rates(lr, kind, scales, says):
    text = describe_failure(plan_for("full", lr=lr), kind, scales)
    assert says in text
    assert ("the rule's is 0.001" in text) == (lr is not None)


def test_outputs_are_classes_or_a_number():
    assert output_words("multilabel", ["a", "b"]) == "2 labels"
    assert output_words("regress", ["age"]) == 'the number "age"'
