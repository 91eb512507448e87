"""Inputs other than the start was made for: image size, channels, ranges of values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from warmstart.errors import StartError
from warmstart.network.channels import Channels, forward, rechannel
from warmstart.network.position_embeddings import resize
from warmstart.network.tensors import tensor_digest, unique_tensors
from warmstart.network.uncut import probe
from warmstart.records.inputs import WINDOWS, Preprocessing, Sound, TextInputs, pictures
from warmstart.records.network import Change, StartRecord

PICTURE = (1, 3)  # channels of grey and colour pictures, which any start for them can be shown
SHOWABLE = (*PICTURE, 4)  # channels that a picture can be given: grey, colours, and alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class InputWish:
    """What the inputs are to be, where that is not what the start is made for.

    None and empty: as the start wants it. `size` in px of the square that the network sees;
    `rgb`: positions of red, green and blue among more than three bands, counted from 0;
    `ranges`: raw values of each band that become 0 and 1; `is_tuned`: whether the first layer
    will be trained; `told`: parts of which the user said so by name, and what they said;
    `is_partial`: take over from a file what fits; `held`: channels that the images have, 1
    and 3 being pictures; `sound`: how clips become pictures; `stream`: let weights stay in
    their file, see `Start`.
    """

    size: int | None = None
    channels: int | None = None
    rgb: tuple[int, int, int] | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    is_tuned: bool = False
    told: tuple[tuple[str, bool], ...] = ()
    is_partial: bool = False
    held: int | None = None
    sound: Sound | None = None
    stream: str = ""

    @property
    def is_usual(self) -> bool:
        """Whether inputs are to be as the start wants them."""
        is_sized = self.size is not None or self.channels is not None
        return not (is_sized or self.rgb is not None or self.ranges or self.sound is not None)


def change_inputs(
    module: nn.Module, record: StartRecord, wish: InputWish
) -> tuple[nn.Module, StartRecord, tuple[Change, ...]]:
    """Change a network for other inputs; `module` may be changed in place, or come back as it is.

    Size comes first, since it may need the network to be built anew. The record that comes back
    says what the changed network wants, and its digest is that of the changed tensors.
    Raises: StartError if it cannot be done, or if the images are pictures and the network is
    one for bands.
    """
    if isinstance(record.preprocessing, TextInputs):
        return module, _shortened(record, record.preprocessing, wish), ()
    if not isinstance(record.preprocessing, Preprocessing):
        return module, record, ()
    _check_held(module, record, wish)
    prep, sized = record.preprocessing, module
    if wish.is_usual:
        return module, record, ()
    changes: tuple[Change, ...] = ()
    if wish.size is not None:
        resized = resize(module, record.arch, prep, wish.size)
        sized, prep, changes = resized.module, resized.preprocessing, resized.changes
    channels = Channels(
        number=prep.channels if wish.channels is None else wish.channels,
        rgb=wish.rgb or (0, 1, 2),
        is_tuned=_tunes_stem(sized, wish),
    )
    prep, reshaped = rechannel(sized, prep, channels)
    if wish.ranges and len(wish.ranges) != prep.channels:
        raise StartError(
            f"ranges are given for {len(wish.ranges)} bands, the network takes {prep.channels}; "
            "give one for each, or leave them away."
        )
    described = replace(
        record,
        preprocessing=_drawn(replace(prep, ranges=wish.ranges or prep.ranges), wish.sound),
        sha256=tensor_digest(unique_tensors(sized)),
        parameters=sum(p.numel() for p in sized.parameters()),
    )
    return sized, described, (*changes, *reshaped)


def _shortened(record: StartRecord, inputs: TextInputs, wish: InputWish) -> StartRecord:
    """As many tokens of a text as were wished for, or so many whole windows of them.

    Raises: StartError for too many.
    """
    if wish.size is None:
        return record
    n_windows = -(-wish.size // inputs.most)
    if n_windows > WINDOWS:
        raise StartError(
            f"{record.name} reads {WINDOWS} windows of {inputs.most} tokens of a text at most, not "
            f"{wish.size:,}; ask for fewer."
        )
    length = wish.size if n_windows == 1 else n_windows * inputs.most
    return replace(record, preprocessing=replace(inputs, length=length))


def _drawn(prep: Preprocessing, sound: Sound | None) -> Preprocessing:
    """For clips: their picture is seen whole, whatever its shape."""
    if sound is None:
        return prep
    return replace(prep, sound=sound, squash=True, resize=max(prep.size))


def _check_held(module: nn.Module, record: StartRecord, wish: InputWish) -> None:
    """A network for bands cannot be shown pictures; one for pictures is given more channels."""
    if wish.held not in PICTURE:
        return
    prep = pictures(record.preprocessing)
    if prep.sound is not None and wish.sound is None:
        raise StartError(
            f"{record.name} learnt from sounds, the data holds images; choose a start for "
            "pictures, such as lite0."
        )
    wanted = prep.channels if wish.channels is None else wish.channels
    if wanted == prep.channels and wanted in SHOWABLE:
        wanted = _taken(module, prep)
    if wanted not in SHOWABLE:
        raise StartError(
            f"{record.name} takes {wanted} bands, the images have {wish.held}; choose a start "
            "for pictures, such as lite0, or give images of as many bands."
        )


def _taken(module: nn.Module, prep: Preprocessing) -> int:
    """Channels that a network takes: its first layer's, where it refuses those it should take."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels in SHOWABLE:
        return prep.channels
    try:
        forward(module, probe(prep)[:2])
    except StartError:
        return first.in_channels
    return prep.channels


def _tunes_stem(module: nn.Module, wish: InputWish) -> bool:
    """Whether the first layer learns: what was said of the part that holds it, by its name."""
    layers = (n for n, layer in module.named_modules() if isinstance(layer, nn.Conv2d))
    first = next(layers, "")
    said = [is_tuned for name, is_tuned in wish.told if f"{first}.".startswith(f"{name}.")]
    return said[-1] if said else wish.is_tuned
