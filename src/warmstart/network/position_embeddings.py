"""Surgery at the position embeddings: a network for one image size adapted to another.

A network with a trained vector for each position is rebuilt for the other grid, and its table
resampled by the library's own rule: bicubic, with antialiasing in timm (Dosovitskiy et al. 2021,
"An Image is Worth 16x16 Words", §3.2; relative tables: Liu et al. 2021, "Swin Transformer", §3.2).
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.functional import interpolate

from warmstart.errors import ModelError, first_line
from warmstart.network.architectures import build, size_option
from warmstart.network.image_encoders import PREFIX as VISION
from warmstart.network.segments import find_classifier, probe
from warmstart.network.stem import REFUSALS, refit
from warmstart.network.tensors import input_change, unique_tensors
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import InputChange

LEAST, MOST = 16, 1024  # px of a side
_LEAST_PATCH = 8  # px from which a first layer without overlap counts as cutting patches
_TRIES = 4  # sizes tried on each side of one that is refused


@dataclass(frozen=True, slots=True)
class Resized:
    """A network for another image size, its preprocessing, and the resampled tensors."""

    module: nn.Module
    preprocessing: Preprocessing
    changes: tuple[InputChange, ...] = ()


def resize(module: nn.Module, arch: str, preprocessing: Preprocessing, size: int) -> Resized:
    """The network for squares of `size` px; the crop keeps its share of the image.

    `module` is left unchanged, and returned where it takes that size without a change.
    Raises: ModelError for a size that no network is tried with, and one that names the nearest
    possible sizes where this network does not take the size.

    >>> prep = Preprocessing(size=(8, 8), resize=10, mean=(0.5,), std=(0.5,))
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> resize(net, "module:Sequential", prep, 16).preprocessing.resize
    20
    """
    if preprocessing.size == (size, size):
        return Resized(module, preprocessing)
    name = type(module).__name__ if arch.startswith("module:") else arch
    if not LEAST <= size <= MOST:  # not tried: thousands of px take gigabytes
        raise ModelError(
            f"{name} cannot take images of {size} px; sizes from {LEAST} to {MOST} px are possible."
        )
    result = _attempt(module, arch, preprocessing, size)
    if isinstance(result, Resized):
        return result

    def is_possible(n: int) -> bool:
        return isinstance(_attempt(module, arch, preprocessing, n), Resized)

    cure = f"it takes {' x '.join(map(str, preprocessing.size))} px only"
    if sizes := _nearest(size, _patch(module), is_possible):
        noun = "size" if len(sizes) == 1 else "sizes"
        cure = f"the nearest {noun} that it takes: {' and '.join(map(str, sizes))}"
    raise ModelError(f"{name} cannot take images of {size} px ({result}); {cure}.")


def resized_preprocessing(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """The same preprocessing for another size."""
    scale = size / min(preprocessing.size)
    return replace(
        preprocessing, size=(size, size), resize=max(size, round(preprocessing.resize * scale))
    )


def _attempt(
    module: nn.Module, arch: str, preprocessing: Preprocessing, size: int
) -> Resized | str:
    step = _patch(module)
    if step and size % step:
        return f"its patches are {step} px wide"
    prep = resized_preprocessing(preprocessing, size)
    try:
        with warnings.catch_warnings():  # of timm's own resampling
            warnings.simplefilter("ignore")
            new = _for_size(module, arch, prep)
        find_classifier(new, probe(prep)[:2])
    except REFUSALS as error:
        return first_line(error.__cause__ or error)
    because, before = "resampled for another number of positions", unique_tensors(module)
    changes = (
        input_change(name, before[name], tensor, because)
        for name, tensor in unique_tensors(new).items()
        if name in before and before[name].shape != tensor.shape
    )
    return Resized(new, prep, tuple(changes))


def _for_size(module: nn.Module, arch: str, prep: Preprocessing) -> nn.Module:
    size = prep.size
    if arch.startswith("module:"):
        if _setter(module) is None:
            return module
        clone = copy.deepcopy(module)
        set_size(clone, size)
        return clone.eval().requires_grad_(False)
    # Encoders of transformers resample as they run; most others take any size.
    if arch.startswith(VISION) or not size_option(arch, (1, 1)):
        return module
    old = module.state_dict()
    new = build(arch, old, size)
    refit(new, old, prep.channels)
    new.load_state_dict(_resample(old, new, size))
    return new.eval().requires_grad_(False)


def _resample(
    old: Mapping[str, Tensor], new: nn.Module, size: tuple[int, int]
) -> dict[str, Tensor]:
    """A state for `new`: old tensors where they fit, resampled ones where the library can.

    Raises: ModelError naming a tensor that depends on the size in another way.
    """
    state = new.state_dict()
    shapes = {n: t.shape for n, t in state.items() if n in old and old[n].shape != t.shape}
    converted = _convert(old, new, size) if shapes else {}
    state |= {name: old[name] for name in state if name in old}
    for name, shape in shapes.items():
        table: Tensor | None = converted.get(name)
        if table is None or table.shape != shape:
            table = _resample_table(name, old[name], shape)
        if table is None or table.shape != shape:
            raise ModelError(f"{name} has a value for each position and cannot be resampled")
        state[name] = table
    return state


def _resample_table(name: str, old: Tensor, shape: Sequence[int]) -> Tensor | None:
    """An absolute table that the library does not resample itself: (1, N, C) or a (1, …) map."""
    if not name.endswith("pos_embed") or old.ndim != len(shape):
        return None
    if old.ndim == 3:
        for extra in (0, 1, 2):  # tokens that stand for no position
            new_side, old_side = math.isqrt(shape[1] - extra), math.isqrt(old.shape[1] - extra)
            if new_side**2 + extra == shape[1] and old_side**2 + extra == old.shape[1]:
                table = resample_abs_pos_embed(old, [new_side] * 2, [old_side] * 2, extra)
                return cast(Tensor, table)
    if old.ndim != 4:
        return None
    if old.shape[-1] != shape[-1]:  # channels first
        return interpolate(old, tuple(shape[2:]), mode="bicubic", antialias=True)
    grid = tuple(shape[1:3])
    table = interpolate(old.movedim(-1, 1), grid, mode="bicubic", antialias=True)
    return table.movedim(1, -1)


def _convert(
    old: Mapping[str, Tensor], new: nn.Module, size: tuple[int, int]
) -> Mapping[str, Tensor]:
    if _is_torchvision_vit(new):
        from torchvision.models.vision_transformer import interpolate_embeddings

        patch = int(cast(Any, new).patch_size)
        return cast(Mapping[str, Tensor], interpolate_embeddings(size[0], patch, OrderedDict(old)))
    convert: Any = getattr(sys.modules[type(new).__module__], "checkpoint_filter_fn", None)
    return convert(dict(old), new) if convert is not None else {}


def set_size(module: nn.Module, size: tuple[int, int]) -> None:
    """Set the input size (height, width in px) of your own module, in place.

    Supported by timm's networks with `set_input_size`, and torchvision's ViT; others are
    left unchanged.
    """
    if (setter := _setter(module)) is not None:
        with warnings.catch_warnings():  # of timm's own resampling
            warnings.simplefilter("ignore")
            setter(img_size=size)


def _setter(module: nn.Module) -> Callable[..., None] | None:
    if _is_torchvision_vit(module):
        return partial(_set_vit, module)
    own = getattr(module, "set_input_size", None)
    has_size = callable(own) and "img_size" in inspect.signature(own).parameters
    return own if has_size else None


def _is_torchvision_vit(module: nn.Module) -> bool:
    import torchvision.models

    return isinstance(module, torchvision.models.VisionTransformer)


def _set_vit(module: Any, img_size: tuple[int, int]) -> None:
    side = img_size[0]
    if img_size != (side, side) or side % module.patch_size:
        raise ModelError(f"its patches are {module.patch_size} px wide")
    state = _convert(module.state_dict(), module, img_size)
    table = state["encoder.pos_embedding"].clone()
    module.encoder.pos_embedding = nn.Parameter(table, requires_grad=False)
    module.image_size, module.seq_length = side, table.shape[1]


def refit_size(module: nn.Module, state: Mapping[str, Tensor], size: tuple[int, int]) -> None:
    """Shape a fresh module of your own as in `state`, which was made for `size`, in place."""
    own = module.state_dict()
    if any(n in state and state[n].shape != t.shape for n, t in own.items()):
        set_size(module, size)


def _patch(module: nn.Module) -> int | None:
    """Side in px of the patches that the input is cut into, if it is."""
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.kernel_size != first.stride or first.stride[0] < _LEAST_PATCH:
        return None
    return first.stride[0]


def _nearest(size: int, patch: int | None, takes: Callable[[int], bool]) -> list[int]:
    """Up to one size below and one above that work, among multiples of the patch, or of 16."""
    step = patch or 16
    sizes = range(step, MOST + 1, step)
    below = [n for n in reversed(sizes) if LEAST <= n < size][:_TRIES]
    above = [n for n in sizes if n > size][:_TRIES]
    # Some networks halve the image five times and then attend in windows of 7 or 8.
    below += [n for n in (size // 224 * 224, size // 256 * 256) if n]
    above += [n for n in ((size // 224 + 1) * 224, (size // 256 + 1) * 256) if n <= MOST]
    nearest = [next((n for n in side if takes(n)), None) for side in (below, above)]
    return [n for n in nearest if n is not None]
