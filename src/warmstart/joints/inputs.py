"""What the network's inputs are to be: what was set, what a plan says, what the files hold."""

from __future__ import annotations

from typing import cast

from warmstart.data.bands import band_ranges, count_bands
from warmstart.data.collection import Collection
from warmstart.errors import PlanError
from warmstart.joints.request import Request
from warmstart.joints.sounds import check_unheard, sound_wish
from warmstart.network.inputs import PICTURE, SHOWABLE, InputWish
from warmstart.network.positions import LEAST, MOST
from warmstart.planning.paths import parse_settings, typed
from warmstart.planning.strategy import parse
from warmstart.records import Choice, Plan

PARTIAL = "start.partial"
SIZE, CHANNELS = "input.size", "input.channels"
_LEARNS = ("tuned", "fresh")  # actions with which a first layer comes to see new channels


def input_wish(asked: Request, collection: Collection) -> InputWish:
    """What the inputs are to be, and how many channels the images have.

    Files of more than three bands ask for as many channels; a grey picture is shown to a
    colour network in three equal channels, unless `input.channels` says otherwise.
    Raises: PlanError for a setting that is no number or does not suit the images, DataError
    where files differ.
    """
    if collection.record.kind in ("text", "table"):
        return InputWish(size=_number(asked, SIZE))
    size, channels = _number(asked, SIZE), _number(asked, CHANNELS)
    if size is not None and SIZE in parse_settings(asked.settings) and not LEAST <= size <= MOST:
        raise PlanError(f"--set {SIZE}={size}: sizes from {LEAST} to {MOST} px are taken.")
    examples, load = collection.record.examples, collection.load
    if collection.record.kind == "audio":
        return InputWish(
            size=size, channels=channels or 1, sound=sound_wish(asked, collection),
            is_tuned=_tunes_stem(asked), told=_told(asked), is_partial=is_partial(asked), held=1,
        )  # fmt: skip
    check_unheard(asked)
    found = count_bands(load, examples)
    is_picture = found in PICTURE
    if channels is None and not is_picture:
        channels = found
    if channels is not None:
        _check_channels(asked, channels, found)
    ranges = () if is_picture else band_ranges(load, examples)
    return InputWish(
        size=size, channels=channels, rgb=_rgb(asked), ranges=ranges,
        is_tuned=_tunes_stem(asked), told=_told(asked), is_partial=is_partial(asked), held=found,
    )  # fmt: skip


def _check_channels(asked: Request, channels: int, found: int) -> None:
    """Pictures can be given 1, 3 or, with alpha, 4 channels; bands as many as they are.

    Raises: PlanError for any other number.
    """
    is_picture = found in PICTURE
    if channels in SHOWABLE if is_picture else channels == found:
        return
    held = f"are pictures of {found} channel{'s' if found > 1 else ''}" if is_picture else (
        f"have {found} bands"
    )  # fmt: skip
    if CHANNELS in parse_settings(asked.settings):
        raise PlanError(f"--set {CHANNELS}={channels}: the images {held}; leave it away.")
    raise PlanError(
        f"the plan has {CHANNELS} {channels}, the images {held}; make a new plan with --dry-run."
    )


def is_partial(asked: Request) -> bool:
    """Whether of a start that fits in part what fits is to be taken.

    Raises: PlanError where `start.partial` is neither true nor false.
    """
    text = parse_settings(asked.settings).get(PARTIAL)
    if text is None:
        plan = _plan_of_start(asked)
        before = plan.partial if plan is not None else None
        return before is not None and bool(before.value)
    return bool(typed(PARTIAL, text, "switch"))


def _number(asked: Request, path: str) -> int | None:
    text = parse_settings(asked.settings).get(path)
    if text is not None:
        return cast(int, typed(path, text, "whole"))
    planned = _planned(asked, path.partition(".")[2])
    return None if planned is None else int(planned.number)


def _rgb(asked: Request) -> tuple[int, int, int] | None:
    text = parse_settings(asked.settings).get("input.rgb")
    planned = _planned(asked, "rgb")
    if text is None and planned is None:
        return None
    value = typed("input.rgb", text, "wholes") if text is not None else planned and planned.value
    return cast(tuple[int, int, int], value)


def _planned(asked: Request, name: str) -> Choice | None:
    plan = _plan_of_start(asked)
    inputs = plan.input if plan is not None else None
    return getattr(inputs, name) if inputs is not None else None


def _plan_of_start(asked: Request) -> Plan | None:
    """The plan that was read, where its start is the one to take; a typed one has its own input."""
    return asked.plan if isinstance(asked.plan, Plan) and "start" not in asked.typed else None


def _tunes_stem(asked: Request) -> bool:
    """Whether the first layer will learn: only then may new channels begin at zero.

    `last:N` counts as leaving it frozen: how many parts there are is not known before the
    network is cut, so that with N as large as that the new channels begin at the mean kernel
    and learn from there.
    """
    said = parse_settings(asked.settings).get("part.1.action")
    if said is not None:
        return said in _LEARNS
    if isinstance(asked.plan, Plan) and "strategy" not in asked.typed:
        return asked.plan.parts[0].action.value in _LEARNS
    strategy = parse(asked.strategy)
    is_full = strategy.depth == "frozen" and not strategy.count and "lora" not in strategy.extras
    return is_full or strategy.depth == "scratch"


def _told(asked: Request) -> tuple[tuple[str, bool], ...]:
    """Parts whose action was set by name, and whether they learn; which is first is not known."""
    found = (
        (path.removeprefix("part.").removesuffix(".action"), text in _LEARNS)
        for path, text in parse_settings(asked.settings).items()
        if path.startswith("part.") and path.endswith(".action")
    )
    return tuple((name, is_tuned) for name, is_tuned in found if not name.isdigit())
