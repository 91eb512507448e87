"""Inputs other than the base model's: image size, channels, ranges of values."""

from __future__ import annotations

import copy
import inspect
import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import ParametrizationList

from warmstart.errors import ModelError, first_line
from warmstart.modalities.registry import modality_of
from warmstart.network.architectures import build, size_option
from warmstart.network.image_encoders import PREFIX as VISION
from warmstart.network.segments import FAULTS, as_tensor, find_classifier, is_same, probe
from warmstart.network.weights import input_change, n_parameters, tensor_digest, unique_tensors
from warmstart.records.inputs import Preprocessing, Sound, pictures
from warmstart.records.network import BaseModelRecord, InputChange

# ---- Image sizes: surgery at the position embeddings.
#
# A network with a trained vector for each position is rebuilt for the other grid, and its table
# resampled by the library's own rule: bicubic, with antialiasing in timm (Dosovitskiy et al. 2021,
# "An Image is Worth 16x16 Words", §3.2; relative tables: Liu et al. 2021, "Swin Transformer",
# §3.2).


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


# ---- The first layer of a network: found with hooks, and adapted to another number of channels.


# Raised by a network, its library or the user's own code at inputs that it was not made for.
REFUSALS = (*FAULTS, AssertionError, KeyError, ZeroDivisionError, ModelError)
_COUNTS = ("in_chans", "in_channels", "num_channels")  # libraries' names of the number


@dataclass(frozen=True, slots=True)
class FirstLayer:
    """A convolution on the input, and the BatchNorm behind it if that alone reads its output."""

    name: str
    conv: nn.Conv2d
    norm: tuple[str, _BatchNorm] | None


class _Call(NamedTuple):
    name: str
    layer: nn.Module
    inputs: Tensor | None
    output: Any


def find_stems(module: nn.Module, inputs: Tensor) -> tuple[FirstLayer, ...]:
    """The convolutions on the input (B, C, H, W) itself: one, or parallel branches.

    Raises: ModelError if the first layer cannot be given other channels.
    """
    calls = _record_calls(module, inputs)
    if not calls:
        raise ModelError(f"{type(module).__name__} has no layer whose channels could be changed.")
    entry = calls[0].inputs
    first = [call for call in calls if entry is not None and call.inputs is entry] or calls[:1]
    convolutions = [_check_stem(type(module).__name__, call, inputs) for call in first]
    stems = []
    for call, conv in zip(first, convolutions, strict=True):
        readers = [c for c in calls if c.inputs is call.output]
        layer = readers[0].layer if len(readers) == 1 else None
        is_norm = isinstance(layer, _BatchNorm) and layer.running_mean is not None
        norm = (readers[0].name, cast(_BatchNorm, layer)) if is_norm else None
        stems.append(FirstLayer(call.name, conv, norm))
    return tuple(stems)


def _record_calls(module: nn.Module, inputs: Tensor) -> list[_Call]:
    """Calls of the layers that hold parameters themselves, in order."""
    calls: list[_Call] = []

    def record(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            values = [*args, *kwargs.values()]
            tensor = next((value for value in values if isinstance(value, Tensor)), None)
            calls.append(_Call(name, layer, tensor, output))

        return hook

    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d) or _is_leaf(layer):
                hook = layer.register_forward_hook(record(name), with_kwargs=True)
                hooks.enter_context(hook)
        try:
            with torch.no_grad():
                module(inputs.clone())
        except REFUSALS as error:
            raise ModelError(
                f"{type(module).__name__} does not take inputs of {inputs.shape[1]} channels "
                f"({first_line(error)}); pass the preprocessing that it was trained with."
            ) from error
    return calls


def _is_leaf(layer: nn.Module) -> bool:
    has_own = next(layer.parameters(recurse=False), None) is not None
    is_piece = isinstance(layer, ParametrizationList)  # of the layer around it
    return has_own and not is_piece and not any(list(c.parameters()) for c in layer.children())


def _check_stem(network: str, call: _Call, inputs: Tensor) -> nn.Conv2d:
    layer, channels, kind = call.layer, inputs.shape[1], type(call.layer).__name__
    if not isinstance(layer, nn.Conv2d):
        fault = f"is a {kind}; the number of channels can be changed at a convolution only"
    elif layer.in_channels != channels:
        fault = f"takes {layer.in_channels} channels made of the input's {channels}"
    elif layer.groups != 1:
        fault = f"is a convolution in {layer.groups} groups"
    elif not _is_plain(layer, inputs):
        fault = f"is a {kind}, which transforms its kernels before it uses them"
    else:
        return layer
    raise ModelError(
        f"{network}: its first layer ({call.name or 'itself'}) {fault}; choose a base model whose "
        "first layer is a plain Conv2d."
    )


def _is_plain(conv: nn.Conv2d, inputs: Tensor) -> bool:
    """Whether the output is linear in the kernel: no standardised or derived weights."""
    if not isinstance(conv._parameters.get("weight"), nn.Parameter):
        return False
    clone = copy.deepcopy(conv)
    with torch.no_grad():
        clone.weight.mul_(2)
        values = inputs.to(conv.weight.dtype)
        bias = 0 if conv.bias is None else conv.bias[:, None, None]
        return is_same(clone(values) - bias, 2 * (conv(values) - bias))


def set_kernel(module: nn.Module, stem: str, kernel: Tensor) -> None:
    """Put a kernel (O, N, h, w), of any number of channels N, into the convolution `stem`."""
    conv = module.get_submodule(stem)
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{stem} is a {type(conv).__name__}")
    old, new = conv.in_channels, kernel.shape[1]
    conv.weight = nn.Parameter(kernel, requires_grad=conv.weight.requires_grad)
    conv.in_channels = new
    for name, parent in module.named_modules() if new != old else ():
        is_around = not name or stem.startswith(f"{name}.")
        for attribute in _COUNTS if is_around else ():
            if getattr(parent, attribute, None) == old:
                setattr(parent, attribute, new)


def refit(module: nn.Module, state: Mapping[str, Tensor], channels: int) -> None:
    """Shape a fresh network's first layer as in `state`, made for `channels`; values vary."""
    for name, conv in list(module.named_modules()):
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if not isinstance(conv, nn.Conv2d) or weight is None or weight.shape[1] != channels:
            continue
        is_stem = conv.groups == 1 and conv.weight.shape[2:] == weight.shape[2:]
        if is_stem and conv.in_channels != channels:
            set_kernel(module, name, torch.zeros_like(weight))
        if is_stem and bias is not None and conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros_like(bias), requires_grad=False)


# ---- A network for three channels takes one, four or thirteen.
#
# A convolution is linear in its kernels. With old kernels k_c for channels normalised by mean m_c
# and std s_c, a grey picture v copied to all channels gives
#
# Σ_c k_c * (v - m_c) / s_c  =  (s Σ_c k_c / s_c) * (v - m) / s  +  Σ_c (Σ k_c) (m - m_c) / s_c
#
# The kernel on the right is that of the one grey channel, the last term a constant that goes into a
# bias or the BatchNorm after it. Zero padding is a pixel of mean m_c on the left and of m on the
# right: where the m_c differ, m is the one with which the borders differ least; the rest is exact.


BANDS = 13  # the maximum: those of Sentinel-2
Positions = tuple[int, int, int]


def rechannel(
    module: nn.Module,
    preprocessing: Preprocessing,
    number: int,
    rgb: Positions = (0, 1, 2),
    is_tuned: bool = False,
) -> tuple[Preprocessing, tuple[InputChange, ...]]:
    """Give a network another number of input channels, in place.

    `rgb`: positions of red, green and blue, counted from 0; `is_tuned`: whether the first layer
    will be fine-tuned. One channel: the kernels are summed (see above). More than three: red, green
    and blue keep their kernels, and the new channels begin at zero in a fine-tuned layer; a frozen
    one would never use them, so they get the mean kernel, all scaled by 3 / channels.
    Returns: the network's new preprocessing, and the changed tensors.
    Raises: ModelError if the first layer, or the network after it, does not allow it.
    """
    old = preprocessing.channels
    _check_channels(type(module).__name__, old, number, rgb)
    if number == old and (old != 3 or rgb == (0, 1, 2)):
        return preprocessing, ()
    stems = find_stems(module, probe(preprocessing)[:2])
    new = _grey(preprocessing, stems) if number == 1 else _spread(preprocessing, number, rgb)
    shifts = [_shift(stem.conv, preprocessing, new) for stem in stems] if new.channels == 1 else []
    changes = []
    for stem in stems:
        kernel, because = _new_kernel(stem.conv, preprocessing, new, rgb, is_tuned)
        changes.append(input_change(f"{stem.name}.weight", stem.conv.weight, kernel, because))
        set_kernel(module, stem.name, kernel)
    inputs = probe(new)[:2]
    _forward(module, inputs)
    for stem, shift in zip(stems, shifts, strict=bool(shifts)):
        if bool(shift.any()):
            changes.append(_add_constant(module, stem, shift, inputs))
    return new, tuple(changes)


def _check_channels(kind: str, old: int, n: int, rgb: Positions) -> None:
    if not 1 <= n <= BANDS:
        raise ModelError(f"{n} channels are not supported; give images of 1 to {BANDS} bands.")
    if n >= 3 and (len(set(rgb)) != 3 or not all(0 <= position < n for position in rgb)):
        raise ModelError(
            f"red, green and blue at {', '.join(map(str, rgb))} are not three positions "
            f"among {n} bands; they are counted from 0."
        )
    if old not in (1, 3, n):
        raise ModelError(
            f"{kind} takes {old} channels, the images have {n}; only a network for 1 or 3 "
            "channels can be given others."
        )


def _spread(prep: Preprocessing, n: int, rgb: Positions) -> Preprocessing:
    """Old mean and std at the positions of red, green and blue, their average elsewhere."""
    mean, std = ([_average(values)] * n for values in (prep.mean, prep.std))
    if prep.channels == 3 and n >= 3:
        for old, new in enumerate(rgb):
            mean[new], std[new] = prep.mean[old], prep.std[old]
    return replace(prep, mean=tuple(mean), std=tuple(std), ranges=())


def _average(values: Sequence[float]) -> float:
    """Exact where all are equal, which a sum divided by their number need not be."""
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def _grey(prep: Preprocessing, stems: Sequence[FirstLayer]) -> Preprocessing:
    """The grey channel's mean, with which padding differs least from before, and its std.

    Least squares over all kernel entries: Σ_c k_c (m - m_c) / s_c as near to zero as possible.
    """
    means, stds = _moments(prep)
    numerator = denominator = 0.0
    for stem in stems:
        scaled = stem.conv.weight.detach().double() / stds
        sums, offsets = scaled.sum(dim=1), (scaled * means).sum(dim=1)
        numerator += float((sums * offsets).sum())
        denominator += float((sums**2).sum())
    low, high = min(prep.mean), max(prep.mean)
    mean = min(max(numerator / denominator, low), high) if denominator else low
    return replace(prep, mean=(mean,), std=(_average(prep.std),), ranges=())


def _moments(prep: Preprocessing) -> tuple[Tensor, Tensor]:
    means, stds = torch.tensor([prep.mean, prep.std], dtype=torch.float64)[..., None, None]
    return means, stds


def _shift(conv: nn.Conv2d, old: Preprocessing, grey: Preprocessing) -> Tensor:
    """Contribution of the folded means to each output channel. Shapes: (O,)."""
    means, stds = _moments(old)
    weight = conv.weight.detach().double()
    return (weight * (grey.mean[0] - means) / stds).sum(dim=(1, 2, 3))


def _new_kernel(
    conv: nn.Conv2d, old: Preprocessing, new: Preprocessing, rgb: Positions, is_tuned: bool
) -> tuple[Tensor, str]:
    """A kernel (O, n, h, w) for other channels, and the reason."""
    before = conv.weight.detach()
    n, because = new.channels, "red, green and blue keep their kernels"
    if n == 1:
        _, stds = _moments(old)
        kernel = (before.double() * (new.std[0] / stds)).sum(dim=1, keepdim=True)
        because = "the kernels of all channels are summed for grey"
    elif old.channels == 3 and (n == 3 or (n > 3 and is_tuned)):
        kernel = before.new_zeros(before.shape[0], n, *before.shape[2:])
        kernel[:, list(rgb)] = before
        because += f", {n - 3} new channels begin at zero" if n > 3 else ", wherever they stand"
    else:
        kernel, because = _mean_kernel(before, n, rgb)
    return kernel.to(before.dtype), because


def _mean_kernel(before: Tensor, n: int, rgb: Sequence[int]) -> tuple[Tensor, str]:
    """A kernel (O, n, h, w) that uses every channel without training, and the reason.

    New channels get the mean kernel, and all are scaled so that equal channels give the old
    output. With the mean kernel for red, green and blue too, colour is lost (EfficientNet-Lite0,
    six bands, mean accuracy on four image sets: .757 against .721; three bands: .759).
    """
    scale = before.shape[1] / n
    kernel = before.double().mean(dim=1, keepdim=True).repeat(1, n, 1, 1)
    if before.shape[1] == 3 and n > 3:
        kernel[:, list(rgb)] = before.double()
        because = f"red, green and blue keep their kernels, {n - 3} more get their mean"
    else:
        because = f"each of {n} channels gets the mean kernel"
    return kernel * scale, f"{because}, all scaled by {before.shape[1]}/{n}"


def _add_constant(
    module: nn.Module, stem: FirstLayer, shift: Tensor, inputs: Tensor
) -> InputChange:
    """Add a constant (O,) to a convolution's bias, the BatchNorm after it, or a new bias.

    The first layer's output may have other readers: the outputs for `inputs` must stay equal.
    """
    conv, because = stem.conv, "absorbs the difference of the channels' means"
    shift = shift.to(conv.weight.dtype)
    if conv.bias is not None:
        before = conv.bias.detach().clone()
        conv.bias = nn.Parameter(before + shift, requires_grad=conv.bias.requires_grad)
        return input_change(f"{stem.name}.bias", before, conv.bias, because)
    conv.bias = nn.Parameter(shift, requires_grad=conv.weight.requires_grad)
    if stem.norm is not None and (mean := stem.norm[1].running_mean) is not None:
        expected, bias, before = _forward(module, inputs), conv.bias, mean.clone()
        conv.bias = None
        mean.sub_(shift.to(mean.dtype))
        if is_same(_forward(module, inputs), expected):
            return input_change(f"{stem.norm[0]}.running_mean", before, mean, because)
        conv.bias = bias
        mean.copy_(before)
    return input_change(f"{stem.name}.bias", None, shift, because)


def _forward(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs (B, …) of a changed network. Raises: ModelError if it does not run."""
    try:
        with torch.no_grad():
            return as_tensor(module(inputs.clone()))  # a network may work in place
    except REFUSALS as error:
        raise ModelError(
            f"{type(module).__name__} cannot be made to take inputs of {inputs.shape[1]} channels "
            f"({first_line(error)}); choose another base model."
        ) from error


# ---- The user's and the data's choices together.


PICTURE = (1, 3)  # channels of grey and colour pictures, which any base model for them accepts
SHOWABLE = (*PICTURE, 4)  # channels that a picture can be given: grey, colours, and alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """Inputs that differ from the base model's; None and empty: as the base model's.

    `size` in px of the network's square input; `rgb`: positions of red, green and blue among
    more than three bands, counted from 0; `ranges`: raw values of each band that become 0 and 1;
    `is_tuned`: whether the first layer will be trained; `tuned_blocks`: the user's choice for
    single blocks, by name; `is_partial`: load those weights of a file that fit;
    `image_channels`: channels of the images, 1 and 3 being pictures; `sound`: how clips become
    pictures; `stream`: keep weights in their file, see `PretrainedModel`.
    """

    size: int | None = None
    channels: int | None = None
    rgb: tuple[int, int, int] | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    is_tuned: bool = False
    tuned_blocks: tuple[tuple[str, bool], ...] = ()
    is_partial: bool = False
    image_channels: int | None = None
    sound: Sound | None = None
    stream: str = ""


def change_inputs(
    module: nn.Module, record: BaseModelRecord, options: InputOptions
) -> tuple[nn.Module, BaseModelRecord, tuple[InputChange, ...]]:
    """Adapt a network to other inputs, in place or rebuilt; its new record and changed tensors.

    Raises: ModelError if it cannot be done, or if the images are pictures and the network is
    one for bands.
    """
    inputs, modality = record.preprocessing, modality_of(record.preprocessing)
    if not modality.has_pixels:
        if options.size is not None:
            inputs = modality.resized(inputs, options.size, record.name)
        return module, replace(record, preprocessing=inputs), ()
    _check_pictures(module, record, options)
    optional = (options.size, options.channels, options.rgb, options.sound)
    if not options.ranges and all(option is None for option in optional):
        return module, record, ()
    prep, changes = pictures(inputs), tuple[InputChange, ...]()
    if options.size is not None:
        resized = resize(module, record.arch, prep, options.size)
        module, prep, changes = resized.module, resized.preprocessing, resized.changes
    number = prep.channels if options.channels is None else options.channels
    is_tuned = _tunes_stem(module, options)
    prep, adapted = rechannel(module, prep, number, options.rgb or (0, 1, 2), is_tuned)
    if options.ranges and len(options.ranges) != prep.channels:
        raise ModelError(
            f"ranges are given for {len(options.ranges)} bands, the network takes "
            f"{prep.channels}; give one for each, or omit them."
        )
    prep = replace(prep, ranges=options.ranges or prep.ranges)
    if options.sound is not None:  # a clip's picture is used whole, whatever its shape
        prep = replace(prep, sound=options.sound, squash=True, resize=max(prep.size))
    described = replace(
        record,
        preprocessing=prep,
        sha256=tensor_digest(unique_tensors(module)),
        parameters=n_parameters(module),
    )
    return module, described, (*changes, *adapted)


def _check_pictures(module: nn.Module, record: BaseModelRecord, options: InputOptions) -> None:
    """Raise where the images are pictures and the network is one for bands or sounds."""
    if options.image_channels not in PICTURE:
        return
    prep = pictures(record.preprocessing)
    if prep.sound is not None and options.sound is None:
        raise ModelError(
            f"{record.name} was trained on sounds, the data holds images; choose a base model for "
            "pictures, such as lite0."
        )
    n_bands = prep.channels if options.channels is None else options.channels
    if n_bands == prep.channels and n_bands in SHOWABLE:
        n_bands = _actual_channels(module, prep)
    if n_bands not in SHOWABLE:
        raise ModelError(
            f"{record.name} takes {n_bands} bands, the images have {options.image_channels}; "
            "choose a base model for pictures, such as lite0, or give images of as many bands."
        )


def _actual_channels(module: nn.Module, prep: Preprocessing) -> int:
    """Channels of a network: its first layer's, where it refuses those of its preprocessing."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels in SHOWABLE:
        return prep.channels
    try:
        _forward(module, probe(prep)[:2])
    except ModelError:
        return first.in_channels
    return prep.channels


def _tunes_stem(module: nn.Module, options: InputOptions) -> bool:
    """Whether the first layer is trained: the user's choice for its block, else the strategy's."""
    first = next((n for n, layer in module.named_modules() if isinstance(layer, nn.Conv2d)), "")
    choices = [t for name, t in options.tuned_blocks if f"{first}.".startswith(f"{name}.")]
    return choices[-1] if choices else options.is_tuned
