"""Heat maps: equal to covering parts one by one, and lying where the evidence lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny import KINDS, PREP, network
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.serving.serve import cells_for, covers, occlusion

GREY = np.uint8([128, 128, 128])


def model_of(kind, depths):
    """A random network under a random head that listens to its last, or to all its taps."""
    parted = cut(network(kind), PREP)
    wanted = (
        feature_layers(parted.record) if depths == "many" else feature_layers(parted.record)[-1:]
    )
    width = sum(layer_width(parted.record, layer) for layer in wanted)
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(4, width, generator=drawn) / width**0.5
    return assemble(parted, wanted, weight, torch.zeros(4))


def asker(model):
    def ask(images):
        values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return model((values - 0.5) / 0.5).double().softmax(dim=1).numpy()

    return ask


@pytest.mark.parametrize("depths", ["last", "many"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_covering_one_part_after_the_other(kind, depths):
    ask = asker(model_of(kind, depths))
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    best, probability, grid, least = occlusion(ask, pixels, 4, GREY)
    before = ask(pixels[None])[0]
    falls, left = np.zeros((4, 4)), []
    for row in range(4):
        for column in range(4):
            covered = pixels.copy()
            rows = slice(max(8 * row - 4, 0), 8 * row + 12)
            covered[rows, max(8 * column - 4, 0) : 8 * column + 12] = GREY
            p = ask(covered[None])[0, best]
            left.append(p)
            odds = np.log(before[best] / (1 - before[best])) - np.log(p / (1 - p))
            falls[row, column] = max(odds, 0)
    assert best == before.argmax()
    assert probability == pytest.approx(before.max(), abs=1e-5)
    assert least == pytest.approx(min(left), abs=1e-5)
    np.testing.assert_allclose(grid, falls / max(falls.max(), 1.0), atol=1e-3)


@pytest.mark.parametrize("place", [(0, 0), (0, 3), (2, 1), (3, 3)])
def test_the_brightest_cell_is_where_the_evidence_is(place):
    """A model that sees red anywhere, and one red spot."""

    def ask(images):
        red = (images[..., 0].astype(float) - images[..., 1]).clip(0).mean(axis=(1, 2)) / 8
        p = red / (1 + red)
        return np.stack([p, 1 - p], axis=1)

    pixels = np.full((32, 32, 3), 128, np.uint8)
    row, column = (8 * n for n in place)
    pixels[row : row + 8, column : column + 8] = (255, 0, 0)
    _, before, grid, least = occlusion(ask, pixels, 4, GREY)
    assert np.unravel_index(grid.argmax(), grid.shape) == place
    assert least < 0.01 < before


def test_where_nothing_matters_nothing_glows():
    _, _, grid, least = occlusion(
        lambda images: np.full((len(images), 2), 0.5), np.zeros((8, 8, 3), np.uint8), 3, GREY
    )
    assert not grid.any()
    assert least == 0.5


@pytest.mark.parametrize(("size", "cells"), [((32, 32), 4), ((30, 50), 7), ((8, 8), 8)])
def test_covers_hide_every_pixel_and_never_all(size, cells):
    masks = covers(size, cells)
    assert masks.shape == (cells**2, *size)
    assert masks.any(axis=0).all()
    assert masks.any(axis=(1, 2)).all()
    assert not masks.all(axis=(1, 2)).any()


def test_a_slow_network_gets_a_coarser_map():
    assert [cells_for(s) for s in (0.001, 0.02, 0.04, 1.0)] == [8, 5, 4, 3]
