"""Inputs other than the start was made for: image size, channels, ranges of values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from warmstart.errors import StartError
from warmstart.network.channels import Channels, rechannel
from warmstart.network.positions import resize
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.records import Change, StartRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class InputWish:
    """What the inputs are to be, where that is not what the start is made for.

    None and empty: as the start wants it. `size` in px of the square that the network sees;
    `rgb`: positions of red, green and blue among more than three bands, counted from 0;
    `ranges`: raw values of each band that become 0 and 1; `is_tuned`: whether the first layer
    will be trained; `is_partial`: take over from a file what fits.
    """

    size: int | None = None
    channels: int | None = None
    rgb: tuple[int, int, int] | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    is_tuned: bool = False
    is_partial: bool = False


def change_inputs(
    module: nn.Module, record: StartRecord, wish: InputWish
) -> tuple[nn.Module, StartRecord, tuple[Change, ...]]:
    """Change a network for other inputs; `module` may be changed in place, or come back as it is.

    Size comes first, since it may need the network to be built anew. The record that comes back
    says what the changed network wants, and its digest is that of the changed tensors.
    Raises: StartError if it cannot be done.
    """
    prep, sized = record.preprocessing, module
    changes: tuple[Change, ...] = ()
    if wish.size is not None:
        resized = resize(module, record.arch, prep, wish.size)
        sized, prep, changes = resized.module, resized.preprocessing, resized.changes
    channels = Channels(
        number=prep.channels if wish.channels is None else wish.channels,
        rgb=wish.rgb or (0, 1, 2),
        is_tuned=wish.is_tuned,
    )
    prep, reshaped = rechannel(sized, prep, channels)
    if wish.ranges and len(wish.ranges) != prep.channels:
        raise StartError(
            f"ranges are given for {len(wish.ranges)} bands, the network takes {prep.channels}; "
            "give one for each, or leave them away."
        )
    described = replace(
        record,
        preprocessing=replace(prep, ranges=wish.ranges or prep.ranges),
        sha256=tensor_digest(unique_tensors(sized)),
        parameters=sum(p.numel() for p in sized.parameters()),
    )
    return sized, described, (*changes, *reshaped)
