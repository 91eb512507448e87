"""Inputs other than the base model's: image size, channels, ranges of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError, first_line
from warmstart.modalities.registry import modality_of
from warmstart.network.position_embeddings import resize
from warmstart.network.segments import as_tensor, is_same, probe
from warmstart.network.stem import REFUSALS, FirstLayer, find_stems, set_kernel
from warmstart.network.tensors import input_change, n_parameters, tensor_digest, unique_tensors
from warmstart.records.inputs import Preprocessing, Sound, pictures
from warmstart.records.network import BaseModelRecord, InputChange

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

    >>> prep = Preprocessing(size=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    >>> changed, (change,) = rechannel(net, prep, 1)
    >>> net[0].weight.shape, changed.mean, change.fate
    (torch.Size([4, 1, 3, 3]), (0.5,), 'reshaped')
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
