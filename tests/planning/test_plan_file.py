"""plan.toml: what is written reads back, and what is wrong in a file is named."""

import re

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from plans import plan_for, refusal
from warmstart.errors import PlanError
from warmstart.planning.plan_file import open_plan, read_plan, write_plan
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
    "not TOML": (
        "format = 1\nbase = =",
        r"^plan.toml is not valid TOML \(.*line 2.*\); fix that line.$",
    ),
    "too deep": ("x = " + "[" * 5000, "is not valid TOML"),
    "a number too long": (f"format = {'9' * 5000}", "is not valid TOML"),
    "a number too long in hex": (f"format = 0x{'f' * 5000}", "format is a number of more than 64"),
    "empty": ("", "^plan.toml lacks 'base'; write a plan with --dry-run --out plan.toml to comp"),
    "only a format": ("format = 1", "plan.toml lacks 'base'; write a plan"),
    "a later format": (
        "format = 2\nnew = 3",
        "^plan.toml: format is 2; this version reads format 1; write a plan",
    ),
    "a format in words": ('format = "one"', "format is 'one'; this version reads format 1"),
    "a format of true": ("format = true", "format is True; this version reads format 1"),
    "an unknown key": (
        edited("[training.epochs]", "[training.epocs]"),
        r"^plan.toml: unknown key 'epocs' in \[training\]; did you mean epochs\?$",
    ),
    "an unknown table": (
        edited("[strategy]", "[strateggy]"),
        r"unknown key 'strateggy'; did you mean strategy\?$",
    ),
    "a key like nothing": ("xyzzy = 3\n" + TEXT, "unknown key 'xyzzy'; it has base, strategy, b"),
    "an unknown key of a value": (
        edited("because =", "becuase ="),
        r"unknown key 'becuase' in \[base\]; did you mean becau",
    ),
    "a key of a value like nothing": (
        edited("because =", "zzz ="),
        r"unknown key 'zzz' in \[base\]; it has value, because",
    ),
    "an unknown key of a block": (
        edited("[block.action]", "[block.acton]"),
        r"unknown key 'acton' in \[block 1\]; did you mean action\?",
    ),
    "a missing table": (
        re.sub(r"\[training.engine\]\n(.+\n)+", "", TEXT),
        "lacks 'training.engine'; write a plan",
    ),
    "a missing name": (
        edited('name = "stem"\n', ""),
        "^plan.toml lacks 'block 1.name'; write a pl",
    ),
    "a missing value": (edited('value = "lite0"\n', ""), "lacks 'base.value'; write a plan with"),
    "no reason": (
        re.sub(r"because = .*\n", "", TEXT, count=1),
        "lacks 'base.because'; write a plan with",
    ),
    "an empty reason": (
        re.sub(r"because = .*\n", 'because = ""\n', TEXT, count=1),
        "base.because must be the reason, not ''.",
    ),
    "a reason in numbers": (
        re.sub(r"because = .*\n", "because = 3\n", TEXT, count=1),
        "base.because must be the reason",
    ),
    "an unknown source": (
        edited('source = "rule"', 'source = "me"'),
        "base.source must be one of rule, measured, user, not 'me'.",
    ),
    "a source of lists": (edited('source = "rule"', "source = []"), "base.source must be one"),
    "auto": (
        edited('value = "lite0"', 'value = "auto"'),
        "base.value must be the value itself, not 'auto'.",
    ),
    "a date": (
        edited('value = "lite0"', "value = 2026-01-01"),
        r"base.value must be a number, text, true or false, not datetime.date\(2026, 1, 1\).",
    ),
    "a table as value": (edited('value = "lite0"', "value = {}"), "true or false, not a table."),
    "a list of lists": (edited('value = "lite0"', "value = [[1]]"), "true or false, not a list."),
    "an endless number": (edited('value = "lite0"', "value = inf"), "or false, not inf."),
    "a number of 65 bits": (
        edited('value = "lite0"', f"value = {2**64}"),
        "not a number of more than 64 bits.",
    ),
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
    "blocks in one": (
        'block = "stem"\n' + TEXT[: TEXT.index("[[block]]")],
        r"block must be a list of tables, each under \[\[block\]\], not 'stem'.",
    ),
    "a long text": (
        edited('name = "stem"', f"name = {list(range(99))}"),
        "block 1.name must be text, not a list",
    ),
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
