from hypothesis import given
from hypothesis import strategies as st

from warmstart.planning.rules import probe_layers
from warmstart.records.network import FeatureLayer


@given(st.integers(1, 30), st.integers(0, 30))
def test_every_linear_probe_weighs_feature_layers_that_exist(n_blocks, n_grids):
    feature_layers = [FeatureLayer(block=p, pool="avg") for p in range(1, n_blocks)]
    feature_layers.append(FeatureLayer(block=n_blocks, pool="neck"))
    feature_layers += [
        FeatureLayer(block=p, pool="grid2") for p in range(1, min(n_grids, n_blocks) + 1)
    ]
    found = probe_layers(feature_layers)
    assert next(iter(found)) == "last"
    for weights in found.values():
        assert set(weights) <= set(feature_layers)
        assert abs(sum(weights.values()) - 1) < 1e-9
        assert min(weights.values()) >= 0


def test_a_network_of_one_block_has_one_linear_probe():
    assert list(probe_layers([FeatureLayer(block=1, pool="neck")])) == ["last"]


def test_shapes_over_depth_by_hand():
    feature_layers = [
        *(FeatureLayer(block=p, pool="avg") for p in (1, 2)),
        FeatureLayer(block=3, pool="neck"),
    ]
    found = {
        name: [weights.get(layer, 0.0) for layer in feature_layers]
        for name, weights in probe_layers(feature_layers).items()
    }
    for name, times in (("late", 4.0), ("early", 0.25), ("equal", 1.0)):
        a, b, c = found[name]
        assert (round(b / a, 6), round(c / b, 6)) == (times, times)  # 16 over the whole depth
