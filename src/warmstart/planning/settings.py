"""--set path=value: single values of a plan that override the rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from warmstart.errors import PlanError
from warmstart.planning.check import LIMITS, SettingKind
from warmstart.planning.fine_tuning import choose_ema_decay, choose_micro_batch, lr_spread
from warmstart.planning.learning_rates import OPTIMIZERS, WEIGHT_DECAY, block_lrs, convert_lr
from warmstart.planning.machine import n_stages, pipeline_micro_batch
from warmstart.planning.strategy import OUTPUT, nearest, strategy_of
from warmstart.records.plan import (
    ACTIONS,
    FRESH,
    LOW_RANK,
    BlockPlan,
    Choice,
    Plain,
    Plan,
    Value,
    by_rule,
    for_blocks,
    train_network,
    wrong_value,
)

PAIRS = "training.contrastive"
# What takes effect at loading and feature extraction, before there is a plan.
EARLY = ("base.partial", "training.engine", "training.offload")
COLUMN = "column."  # column.NAME: the type of a table's column, set when the data are read
ELSEWHERE = {
    "training.seed": "use --seed",
    "head.permutations": "use --budget",
    "base": "use --base",
    "arch": "use --arch",
    "strategy": "use --strategy",
}
# What --set may set outside the blocks, and its kind.
PATHS: dict[str, SettingKind] = {
    path: limit.kind
    for path, limit in LIMITS.items()
    if path not in (*ELSEWHERE, *EARLY, "partial")
}
PATHS |= {"head.candidates": "words", "head.penalties": "numbers", "input.rgb": "wholes"}
_EXAMPLES: dict[SettingKind, str] = {
    "whole": "a whole number, such as 8",
    "number": "a number, such as 0.001",
    "switch": "true or false",
    "word": "a word",
    "words": "words separated by commas",
    "numbers": "numbers separated by commas, such as 0.1,1",
    "wholes": "whole numbers separated by commas, such as 3,2,1",
}
_ONE: dict[SettingKind, SettingKind] = {"words": "word", "numbers": "number", "wholes": "whole"}
# Names in other tools.
_SYNONYMS = {
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
    """Paths and the texts of their values, in order.

    Raises: PlanError where there is no "=", no value, or the same path twice.

    >>> parse_settings(["training.epochs=900", "block.stem.lr = 1e-4"])
    {'training.epochs': '900', 'block.stem.lr': '1e-4'}
    """
    texts: dict[str, str] = {}
    for setting in settings:
        path, equals, text = (side.strip() for side in setting.partition("="))
        if not equals or not path or not text:
            raise PlanError(
                f"--set {setting} needs a path and a value, such as training.epochs=20."
            )
        if text.lower() == "auto":
            raise PlanError(f"--set {setting}: auto is not a value; leave out this --set instead.")
        if path in texts:
            raise PlanError(f"--set {path} is given twice; keep one.")
        texts[path] = text
    return texts


def is_early(path: str) -> bool:
    """Whether a path takes effect before there is a plan.

    >>> is_early("column.age"), is_early("training.lr")
    (True, False)
    """
    return path in EARLY or path.startswith(COLUMN)


def check_path(path: str, text: str) -> None:
    """Raises: PlanError where the path, which is not one of a block, cannot be set."""
    if path in PATHS:
        return
    if path in ELSEWHERE:
        raise PlanError(f"--set {path}={text}: it cannot be set here; {ELSEWHERE[path]}.")
    same_name = [other for other in PATHS if other.rpartition(".")[2] == path.rpartition(".")[2]]
    like = _SYNONYMS.get(path.lower())
    like = like or (same_name[0] if same_name else nearest(path, (*PATHS, *EARLY)))
    cure = f"did you mean {like}?"
    if not like:
        cure = (
            "there are training.NAME, head.NAME, input.NAME, base.partial, column.NAME, "
            "block.NAME.action and block.NAME.lr."
        )
    raise PlanError(f"--set {path}={text}: there is no {path} in a plan; {cure}")


def parse_value(path: str, text: str, kind: SettingKind) -> Value:
    """The value of a text. Raises: PlanError if it is of another type.

    >>> parse_value("head.penalties", "0.1, 1", "numbers")
    (0.1, 1.0)
    >>> parse_value("training.flip", "False", "switch")
    False
    """
    items = [item.strip() for item in text.split(",")] if kind.endswith("s") else [text]
    item_kind = _ONE.get(kind, kind)
    values = [_parse_item(item, item_kind) for item in items]
    if None in values:
        raise wrong_value(f"--set {path}", _EXAMPLES[kind], text)
    plain = cast(list[Plain], values)
    return tuple(plain) if item_kind != kind else plain[0]


def _parse_item(text: str, kind: SettingKind) -> Plain | None:
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


def apply_settings(plan: Plan, settings: Sequence[str]) -> Plan:
    """The plan with the user's values, in any order; learning rates are updated.

    A block has its name, or its number 1..P from the input: `block.blocks.0.lr=1e-4`,
    `block.3.action=frozen`. `check_plan` checks ranges.
    Raises: PlanError that names the setting and what it must be.
    """
    texts = parse_settings(settings)
    values = {path: text for path, text in texts.items() if not path.startswith("block.")}
    blocks = _parse_blocks(plan, {path: text for path, text in texts.items() if path not in values})
    after, changed = _with_actions(_with_values(plan, values), blocks)
    if "training.lora_rank" in values and LOW_RANK.name not in after.actions:
        raise PlanError(
            f"--set training.lora_rank={values['training.lora_rank']}: no block is low-rank; add "
            "--strategy full+lora."
        )
    if {"training.lr", "training.layer_decay", "training.optimizer"} & values.keys():
        changed = set(range(len(plan.blocks)))
    return _with_lrs(update_lrs(after, changed), blocks)


def update_lrs(plan: Plan, places: Iterable[int]) -> Plan:
    """The plan with the rule's learning rates at these places; the user's stay."""
    if not plan.is_trained:
        return plan
    changed = set(places)
    lrs = block_lrs(plan.actions, lr_spread(plan.training, strategy_of(plan)))
    blocks = []
    for place, (block, lr) in enumerate(zip(plan.blocks, lrs, strict=True)):
        # A block that no longer moves loses its learning rate, the user's too.
        is_users = lr is not None and block.lr is not None and block.lr.source == "user"
        blocks.append(replace(block, lr=lr) if place in changed and not is_users else block)
    return replace(plan, blocks=tuple(blocks))


def _with_values(plan: Plan, values: Mapping[str, str]) -> Plan:
    after = plan
    for path, text in values.items():
        section, _, name = path.partition(".")
        check_path(path, text)
        record = getattr(after, section)
        if section == "training" and not plan.is_trained:
            raise _untrained_error(f"{path}={text}", plan)
        if record is None:
            raise PlanError(f"--set {path}={text}: this base model has no square image input.")
        choice = _users(parse_value(path, text, PATHS[path]), getattr(record, name))
        after = replace(after, **{section: replace(record, **{name: choice})})
    if {"training.epochs", "training.batch_size", "training.parallel"} & values.keys():
        after = _with_steps(after)
    return _with_optimizer(plan, after)


def _with_steps(plan: Plan) -> Plan:
    training, epochs = plan.training, plan.training.epochs
    ema_decay, micro_batch = training.ema_decay, training.micro_batch
    batch = int(training.batch_size.number)
    if (
        ema_decay is not None
        and ema_decay.source == "rule"
        and epochs is not None
        and not (training.is_paired and ema_decay.value == 0)  # too few pairs to average
    ):
        ema_decay = choose_ema_decay(plan.samples_seen, batch, training.is_paired)
    if micro_batch is not None and micro_batch.source == "rule":
        n = n_stages(training.parallel.value) if training.parallel else 0
        micro_batch = pipeline_micro_batch(batch, n) if n else choose_micro_batch(batch)
    return replace(plan, training=replace(training, ema_decay=ema_decay, micro_batch=micro_batch))


def _with_optimizer(before: Plan, after: Plan) -> Plan:
    """Adapt learning rate and weight decay to another optimizer, unless the user set them."""
    old, new = before.training.optimizer, after.training.optimizer
    if old is None or new is None or old.value == new.value:
        return after
    if not OPTIMIZERS.keys() >= {old.value, new.value}:
        return after  # for check_plan to refuse
    training, name, last = after.training, str(new.value), OPTIMIZERS[str(old.value)]
    is_scratch = strategy_of(after).depth == "scratch"
    lr, decay = training.lr, training.weight_decay
    if lr is not None and lr.source != "user":
        value = convert_lr(lr.number, str(old.value), name, is_scratch)
        why = f"for {OPTIMIZERS[name]} what {lr.number:g} is for {last}"
        training = replace(training, lr=by_rule(value, why))
    if decay is not None and decay.source != "user":
        why = f"mild, as is usual with {OPTIMIZERS[name]}"
        decay = by_rule(WEIGHT_DECAY[name], why)
        training = replace(training, weight_decay=decay)
    return replace(after, training=training)


def _users(value: Value, old: Choice | None) -> Choice:
    """The user's value, with the rule's if known."""
    rule = None
    if old is not None:
        rule = old.value if old.rule is None and old.source != "user" else old.rule
    return Choice(value=value, because="your choice (--set)", source="user", rule=rule)


def _untrained_error(setting: str, plan: Plan) -> PlanError:
    return PlanError(
        f"--set {setting}: nothing is trained step by step with strategy {plan.strategy.value}; "
        "add --strategy last:N."
    )


def _parse_blocks(plan: Plan, texts: Mapping[str, str]) -> dict[tuple[int, str], str]:
    """The texts by place and field, `action` or `lr`."""
    fields: dict[tuple[int, str], str] = {}
    for path, text in texts.items():
        place, field = _find_block(plan, path, text)
        if not plan.is_trained:
            raise _untrained_error(f"{path}={text}", plan)
        if (place, field) in fields:
            raise PlanError(f"--set {path} is given twice, by name and by number; keep one.")
        if field == "action":
            _check_action(plan.blocks[place], f"{path}={text}", text)
        fields[place, field] = text
    return fields


def _find_block(plan: Plan, path: str, text: str) -> tuple[int, str]:
    """The place of the block that a path names, and `action` or `lr`."""
    name, _, field = path.removeprefix("block.").rpartition(".")
    if not name or field not in ("action", "lr"):
        raise PlanError(f"--set {path}={text}: a block has block.NAME.action and block.NAME.lr.")
    names = [block.name for block in plan.blocks]
    n_body = sum(block.behaviour.place == "block" for block in plan.blocks)
    if name in names:
        return names.index(name), field
    if name.isascii() and name.isdigit() and len(name) < 10 and 1 <= int(name) <= n_body:
        return int(name) - 1, field
    like = nearest(name, names)
    cure = f"did you mean {like}?" if like else f"by name they are {names[0]} to {names[-1]}."
    raise PlanError(
        f"--set {path}={text}: there is no block {name}; they are numbered 1 to {n_body} from the "
        f"input; {cure}"
    )


def _check_action(block: BlockPlan, setting: str, action: str) -> None:
    if block.name == OUTPUT and block.behaviour.place == "head":
        raise PlanError(
            f"--set {setting}: the head is always replaced; its learning rate can be set."
        )
    if block.behaviour.place == "above":
        raise PlanError(
            f"--set {setting}: added layers have no other action; leave +add out of --strategy."
        )
    able = for_blocks()
    if action in ACTIONS and action not in able:
        raise PlanError(
            f"--set {setting}: a block of the base model cannot be {action}; it can be "
            f"{', '.join(able)}."
        )
    if action not in able:
        like = nearest(action, able)
        cure = f"did you mean {like}?" if like else f"there are {', '.join(able)}."
        raise PlanError(f"--set {setting}: {action} is not an action; {cure}")


def _with_actions(plan: Plan, texts: Mapping[tuple[int, str], str]) -> tuple[Plan, set[int]]:
    """The plan with these actions, and the places whose learning rates have to be updated."""
    blocks = list(plan.blocks)
    for (place, field), text in texts.items():
        if field == "action":
            blocks[place] = replace(blocks[place], action=_users(text, blocks[place].action))
    changed_plan = replace(plan, blocks=tuple(blocks))
    before, after = plan.actions, changed_plan.actions
    if before != after and not train_network(after):
        raise PlanError(
            "--set block.NAME.action=frozen leaves no layer to train; use --strategy head instead."
        )
    changed = {n for n, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]}
    if (FRESH.name in before) != (FRESH.name in after):
        changed.add(len(blocks) - 1)  # the head begins fitted, or at random too
    return changed_plan, changed


def _with_lrs(plan: Plan, texts: Mapping[tuple[int, str], str]) -> Plan:
    blocks = list(plan.blocks)
    for (place, field), text in texts.items():
        if field != "lr":
            continue
        block = blocks[place]
        path = f"block.{block.name}.lr"
        if not block.behaviour.is_trained:
            raise PlanError(
                f"--set {path}={text}: the block is frozen and has no learning rate; add "
                f"--set block.{block.name}.action=tuned."
            )
        blocks[place] = replace(block, lr=_users(parse_value(path, text, "number"), block.lr))
    return replace(plan, blocks=tuple(blocks))
