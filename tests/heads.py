"""Examples without images, and a head fitted on their features."""

import numpy as np

from warmstart.records.data import DataRecord, Example
from warmstart.records.network import FeatureLayer
from warmstart.solve.calibration import Calibration
from warmstart.training.dataset import arrange
from warmstart.training.linear_probe import HeadFit

NAMES = ("a", "b", "c")


def arranged_of(n=30, n_test=6):
    """Labelled rows of three classes in turn."""
    examples = [
        Example(id=str(i), label=NAMES[i % 3], split="test" if i >= n else "train", sha256=str(i))
        for i in range(n + n_test)
    ]
    return arrange(
        DataRecord(
            name="d",
            kind="image",
            task="classify",
            layout="",
            classes=NAMES,
            examples=tuple(examples),
        )
    )


def fitted_head():
    """A head on two feature layers with probabilities of 30 rows in five folds."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 30)
    return HeadFit(
        name="equal",
        penalty=1.0,
        feature_layers=(FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="neck")),
        weight=rng.normal(size=(3, 5)).astype(np.float32),
        bias=rng.normal(size=3).astype(np.float32),
        calibration=Calibration(1.7, np.array([0.1, -0.1, 0.0])),
        probabilities=p,
        fold=np.arange(30) % 5,
    )


def layers_of(n, seed=1):
    """A reader of features of both layers. Shapes: (n, 2), (n, 3)."""
    rng = np.random.default_rng(seed)
    feature_layers = {1: rng.normal(size=(n, 2)), 2: rng.normal(size=(n, 3))}
    return lambda layer: feature_layers[layer.block].astype(np.float32)
