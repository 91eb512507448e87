"""What columns are, told from their cells."""

import numpy as np
import pytest

from warmstart.data.tables import ColumnSetting, knots, type_columns
from warmstart.errors import DataError


def typed(requested=None, **columns):
    n = len(next(iter(columns.values())))
    given = (requested or {}).items()
    wishes = {name: ColumnSetting(kind, f"--set column.{name}={kind}") for name, kind in given}
    rows = [{name: str(cells[row]) for name, cells in columns.items()} for row in range(n)]
    return type_columns(rows, [f"line {row + 2}" for row in range(n)], "t.csv", wishes)


MANY = [f"{x:.3f}" for x in np.random.default_rng(0).normal(5, 2, 40)]
SITES = ["north", "south"] * 20


def test_numbers_and_categories():
    age, site = typed(age=MANY, site=SITES).columns
    assert (age.kind, site.kind, site.values) == ("number", "category", ("north", "south"))
    assert age.mean == pytest.approx(np.mean([float(x) for x in MANY]))
    assert age.std == pytest.approx(np.std([float(x) for x in MANY]))
    assert len(age.knots) == 5
    assert not age.has_missing


def test_codes_stay_numbers_with_a_knot_each_unless_the_user_says_otherwise():
    (code,) = typed(cp=[0, 1, 2, 3] * 10).columns
    assert code.kind == "number"
    assert len(code.knots) == 4
    (code,) = typed({"cp": "category"}, cp=[0, 1, 2, 3] * 10).columns
    assert code.kind == "category"
    assert code.values == ("0", "1", "2", "3")


def test_missing_values_have_a_slot_where_training_rows_lack_some():
    age, site = typed(age=["", *MANY[1:]], site=["?", *SITES[1:]]).columns
    assert age.slots == ("age", "age is missing")
    assert site.slots[-1] == "site is missing"
    assert "?" not in site.values


def test_rare_categories_share_the_slot_of_none():
    (site,) = typed(site=[*SITES[:38], "odd", "even"]).columns
    assert site.values == ("north", "south")


def test_what_tells_nothing_of_a_new_row_is_left_out_and_said():
    result = typed(
        age=MANY,
        same=["x"] * 40,
        number=range(40),
        name=[f"row {n}" for n in range(40)],
        gone=["1"] + [""] * 39,
    )
    assert [column.name for column in result.columns] == ["age"]
    messages = {finding.items: finding.sentence for finding in result.findings}
    assert {finding.kind for finding in result.findings} == {"columns"}
    assert messages[("same",)] == "1 column is left out: the same in every row."
    assert "it only counts the rows" in messages[("number",)]
    assert "another text in nearly every row" in messages[("name",)]
    assert "almost always missing" in messages[("gone",)]


def test_the_user_leaves_columns_out_and_keeps_others():
    result = typed({"age": "left-out", "number": "number"}, age=MANY, number=range(40))
    assert [column.name for column in result.columns] == ["number"]
    assert result.findings[0].sentence == "1 column is left out: as you chose."


def test_every_column_has_its_reason_and_what_the_rule_would_have_said():
    result = typed(
        {"cp": "category", "age": "left-out"}, age=MANY, cp=[0, 1] * 20, site=SITES, same=["x"] * 40
    )
    messages = {
        c.name: (c.kind.value, c.kind.rule, c.kind.source, c.is_chosen) for c in result.choices
    }
    assert messages == {
        "age": ("left-out", "number", "user", True),
        "cp": ("category", "number", "user", True),
        "site": ("category", "category", "rule", False),
        "same": ("left-out", "left-out", "rule", False),
    }
    assert result.choices[3].kind.because == "the same in every row"


def fails(match, requested=None, **columns):
    with pytest.raises(DataError, match=match) as caught:
        typed(requested, **columns)
    assert "\n" not in str(caught.value)


def test_numbers_with_commas_are_refused():
    fails(
        "\"price\" has numbers with commas \\('1,5', line 2\\); write them like 1234.5",
        price=["1,5", "2,25", *["3"] * 38],
    )
    fails("numbers with commas", price=[f"{n},{n}00" for n in range(1, 41)])


def test_numbers_with_commas_may_be_names_if_the_user_says_so():
    (price,) = typed({"price": "category"}, price=["1,5", "2,5"] * 20).columns
    assert price.values == ("1,5", "2,5")


def test_a_text_among_numbers_is_a_slip():
    fails(
        "\"age\" holds numbers, but 'old' in line 4; correct it, leave it empty, or add --set "
        "column.age=category",
        age=[*MANY[:2], "old", *MANY[3:]],
    )
    fails("holds numbers, but 'north' in line 2", {"site": "number"}, site=SITES)


def test_infinite_and_too_large_numbers_are_refused():
    fails('"age" is inf in line 2; give a number, or leave it empty', age=["inf", *MANY[1:]])
    fails('"age" holds numbers too large to compute with', age=["1e308", "-1e308", *MANY[2:]])


def test_a_table_without_a_column_to_learn_from_is_refused():
    fails("t.csv has no column to learn from \\(same the same in every row\\)", same=["x"] * 40)


def test_kinds_and_columns_that_are_not_there_are_refused():
    fails(
        "--set column.agee=number: t.csv has no such column. It has: age",
        {"agee": "number"},
        age=MANY,
    )
    fails(
        "--set column.age=colour: a column is number, category or left-out",
        {"age": "colour"},
        age=MANY,
    )


def test_knots_rise_and_are_quantiles():
    result = knots(np.random.default_rng(1).normal(size=1000))
    assert len(result) == 5
    assert list(result) == sorted(set(result))
    assert result[2] == pytest.approx(0, abs=0.1)
