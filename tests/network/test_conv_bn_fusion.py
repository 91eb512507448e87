"""Folded BatchNorm: the same outputs and gradients, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tiny import Convolutions
from warmstart.network.batch_norm import folded

LABELS = torch.tensor([0, 1, 2, 1])


def outputs(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = Convolutions() if name == "convolutions" else timm.create_model(name, num_classes=5)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
        return net.double().eval()


def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def images(n=4, side=64):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, side, side, generator=rng, dtype=torch.float64)


def gradients(net, inputs):
    net.zero_grad()
    loss = cross_entropy(net(inputs), LABELS)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in net.named_parameters()}


NETS = ("convolutions", "resnet18", "mobilenetv2_035", "tf_efficientnet_lite0", "lcnet_035")


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients_are_the_same(name):
    net, inputs = outputs(name), images()
    loss, plain = gradients(net, inputs)
    with folded(net, norms(net), lambda: net(inputs[:2])) as n_folded:
        again, result = gradients(net, inputs)
        eval_logits = net(inputs)
    assert n_folded == len(norms(net))
    torch.testing.assert_close(again, loss)
    for tensor, expected in plain.items():
        torch.testing.assert_close(result[tensor], expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(eval_logits, net(inputs))


@pytest.mark.parametrize("name", NETS)
def test_nothing_is_left_behind(name):
    net = outputs(name)
    before, state = copy.deepcopy(net), {n: t.clone() for n, t in net.state_dict().items()}
    with folded(net, norms(net), lambda: net(images(2))):
        assert list(net.state_dict()) == list(state)
    assert all("forward" not in module.__dict__ for module in net.modules())
    assert all(torch.equal(tensor, state[n]) for n, tensor in net.state_dict().items())
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())
    torch.testing.assert_close(net(images()), before(images()), rtol=0, atol=0)


def test_an_error_inside_leaves_the_network_as_it_was():
    net = outputs("resnet18")
    with pytest.raises(KeyError), folded(net, norms(net), lambda: net(images(2))):
        raise KeyError
    assert all("forward" not in module.__dict__ for module in net.modules())


def test_norms_that_gather_statistics_are_not_folded():
    net = outputs("resnet18")
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
