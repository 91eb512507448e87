"""--set path=value: single values of a plan that override the rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from warmstart.errors import PlanError
from warmstart.planning.check import LIMITS, SettingKind
from warmstart.planning.facts import n_stages, pipeline_micro_batch
from warmstart.planning.fine_tuning import choose_ema_decay, choose_micro_batch, lr_spread
from warmstart.planning.rules import OPTIMIZERS, WEIGHT_DECAY, block_lrs, convert_lr
from warmstart.planning.strategy import OUTPUT, nearest, strategy_of
from warmstart.records.block_actions import ACTIONS, FRESH, LOW_RANK, for_blocks, train_network
from warmstart.records.plan import BlockPlan, Choice, Plain, Plan, Value, by_rule, wrong_value

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


@dataclass(frozen=True, slots=True)
class Setting:
    """One --set: a path of the plan, and its value of the type that belongs there."""

    path: str
    text: str  # of the value, as typed
    value: Value

    def __str__(self) -> str:
        return f"{self.path}={self.text}"

    @property
    def error(self) -> str:
        """The beginning of an error."""
        return f"--set {self}:"


Settings = Mapping[str, Setting]  # by path


def parse_settings(settings: Iterable[str]) -> dict[str, Setting]:
    """Settings by their paths, in order.

    Raises: PlanError where there is no "=", no value, or the same path twice; for a path that no
    plan has, and a value of another type.

    >>> [one.value for one in parse_settings(["training.epochs=900", "block.1.lr = 1e-4"]).values()]
    [900.0, 0.0001]
    """
    parsed: dict[str, Setting] = {}
    for setting in settings:
        path, equals, text = (side.strip() for side in setting.partition("="))
        if not equals or not path or not text:
            raise PlanError(
                f"--set {setting} needs a path and a value, such as training.epochs=20."
            )
        if text.lower() == "auto":
            raise PlanError(f"--set {setting}: auto is not a value; leave out this --set instead.")
        if path in parsed:
            raise PlanError(f"--set {path} is given twice; keep one.")
        parsed[path] = Setting(path, text, _parse(path, text))
    return parsed


def _parse(path: str, text: str) -> Value:
    if path == "base.partial":
        return parse_value(path, text, "switch")
    if is_early(path):
        return text.lower()
    if path.startswith("block."):
        name, _, field = path.removeprefix("block.").rpartition(".")
        if not name or field not in ("action", "lr"):
            raise PlanError(
                f"--set {path}={text}: a block has block.NAME.action and block.NAME.lr."
            )
        return text if field == "action" else parse_value(path, text, "number")
    _check_path(path, text)
    return parse_value(path, text, PATHS[path])


def is_early(path: str) -> bool:
    """Whether a path takes effect before there is a plan.

    >>> is_early("column.age"), is_early("training.lr")
    (True, False)
    """
    return path in EARLY or path.startswith(COLUMN)


def _check_path(path: str, text: str) -> None:
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


def apply_settings(plan: Plan, settings: Settings) -> Plan:
    """The plan with the user's values, in any order; learning rates are updated.

    A block has its name, or its number 1..P from the input: `block.blocks.0.lr=1e-4`,
    `block.3.action=frozen`. What takes effect earlier is passed over; `check_plan` checks ranges.
    Raises: PlanError that names the setting and what it must be.
    """
    late = [one for one in settings.values() if not is_early(one.path)]
    values = {one.path: one for one in late if not one.path.startswith("block.")}
    blocks = _by_place(plan, [one for one in late if one.path not in values])
    after, changed = _with_actions(_with_values(plan, values), blocks)
    if (rank := values.get("training.lora_rank")) and LOW_RANK.name not in after.actions:
        raise PlanError(f"{rank.error} no block is low-rank; add --strategy full+lora.")
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


def _with_values(plan: Plan, values: Settings) -> Plan:
    after = plan
    for path, setting in values.items():
        section, _, name = path.partition(".")
        record = getattr(after, section)
        if section == "training" and not plan.is_trained:
            raise _untrained_error(setting, plan)
        if record is None:
            raise PlanError(f"{setting.error} this base model has no square image input.")
        choice = _users(setting.value, getattr(record, name))
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


def _untrained_error(setting: Setting, plan: Plan) -> PlanError:
    return PlanError(
        f"{setting.error} nothing is trained step by step with strategy {plan.strategy.value}; "
        "add --strategy last:N."
    )


def _by_place(plan: Plan, settings: Iterable[Setting]) -> dict[tuple[int, str], Setting]:
    """The settings of blocks by place and field, `action` or `lr`."""
    fields: dict[tuple[int, str], Setting] = {}
    for setting in settings:
        place, field = _find_block(plan, setting)
        if not plan.is_trained:
            raise _untrained_error(setting, plan)
        if (place, field) in fields:
            raise PlanError(
                f"--set {setting.path} is given twice, by name and by number; keep one."
            )
        if field == "action":
            _check_action(plan.blocks[place], setting)
        fields[place, field] = setting
    return fields


def _find_block(plan: Plan, setting: Setting) -> tuple[int, str]:
    """The place of the block that a setting names, and `action` or `lr`."""
    name, _, field = setting.path.removeprefix("block.").rpartition(".")
    names = [block.name for block in plan.blocks]
    n_body = sum(block.behaviour.place == "block" for block in plan.blocks)
    if name in names:
        return names.index(name), field
    if name.isascii() and name.isdigit() and len(name) < 10 and 1 <= int(name) <= n_body:
        return int(name) - 1, field
    like = nearest(name, names)
    cure = f"did you mean {like}?" if like else f"by name they are {names[0]} to {names[-1]}."
    raise PlanError(
        f"{setting.error} there is no block {name}; they are numbered 1 to {n_body} from the "
        f"input; {cure}"
    )


def _check_action(block: BlockPlan, setting: Setting) -> None:
    able, action, why = for_blocks(), setting.text, ""
    if block.name == OUTPUT and block.behaviour.place == "head":
        why = "the head is always replaced; its learning rate can be set."
    elif block.behaviour.place == "above":
        why = "added layers have no other action; leave +add out of --strategy."
    elif action in ACTIONS and action not in able:
        why = f"a block of the base model cannot be {action}; it can be {', '.join(able)}."
    elif action not in able:
        like = nearest(action, able)
        cure = f"did you mean {like}?" if like else f"there are {', '.join(able)}."
        why = f"{action} is not an action; {cure}"
    if why:
        raise PlanError(f"{setting.error} {why}")


def _with_actions(plan: Plan, settings: Mapping[tuple[int, str], Setting]) -> tuple[Plan, set[int]]:
    """The plan with these actions, and the places whose learning rates have to be updated."""
    blocks = list(plan.blocks)
    for (place, field), setting in settings.items():
        if field == "action":
            action = _users(setting.value, blocks[place].action)
            blocks[place] = replace(blocks[place], action=action)
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


def _with_lrs(plan: Plan, settings: Mapping[tuple[int, str], Setting]) -> Plan:
    blocks = list(plan.blocks)
    for (place, field), setting in settings.items():
        if field != "lr":
            continue
        block = blocks[place]
        if not block.behaviour.is_trained:
            raise PlanError(
                f"--set block.{block.name}.lr={setting.text}: the block is frozen and has no "
                f"learning rate; add --set block.{block.name}.action=tuned."
            )
        blocks[place] = replace(block, lr=_users(setting.value, block.lr))
    return replace(plan, blocks=tuple(blocks))
