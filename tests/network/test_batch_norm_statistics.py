"""What BatchNorm layers see: means and variances, by hand."""

import contextlib

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tiny import KINDS, PREP, network
from warmstart.network.batch_norm import CHUNK, norm_statistics, recompute_statistics
from warmstart.network.partition import cut


def inputs_of(n=5, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(n, 3, 32, 32)).astype(np.float32)
    )


def lcnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("lcnet_035", num_classes=5).eval()


def by_hand(values):
    """Mean and mean square of each image and channel. Shapes: (n, C, H, W) to (n, C)."""
    values = values.detach().double().numpy()
    return values.mean(axis=(2, 3)), (values**2).mean(axis=(2, 3))


@pytest.mark.parametrize("n", [1, 5, CHUNK + 3])
def test_the_first_layer_sees_what_its_convolution_gives(n):
    module, inputs = network("convolutions"), inputs_of(n)
    statistics = norm_statistics(cut(module, PREP), inputs, 99)
    mean, square = by_hand(module.first(inputs))
    np.testing.assert_allclose(statistics[0].mean, mean, atol=1e-5)
    np.testing.assert_allclose(statistics[0].square, square, atol=1e-5)
    np.testing.assert_array_equal(
        statistics[0].source_mean, module.norm.running_mean.double().numpy()
    )
    np.testing.assert_array_equal(
        statistics[0].source_var, module.norm.running_var.double().numpy()
    )
    body = torch.relu(module.norm(module.first(inputs)))
    np.testing.assert_allclose(statistics[1].mean, by_hand(module.second(body))[0], atol=1e-5)
    assert len(statistics) == 2
    assert 1 <= statistics[0].block <= statistics[1].block


def test_a_real_design_is_read_at_every_layer():
    module = lcnet()
    network_cut, inputs = cut(module, PREP), inputs_of()
    statistics = norm_statistics(network_cut, inputs, 99)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(statistics) == len(norms)
    assert [layer.block for layer in statistics] == sorted(layer.block for layer in statistics)
    mean, square = by_hand(module.conv_stem(inputs))
    np.testing.assert_allclose(statistics[0].mean, mean, atol=1e-5)
    np.testing.assert_allclose(statistics[0].square, square, atol=1e-5)
    few = norm_statistics(network_cut, inputs, 2)
    assert 0 < len(few) < len(statistics)
    assert max(layer.block for layer in few) <= 2
    np.testing.assert_array_equal(few[0].mean, statistics[0].mean)


def test_statistics_of_the_old_data_come_out_as_they_are():
    """Settled on a batch, a layer remembers exactly what that batch shows."""
    module, inputs = network("convolutions"), inputs_of(8)
    module.norm.momentum = None
    module.norm.reset_running_stats()
    module.norm.train()
    with torch.no_grad():
        module.norm(module.first(inputs))
    module.norm.eval()
    statistics = norm_statistics(cut(module, PREP), inputs, 1)[0]
    mean = statistics.mean.mean(axis=0)
    np.testing.assert_allclose(mean, statistics.source_mean, atol=1e-5)
    variance = statistics.square.mean(axis=0) - mean**2
    np.testing.assert_allclose(variance, statistics.source_var, rtol=1e-2)


@pytest.mark.parametrize("kind", ["attention", "layers"])
def test_networks_without_such_layers_say_nothing(kind):
    assert norm_statistics(cut(network(kind), PREP), inputs_of(), 99) == ()


def test_layers_without_statistics_are_left_out():
    module = network("convolutions")
    module.norm = nn.BatchNorm2d(8, track_running_stats=False).eval()
    (statistics,) = norm_statistics(cut(module, PREP), inputs_of(), 99)
    assert statistics.source_mean.shape == (16,)


def test_layers_over_vectors_have_a_mean_of_one_value():
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ).eval()
    inputs = inputs_of()
    (statistics,) = norm_statistics(cut(module, PREP), inputs, 99)
    values = module[1](inputs.flatten(1)).detach().double().numpy()
    np.testing.assert_allclose(statistics.mean, values, atol=1e-5)
    np.testing.assert_allclose(statistics.square, values**2, atol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "lcnet"])
def test_the_network_is_left_as_it_was(kind):
    module = lcnet() if kind == "lcnet" else network(kind)
    network_cut = cut(module, PREP)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [block.training for block in module.modules()]
    norm_statistics(network_cut, inputs_of(), 99)
    with contextlib.suppress(RuntimeError):  # a network without such layers runs nothing
        norm_statistics(network_cut, torch.zeros(2, 5, 32, 32), 99)
    assert modes == [block.training for block in module.modules()]
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(block._forward_pre_hooks or block._forward_hooks for block in module.modules())


# ---- statistics taken anew -----------------------------------------------------------------


def test_only_trainable_statistics_are_recomputed():
    module = lcnet()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    with torch.no_grad(), recompute_statistics(module, [norms[0].running_mean]) as is_wanted:
        for chunk in torch.split(inputs_of(8), 4):
            module(chunk)
    assert is_wanted
    assert not any(m.training for m in module.modules())
    with torch.no_grad():
        statistics = module.conv_stem(inputs_of(8))
    torch.testing.assert_close(norms[0].running_mean, statistics.mean(dim=(0, 2, 3)))
    for norm, mean in zip(norms[1:], before[1:], strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=0)


def test_a_network_without_such_norms_says_so():
    with recompute_statistics(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), []) as is_wanted:
        assert not is_wanted
