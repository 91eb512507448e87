"""What the network's inputs are to be: what was set, what a plan says, what the files hold."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from warmstart.data.dataset import Collection
from warmstart.errors import PlanError
from warmstart.machine import free_memory
from warmstart.modalities.audio import drawn, sound_of
from warmstart.modalities.image import band_ranges, count_bands
from warmstart.network.inputs import PICTURE, SHOWABLE, InputWish
from warmstart.network.position_embeddings import LEAST, MOST
from warmstart.network.weight_file import is_full
from warmstart.planning.cached_activations import FORMATS
from warmstart.planning.check import SOUND_LIMITS
from warmstart.planning.settings import PATHS, parse_settings, typed
from warmstart.planning.strategy import parse
from warmstart.records.inputs import Sound, WaveInputs
from warmstart.records.network import BaseModelRecord
from warmstart.records.plan import Choice, Plan
from warmstart.request import Request

# ---- How clips become pictures: what the files are like, what was set, what a plan says.


NAMES = ("sample_rate", "seconds", "n_mels", "top_db")


def sound_wish(request: Request, collection: Collection) -> Sound:
    """The picture of a clip: by the training files' headers, by a plan, by --set, the last first.

    Raises: PlanError for a value out of bounds, DataError where no training clip can be read.
    """
    found = sound_of(collection.load, collection.record.examples)
    told = {name: value for name in NAMES if (value := _told_sound(request, name)) is not None}
    if not told:
        return found
    rate = int(told.get("sample_rate", found.rate))
    made = drawn(rate, float(told.get("seconds", found.seconds)), int(told.get("n_mels", found.mels)))
    return replace(made, range_db=float(told.get("top_db", found.range_db)))


def check_unheard(request: Request) -> None:
    """Raises: PlanError for a setting of sounds where the data holds images."""
    for name in NAMES:
        if (text := parse_settings(request.settings).get(f"input.{name}")) is not None:
            raise PlanError(
                f"--set input.{name}={text}: the data holds images, not sounds; leave it away."
            )


def check_waves(request: Request, base: BaseModelRecord) -> None:
    """A start that takes samples has its own rate, and draws nothing.

    Raises: PlanError for a setting that it has no use for.
    """
    if not isinstance(base.preprocessing, WaveInputs):
        return
    settings = parse_settings(request.settings)
    for name in ("size", "channels", "sample_rate", "n_mels", "top_db"):
        if (text := settings.get(f"input.{name}")) is not None:
            raise PlanError(
                f"--set input.{name}={text}: {base.name} takes clips as they are, at "
                f"{base.preprocessing.rate:,} samples a second; leave it away."
            )


def _told_sound(request: Request, name: str) -> float | None:
    path = f"input.{name}"
    text = parse_settings(request.settings).get(path)
    if text is None:
        planned = _planned_sound(request, name)
        return None if planned is None else planned.number
    value = cast(float, typed(path, text, PATHS[path]))
    test, kind = SOUND_LIMITS[path]
    if not test(value):
        raise PlanError(f"--set {path}={text}: it is {kind}.")
    return value


def _planned_sound(request: Request, name: str) -> Choice | None:
    plan = request.plan if isinstance(request.plan, Plan) and "base" not in request.typed else None
    inputs = plan.input if plan is not None else None
    return None if inputs is None else cast("Choice | None", getattr(inputs, name))


PARTIAL = "base.partial"
SIZE, CHANNELS = "input.size", "input.channels"
_LEARNS = ("tuned", "fresh")  # actions with which a first layer comes to see new channels


def input_wish(request: Request, collection: Collection) -> InputWish:
    """What the inputs are to be, and how many channels the images have.

    Files of more than three bands ask for as many channels; a grey picture is shown to a
    colour network in three equal channels, unless `input.channels` says otherwise.
    Raises: PlanError for a setting that is no number or does not suit the images, DataError
    where files differ.
    """
    if collection.record.kind in ("text", "table"):
        return InputWish(size=_number(request, SIZE))
    size, channels = _number(request, SIZE), _number(request, CHANNELS)
    if size is not None and SIZE in parse_settings(request.settings) and not LEAST <= size <= MOST:
        raise PlanError(f"--set {SIZE}={size}: sizes from {LEAST} to {MOST} px are taken.")
    examples, load = collection.record.examples, collection.load
    if collection.record.kind == "audio":
        return InputWish(
            size=size,
            channels=channels or 1,
            sound=sound_wish(request, collection),
            is_tuned=_tunes_stem(request),
            told=_told(request),
            is_partial=is_partial(request),
            held=1,
        )
    check_unheard(request)
    found = count_bands(load, examples)
    is_picture = found in PICTURE
    if channels is None and not is_picture:
        channels = found
    if channels is not None:
        _check_channels(request, channels, found)
    ranges = () if is_picture else band_ranges(load, examples)
    return InputWish(
        size=size,
        channels=channels,
        rgb=_rgb(request),
        ranges=ranges,
        is_tuned=_tunes_stem(request),
        told=_told(request),
        is_partial=is_partial(request),
        held=found,
    )


def _check_channels(request: Request, channels: int, found: int) -> None:
    """Pictures can be given 1, 3 or, with alpha, 4 channels; bands as many as they are.

    Raises: PlanError for any other number.
    """
    is_picture = found in PICTURE
    if channels in SHOWABLE if is_picture else channels == found:
        return
    held = (
        f"are pictures of {found} channel{'s' if found > 1 else ''}"
        if is_picture
        else (f"have {found} bands")
    )
    if CHANNELS in parse_settings(request.settings):
        raise PlanError(f"--set {CHANNELS}={channels}: the images {held}; leave it away.")
    raise PlanError(
        f"the plan has {CHANNELS} {channels}, the images {held}; make a new plan with --dry-run."
    )


def is_partial(request: Request) -> bool:
    """Whether of a start that fits in part what fits is to be taken.

    Raises: PlanError where `base.partial` is neither true nor false.
    """
    text = parse_settings(request.settings).get(PARTIAL)
    if text is None:
        plan = _plan_of_base(request)
        before = plan.partial if plan is not None else None
        return before is not None and bool(before.value)
    return bool(typed(PARTIAL, text, "switch"))


def _number(request: Request, path: str) -> int | None:
    text = parse_settings(request.settings).get(path)
    if text is not None:
        return cast(int, typed(path, text, "whole"))
    planned = _planned(request, path.partition(".")[2])
    return None if planned is None else int(planned.number)


def _rgb(request: Request) -> tuple[int, int, int] | None:
    text = parse_settings(request.settings).get("input.rgb")
    planned = _planned(request, "rgb")
    if text is None and planned is None:
        return None
    value = typed("input.rgb", text, "wholes") if text is not None else planned and planned.value
    return cast(tuple[int, int, int], value)


def _planned(request: Request, name: str) -> Choice | None:
    plan = _plan_of_base(request)
    inputs = plan.input if plan is not None else None
    return getattr(inputs, name) if inputs is not None else None


def _plan_of_base(request: Request) -> Plan | None:
    """The plan that was read, where its start is the one to take; a typed one has its own input."""
    return request.plan if isinstance(request.plan, Plan) and "base" not in request.typed else None


def _tunes_stem(request: Request) -> bool:
    """Whether the first layer will learn: only then may new channels begin at zero.

    `last:N` counts as leaving it frozen: how many parts there are is not known before the
    network is cut, so that with N as large as that the new channels begin at the mean kernel
    and learn from there.
    """
    said = parse_settings(request.settings).get("block.1.action")
    if said is not None:
        return said in _LEARNS
    if isinstance(request.plan, Plan) and "strategy" not in request.typed:
        return request.plan.blocks[0].action.value in _LEARNS
    strategy = parse(request.strategy)
    is_full = strategy.depth == "frozen" and not strategy.count and "lora" not in strategy.extras
    return is_full or strategy.depth == "scratch"


def _told(request: Request) -> tuple[tuple[str, bool], ...]:
    """Parts whose action was set by name, and whether they learn; which is first is not known."""
    found = (
        (path.removeprefix("block.").removesuffix(".action"), text in _LEARNS)
        for path, text in parse_settings(request.settings).items()
        if path.startswith("block.") and path.endswith(".action")
    )
    return tuple((name, is_tuned) for name, is_tuned in found if not name.isdigit())


STREAM = "training.offload"
STREAM_FULL = "float32"
# Times its weights that a network takes at most while it is in memory: itself, the copy that an
# engine is made of, that engine, and what torch keeps of a pass.
HELD = 4
HELPER = "accelerate"  # without it a network is loaded as ever
_STREAM_WORDS = {"true": STREAM_FULL, "yes": STREAM_FULL, "false": "", "no": ""}


def settle_stream(request: Request) -> Choice | None:
    """Whether the start is streamed, as the user or a plan says, or as memory asks; None: not.

    Raises: PlanError for a setting that is none.
    """
    text = parse_settings(request.settings).get(STREAM)
    if text is not None:
        value = _STREAM_WORDS.get(text.lower(), text)
        if value and value not in FORMATS:
            raise PlanError(
                f"--set {STREAM}={text}: it is true, false, {FORMATS[0]} or {FORMATS[1]}."
            )
        if not value:
            return None
        if request.arch is None or Path(str(request.base)).suffix != ".safetensors":
            raise PlanError(
                f"--set {STREAM}={text}: only a .safetensors file of weights can be streamed; "
                "name one with --base FILE.safetensors --arch timm:NAME, or leave it away."
            )
        if is_partial(request):
            raise PlanError(
                f"--set {STREAM}={text} and {PARTIAL} do not go together: what is taken over in "
                "part has to be in memory; leave one away."
            )
        return Choice(value=value, because="your choice (--set)", source="user")
    if isinstance(request.plan, Plan) and "base" not in request.typed:
        return request.plan.training.offload
    return request.stream or _by_memory(request)


def _by_memory(request: Request) -> Choice | None:
    """A file of weights that is much of the free memory stays where it is, if it can."""
    is_file = isinstance(request.base, (str, Path)) and request.arch is not None
    path = Path(request.base) if is_file else None
    free = free_memory()
    if path is None or free is None or path.suffix != ".safetensors" or not path.is_file():
        return None
    size = path.stat().st_size
    if HELD * size <= free or is_partial(request) or not is_full(path) or not find_spec(HELPER):
        return None
    why = (
        f"{HELD} times {size / 1e9:.1f} GB of weights are more than the {free / 1e9:.1f} GB of "
        "memory that are free"
    )
    return Choice(value=STREAM_FULL, because=why, source="rule")
