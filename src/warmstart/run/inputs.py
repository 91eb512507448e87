"""The inputs of the network, by --set, by the plan, by what the files hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from warmstart.data.dataset import Collection
from warmstart.errors import PlanError
from warmstart.machine import free_memory
from warmstart.modalities.audio import default_sound, sound_of
from warmstart.modalities.image import band_ranges, count_bands
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.network.inputs import LEAST, MOST, PICTURE, SHOWABLE, InputOptions
from warmstart.network.weights import is_full
from warmstart.planning.check import SOUND_LIMITS
from warmstart.planning.fine_tuning import CACHE_DTYPES
from warmstart.planning.settings import PATHS, parse_value
from warmstart.planning.strategy import parse
from warmstart.records.inputs import Sound, WaveInputs
from warmstart.records.network import BaseModelRecord
from warmstart.records.plan import ACTIONS, Choice, Plan, wrong_value
from warmstart.request import Request

AUDIO_SETTINGS = ("sample_rate", "seconds", "n_mels", "top_db")
PARTIAL = "base.partial"
SIZE, CHANNELS = "input.size", "input.channels"
OFFLOAD = "training.offload"
FULL_PRECISION = "float32"
# At most this many times its weights a network takes in memory: itself, the copy that an engine is
# made from, that engine, and the activations of a pass.
MEMORY_FACTOR = 4
HELPER = "accelerate"  # without it a network is loaded as usual
_OFFLOAD_WORDS = {"true": FULL_PRECISION, "yes": FULL_PRECISION, "false": "", "no": ""}


def _spectrogram(request: Request, collection: Collection) -> Sound:
    """By --set, the plan, or the headers of the training files."""
    sound = sound_of(collection.load, collection.record.examples)
    values = {}
    for name in AUDIO_SETTINGS:
        path, value = f"input.{name}", _input_value(request, name)
        text = request.overrides.get(path)
        if text is not None and not SOUND_LIMITS[path].test(value):
            raise wrong_value(f"--set {path}", SOUND_LIMITS[path].words, text)
        if value is not None:
            values[name] = value
    if not values:
        return sound
    changed = default_sound(
        int(values.get("sample_rate", sound.sample_rate)),
        float(values.get("seconds", sound.seconds)),
        int(values.get("n_mels", sound.mels)),
    )
    return replace(changed, range_db=float(values.get("top_db", sound.range_db)))


def check_wave_settings(request: Request, base: BaseModelRecord) -> None:
    """Raises: PlanError for settings without effect on a base model that takes samples."""
    modality = modality_of(base.preprocessing)
    if modality.is_sound and not modality.has_pixels:
        names = ("size", "channels", "sample_rate", "n_mels", "top_db")
        rate = f"{cast(WaveInputs, base.preprocessing).sample_rate:,} samples a second"
        _refuse_settings(request, names, f"{base.name} takes clips as they are, at {rate}")


def _refuse_settings(request: Request, names: Sequence[str], why: str) -> None:
    for name in names:
        if (text := request.overrides.get(f"input.{name}")) is not None:
            raise PlanError(f"--set input.{name}={text}: {why}; leave it out.")


def input_options(request: Request, collection: Collection) -> InputOptions:
    """The inputs that the network is to take, and how many channels the images have.

    Files with more than three bands need as many channels; a grey image is given to a colour
    network in three equal channels, unless `input.channels` says otherwise.
    Raises: PlanError for a setting that is no number or does not suit the images, DataError
    where files differ.
    """
    record, load = collection.record, collection.load
    size = _input_value(request, "size")
    modality = MODALITIES[record.kind]
    if not modality.has_thumbnails:
        return InputOptions(size=size)
    channels = _input_value(request, "channels")
    if SIZE in request.overrides and not LEAST <= size <= MOST:
        raise PlanError(f"--set {SIZE}={size}: sizes from {LEAST} to {MOST} px are supported.")
    options = InputOptions(
        size=size,
        is_tuned=_trains_stem(request),
        tuned_blocks=_tuned_blocks(request),
        is_partial=is_partial(request),
    )
    if modality.is_sound:
        sound = _spectrogram(request, collection)
        return replace(options, channels=channels or 1, sound=sound, image_channels=1)
    _refuse_settings(request, AUDIO_SETTINGS, "the data holds images, not sounds")
    n_bands = count_bands(load, record.examples)
    is_picture = n_bands in PICTURE
    if channels is None and not is_picture:
        channels = n_bands
    if channels is not None:
        _check_channels(request, channels, n_bands)
    ranges = () if is_picture else band_ranges(load, record.examples)
    rgb = _input_value(request, "rgb")
    return replace(options, channels=channels, rgb=rgb, ranges=ranges, image_channels=n_bands)


def _check_channels(request: Request, channels: int, n_bands: int) -> None:
    """Pictures go into 1, 3 or, with alpha, 4 channels; bands into as many as they are."""
    is_picture = n_bands in PICTURE
    if channels in SHOWABLE if is_picture else channels == n_bands:
        return
    plural = "s" if n_bands > 1 else ""
    held = f"are pictures of {n_bands} channel{plural}" if is_picture else f"have {n_bands} bands"
    if CHANNELS in request.overrides:
        raise PlanError(f"--set {CHANNELS}={channels}: the images {held}; leave it out.")
    raise PlanError(
        f"the plan has {CHANNELS} {channels}, the images {held}; make a new plan with --dry-run."
    )


def is_partial(request: Request) -> bool:
    """Whether to load the tensors that fit from a base model that fits in part.

    Raises: PlanError where `base.partial` is neither true nor false.
    """
    text = request.overrides.get(PARTIAL)
    if text is not None:
        return bool(parse_value(PARTIAL, text, "switch"))
    plan = _plan_of_base(request)
    return plan is not None and plan.partial is not None and bool(plan.partial.value)


def _input_value(request: Request, name: str) -> Any:
    """An input setting by --set, else by the plan; None where neither has it."""
    path = f"input.{name}"
    if (text := request.overrides.get(path)) is not None:
        return parse_value(path, text, PATHS[path])
    plan = _plan_of_base(request)
    choice: Choice | None = getattr(plan.input, name) if plan and plan.input else None
    if choice is None:
        return None
    return int(choice.number) if PATHS[path] == "whole" else choice.value


def _plan_of_base(request: Request) -> Plan | None:
    """The plan that was read; None where the user named another base model, with other inputs."""
    return request.plan if isinstance(request.plan, Plan) and "base" not in request.typed else None


def _trains_stem(request: Request) -> bool:
    """Whether the first layer is trained: only then may new channels start at zero."""
    action = request.overrides.get("block.1.action")
    if action is not None:
        return _trains_weights(action)
    if isinstance(request.plan, Plan) and "strategy" not in request.typed:
        return request.plan.blocks[0].behaviour.trains_weights
    strategy = parse(request.strategy)
    is_full = strategy.depth == "frozen" and not strategy.count and "lora" not in strategy.extras
    return is_full or strategy.depth == "scratch"


def _trains_weights(action: str) -> bool:
    """Whether a first layer learns to use new channels under an action, if it is one."""
    return action in ACTIONS and ACTIONS[action].trains_weights


def _tuned_blocks(request: Request) -> tuple[tuple[str, bool], ...]:
    """Blocks whose action was set by name, and whether they are trained; their order is unknown."""
    actions = (
        (path.removeprefix("block.").removesuffix(".action"), _trains_weights(text))
        for path, text in request.overrides.items()
        if path.startswith("block.") and path.endswith(".action")
    )
    return tuple((name, is_tuned) for name, is_tuned in actions if not name.isdigit())


def choose_offload(request: Request) -> Choice | None:
    """Whether the base model is offloaded, by --set, the plan or free memory; None: it is not.

    Raises: PlanError for a setting that is none.
    """
    text = request.overrides.get(OFFLOAD)
    if text is not None:
        value = _OFFLOAD_WORDS.get(text.lower(), text)
        if value and value not in CACHE_DTYPES:
            dtypes = " or ".join(CACHE_DTYPES)
            raise PlanError(f"--set {OFFLOAD}={text}: it is true, false, {dtypes}.")
        if not value:
            return None
        if request.arch is None or Path(str(request.base)).suffix != ".safetensors":
            raise PlanError(
                f"--set {OFFLOAD}={text}: only a .safetensors file of weights can be offloaded; "
                "name one with --base FILE.safetensors --arch timm:NAME, or leave it out."
            )
        if is_partial(request):
            raise PlanError(
                f"--set {OFFLOAD}={text} and {PARTIAL} do not go together: a partly loaded network "
                "has to be in memory; leave one out."
            )
        return Choice(value=value, because="your choice (--set)", source="user")
    if (plan := _plan_of_base(request)) is not None:
        return plan.training.offload
    return request.stream or _offload_by_memory(request)


def _offload_by_memory(request: Request) -> Choice | None:
    """A weight file that is large beside the free memory stays on disk, if it can."""
    if request.arch is None or not isinstance(request.base, (str, Path)):
        return None
    path, free = Path(request.base), free_memory()
    if free is None or path.suffix != ".safetensors" or not path.is_file():
        return None
    size = path.stat().st_size
    fits = MEMORY_FACTOR * size <= free
    if fits or is_partial(request) or not is_full(path) or not find_spec(HELPER):
        return None
    why = (
        f"{MEMORY_FACTOR} times {size / 1e9:.1f} GB of weights are more than the "
        f"{free / 1e9:.1f} GB of free memory"
    )
    return Choice(value=FULL_PRECISION, because=why, source="rule")
