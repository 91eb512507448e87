"""What --set may set: paths into a plan, and the values that their texts stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, cast

from warmstart.errors import PlanError
from warmstart.planning.strategy import nearest
from warmstart.records import Plain

Kind = Literal["whole", "number", "switch", "word", "words", "numbers", "wholes"]
PAIRS = "training.pairs"
# What may be set, and what its value looks like; parts aside.
PATHS: dict[str, Kind] = {
    "training.batch": "whole", "training.optimizer": "word", "training.rate": "number",
    "training.layer_decay": "number", "training.weight_decay": "number",
    "training.passes": "whole", "training.warm_up": "number", "training.crop": "number",
    "training.flip": "switch", "training.folds": "whole", "training.soup": "whole",
    "training.rank": "whole", "training.colour": "number", "training.shift": "number",
    "training.mask": "number", "training.views": "whole", "training.cut": "whole",
    "training.store": "word", "training.average": "number", "training.l2_sp": "number",
    PAIRS: "switch", "training.temperature": "number",
    "training.micro_batch": "whole", "training.recompute": "switch", "training.device": "word",
    "training.parallel": "word",
    "training.precision": "word", "training.workers": "whole", "training.compile": "switch",
    "head.candidates": "words", "head.penalties": "numbers", "head.outer_folds": "whole",
    "input.size": "whole", "input.channels": "whole", "input.rgb": "wholes",
    "input.rate": "whole", "input.seconds": "number", "input.mels": "whole",
    "input.range_db": "number",
}  # fmt: skip
# What the load and the look have followed already.
EARLY = ("start.partial", "training.engine", "training.stream")
COLUMN = "column."  # column.NAME: what a column of a table is; settled when the data are read
# What a plan holds that is settled before there is one, and the option that settles it.
ELSEWHERE = {
    "training.seed": "use --seed", "head.permutations": "use --budget", "start": "use --start",
    "arch": "use --arch", "strategy": "use --strategy",
}  # fmt: skip
_LIKE: dict[Kind, str] = {
    "whole": "a whole number, such as 8", "number": "a number, such as 0.001",
    "switch": "true or false", "word": "a word", "words": "words with commas between",
    "numbers": "numbers with commas between, such as 0.1,1",
    "wholes": "whole numbers with commas between, such as 3,2,1",
}  # fmt: skip
_ONE: dict[Kind, Kind] = {"words": "word", "numbers": "number", "wholes": "whole"}
# What the same thing is called elsewhere.
_HABITS = {
    "lr": "training.rate", "learning_rate": "training.rate", "epochs": "training.passes",
    "steps": "training.passes", "batch_size": "training.batch", "wd": "training.weight_decay",
    "warmup": "training.warm_up", "warmup_ratio": "training.warm_up", "imgsz": "input.size",
    "image_size": "input.size", "r": "training.rank", "lora_r": "training.rank",
    "engine": "training.engine",
    "ema": "training.average", "gradient_accumulation_steps": "training.micro_batch",
    "gradient_checkpointing": "training.recompute", "bf16": "training.precision",
    "fp16": "training.precision", "num_workers": "training.workers",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})(e[+-]?[0-9]{1,3})?", re.I)


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """Paths and the texts of their values, in order. A flow may ask for `input.size` early.

    Raises: PlanError where there is no "=", no value, or the same path twice.

    >>> parse_settings(["training.passes=900", "part.stem.rate = 1e-4"])
    {'training.passes': '900', 'part.stem.rate': '1e-4'}
    """
    found: dict[str, str] = {}
    for setting in settings:
        path, equals, text = (side.strip() for side in setting.partition("="))
        if not equals or not path or not text:
            raise PlanError(
                f"--set {setting}: it needs a path and a value, such as training.passes=2000."
            )
        if text.lower() == "auto":
            raise PlanError(f"--set {setting}: auto is no value; leave this --set away instead.")
        if path in found:
            raise PlanError(f"--set {path} is given twice; keep one.")
        found[path] = text
    return found


def is_early(path: str) -> bool:
    """Whether a path is followed before there is a plan.

    >>> is_early("column.age"), is_early("training.rate")
    (True, False)
    """
    return path in EARLY or path.startswith(COLUMN)


def check_path(path: str, text: str) -> None:
    """Raises: PlanError where the path, which is not one of a part, cannot be set."""
    if path in PATHS:
        return
    if path in ELSEWHERE:
        raise PlanError(f"--set {path}={text}: it cannot be set here; {ELSEWHERE[path]}.")
    last = [known for known in PATHS if known.rpartition(".")[2] == path.rpartition(".")[2]]
    like = _HABITS.get(path.lower()) or (last[0] if last else nearest(path, (*PATHS, *EARLY)))
    cure = f"did you mean {like}?" if like else (
        "there are training.NAME, head.NAME, input.NAME, start.partial, column.NAME, "
        "part.NAME.action and part.NAME.rate."
    )  # fmt: skip
    raise PlanError(f"--set {path}={text}: there is no {path} in a plan; {cure}")


def typed(path: str, text: str, kind: Kind) -> Plain | tuple[Plain, ...]:
    """The value that a text stands for. Raises: PlanError if it is of another kind.

    >>> typed("head.penalties", "0.1, 1", "numbers"), typed("training.flip", "False", "switch")
    ((0.1, 1.0), False)
    """
    items = [item.strip() for item in text.split(",")] if kind.endswith("s") else [text]
    of_one = _ONE.get(kind, kind)
    values = [_single(item, of_one) for item in items]
    if None in values:
        raise PlanError(f"--set {path}={text}: it takes {_LIKE[kind]}.")
    found = cast(list[Plain], values)
    return tuple(found) if of_one != kind else found[0]


def _single(text: str, kind: Kind) -> Plain | None:
    """One number, word or switch; None where the text is none."""
    if kind == "word":
        return text.lower() or None
    if kind == "switch":
        return {"true": True, "false": False}.get(text.lower())
    if not _NUMBER.fullmatch(text):
        return None
    if kind == "whole":
        return int(text) if text.lstrip("+-").isdigit() else None
    value = float(text)
    return value if math.isfinite(value) else None
