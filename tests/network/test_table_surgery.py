"""Columns of another table: kept by name, begun at zero, dropped."""

import pytest
import torch

from warmstart.errors import ModelError
from warmstart.network.table_network import draw, match_columns, recolumn
from warmstart.network.weights import digest
from warmstart.records.inputs import ColumnRecord, TableInputs


def number(name, mean=0.0, std=1.0, has_missing=False):
    knots = (-1.0, 0.0, 1.0)
    return ColumnRecord(
        name=name, kind="number", mean=mean, std=std, knots=knots, has_missing=has_missing
    )


def site(*values):
    return ColumnRecord(name="site", kind="category", values=values)


OLD = TableInputs(columns=(number("age", 50, 10), number("slope"), site("north", "south")))
NEW = TableInputs(columns=(number("dose"), site("south", "west"), number("age", 60, 12, True)))


def test_columns_that_are_shared_keep_spans_and_slots_on_their_own_scale():
    result = match_columns(OLD, NEW, "runs/a")
    dose, place, age = result.columns
    assert (age.mean, age.std, age.has_missing) == (60, 12, True)
    assert age.knots == OLD.columns[0].knots
    assert place.values == ("north", "south", "west")
    assert dose == number("dose")


def test_other_columns_altogether_are_refused():
    other = TableInputs(columns=(number("price"), site()))
    with pytest.raises(ModelError, match=r"runs/a was trained on other columns \(age\) than"):
        match_columns(TableInputs(columns=(number("age"),)), other, "runs/a")


def test_a_column_of_another_kind_is_another_column():
    age = ColumnRecord(name="age", kind="category", values=("old", "young"))
    result = match_columns(OLD, TableInputs(columns=(age, number("slope"))), "runs/a")
    assert result.columns[0] == age


def test_weights_go_by_name_and_what_is_new_begins_at_zero():
    module, inputs = draw(OLD, 2, 0), match_columns(OLD, NEW, "runs/a")
    clone, changes = recolumn(module, OLD, inputs)
    old, new = [*OLD.slots, *OLD.bins], [*inputs.slots, *inputs.bins]
    for place, name in enumerate(new):
        column = clone.mix.weight[:, place]
        if name in old:
            assert torch.equal(column, module.mix.weight[:, old.index(name)]), name
        else:
            assert not column.any(), name
    weight = next(change for change in changes if change.tensor == "mix.weight")
    assert weight.fate == "reshaped"
    assert weight.before == digest(module.mix.weight)
    assert weight.because == (
        "2 columns keep their weights by name, 1 new begin at zero (dose), "
        "1 of the base model's are dropped (slope)"
    )
    assert [change.tensor for change in changes] == ["mix.weight", "mix.bias", "columns"]


def test_a_row_is_answered_as_if_what_is_dropped_stood_at_its_mean():
    module, inputs = draw(OLD, 2, 0), match_columns(OLD, NEW, "runs/a")
    clone, _ = recolumn(module, OLD, inputs)
    before = torch.tensor([[0.5, 0.0, 1.0, 0.0]])  # age, slope at its mean, site = north
    slots = {"age": 0.5, "site = north": 1.0, "dose": 3.0}
    after = torch.tensor([[slots.get(slot, 0.0) for slot in inputs.slots]])
    torch.testing.assert_close(clone(after), module(before))


def test_the_same_columns_change_nothing():
    module = draw(OLD, 2, 0)
    clone, changes = recolumn(module, OLD, match_columns(OLD, OLD, "runs/a"))
    assert changes == ()
    assert torch.equal(clone.mix.weight, module.mix.weight)
    assert clone is not module
