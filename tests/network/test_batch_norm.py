"""BatchNorm: folded, the same outputs and gradients; statistics of new images, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from small_networks import noise, seeded
from tiny import PREP, Convolutions, network
from warmstart.network.batch_norm import CHUNK, folded, norm_statistics, recompute_statistics
from warmstart.network.partition import cut

LABELS = torch.tensor([0, 1, 2, 1])


def randomised(name):
    """A network in double precision, with statistics and scales that are not the trivial ones."""

    def make():
        net = Convolutions() if name == "convolutions" else timm.create_model(name, num_classes=5)
        for module in norms(net):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        return net.double()

    return seeded(make)


def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def images(n=4):
    return noise(64, n).double()


def gradients(net, inputs):
    net.zero_grad()
    loss = cross_entropy(net(inputs), LABELS)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in net.named_parameters()}


NETS = ("convolutions", "resnet18", "mobilenetv2_035", "lcnet_035")


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients_are_the_same_and_nothing_is_left_behind(name):
    net, inputs = randomised(name), images()
    state = {n: t.clone() for n, t in net.state_dict().items()}
    expected = net(inputs)
    loss, plain = gradients(net, inputs)
    with folded(net, norms(net), lambda: net(inputs[:2])) as n_folded:
        assert list(net.state_dict()) == list(state)
        again, result = gradients(net, inputs)
        torch.testing.assert_close(net(inputs), expected)
    assert n_folded == len(norms(net))
    torch.testing.assert_close(again, loss)
    for tensor, gradient in plain.items():
        torch.testing.assert_close(result[tensor], gradient, rtol=1e-7, atol=1e-9)
    assert all("forward" not in module.__dict__ for module in net.modules())
    assert all(torch.equal(tensor, state[n]) for n, tensor in net.state_dict().items())
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())
    assert torch.equal(net(inputs), expected)


def test_an_error_inside_leaves_the_network_as_it_was():
    net = randomised("resnet18")
    with pytest.raises(KeyError), folded(net, norms(net), lambda: net(images(2))):
        raise KeyError
    assert all("forward" not in module.__dict__ for module in net.modules())


def test_norms_that_gather_statistics_are_not_folded():
    net = randomised("resnet18")
    with folded(net, [], lambda: net(images(2))) as n_folded:
        assert n_folded == 0
    moving = norms(net)[3]
    with folded(net, [m for m in norms(net) if m is not moving], lambda: net(images())) as some:
        assert some == len(norms(net)) - 1


class Shared(nn.Module):
    """A convolution whose output is read by two, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.two, self.late = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.running_mean, 0.7)
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        x = self.one(x)
        x = self.norm(x) + x
        x = self.late(self.two(self.two(x)))
        return self.out(x.mean((2, 3)))


def test_what_would_change_the_network_is_not_done():
    net = Shared().double().eval()
    plain = net(images())
    with folded(net, norms(net), lambda: net(images(2))) as n_folded:
        assert n_folded == 0
        torch.testing.assert_close(net(images()), plain, rtol=0, atol=0)


def by_hand(values):
    """Mean and mean square of each image and channel. Shapes: (n, C, H, W) to (n, C)."""
    values = values.detach().double().numpy()
    return values.mean(axis=(2, 3)), (values**2).mean(axis=(2, 3))


def test_each_layer_sees_what_its_convolution_gives():
    module, inputs = network("convolutions"), noise(32, CHUNK + 3)
    first, second = norm_statistics(cut(module, PREP), inputs, 99)
    mean, square = by_hand(module.first(inputs))
    np.testing.assert_allclose(first.mean, mean, atol=1e-5)
    np.testing.assert_allclose(first.square, square, atol=1e-5)
    np.testing.assert_array_equal(first.source_mean, module.norm.running_mean.double().numpy())
    np.testing.assert_array_equal(first.source_var, module.norm.running_var.double().numpy())
    body = torch.relu(module.norm(module.first(inputs)))
    np.testing.assert_allclose(second.mean, by_hand(module.second(body))[0], atol=1e-5)


def test_a_real_architecture_is_read_at_every_layer_of_the_first_blocks():
    module = seeded(lambda: timm.create_model("lcnet_035", num_classes=5))
    network_cut, inputs = cut(module, PREP), noise(32, 5)
    statistics = norm_statistics(network_cut, inputs, 99)
    assert len(statistics) == len(norms(module))
    assert [layer.block for layer in statistics] == sorted(layer.block for layer in statistics)
    few = norm_statistics(network_cut, inputs, 2)
    assert 0 < len(few) < len(statistics)
    assert max(layer.block for layer in few) <= 2
    np.testing.assert_allclose(few[0].mean, by_hand(module.conv_stem(inputs))[0], atol=1e-5)


def test_layers_without_statistics_are_left_out():
    assert norm_statistics(cut(network("attention"), PREP), noise(32), 99) == ()
    module = network("convolutions")
    module.norm = nn.BatchNorm2d(8, track_running_stats=False).eval()
    (statistics,) = norm_statistics(cut(module, PREP), noise(32), 99)
    assert statistics.source_mean.shape == (16,)


def test_layers_over_vectors_have_a_mean_of_one_value():
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ).eval()
    inputs = noise(32)
    (statistics,) = norm_statistics(cut(module, PREP), inputs, 99)
    values = module[1](inputs.flatten(1)).detach().double().numpy()
    np.testing.assert_allclose(statistics.mean, values, atol=1e-5)
    np.testing.assert_allclose(statistics.square, values**2, atol=1e-5)


def test_the_network_is_left_as_it_was():
    module = network("convolutions")
    network_cut = cut(module, PREP)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    norm_statistics(network_cut, noise(32), 99)
    with pytest.raises(RuntimeError):
        norm_statistics(network_cut, torch.zeros(2, 5, 32, 32), 99)
    assert not any(block.training for block in module.modules())
    assert all(torch.equal(before[name], after) for name, after in module.state_dict().items())
    assert not any(block._forward_pre_hooks for block in module.modules())


def test_only_trainable_statistics_are_recomputed():
    module = seeded(lambda: timm.create_model("lcnet_035", num_classes=5))
    first, *others = norms(module)
    before = [norm.running_mean.clone() for norm in others]
    with torch.no_grad(), recompute_statistics(module, [first.running_mean]) as is_wanted:
        for chunk in torch.split(noise(32, 8), 4):
            module(chunk)
    assert is_wanted
    assert not any(m.training for m in module.modules())
    statistics = module.conv_stem(noise(32, 8)).detach()
    torch.testing.assert_close(first.running_mean, statistics.mean(dim=(0, 2, 3)))
    assert all(torch.equal(n.running_mean, mean) for n, mean in zip(others, before, strict=True))


def test_a_network_without_such_norms_says_so():
    with recompute_statistics(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), []) as is_wanted:
        assert not is_wanted
