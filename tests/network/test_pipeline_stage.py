"""Where a row of blocks is cut into stages, and the gradients of a stage."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from warmstart.errors import PlanError
from warmstart.network import partition
from warmstart.network.cut import NEAR, Cost, PipelineStage, UnfrozenBlocks, balance_stages
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.surgery import assemble

COSTS = st.builds(
    Cost, st.floats(0.01, 10), st.sampled_from([0.0, 1.0, 2.5, 7.0]), st.integers(0, 100)
)


def _dearest(costs, run):
    """Seconds of an update, and the parameters of the fullest run."""
    sums = [
        tuple(sum(getattr(costs[p], name) for p in places) for places in run)
        for name in ("forward", "backward", "parameters")
    ]
    return max(sums[0]) + max(sums[1]), max(sums[2])


@given(costs=st.lists(COSTS, min_size=1, max_size=7), share=st.floats(0, 1))
def test_no_other_cut_about_as_quick_spreads_parameters_more_evenly(costs, share):
    n = 1 + int(share * (len(costs) - 1))
    runs = balance_stages(costs, n)
    assert [place for run in runs for place in run] == list(range(len(costs)))
    assert len(runs) == n
    assert all(runs)
    every = [
        _dearest(costs, [range(a, b) for a, b in pairwise((0, *cuts, len(costs)))])
        for cuts in combinations(range(1, len(costs)), n - 1)
    ]
    least = min(seconds for seconds, _ in every)
    seconds, fullest = _dearest(costs, runs)
    assert seconds <= NEAR * least + 1e-9
    assert fullest <= min(
        assigned for took, assigned in every if took <= NEAR * least - 1e-9 or took == least
    )


def test_frozen_and_trained_blocks_are_assigned_apart():
    """By sums the cut is below the trained blocks: 5 seconds and 5, but none at the same time."""
    costs = [Cost(1.0, 0.0, 1)] * 5 + [Cost(0.5, 2.0, 1)] * 2
    assert balance_stages(costs, 2) == (range(3), range(3, 7))


def test_more_stages_than_blocks_are_refused():
    says = r"^a pipeline of 3 stages .* there are 2: start at most 2 processes\.$"
    with pytest.raises(PlanError, match=says):
        balance_stages([Cost(1.0, 2.0, 3)] * 2, 3)


def test_gradients_go_no_further_down_than_something_learns():
    network = partition.cut(tiny.network("convolutions"), tiny.PREP)
    last = feature_layers(network.record)[-1]
    width = layer_width(network.record, last)
    model = assemble(network, (last,), torch.ones(2, width), torch.zeros(2)).eval()
    unfrozen, n = UnfrozenBlocks(model, 0), len(network.blocks)
    first, second = (
        PipelineStage(unfrozen, range(1, 2), is_last=False),
        PipelineStage(unfrozen, range(2, n + 1), is_last=True),
    )
    result = []
    for learns in (False, True):
        for parameter in first_parameters(unfrozen):
            parameter.requires_grad = learns
        with torch.no_grad():
            (gradient_input,) = first(torch.randn(2, 3, 32, 32))
        gradient_input = gradient_input.detach().requires_grad_()
        second(gradient_input).sum().backward()
        result.append(gradient_input.grad)
    assert result[0].shape == result[1].shape
    assert not result[0].any()
    assert result[1].any()


def first_parameters(unfrozen):
    """Of block 1."""
    names = unfrozen.scan.steps.blocks[0].modules
    return [p for name in names for p in unfrozen.model.backbone.get_submodule(name).parameters()]
