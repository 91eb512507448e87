"""What the network's inputs are to be: what was set, what a plan says, what the files hold."""

from __future__ import annotations

from typing import cast

from warmstart.data.bands import band_ranges, count_bands
from warmstart.data.collection import Collection
from warmstart.errors import PlanError
from warmstart.joints.request import Request
from warmstart.network.load import InputWish
from warmstart.planning.paths import parse_settings, typed
from warmstart.planning.strategy import parse
from warmstart.records import Choice, Plan

PARTIAL = "start.partial"
PICTURE = (1, 3)  # channels of grey and colour pictures, which any start can be shown


def input_wish(asked: Request, collection: Collection) -> InputWish | None:
    """What must change at the input; None where the start can take the images as they are.

    Files of more than three bands ask for as many channels; a grey picture is shown to a
    colour network in three equal channels, unless `input.channels` says otherwise.
    Raises: PlanError for a setting that is no number, DataError where files differ.
    """
    size, channels = (_number(asked, f"input.{name}") for name in ("size", "channels"))
    examples, load = collection.record.examples, collection.load
    found = count_bands(load, examples)
    is_picture = found in PICTURE
    if channels is None and not is_picture:
        channels = found
    if channels is not None and not is_picture and channels != found:
        raise PlanError(
            f"--set input.channels={channels}: the images have {found} bands; leave it away."
        )
    ranges = () if is_picture else band_ranges(load, examples)
    wish = InputWish(
        size=size, channels=channels, rgb=_rgb(asked), ranges=ranges,
        is_tuned=_tunes_stem(asked), is_partial=is_partial(asked),
    )  # fmt: skip
    changes = size is not None or channels is not None or wish.is_partial
    return wish if changes else None


def is_partial(asked: Request) -> bool:
    """Whether of a start that fits in part what fits is to be taken.

    Raises: PlanError where `start.partial` is neither true nor false.
    """
    text = parse_settings(asked.settings).get(PARTIAL)
    if text is None:
        before = asked.plan.partial if isinstance(asked.plan, Plan) else None
        return before is not None and bool(before.value)
    return bool(typed(PARTIAL, text, "switch"))


def _number(asked: Request, path: str) -> int | None:
    text = parse_settings(asked.settings).get(path)
    if text is not None:
        return cast(int, typed(path, text, "whole"))
    planned = _planned(asked, path.partition(".")[2])
    return None if planned is None else int(str(planned.value))


def _rgb(asked: Request) -> tuple[int, int, int] | None:
    text = parse_settings(asked.settings).get("input.rgb")
    planned = _planned(asked, "rgb")
    if text is None and planned is None:
        return None
    value = typed("input.rgb", text, "wholes") if text is not None else planned and planned.value
    return cast(tuple[int, int, int], value)


def _planned(asked: Request, name: str) -> Choice | None:
    inputs = asked.plan.input if isinstance(asked.plan, Plan) else None
    return getattr(inputs, name) if inputs is not None else None


def _tunes_stem(asked: Request) -> bool:
    """Whether the first layer will learn: only then may new channels begin at zero."""
    if isinstance(asked.plan, Plan) and "strategy" not in asked.typed:
        return asked.plan.parts[0].action.value in ("tuned", "fresh")
    strategy = parse(asked.strategy)
    is_full = strategy.depth == "frozen" and not strategy.count and "lora" not in strategy.extras
    return is_full or strategy.depth == "scratch"
