"""The plan's head on the stored features: chosen and fitted on all learning rows, or on some."""

from __future__ import annotations

from warmstart.events import Steps, drain
from warmstart.records.plan import Plan
from warmstart.solve.ridge import Rows
from warmstart.training import dataset
from warmstart.training.dataset import Scene
from warmstart.training.linear_probe import HeadFit, fit_head


def fit_all(scene: Scene, plan: Plan) -> Steps[HeadFit]:
    """On all learning rows, with the estimate of the plan's folds or the user's hold-out."""
    arranged = scene.arranged
    read = scene.look.reader(arranged.learn)
    heads = dataset.heads(plan, scene.profiles, read, len(arranged.learn), scene.prior)
    problem = dataset.pose(arranged, plan)
    return (yield from fit_head(heads, problem, 0 if arranged.holdout else None))


def fit_on(scene: Scene, plan: Plan, keep: Rows) -> HeadFit:
    """On some rows alone, chosen among the same candidates."""
    read = scene.look.reader(scene.examples(keep))
    heads = dataset.heads(plan, scene.profiles, read, len(keep), scene.prior)
    return drain(fit_head(heads, dataset.pose_on(scene.arranged, keep)))
