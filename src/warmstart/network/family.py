"""Convnet, transformer or MLP: what decides the learning rate where none is on record."""

from __future__ import annotations

from torch import nn

from warmstart.records.network import Family


def find_family(module: nn.Module) -> Family:
    """What kind of network it is, by its layers: this decides its learning rates.

    >>> find_family(nn.Sequential(nn.Conv2d(3, 8, 3))), find_family(nn.Linear(2, 2))
    ('convnet', 'mlp')
    """
    has_attention = any(
        isinstance(m, nn.MultiheadAttention) or "attention" in type(m).__name__.lower()
        for m in module.modules()
    )
    kernels = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    n_kernels = sum(m.weight.numel() for m in kernels)
    n_matrices = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
    if has_attention and n_matrices >= n_kernels:
        return "transformer"
    return "convnet" if kernels else "mlp"
