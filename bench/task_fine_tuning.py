"""Several labels and numbers with `--budget balanced`: upper layers beside the head alone."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import warmstart
from bench.task_pictures import paired, turned
from warmstart.records.data import Task
from warmstart.stats.paired import difference
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.regress import Regression

TAILED = ("trashnet/multilabel", "clothing/regress")
BUDGETS = ("fast", "balanced")
LEARNT, SIDE = 160, 96  # pictures; pixels: training at twice the side takes four times as long


def tuned(args: Namespace, name: str) -> dict[str, Any]:
    """What ships with each budget, on the same test pictures."""
    which, _, word = name.partition("/")
    task: Task = "regress" if word == "regress" else "multilabel"
    make: Any = turned if task == "regress" else paired
    images, labels = make(Namespace(data=args.data, train=LEARNT, test=args.test), which)
    credits, shipped = [], ""
    with tempfile.TemporaryDirectory() as folder:
        for budget in BUDGETS:
            run = warmstart.fit(
                (images[:LEARNT], labels[:LEARNT]),
                task=task,
                budget=budget,
                out=Path(folder) / budget,
                settings=[f"input.size={SIDE}"],
            )
            credits.append(_credits(run.predict(list(images[LEARNT:])), labels[LEARNT:], task))
            shipped = run.summary.shipped.strategy
    head, both = credits
    gap = difference(both, head, np.arange(len(both)), np.random.default_rng(0))
    return {
        "learnt from": LEARNT,
        "size": SIDE,
        "head": float(head.mean()),
        "balanced": float(both.mean()),
        "gain": gap.value,
        "low": gap.low,
        "high": gap.high,
        "shipped": shipped,
    }


def _credits(answers: Any, labels: Any, task: Task) -> NDArray[np.float64]:
    """What each answer adds to the score. Shapes: returns (n,)."""
    if task == "regress":
        return Regression().credits(np.array([[one.value] for one in answers]), np.asarray(labels))
    names = sorted(answers[0].scores)
    truth = MULTILABEL.read(["|".join(one) for one in labels], names)
    reported = np.array([[one.scores[name] for name in names] for one in answers])
    return MULTILABEL.credits(reported, truth)
