"""A network larger than memory: when it is streamed from its file, and how a part is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from warmstart.errors import PlanError
from warmstart.features.belt import Floats, Link, Values, padded
from warmstart.features.engine import Engine, Pixels, to_tensor
from warmstart.features.engine_torch import arranged
from warmstart.joints.inputs import PARTIAL, is_partial
from warmstart.joints.request import Request
from warmstart.memory import free_memory
from warmstart.network.lone import Lone
from warmstart.network.parts import Network
from warmstart.planning.paths import parse_settings
from warmstart.planning.storing import FORMATS
from warmstart.records import Choice, Inputs, PartRecord, Plan, Tap
from warmstart.weightfile import is_full

SETTING = "training.stream"
FULL = "float32"
# Times its weights that a network takes at most while it is in memory: itself, the copy that an
# engine is made of, that engine, and what torch keeps of a pass.
HELD = 4
HELPER = "accelerate"  # without it a network is loaded as ever
_WORDS = {"true": FULL, "yes": FULL, "false": "", "no": ""}


def settle_stream(asked: Request) -> Choice | None:
    """Whether the start is streamed, as the user or a plan says, or as memory asks; None: not.

    Raises: PlanError for a setting that is none.
    """
    text = parse_settings(asked.settings).get(SETTING)
    if text is not None:
        value = _WORDS.get(text.lower(), text)
        if value and value not in FORMATS:
            raise PlanError(
                f"--set {SETTING}={text}: it is true, false, {FORMATS[0]} or {FORMATS[1]}."
            )
        if not value:
            return None
        if asked.arch is None or Path(str(asked.start)).suffix != ".safetensors":
            raise PlanError(
                f"--set {SETTING}={text}: only a .safetensors file of weights can be streamed; "
                "name one with --start FILE.safetensors --arch timm:NAME, or leave it away."
            )
        if is_partial(asked):
            raise PlanError(
                f"--set {SETTING}={text} and {PARTIAL} do not go together: what is taken over in "
                "part has to be in memory; leave one away."
            )
        return Choice(value=value, because="your choice (--set)", source="user")
    if isinstance(asked.plan, Plan) and "start" not in asked.typed:
        return asked.plan.training.stream
    return asked.stream or _by_memory(asked)


def _by_memory(asked: Request) -> Choice | None:
    """A file of weights that is much of the free memory stays where it is, if it can."""
    is_file = isinstance(asked.start, (str, Path)) and asked.arch is not None
    path = Path(asked.start) if is_file else None
    free = free_memory()
    if path is None or free is None or path.suffix != ".safetensors" or not path.is_file():
        return None
    size = path.stat().st_size
    if HELD * size <= free or is_partial(asked) or not is_full(path) or not find_spec(HELPER):
        return None
    why = (
        f"{HELD} times {size / 1e9:.1f} GB of weights are more than the {free / 1e9:.1f} GB of "
        "memory that are free"
    )
    return Choice(value=FULL, because=why, source="rule")


def links(network: Network, taps: Sequence[Tap], upto: int, prep: Inputs) -> tuple[Link, ...]:
    """Parts 1 to `upto` as links of a belt, with the taps that are taken on the way."""
    return tuple(
        Link(
            name=part.name, cost=part.macs,
            open=partial(_open, network, number, taps, prep),
        )
        for number, part in enumerate(network.record.parts[:upto], 1)
    )  # fmt: skip


def one_by_one(parts: Sequence[Link]) -> Engine:
    """An engine that brings one part after the other into memory for every batch.

    Gives the last part's output, (n, width), and the taps of all.
    """

    def run(images: Pixels) -> list[Floats]:
        rows: Values = images
        found: list[Floats] = []
        for part in parts:
            rows, taps = padded(part.open(), rows)
            found += taps
        return [rows, *found]

    return run


def _open(
    network: Network, number: int, taps: Sequence[Tap], prep: Inputs
) -> Callable[[Values], tuple[Floats, list[Floats]]]:
    parts = network.record.parts
    before = None if number == 1 else parts[number - 2]
    return _Pass(Lone(network, number, taps), before, parts[number - 1], prep)


@dataclass
class _Pass:
    """A part on rows: what the part before it gave, or images."""

    lone: torch.nn.Module
    before: PartRecord | None
    part: PartRecord
    prep: Inputs
    _is_ready: bool = field(default=False)

    def __call__(self, rows: Values) -> tuple[Floats, list[Floats]]:
        """Rows (b, width), or images (b, H, W, C), to what the part gives and its taps."""
        inputs = to_tensor(rows, self.prep) if self.before is None else as_state(rows, self.before)
        if not self._is_ready:
            self.lone, self._is_ready = arranged(self.lone, inputs[:2]), True
        with torch.inference_mode():
            main, *taps = self.lone(inputs)
        return as_rows(main, self.part), [tap.numpy() for tap in taps]


def as_rows(main: Tensor, part: PartRecord) -> Floats:
    """What a part gave, (b, …), one row an image; maps in the order they have in memory."""
    if part.layout == "NCHW":
        main = main.permute(0, 2, 3, 1)
    rows: Floats = np.ascontiguousarray(main.float().numpy()).reshape(len(main), -1)
    return rows


def as_state(rows: Values, part: PartRecord) -> Tensor:
    """The same back: (b, width) to (b, …), maps channels_last."""
    values = torch.from_numpy(np.require(rows, requirements="W"))
    if part.layout != "NCHW":
        return values.view(len(rows), *part.shape_out)
    channels, *sides = part.shape_out
    return values.view(len(rows), *sides, channels).permute(0, 3, 1, 2)
