"""Feature layers: which there are, what they hold, export; and linear layers by oneDNN."""

from __future__ import annotations

import onnxruntime
import pytest
import timm
import torch
from torch import nn

from small_networks import noise, prep, rng, seeded
from warmstart.errors import ModelError
from warmstart.network import feature_layers as network_feature_layers
from warmstart.network.feature_layers import (
    FeatureExtractor,
    feature_layers,
    layer_width,
    quick_linear,
)
from warmstart.network.load import load
from warmstart.network.partition import cut, pool_average, pool_grid2
from warmstart.records.network import FeatureLayer


@pytest.fixture(scope="module")
def lite0():
    base = load("lite0")
    return cut(base.module, base.record.preprocessing)


@pytest.mark.parametrize("side", [7, 8, 14, 15])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grid2_is_adaptive_average_pooling(side, layout):
    maps = torch.randn(2, 5, side, side + 1)
    expected = nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)
    inputs = maps if layout == "NCHW" else maps.permute(0, 2, 3, 1)
    torch.testing.assert_close(pool_grid2(inputs, layout, (side, side + 1)), expected)


VITS = {"img_size": 32, "depth": 2}
SWINS = {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)}
NETWORKS = {
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", **VITS), 32),
    "swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWINS), 64),
    "mobilenet": (lambda: timm.create_model("mobilenetv3_small_100"), 64),
}


def test_feature_layers_are_those_of_hooks_on_the_original(lite0):
    base, outputs, inputs = load("lite0"), {}, noise(224, 2)
    base.module.blocks[2][1].register_forward_hook(lambda _, __, out: outputs.update(block=out))
    base.module.classifier.register_forward_pre_hook(lambda _, args: outputs.update(neck=args[0]))
    names = [(18, "neck"), (6, "avg"), (6, "grid2")]
    with torch.no_grad():
        base.module(inputs)
        wanted = [FeatureLayer(block=block, pool=pool) for block, pool in names]
        neck, average, grid = FeatureExtractor(lite0, wanted)(inputs)
    torch.testing.assert_close(neck, outputs["neck"])
    torch.testing.assert_close(average, outputs["block"].mean((2, 3)))
    expected = nn.functional.adaptive_avg_pool2d(outputs["block"], 2).flatten(1)
    torch.testing.assert_close(grid, expected)


def test_offered_feature_layers_follow_the_rules(lite0):
    names = [layer.name for layer in feature_layers(lite0.record)]
    assert names[:4] == ["1.avg", "1.grid2", "2.avg", "2.grid2"]
    assert names[-2:] == ["18.grid2", "18.neck"]
    record = cut(seeded(NETWORKS["vit"][0]), prep(32)).record
    names = [layer.name for layer in feature_layers(record)]
    assert names == ["1.avg", "2.avg", "3.avg", "3.neck"]
    record = cut(seeded(NETWORKS["swin"][0]), prep(64)).record
    assert "1.grid2" in [layer.name for layer in feature_layers(record)]
    assert record.blocks[0].layout == "NHWC"


def test_only_blocks_up_to_the_deepest_layer_run(lite0):
    calls, inputs = [], noise(224, 1)
    with lite0.backbone.blocks[1][0].register_forward_hook(lambda *_: calls.append(1)):
        FeatureExtractor(lite0, [FeatureLayer(block=2, pool="avg")])(inputs)
        assert not calls
        FeatureExtractor(lite0, [FeatureLayer(block=3, pool="avg")])(inputs)
        assert calls


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_traces_and_channels_last_keep_the_features(name, tmp_path):
    make, side = NETWORKS[name]
    network = cut(seeded(make), prep(side))
    extractor, batch = FeatureExtractor(network, feature_layers(network.record)), noise(side, 2)
    path = str(tmp_path / "features.onnx")
    torch.onnx.export(extractor, (batch,), path, dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = extractor(batch)
        frozen = torch.jit.freeze(torch.jit.trace(extractor, batch))(batch)
        exported = [torch.from_numpy(rows) for rows in session.run(None, {"x": batch.numpy()})]
        last = extractor.to(memory_format=torch.channels_last)(
            batch.to(memory_format=torch.channels_last)
        )
    assert extractor.scan.widths == tuple(rows.shape[1] for rows in expected)
    assert {rows.dtype for rows in expected} == {torch.float32}
    for result in (frozen, exported, last):
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_feature_layers_that_do_not_exist_are_refused(lite0):
    with pytest.raises(ModelError, match=r"no feature layer 19.avg; it has 1.avg"):
        layer_width(lite0.record, FeatureLayer(block=19, pool="avg"))
    with pytest.raises(ModelError, match=r"no feature layer 3.neck"):
        FeatureExtractor(lite0, [FeatureLayer(block=3, pool="neck")])
    with pytest.raises(ModelError, match=r"layout 'other' have no average"):
        pool_average(torch.zeros(1, 2, 3, 4, 5), "other")
    with pytest.raises(ModelError, match=r"no feature layers were named"):
        FeatureExtractor(lite0, [])


@pytest.fixture
def faster(monkeypatch):
    """As on a processor where it pays; what was multiplied so."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    calls = []
    own = network_feature_layers._product
    monkeypatch.setattr(network_feature_layers, "_is_faster", lambda: True)
    monkeypatch.setattr(
        network_feature_layers, "_product", lambda *given: calls.append(given) or own(*given)
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


@pytest.mark.parametrize("shape", [(64, 256), (4, 16, 256)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_torch(faster, shape, bias):
    module, x = layer(bias), torch.randn(shape, generator=rng())
    usual, quick = grads(module, x, False), grads(module, x, True)
    assert len(faster) == 3  # forward, and both gradients
    for a, b in zip(usual, quick, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    wide, frozen = torch.randn(64, 257, requires_grad=True), module.requires_grad_(False)
    with quick_linear(wide):
        result = frozen(wide[:, :-1])
    assert faster[3][0].is_contiguous()  # rows with gaps between them would be slow
    torch.testing.assert_close(result, frozen(wide[:, :-1]), rtol=1e-4, atol=1e-4)
    result.sum().backward()
    assert len(faster) == 5  # none for frozen weights


def test_gradients_can_be_differentiated_again(faster):
    module, x, result = layer(), torch.randn(64, 256, requires_grad=True), []
    for is_quick in (False, True):
        with quick_linear(x) if is_quick else torch.enable_grad():
            y = module(x).square().sum()
        (once,) = torch.autograd.grad(y, x, create_graph=True)
        result.append(torch.autograd.grad(once.square().sum(), module.weight)[0])
    torch.testing.assert_close(*result, rtol=1e-3, atol=1e-2)


def test_other_tensors_and_processors_go_torchs_way(faster, monkeypatch):
    shapes = [(2, 256), (0, 256), (256,)]
    for x in (*map(torch.ones, shapes), torch.ones(64, 256, dtype=torch.float64)):
        module = layer().to(x.dtype)
        with quick_linear(x):
            assert torch.equal(module(x), nn.functional.linear(x, module.weight, module.bias))
    x = torch.randn(64, 256)
    with torch.autocast("cpu", torch.bfloat16), quick_linear(x):
        assert layer()(x).dtype == torch.bfloat16
    monkeypatch.setattr(network_feature_layers, "_is_faster", lambda: False)
    with quick_linear(x):
        layer()(x)
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


@pytest.mark.parametrize(
    ("mark", "capability", "wanted"),
    [
        ("vendor_id\t: AuthenticAMD", "AVX512", True),
        ("vendor_id\t: GenuineIntel", "AVX512", False),
        ("vendor_id\t: AuthenticAMD", "AVX2", False),
    ],
)
def test_it_pays_on_amds_processors_with_avx_512(monkeypatch, mark, capability, wanted):
    monkeypatch.setattr(network_feature_layers.Path, "read_text", lambda *_: mark)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    assert network_feature_layers._is_faster.__wrapped__() is (
        wanted and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
