"""Taps: which there are, what they hold, and that they survive tracing and export."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from warmstart.errors import ModelError
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.load import load
from warmstart.network.partition import cut, pool_average, pool_grid2
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer


def small(size_px):
    half = (0.5,) * 3
    return Preprocessing(size=(size_px, size_px), resize=size_px, mean=half, std=half)


@pytest.fixture(scope="module")
def lite0():
    base = load("lite0")
    return cut(base.module, base.record.preprocessing)


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [7, 8, 14, 15])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grid2_is_adaptive_average_pooling(side, layout):
    maps = torch.randn(2, 5, side, side + 1)
    expected = nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)
    inputs = maps if layout == "NCHW" else maps.permute(0, 2, 3, 1)
    torch.testing.assert_close(pool_grid2(inputs, layout, (side, side + 1)), expected)


def test_feature_layers_are_those_of_hooks_on_the_original(lite0, inputs):
    base = load("lite0")
    outputs = {}
    base.module.blocks[2][1].register_forward_hook(lambda _, __, out: outputs.update(block=out))
    base.module.classifier.register_forward_pre_hook(lambda _, args: outputs.update(neck=args[0]))
    with torch.no_grad():
        base.module(inputs)
        wanted = [
            FeatureLayer(block=18, pool="neck"),
            FeatureLayer(block=6, pool="avg"),
            FeatureLayer(block=6, pool="grid2"),
        ]
        neck, average, grid = FeatureExtractor(lite0, wanted)(inputs)
    torch.testing.assert_close(neck, outputs["neck"])
    torch.testing.assert_close(average, outputs["block"].mean((2, 3)))
    expected = nn.functional.adaptive_avg_pool2d(outputs["block"], 2).flatten(1)
    torch.testing.assert_close(grid, expected)


def test_offered_feature_layers_follow_the_rules(lite0):
    names = [layer.name for layer in feature_layers(lite0.record)]
    assert names[:4] == ["1.avg", "1.grid2", "2.avg", "2.grid2"]
    assert names[-2:] == ["18.grid2", "18.neck"]
    vit = cut(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval(), small(32))
    assert [layer.name for layer in feature_layers(vit.record)] == [
        "1.avg",
        "2.avg",
        "3.avg",
        "3.neck",
    ]
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(2, 2, 2, 2)
    ).eval()
    record = cut(swin, small(64)).record
    assert (
        next(layer.name for layer in feature_layers(record) if layer.pool == "grid2") == "1.grid2"
    )
    assert record.blocks[0].layout == "NHWC"


def test_widths_are_static_and_true(lite0, inputs):
    extractor = FeatureExtractor(lite0, feature_layers(lite0.record))
    with torch.inference_mode():
        features = extractor(inputs)
    assert extractor.scan.widths == tuple(f.shape[1] for f in features)
    assert all(f.dtype == torch.float32 for f in features)


def test_only_blocks_up_to_the_deepest_layer_run(lite0, inputs):
    calls = []
    module = lite0.backbone.blocks[1][0]
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    try:
        FeatureExtractor(lite0, [FeatureLayer(block=2, pool="avg")])(inputs)
        assert not calls
        FeatureExtractor(lite0, [FeatureLayer(block=3, pool="avg")])(inputs)
        assert calls
    finally:
        hook.remove()


def test_channels_last_batches_give_the_same_features(lite0):
    extractor = copy.deepcopy(FeatureExtractor(lite0, feature_layers(lite0.record)))
    batch = torch.randn(32, 3, 224, 224)
    with torch.inference_mode():
        plain = extractor(batch)
        last = extractor.to(memory_format=torch.channels_last)(
            batch.to(memory_format=torch.channels_last)
        )
    for a, b in zip(plain, last, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_tracing_and_freezing_keep_the_features():
    network = cut(timm.create_model("mobilenetv3_small_100").eval(), small(64))
    extractor, inputs = (
        FeatureExtractor(network, feature_layers(network.record)),
        torch.randn(2, 3, 64, 64),
    )
    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(extractor, inputs))
        for a, b in zip(frozen(inputs), extractor(inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lite0", "vit", "swin"])
def test_onnx_keeps_the_features(name, lite0, tmp_path):
    import onnxruntime

    maps = {
        "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2),
        "swin": lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 1, 1)
        ),
    }
    network = lite0 if name == "lite0" else cut(maps[name]().eval(), small(64))
    side = 224 if name == "lite0" else 64
    extractor = FeatureExtractor(network, feature_layers(network.record)).eval()
    batch = torch.randn(2, 3, side, side)
    path = str(tmp_path / "features.onnx")
    torch.onnx.export(extractor, (batch,), path, dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = extractor(batch)
    for a, b in zip(session.run(None, {"x": batch.numpy()}), expected, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-3, atol=1e-3)


def test_feature_layers_that_do_not_exist_are_refused(lite0):
    with pytest.raises(ModelError, match=r"no feature layer 19.avg; it has 1.avg"):
        layer_width(lite0.record, FeatureLayer(block=19, pool="avg"))
    with pytest.raises(ModelError, match=r"no feature layer 3.neck"):
        FeatureExtractor(lite0, [FeatureLayer(block=3, pool="neck")])
    with pytest.raises(ModelError, match=r"layout 'other' have no average"):
        pool_average(torch.zeros(1, 2, 3, 4, 5), "other")
    with pytest.raises(ModelError, match=r"no feature layers were named"):
        FeatureExtractor(lite0, [])
