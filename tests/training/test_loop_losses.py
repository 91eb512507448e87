"""What pairs of a batch are learnt by: against the formula as it is written, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from warmstart.training.loop import contrastive_loss, make_pair_loss, pair_loss


def written_out(vectors, labels, temperature):
    """Khosla et al. 2020, equation 2, row by row."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness, total = unit @ unit.T / temperature, 0.0
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        whole = math.log(sum(math.exp(likeness[i, j]) for j in others))
        alike = [j for j in others if labels[j] == label]
        total -= sum(likeness[i, j] - whole for j in alike) / max(len(alike), 1)
    return total


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_contrast_is_what_its_paper_writes(temperature):
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(12, 5)), rng.integers(0, 4, 12)
    labels[-1] = 9  # alone in its class
    found = contrastive_loss(torch.from_numpy(vectors), torch.from_numpy(labels), temperature)
    assert found.item() == pytest.approx(written_out(vectors, labels, temperature))


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]], ids=["one row", "no two alike"])
def test_a_batch_without_pairs_says_nothing_and_moves_nothing(labels):
    vectors = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0))
    vectors.requires_grad_(True)
    loss = contrastive_loss(vectors, torch.tensor(labels), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


def test_a_temperature_tells_which_of_the_two_it_is():
    vectors, labels = torch.eye(4)[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 1])
    assert make_pair_loss(0.0)(vectors, labels) == pair_loss(vectors, labels)
    assert make_pair_loss(0.1)(vectors, labels) == contrastive_loss(vectors, labels, 0.1)
