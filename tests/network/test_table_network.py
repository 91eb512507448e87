"""The network for tables: its blocks, its spans, and an unchanged global random state."""

import pytest
import torch

from warmstart.errors import ModelError
from warmstart.network.partition import cut
from warmstart.network.table_network import ARCH, build_table, describe, draw
from warmstart.network.weights import digests
from warmstart.records.inputs import ColumnRecord, TableInputs

INPUTS = TableInputs(
    columns=(
        ColumnRecord(name="age", kind="number", knots=(-1.0, 0.0, 2.0), has_missing=True),
        ColumnRecord(name="site", kind="category", values=("north", "south")),
        ColumnRecord(name="dose", kind="number", knots=(0.0, 1.0)),
    )
)


def test_it_is_cut_into_columns_mix_and_blocks():
    module = draw(INPUTS, 3, 0)
    network = cut(module, INPUTS)
    assert [block.name for block in network.record.blocks] == [
        "columns",
        "mix",
        "blocks.0",
        "blocks.1",
    ]
    assert network.record.family == "mlp"
    assert network.record.head_parameters == 64 * 3 + 3
    rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network.logits(rows), module(rows))


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
