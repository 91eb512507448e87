"""--plan FILE: a plan from a file, with what was typed beside it on top."""

from __future__ import annotations

from dataclasses import fields, replace

from warmstart.errors import PlanError
from warmstart.planning.facts import Wishes
from warmstart.planning.settings import respread
from warmstart.planning.strategy import strategy_of
from warmstart.planning.tuning import at_once, averaging, takes_mean
from warmstart.records import Choice, HeadPlan, Plan, TrainingPlan

_LATER = (  # choices of training that came with stored activations
    "colour", "views", "cut", "store", "average", "l2_sp", "micro_batch", "recompute", "device",
    "precision", "workers", "compile",
)  # fmt: skip


def wishes_for(file: Plan, wishes: Wishes) -> Wishes:
    """The wishes under which `build` gives what `overlay` takes from it.

    Without a --strategy of the user's own, that is a plan which trains as the file's does,
    so that --lr and --budget find what they change. Its parts are not taken.
    """
    if "strategy" in wishes.given:
        return wishes
    strategy = "full" if file.is_trained else "head"
    if file.is_trained and strategy_of(file).depth == "scratch":
        strategy = "scratch"
    elif any(part.action.value == "low-rank" for part in file.parts):
        strategy = "full+lora"
    return replace(wishes, strategy=strategy)


def overlay(built: Plan, file: Plan, given: frozenset[str]) -> Plan:
    """The file's plan; what was typed (`given`, by option names) comes from `built` instead.

    The columns of a table are `built`'s: it was read as the file says. `start` takes the
    input with it, `strategy` the parts and their rates, `budget` the heads
    to try, the permutations and the folds of training, `lr` every rate that the user did not
    set part by part, `device` all that follows from it. `built` is made from `wishes_for`.
    Raises: PlanError where --lr meets a plan that trains nothing.
    """
    head, training = _head(built, file, given), _training(built, file, given)
    plan = replace(file, head=head, training=training, columns=built.columns)
    if "start" in given:
        plan = replace(plan, start=built.start, partial=built.partial, input=built.input)
    if {"start", "arch"} & given:
        plan = replace(plan, arch=built.arch)
    if "strategy" in given:
        return replace(plan, strategy=built.strategy, parts=built.parts)
    if "lr" in given:
        if plan.training.rate is None or not plan.is_trained:
            raise PlanError(
                "--lr: nothing is trained step by step in this plan; add --strategy last:N, or "
                "leave --lr away."
            )
        return respread(plan, range(len(plan.parts)))
    return plan


def _head(built: Plan, file: Plan, given: frozenset[str]) -> HeadPlan:
    if "budget" not in given:
        return file.head
    return replace(
        file.head, candidates=built.head.candidates, permutations=built.head.permutations
    )


def _completed(file: TrainingPlan, built: TrainingPlan) -> TrainingPlan:
    """Choices that a plan of an older version does not have, from the rule."""
    if file.passes is None:
        return file
    ours = replace(
        built, micro_batch=at_once(int(file.batch.number)),
        average=averaging(int(file.passes.number), int(file.batch.number)),
    )  # fmt: skip
    names = [field.name for field in fields(file) if getattr(file, field.name) is None]
    return replace(file, **{name: getattr(ours, name) for name in names if name in _LATER})


def _unless_mine(file: Choice | None, ours: Choice | None) -> Choice | None:
    return file if file is not None and file.source == "user" else ours


def _training(built: Plan, file: Plan, given: frozenset[str]) -> TrainingPlan:
    """The file's training, with the choices that follow from what was typed."""
    theirs, ours = _completed(file.training, built.training), built.training
    # What suits learning from pairs does not suit learning by an output.
    is_alike = built.is_trained and file.is_trained and ours.is_paired == theirs.is_paired
    if "strategy" in given and is_alike:
        theirs = replace(
            theirs, optimizer=ours.optimizer, rate=ours.rate, layer_decay=ours.layer_decay,
            weight_decay=ours.weight_decay, rank=ours.rank, cut=ours.cut, views=ours.views,
            store=ours.store, l2_sp=ours.l2_sp,
            soup=theirs.soup if takes_mean(strategy_of(built)) else None,
        )  # fmt: skip
    elif "strategy" in given:
        theirs = replace(ours, engine=theirs.engine, seed=theirs.seed)
    if "lr" in given and ours.rate is not None:
        theirs = replace(theirs, rate=ours.rate)
    if "device" in given and theirs.device is not None and ours.device is not None:
        theirs = replace(
            theirs, device=ours.device, precision=ours.precision, workers=ours.workers,
            compile=ours.compile,
        )  # fmt: skip
    if "budget" in given and theirs.folds is not None:
        theirs = replace(theirs, folds=ours.folds or theirs.folds)
        strategy = strategy_of(built if "strategy" in given else file)
        if is_alike and not ours.is_paired and takes_mean(strategy):
            theirs = replace(
                theirs, soup=ours.soup, passes=_unless_mine(theirs.passes, ours.passes),
                average=_unless_mine(theirs.average, ours.average),
            )  # fmt: skip
    return replace(theirs, seed=ours.seed) if "seed" in given else theirs
