"""A plan's training choices as plain numbers, and the blocks of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from warmstart.errors import PlanError
from warmstart.planning.facts import DATA, parallel_mode
from warmstart.records.block_actions import FROZEN, TUNED, Action, train_network
from warmstart.records.plan import Choice, Plan, TrainingPlan, wrong_value

MOST_STAGES = 4  # of gradual unfreezing


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The step-by-step training of a plan. `joining`: blocks that are unfrozen from the top."""

    optimizer: str
    weight_decay: float
    n_steps: int
    batch_size: int
    warmup: float
    crop: float
    flip: bool
    folds: int
    seed: int
    model_soup: int = 1  # trainings on all examples whose weights are averaged
    color_jitter: float = 0.0
    time_shift: float = 0.0
    spec_augment: float = 0.0
    augmentations: int = 0  # different ones of an image; 0: new ones every epoch
    split_at: int = 0  # blocks whose outputs are cached
    cache_dtype: str = "float32"
    ema_decay: float = 0.0
    l2_sp: float = 0.0
    contrastive: bool = False
    contrastive_temperature: float = 0.0  # 0: one update pulls all cosines to 1 and 0
    micro_batch: int = 0  # 0: the whole batch
    gradient_checkpointing: bool = False
    parallel: str = DATA  # what several processes share: data, fsdp or pipeline
    device: str = "cpu"
    precision: str = "float32"
    workers: int = 0
    compile: bool = False
    joining: tuple[str, ...] = ()  # from the input to the output; empty: all at once

    @property
    def is_varied(self) -> bool:
        """Whether augmentations change an image at all."""
        largest = max(self.color_jitter, self.time_shift, self.spec_augment)
        return self.crop < 1 or self.flip or largest > 0


_TYPES: dict[str, type] = {"float": float, "int": int, "str": str, "bool": bool}


def schedule(plan: Plan) -> Schedule:
    """Read a plan's training choices; a plan for the user's own loop may lack some.

    Raises: PlanError where one is missing that has no default.
    """
    training, values = plan.training, dict[str, Any]()
    for field in fields(Schedule):
        choice = getattr(training, field.name, None)
        if choice is not None:
            kind = _TYPES[str(field.type)]
            if kind in (int, float) and isinstance(choice.value, (str, tuple)):
                raise wrong_value(f"the plan's training.{field.name}", "a number", choice.value)
            values[field.name] = kind(choice.value)
        elif field.default is MISSING and field.name != "n_steps":
            raise PlanError(
                f"the plan trains blocks without training.{field.name}; make a new plan with "
                "--dry-run."
            )
    batch = values["batch_size"]
    values["micro_batch"] = min(values.get("micro_batch", batch), batch)
    values["parallel"] = parallel_mode(values.get("parallel", DATA))
    if "gradual" in str(plan.strategy.value):
        values["joining"] = tuple(b.name for b in plan.blocks if b.behaviour is TUNED)
    return Schedule(n_steps=-(-plan.samples_seen // batch), **values)


def for_fold(full: Schedule, n_held: int, n: int) -> Schedule:
    """The schedule of a training that holds `n_held` of `n` examples out, for as many epochs.

    Where one update compares all texts, it has as many updates of fewer texts.
    """
    steps = max(round((1 - n_held / n) * full.n_steps), 1)
    if not full.contrastive:
        return replace(full, n_steps=steps)
    batch = min(full.batch_size, n - n_held)
    fold = replace(full, batch_size=batch, micro_batch=min(full.micro_batch or batch, batch))
    if full.batch_size >= n:
        return fold
    ema_decay = max(1 - (1 - full.ema_decay) * full.n_steps / steps, 0.0) if full.ema_decay else 0.0
    return replace(fold, n_steps=steps, ema_decay=ema_decay)


def stage_actions(schedule: Schedule, actions: Mapping[str, Action]) -> list[dict[str, Action]]:
    """The action of each block, stage by stage: one stage, or blocks unfrozen from the top.

    Gradual unfreezing: Howard & Ruder 2018, "Universal Language Model Fine-tuning", §3.3. At most
    four stages, so that each has enough steps.

    >>> from dataclasses import replace
    >>> plain = Schedule(optimizer="adamw", weight_decay=0.0, n_steps=8, batch_size=8, warmup=0.1,
    ...                  crop=1.0, flip=False, folds=1, seed=0, joining=("a", "b"))
    >>> stage_actions(plain, {"a": "tuned", "b": "tuned"})
    [{'a': 'frozen', 'b': 'tuned'}, {'a': 'tuned', 'b': 'tuned'}]
    """
    names = schedule.joining
    if len(names) < 2:
        return [dict(actions)]
    n_stages = min(MOST_STAGES, len(names))
    n_frozen = [len(names) * stage // n_stages for stage in range(n_stages)]
    return [{**actions, **dict.fromkeys(names[:n], FROZEN.name)} for n in n_frozen[::-1]]


def as_followed(plan: Plan, schedule: Schedule, joined: int) -> Plan:
    """The plan after gradual unfreezing: blocks that were not unfrozen are frozen in it."""
    stages = stage_actions(schedule, {})
    frozen = schedule.joining if not joined else tuple(stages[joined - 1])
    if len(stages) < 2 or not frozen:
        return plan
    why = "it was not unfrozen: training it did not improve validation"
    blocks = [
        replace(block, action=replace(block.action, value=FROZEN.name, because=why), lr=None)
        if block.name in frozen
        else block
        for block in plan.blocks
    ]
    if not train_network(block.behaviour.name for block in blocks):
        blocks = [replace(block, lr=None) for block in blocks]
    return replace(plan, blocks=tuple(blocks))


def given_up(plan: Plan, why: str) -> Plan:
    """The plan after training was given up: only the head is trained."""
    return head_only(plan, why, f"{plan.strategy.value} was given up: {why}")


def head_only(plan: Plan, why: str, because: str = "") -> Plan:
    """The plan with a head only; `because` is the reason of its strategy, if not `why`."""
    blocks = [
        replace(block, action=replace(block.action, value=FROZEN.name, because=why), lr=None)
        if block.behaviour.place != "head"
        else replace(block, lr=None)
        for block in plan.blocks
        if block.behaviour.place != "above"
    ]
    always = ("engine", "batch_size", "seed", "offload")
    training = TrainingPlan(**{name: getattr(plan.training, name) for name in always})
    rule = plan.strategy.value
    strategy = Choice(value="head", because=because or why, source="measured", rule=rule)
    return replace(plan, strategy=strategy, blocks=tuple(blocks), training=training)
