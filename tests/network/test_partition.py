"""How networks are cut: where, into what, and what stays untouched."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from small_networks import noise, prep
from warmstart.errors import ModelError
from warmstart.network.load import load
from warmstart.network.partition import cut, find_layout, run_all
from warmstart.network.weights import digests


@pytest.fixture(scope="module")
def lite0():
    base = load("lite0")
    return base, cut(base.module, base.record.preprocessing)


def test_lite0_is_a_stem_sixteen_blocks_and_the_last_convolution(lite0):
    base, network = lite0
    names = [block.name for block in network.record.blocks]
    assert names[0] == "conv_stem"
    assert names[-1] == "conv_head"
    assert len(names) == 18
    assert all(name.startswith("blocks.") for name in names[1:-1])
    assert network.record.blocks[-1].shape_out == (1280, 7, 7)
    assert network.record.head_parameters == 1_281_000
    assert network.record.neck_is_average
    total = sum(block.parameters for block in network.record.blocks)
    assert total + network.record.head_parameters == base.record.parameters


def test_macs_are_those_of_the_convolutions_and_copies_need_no_second_cut(lite0):
    _, network = lite0
    assert network.record.blocks[0].macs == 32 * 3 * 3 * 3 * 112 * 112
    assert 380e6 < sum(block.macs for block in network.record.blocks) < 420e6  # published: 407 M
    with torch.no_grad():
        steps, clone = network.steps.blocks, copy.deepcopy(network.backbone).double()
        assert run_all(steps, clone, noise(224, 1).double()).dtype == torch.float64


def test_cutting_changes_neither_modes_nor_flags_nor_tensors_nor_the_random_state():
    module = timm.create_model("resnet18").train()
    module.layer1.eval()
    modes = [m.training for m in module.modules()]
    attributes, before, state = set(vars(module)), digests(module), torch.random.get_rng_state()
    cut(module, prep(32))
    assert [m.training for m in module.modules()] == modes
    assert all(p.requires_grad for p in module.parameters())
    assert digests(module) == before
    assert set(vars(module)) == attributes
    assert torch.equal(state, torch.random.get_rng_state())


def test_functional_dropout_of_the_opened_level_stays_inert_in_training():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(12, 8)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            return self.out(F.dropout(self.first(x.flatten(1)), 0.9, training=self.training))

    module = Net().eval()
    network = cut(module, prep(2))
    inputs = torch.randn(4, 3, 2, 2)
    module.train()
    torch.testing.assert_close(network.logits(inputs), module.eval()(inputs))


def test_closed_modules_keep_their_training_behaviour():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    network = cut(module.eval(), prep(2))
    network.backbone.train()
    before = module[2].running_mean.clone()
    network.blocks[0].run(network.backbone, torch.randn(4, 3, 2, 2))
    assert not torch.equal(before, module[2].running_mean)


def test_branches_on_sizes_are_answered_and_numbers_are_written_in():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            n, c, h, w = x.shape
            if c != 3 or h % 2:
                raise ValueError("odd")
            x = self.a(x).relu()
            x = self.b(x) if x.size(-1) > 4 else x
            return self.out(x.view(n, 6, h * w).mean(-1))

    network = cut(Net(), prep(8))
    assert [block.name for block in network.blocks] == ["a", "b"]
    assert network.steps.classifier == "out"
    for n in (1, 6):
        assert network.logits(torch.randn(n, 3, 8, 8)).shape == (n, 2)


def test_in_place_work_and_a_missing_classifier_do_not_confuse_the_cut():
    layers = (nn.ReLU(True), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    network = cut(nn.Sequential(*layers), prep(2))
    assert network.record.partition == "traced"
    assert [block.name for block in network.blocks] == ["2"]
    network = cut(timm.create_model("resnet18", num_classes=0).eval(), prep(32))
    assert network.classifier is None
    assert (network.record.neck_width, network.record.head_parameters) == (512, 0)


@pytest.mark.parametrize(
    ("shape", "size", "layout"),
    [
        ((8, 8, 8), (64, 64), "NCHW"),
        ((64, 8, 12), (64, 96), "NCHW"),
        ((8, 12, 64), (64, 96), "NHWC"),
        ((64, 1, 1), (32, 32), "NCHW"),
        ((2, 3, 4, 5), (224, 224), "other"),
    ],
)
def test_layouts(shape, size, layout):
    assert find_layout(shape, size) == layout


def test_kernels_used_by_functional_calls_are_blocks_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
            self.matrix = nn.Parameter(torch.randn(5, 4))
            self.out = nn.Linear(5, 2)

        def forward(self, x):
            x = F.conv2d(x, self.kernel).relu().mean((2, 3))
            return self.out(F.linear(x, self.matrix).relu())

    network = cut(Net(), prep(8))
    first, second = network.blocks
    assert network.owners["kernel"] == first.name
    assert network.owners["matrix"] == second.name


def test_a_network_that_does_not_take_the_input_or_gives_no_rows_is_refused():
    with pytest.raises(ModelError, match=r"Linear cannot take inputs of shape \(3, 32, 32\)"):
        cut(nn.Linear(5, 2), prep(32))

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()

    class Text(nn.Module):
        def forward(self, x):
            return "cat"

    with pytest.raises(ModelError, match="returns one row of numbers for each"):
        cut(Sum(), prep(32))
    with pytest.raises(ModelError, match="returns a str without logits"):
        cut(Text(), prep(32))
