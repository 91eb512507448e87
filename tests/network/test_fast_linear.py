"""Linear layers by oneDNN: the same numbers, forwards and back, and torch's own way elsewhere."""

import pytest
import torch
from torch import nn

from warmstart.network import feature_layers
from warmstart.network.feature_layers import quick_linear

SHAPES = {"rows": (64, 256), "tokens": (4, 16, 256)}


@pytest.fixture
def faster(monkeypatch):
    """As on a processor where it pays; what was multiplied so."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    calls = []
    own = feature_layers._product
    monkeypatch.setattr(feature_layers, "_is_faster", lambda: True)
    monkeypatch.setattr(
        feature_layers, "_product", lambda *given: calls.append(given) or own(*given)
    )
    return calls


def layer(bias=True):
    torch.manual_seed(0)
    return nn.Linear(256, 128, bias=bias)


def grads(module, x, is_quick):
    x = x.clone().requires_grad_()
    with quick_linear(x) if is_quick else torch.enable_grad():
        result = module(x)
    module.zero_grad()
    result.square().sum().backward()
    return [result.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_torch(faster, shape, bias):
    module, x = layer(bias), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    usual, quick = grads(module, x, False), grads(module, x, True)
    assert len(faster) == 3  # forwards, and both gradients
    for a, b in zip(usual, quick, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_rows_with_gaps_between_them_are_closed_up_first(faster):
    module, wide = layer(), torch.randn(64, 257)
    with torch.inference_mode(), quick_linear(wide):
        result = module(wide[:, :-1])
    assert faster[0][0].is_contiguous()
    torch.testing.assert_close(result, module(wide[:, :-1]), rtol=1e-4, atol=1e-4)


def test_gradients_can_be_differentiated_again(faster):
    module, x = layer(), torch.randn(64, 256, requires_grad=True)
    result = []
    for is_quick in (False, True):
        with quick_linear(x) if is_quick else torch.enable_grad():
            y = module(x).square().sum()
        (once,) = torch.autograd.grad(y, x, create_graph=True)
        result.append(torch.autograd.grad(once.square().sum(), module.weight)[0])
    torch.testing.assert_close(*result, rtol=1e-3, atol=1e-2)


def test_frozen_weights_get_no_gradient(faster):
    module, x = layer().requires_grad_(False), torch.randn(64, 256, requires_grad=True)
    with quick_linear(x):
        module(x).sum().backward()
    assert module.weight.grad is None
    assert len(faster) == 2


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 256),
        torch.ones(64, 256, dtype=torch.float64),
        torch.ones(0, 256),
        torch.ones(256),
    ],
    ids=["few", "double", "none", "vector"],
)
def test_other_tensors_go_torchs_way(faster, x):
    module = layer().to(x.dtype)
    with quick_linear(x):
        assert torch.equal(module(x), nn.functional.linear(x, module.weight, module.bias))
    assert not faster


def test_half_precision_goes_torchs_way(faster):
    x = torch.randn(64, 256)
    with torch.autocast("cpu", torch.bfloat16), quick_linear(x):
        assert layer()(x).dtype == torch.bfloat16
    assert not faster


def test_a_traced_graph_is_made_of_torchs_own_operators(faster):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer()

        def forward(self, x):
            with quick_linear(x):
                return self.layer(x)

    graph = torch.jit.trace(Whole().eval(), (torch.randn(64, 256),))
    assert "mkldnn::_linear" not in str(graph.inlined_graph)


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(feature_layers, "_is_faster", lambda: False)
    x, module = torch.randn(64, 256), layer()
    with quick_linear(x):
        assert torch.equal(module(x), nn.functional.linear(x, module.weight, module.bias))


@pytest.mark.parametrize(
    ("mark", "capability", "wanted"),
    [
        ("vendor_id\t: AuthenticAMD", "AVX512", True),
        ("vendor_id\t: GenuineIntel", "AVX512", False),
        ("vendor_id\t: AuthenticAMD", "AVX2", False),
    ],
)
def test_it_pays_on_amds_processors_with_avx_512(monkeypatch, mark, capability, wanted):
    monkeypatch.setattr(feature_layers.Path, "read_text", lambda *_: mark)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    assert feature_layers._is_faster.__wrapped__() is (
        wanted and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
