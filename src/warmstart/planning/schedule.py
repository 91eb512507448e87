"""A plan's training choices as plain numbers, and which parts move when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from warmstart.errors import PlanError
from warmstart.planning.machine import DATA, kind_of
from warmstart.records.plan import Action, Choice, Plan, TrainingPlan

_WAITED = "it did not join: training it did not help on examples set apart"
MOST_STAGES = 4  # groups of parts that join one after the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The step-by-step training of a plan. `joining`: tuned parts that join from the top."""

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
    augmentations: int = 0  # different views of an image; 0: ever new ones
    split_at: int = 0  # parts whose outputs are stored
    cache_dtype: str = "float32"
    ema_decay: float = 0.0
    l2_sp: float = 0.0
    contrastive: bool = False
    contrastive_temperature: float = (
        0.0  # of pairs; 0: one update draws all of them to cosines of 1 and 0
    )
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
        """Whether any view of an image differs from the image as it is."""
        return (
            self.crop < 1
            or self.flip
            or max(self.color_jitter, self.time_shift, self.spec_augment) > 0
        )


def schedule(plan: Plan) -> Schedule:
    """Read a plan's training choices. Raises: PlanError where one is missing."""
    training = plan.training
    batch = int(_number(training.batch_size, "batch_size"))
    tuned = tuple(p.name for p in plan.blocks if p.action.value == "tuned")
    return Schedule(
        optimizer=str(_choice(training.optimizer, "optimizer").value),
        weight_decay=_number(training.weight_decay, "weight_decay"),
        n_steps=-(-_samples(plan) // batch),
        batch_size=batch,
        warmup=_number(training.warmup, "warmup"),
        crop=_number(training.crop, "crop"),
        flip=bool(_choice(training.flip, "flip").value),
        folds=int(_number(training.folds, "folds")),
        seed=int(_number(training.seed, "seed")),
        **_stored(training),
        **_executed(training, batch),
        joining=tuned if "gradual" in str(plan.strategy.value) else (),
    )


def _samples(plan: Plan) -> int:
    _number(plan.training.epochs, "epochs")
    return plan.samples_seen


def scaled_steps(n_steps: int, share: float) -> int:
    """Updates of a training that learns from a share of the examples: each is passed as often.

    >>> scaled_steps(200, 0.5), scaled_steps(1, 0.5)
    (100, 1)
    """
    return max(round(share * n_steps), 1)


def for_fold(chosen: Schedule, n_held: int, n: int) -> Schedule:
    """The schedule of a training that holds `n_held` of `n` examples out.

    Each example is passed as often; where one update compares all texts, there are as many of
    what is left: the same text twice in one would say nothing.
    """
    steps = scaled_steps(chosen.n_steps, 1 - n_held / n)
    if not chosen.contrastive:
        return replace(chosen, n_steps=steps)
    batch = min(chosen.batch_size, n - n_held)
    found = replace(chosen, batch_size=batch, micro_batch=min(chosen.micro_batch or batch, batch))
    if chosen.batch_size >= n:
        return found
    average = (
        max(1 - (1 - chosen.ema_decay) * chosen.n_steps / steps, 0.0) if chosen.ema_decay else 0.0
    )
    return replace(found, n_steps=steps, ema_decay=average)


def _stored(training: TrainingPlan) -> dict[str, Any]:
    """What a plan for a loop of one's own leaves open: views, and how weights are held."""
    return {
        "color_jitter": _given(training.color_jitter, 0.0),
        "time_shift": _given(training.time_shift, 0.0),
        "spec_augment": _given(training.spec_augment, 0.0),
        "model_soup": int(_given(training.model_soup, 1)),
        "augmentations": int(_given(training.augmentations, 0)),
        "split_at": int(_given(training.split_at, 0)),
        "cache_dtype": str(training.cache_dtype.value) if training.cache_dtype else "float32",
        "ema_decay": _given(training.ema_decay, 0.0),
        "l2_sp": _given(training.l2_sp, 0.0),
        "contrastive": training.is_paired,
        "contrastive_temperature": _given(training.contrastive_temperature, 0.0),
    }


def _executed(training: TrainingPlan, batch: int) -> dict[str, Any]:
    """The same for how the machine is used."""
    return {
        "micro_batch": min(int(_given(training.micro_batch, batch)), batch),
        "gradient_checkpointing": bool(
            training.gradient_checkpointing and training.gradient_checkpointing.value
        ),
        "parallel": kind_of(training.parallel.value) if training.parallel else DATA,
        "device": str(training.device.value) if training.device else "cpu",
        "precision": str(training.precision.value) if training.precision else "float32",
        "workers": int(_given(training.workers, 0)),
        "compile": bool(training.compile and training.compile.value),
    }


def _given(choice: Choice | None, otherwise: float) -> float:
    return otherwise if choice is None else choice.number


def stage_actions(schedule: Schedule, actions: Mapping[str, Action]) -> list[dict[str, Action]]:
    """What is done to each part, stage by stage: one stage, or parts that join from the top.

    Gradual unfreezing: Howard & Ruder 2018, "Universal Language Model Fine-tuning", §3.3.
    Many parts join in four groups, so that each has steps enough to be judged by.

    >>> from dataclasses import replace
    >>> plain = Schedule(optimizer="adamw", weight_decay=0.0, n_steps=8, batch_size=8, warmup=0.1,
    ...                  crop=1.0, flip=False, folds=1, seed=0, joining=("a", "b"))
    >>> stage_actions(plain, {"a": "tuned", "b": "tuned"})
    [{'a': 'frozen', 'b': 'tuned'}, {'a': 'tuned', 'b': 'tuned'}]
    """
    names = schedule.joining
    if len(names) < 2:
        return [dict(actions)]
    n_groups = min(MOST_STAGES, len(names))
    starts = [len(names) * group // n_groups for group in range(n_groups)]
    return [{**actions, **dict.fromkeys(names[:start], "frozen")} for start in starts[::-1]]


def as_followed(plan: Plan, joined: int) -> Plan:
    """The plan as it was followed: parts that did not join are frozen in it.

    Where none joined, and nothing else moves, the output is the fitted one.
    """
    stages = stage_actions(schedule(plan), {})
    waiting = schedule(plan).joining if not joined else tuple(stages[joined - 1])
    if len(stages) < 2 or not waiting:
        return plan
    blocks = [
        replace(block, action=replace(block.action, value="frozen", because=_WAITED), lr=None)
        if block.name in waiting
        else block
        for block in plan.blocks
    ]
    if all(block.action.value in ("frozen", "replaced") for block in blocks):
        blocks = [replace(block, lr=None) for block in blocks]
    return replace(plan, blocks=tuple(blocks))


def given_up(plan: Plan, why: str) -> Plan:
    """The plan as it was followed where training was given up: the output alone is learnt."""
    return head_only(plan, why, f"{plan.strategy.value} was given up: {why}")


def head_only(plan: Plan, why: str, because: str = "") -> Plan:
    """The plan as it was followed where nothing of a training is kept.

    `because` is the reason beside the strategy, where that says more.
    """
    blocks = [
        replace(block, action=replace(block.action, value="frozen", because=why), lr=None)
        if block.action.value != "replaced"
        else replace(block, lr=None)
        for block in plan.blocks
        if block.action.value != "added"
    ]
    closed = TrainingPlan(
        engine=plan.training.engine,
        batch_size=plan.training.batch_size,
        seed=plan.training.seed,
        offload=plan.training.offload,
    )
    strategy = Choice(
        value="head",
        because=because or why,
        source="measured",
        rule=plan.strategy.value,
    )
    return replace(plan, strategy=strategy, blocks=tuple(blocks), training=closed)


def _choice(choice: Choice | None, name: str) -> Choice:
    if choice is None:
        raise PlanError(
            f"plan: training.{name} is missing though parts are trained; "
            "write a plan with --dry-run to compare."
        )
    return choice


def _number(choice: Choice | None, name: str) -> float:
    value = _choice(choice, name).value
    if isinstance(value, (str, tuple)):
        raise PlanError(f"plan: training.{name} is {value!r}; it is a number.")
    return float(value)
