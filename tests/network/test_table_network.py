"""The network for tables: its blocks and spans, and columns of another table."""

from __future__ import annotations

import pytest
import torch

from warmstart.errors import ModelError
from warmstart.network.partition import cut
from warmstart.network.table_network import (
    ARCH,
    build_table,
    describe,
    draw,
    match_columns,
    recolumn,
)
from warmstart.network.weights import digest, digests
from warmstart.records.inputs import ColumnRecord, TableInputs

INPUTS = TableInputs(
    columns=(
        ColumnRecord(name="age", kind="number", knots=(-1.0, 0.0, 2.0), has_missing=True),
        ColumnRecord(name="site", kind="category", values=("north", "south")),
        ColumnRecord(name="dose", kind="number", knots=(0.0, 1.0)),
    )
)


def test_it_is_cut_into_columns_mix_and_blocks():
    network = cut(draw(INPUTS, 3, 0), INPUTS)
    names = [block.name for block in network.record.blocks]
    assert names == ["columns", "mix", "blocks.0", "blocks.1"]
    assert (network.record.family, network.record.head_parameters) == ("mlp", 64 * 3 + 3)


def test_the_first_block_gives_the_row_and_how_far_its_numbers_have_come():
    network = cut(draw(INPUTS, 2, 0), INPUTS)
    rows = torch.tensor([[1.0, 0, 1, 0, 0.25], [-3.0, 0, 0, 1, 5.0]])
    result = network.blocks[0].run(network.backbone, rows)
    torch.testing.assert_close(
        result, torch.tensor([[1.0, 0, 1, 0, 0.25, 1, 0.5, 0.25], [-3.0, 0, 0, 1, 5.0, 0, 0, 1]])
    )


def test_drawing_repeats_itself_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    one, again, other = draw(INPUTS, 2, 0), draw(INPUTS, 2, 0), draw(INPUTS, 2, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert digests(one) == digests(again) != digests(other)
    assert not any(p.requires_grad for p in one.parameters())
    assert not one.training


def test_it_is_built_again_in_the_shapes_of_its_weights():
    module = draw(INPUTS, 3, 0)
    clone = build_table(module.state_dict())
    clone.load_state_dict(module.state_dict())
    assert digests(clone) == digests(module)
    record = describe(module, INPUTS, 3)
    assert (record.arch, record.classes, record.preprocessing) == (ARCH, 3, INPUTS)
    assert record.parameters == sum(p.numel() for p in module.parameters())


def test_weights_of_something_else_are_refused():
    with pytest.raises(ModelError, match="columns is missing among the weights of a table's"):
        build_table({"fc.weight": torch.zeros(2, 2)})


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


def test_columns_of_another_kind_or_name_are_others():
    age = ColumnRecord(name="age", kind="category", values=("old", "young"))
    result = match_columns(OLD, TableInputs(columns=(age, number("slope"))), "runs/a")
    assert result.columns[0] == age
    other = TableInputs(columns=(number("price"), site()))
    with pytest.raises(ModelError, match=r"runs/a was trained on other columns \(age\) than"):
        match_columns(TableInputs(columns=(number("age"),)), other, "runs/a")


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
