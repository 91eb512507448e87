"""An architecture filled with the tensors of a file: in memory, or as windows on the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from warmstart.errors import StartError
from warmstart.extras import install_command
from warmstart.network.arch import build, preprocessing_of
from warmstart.network.carry import take_over
from warmstart.network.inputs import InputWish
from warmstart.network.weights import check_finite, check_match, map_weights, read_weights
from warmstart.records import Change, Preprocessing
from warmstart.weightfile import share

_CURE = "check --arch, or take over what fits with --set start.partial=true"


def filled(
    arch: str, path: Path, preprocessing: Preprocessing | None, inputs: InputWish
) -> tuple[nn.Module, Mapping[str, Tensor], tuple[Change, ...]]:
    """Build `arch` and fill it with a file's weights: strictly, or with what fits.

    Raises: StartError if they do not fit, are not finite, or cannot be streamed as wished.
    """
    size = preprocessing.size if preprocessing else None
    if size is None and arch.startswith("torchvision:"):  # one ViT is published for 518 px
        size = preprocessing_of(arch).size
    if inputs.stream:
        return (*_streamed(arch, path, size), ())
    weights = read_weights(path)
    check_finite(weights, path.name)
    module = build(arch, weights, size)
    if inputs.is_partial:
        return module, weights, take_over(module, weights, path.name)
    check_match(module.state_dict(), weights, path.name, _CURE)
    module.load_state_dict(weights)
    return module, weights, ()


def _streamed(
    arch: str, path: Path, size: tuple[int, int] | None
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Built without memory for its parameters, which stay in the file. Raises: StartError."""
    weights = map_weights(path)
    check_finite(weights, path.name)
    with _empty()(include_buffers=False):  # buffers that no file holds are made as they are
        module = build(arch, weights, size)
    check_match(module.state_dict(), weights, path.name)
    share(module, weights)
    return module, weights


def _empty() -> Any:
    """accelerate's context in which parameters are made on torch's meta device."""
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise StartError(
            "a network is streamed from its file with accelerate; run "
            f"`{install_command('scale')}`, or use --set training.stream=false."
        ) from error
    return init_empty_weights
