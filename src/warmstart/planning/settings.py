"""--set path=value: single values of a plan, the user's word against the rule's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, cast

from warmstart.errors import PlanError
from warmstart.planning.actions import OUTPUT
from warmstart.planning.contrastive import updated_ema_decay
from warmstart.planning.fine_tuning import choose_micro_batch, choose_ema_decay, lr_spread
from warmstart.planning.learning_rates import (
    OPTIMIZERS,
    WEIGHT_DECAY,
    LearningRateSpread,
    block_lrs,
    convert_lr,
)
from warmstart.planning.machine import pipeline_micro_batch, n_stages
from warmstart.planning.strategy import nearest, strategy_of
from warmstart.records.plan import Action, BlockPlan, Choice, Plain, Plan

# ---- What --set may set: paths into a plan, and the values that their texts stand for.


Kind = Literal["whole", "number", "switch", "word", "words", "numbers", "wholes"]
PAIRS = "training.contrastive"
# What may be set, and what its value looks like; parts aside.
PATHS: dict[str, Kind] = {
    "training.batch_size": "whole",
    "training.optimizer": "word",
    "training.lr": "number",
    "training.layer_decay": "number",
    "training.weight_decay": "number",
    "training.epochs": "number",
    "training.warmup": "number",
    "training.crop": "number",
    "training.flip": "switch",
    "training.folds": "whole",
    "training.model_soup": "whole",
    "training.lora_rank": "whole",
    "training.color_jitter": "number",
    "training.time_shift": "number",
    "training.spec_augment": "number",
    "training.augmentations": "whole",
    "training.split_at": "whole",
    "training.cache_dtype": "word",
    "training.ema_decay": "number",
    "training.l2_sp": "number",
    PAIRS: "switch",
    "training.contrastive_temperature": "number",
    "training.micro_batch": "whole",
    "training.gradient_checkpointing": "switch",
    "training.device": "word",
    "training.parallel": "word",
    "training.precision": "word",
    "training.workers": "whole",
    "training.compile": "switch",
    "head.candidates": "words",
    "head.penalties": "numbers",
    "head.outer_folds": "whole",
    "input.size": "whole",
    "input.channels": "whole",
    "input.rgb": "wholes",
    "input.sample_rate": "whole",
    "input.seconds": "number",
    "input.n_mels": "whole",
    "input.top_db": "number",
}
# What the load and the look have followed already.
EARLY = ("base.partial", "training.engine", "training.offload")
COLUMN = "column."  # column.NAME: what a column of a table is; settled when the data are read
# What a plan holds that is settled before there is one, and the option that settles it.
ELSEWHERE = {
    "training.seed": "use --seed",
    "head.permutations": "use --budget",
    "base": "use --base",
    "arch": "use --arch",
    "strategy": "use --strategy",
}
_LIKE: dict[Kind, str] = {
    "whole": "a whole number, such as 8",
    "number": "a number, such as 0.001",
    "switch": "true or false",
    "word": "a word",
    "words": "words with commas between",
    "numbers": "numbers with commas between, such as 0.1,1",
    "wholes": "whole numbers with commas between, such as 3,2,1",
}
_ONE: dict[Kind, Kind] = {"words": "word", "numbers": "number", "wholes": "whole"}
# What the same thing is called elsewhere.
_HABITS = {
    "lr": "training.lr",
    "learning_rate": "training.lr",
    "batch_size": "training.batch_size",
    "wd": "training.weight_decay",
    "warmup": "training.warmup",
    "warmup_ratio": "training.warmup",
    "imgsz": "input.size",
    "image_size": "input.size",
    "r": "training.lora_rank",
    "lora_r": "training.lora_rank",
    "engine": "training.engine",
    "ema": "training.ema_decay",
    "gradient_accumulation_steps": "training.micro_batch",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "num_workers": "training.workers",
}
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})(e[+-]?[0-9]{1,3})?", re.I)


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """Paths and the texts of their values, in order. A flow may ask for `input.size` early.

    Raises: PlanError where there is no "=", no value, or the same path twice.

    >>> parse_settings(["training.epochs=900", "block.stem.lr = 1e-4"])
    {'training.epochs': '900', 'block.stem.lr': '1e-4'}
    """
    found: dict[str, str] = {}
    for setting in settings:
        path, equals, text = (side.strip() for side in setting.partition("="))
        if not equals or not path or not text:
            raise PlanError(
                f"--set {setting}: it needs a path and a value, such as training.epochs=20."
            )
        if text.lower() == "auto":
            raise PlanError(f"--set {setting}: auto is no value; leave this --set away instead.")
        if path in found:
            raise PlanError(f"--set {path} is given twice; keep one.")
        found[path] = text
    return found


def is_early(path: str) -> bool:
    """Whether a path is followed before there is a plan.

    >>> is_early("column.age"), is_early("training.lr")
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
    cure = (
        f"did you mean {like}?"
        if like
        else (
            "there are training.NAME, head.NAME, input.NAME, base.partial, column.NAME, "
            "block.NAME.action and block.NAME.lr."
        )
    )
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


BODY_ACTIONS = ("frozen", "tuned", "low-rank", "fresh")
_MINE = "your choice (--set)"
_STEPPED = {"training.epochs", "training.batch_size", "training.parallel"}


def apply_settings(plan: Plan, settings: Sequence[str]) -> Plan:
    """The plan with the user's values in it; rates that follow from them are found anew.

    A part is named, or numbered 1..P from the input: `block.blocks.0.lr=1e-4`,
    `block.3.action=frozen`. The order of settings does not matter. Ranges are for
    `check_plan` to check.
    Raises: PlanError that names the setting and what it may be.
    """
    given = parse_settings(settings)
    fixed = {path: text for path, text in given.items() if not path.startswith("block.")}
    blocks = _blocks_set(plan, {path: text for path, text in given.items() if path not in fixed})
    after, changed = _with_actions(_with_values(plan, fixed), blocks)
    if "training.lora_rank" in fixed and "low-rank" not in _actions(after.blocks):
        raise PlanError(
            f"--set training.lora_rank={fixed['training.lora_rank']}: no part is low-rank; add "
            "--strategy full+lora."
        )
    if {"training.lr", "training.layer_decay", "training.optimizer"} & fixed.keys():
        changed = set(range(len(plan.blocks)))
    return _with_rates(update_lrs(after, changed), blocks)


def update_lrs(plan: Plan, places: Iterable[int]) -> Plan:
    """Give parts at these places the rate of the rule again; a rate that the user set stays."""
    if not plan.is_trained:
        return plan
    chosen = set(places)
    rates = block_lrs(_actions(plan.blocks), _spread(plan))
    blocks = [
        replace(block, lr=rate) if place in chosen and not _is_mine(block, rate) else block
        for place, (block, rate) in enumerate(zip(plan.blocks, rates, strict=True))
    ]
    return replace(plan, blocks=tuple(blocks))


def _is_mine(block: BlockPlan, rate: Choice | None) -> bool:
    """Whether the rate is the user's; a part that moves no more has none to keep."""
    return rate is not None and block.lr is not None and block.lr.source == "user"


def _spread(plan: Plan) -> LearningRateSpread:
    return lr_spread(plan.training, strategy_of(plan))


def _actions(blocks: Sequence[BlockPlan]) -> list[Action]:
    return [cast(Action, block.action.value) for block in blocks]


# ---- values outside the parts ------------------------------------------------------------


def _with_values(plan: Plan, given: Mapping[str, str]) -> Plan:
    after = plan
    for path, text in given.items():
        section, _, name = path.partition(".")
        check_path(path, text)
        record = getattr(after, section)
        if section == "training" and not plan.is_trained:
            raise _untrained(f"{path}={text}", plan)
        if record is None:
            raise PlanError(f"--set {path}={text}: what this start sees is no square of pixels.")
        made = _mine(typed(path, text, PATHS[path]), getattr(record, name))
        after = replace(after, **{section: replace(record, **{name: made})})
    after = _with_steps(after) if _STEPPED & given.keys() else after
    return _with_optimizer(plan, after)


def _with_steps(plan: Plan) -> Plan:
    """What the rule takes from the number of steps and their size, found anew."""
    training, epochs = plan.training, plan.training.epochs
    average, micro_batch = training.ema_decay, training.micro_batch
    batch = int(training.batch_size.number)
    if average is not None and average.source == "rule" and epochs is not None:
        found = partial(updated_ema_decay, average) if training.is_paired else choose_ema_decay
        average = found(plan.samples_seen, batch)
    if micro_batch is not None and micro_batch.source == "rule":
        n = n_stages(training.parallel.value) if training.parallel else 0
        micro_batch = pipeline_micro_batch(batch, n) if n else choose_micro_batch(batch)
    return replace(plan, training=replace(training, ema_decay=average, micro_batch=micro_batch))


def _with_optimizer(before: Plan, after: Plan) -> Plan:
    """Another optimizer wants another rate and decay, where the user did not set them."""
    old, new = before.training.optimizer, after.training.optimizer
    if old is None or new is None or old.value == new.value:
        return after
    if not OPTIMIZERS.keys() >= {old.value, new.value}:
        return after  # for check_plan to refuse
    training, name, last = after.training, str(new.value), OPTIMIZERS[str(old.value)]
    is_scratch = strategy_of(after).depth == "scratch"
    rate, decay = training.lr, training.weight_decay
    if rate is not None and rate.source != "user":
        value = convert_lr(rate.number, str(old.value), name, is_scratch)
        why = f"{OPTIMIZERS[name]} moves at this what {last} moves at {rate.number:g}"
        training = replace(training, lr=Choice(value=value, because=why, source="rule"))
    if decay is not None and decay.source != "user":
        why = f"mild, as is usual with {OPTIMIZERS[name]}"
        decay = Choice(value=WEIGHT_DECAY[name], because=why, source="rule")
        training = replace(training, weight_decay=decay)
    return replace(after, training=training)


def _mine(value: Plain | tuple[Plain, ...], old: Choice | None) -> Choice:
    """The user's value; `rule` is what the rule said, as far as that is known."""
    rule = None
    if old is not None:
        rule = old.value if old.rule is None and old.source != "user" else old.rule
    return Choice(value=value, because=_MINE, source="user", rule=rule)


def _untrained(setting: str, plan: Plan) -> PlanError:
    return PlanError(
        f"--set {setting}: nothing is trained step by step with strategy {plan.strategy.value}; "
        "add --strategy last:N."
    )


# ---- parts -------------------------------------------------------------------------------


def _blocks_set(plan: Plan, given: Mapping[str, str]) -> dict[tuple[int, str], str]:
    """The text for each place and field of the parts, `action` or `rate`."""
    found: dict[tuple[int, str], str] = {}
    for path, text in given.items():
        place, field = _place(plan, path, text)
        if not plan.is_trained:
            raise _untrained(f"{path}={text}", plan)
        if (place, field) in found:
            raise PlanError(f"--set {path} is given twice, by name and by number; keep one.")
        if field == "action":
            _check_action(plan.blocks[place], f"{path}={text}", text)
        found[place, field] = text
    return found


def _place(plan: Plan, path: str, text: str) -> tuple[int, str]:
    """Where in the plan a path points: the part's place, and `action` or `rate`."""
    name, _, field = path.removeprefix("block.").rpartition(".")
    if not name or field not in ("action", "lr"):
        raise PlanError(
            f"--set {path}={text}: of a part there are block.NAME.action and block.NAME.lr."
        )
    names = [block.name for block in plan.blocks]
    n_body = sum(block.action.value not in ("added", "replaced") for block in plan.blocks)
    if name in names:
        return names.index(name), field
    if name.isascii() and name.isdigit() and len(name) < 10 and 1 <= int(name) <= n_body:
        return int(name) - 1, field
    like = nearest(name, names)
    cure = f"did you mean {like}?" if like else f"by name they are {names[0]} to {names[-1]}."
    raise PlanError(
        f"--set {path}={text}: there is no part {name}; they are numbered 1 to {n_body} from the "
        f"input; {cure}"
    )


def _check_action(block: BlockPlan, setting: str, action: str) -> None:
    if block.name == OUTPUT and block.action.value == "replaced":
        raise PlanError(f"--set {setting}: the output is always replaced; its rate can be set.")
    if block.action.value == "added":
        raise PlanError(
            f"--set {setting}: added layers have no other action; leave +add away from --strategy."
        )
    if action in ("replaced", "added"):
        raise PlanError(
            f"--set {setting}: a part of the start cannot be {action}; it can be "
            f"{', '.join(BODY_ACTIONS)}."
        )
    if action not in BODY_ACTIONS:
        like = nearest(action, BODY_ACTIONS)
        cure = f"did you mean {like}?" if like else f"there are {', '.join(BODY_ACTIONS)}."
        raise PlanError(f"--set {setting}: {action} is no action; {cure}")


def _with_actions(plan: Plan, given: Mapping[tuple[int, str], str]) -> tuple[Plan, set[int]]:
    """The plan with these actions, and the places whose rates the rule has to find anew."""
    blocks = list(plan.blocks)
    for (place, field), text in given.items():
        if field == "action":
            blocks[place] = replace(blocks[place], action=_mine(text, blocks[place].action))
    before, after = _actions(plan.blocks), _actions(blocks)
    if before != after and not set(after) - {"frozen", "replaced"}:
        raise PlanError(
            "--set block.NAME.action=frozen leaves no layer to train; use --strategy head instead."
        )
    changed = {n for n, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]}
    if ("fresh" in before) != ("fresh" in after):
        changed.add(len(blocks) - 1)  # the output begins fitted, or at random too
    return replace(plan, blocks=tuple(blocks)), changed


def _with_rates(plan: Plan, given: Mapping[tuple[int, str], str]) -> Plan:
    blocks = list(plan.blocks)
    for (place, field), text in given.items():
        if field != "lr":
            continue
        block = blocks[place]
        path = f"block.{block.name}.rate"
        if block.action.value == "frozen":
            raise PlanError(
                f"--set {path}={text}: the part is frozen and has no rate; add "
                f"--set part.{block.name}.action=tuned."
            )
        blocks[place] = replace(block, lr=_mine(typed(path, text, "number"), block.lr))
    return replace(plan, blocks=tuple(blocks))
