"""Convolutional networks of the sizes that `bench.scale` wants, by names that timm then knows."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.convnext import ConvNeXt


@register_model
def convnext_557m(pretrained: bool = False, **options: Any) -> ConvNeXt:
    """557 million parameters; 31 billion multiply-adds for an image of 128 px."""
    return _convnext((324, 648, 1296, 2592), (3, 3, 27, 3), options)


@register_model
def convnext_50m(pretrained: bool = False, **options: Any) -> ConvNeXt:
    """50 million parameters, to try the bench with."""
    return _convnext((96, 192, 384, 768), (3, 3, 27, 3), options)


def _convnext(dims: tuple[int, ...], depths: tuple[int, ...], options: dict[str, Any]) -> ConvNeXt:
    wanted = {name: options[name] for name in ("in_chans", "num_classes") if name in options}
    return ConvNeXt(depths=depths, dims=dims, **wanted)
