"""A last-tap twin: for formats that hold one output layer on the network's own last features.

The head is fitted anew, in closed form, on the last tap of the finished network's own layers.
What it is worth is measured on images that neither head nor layers had learnt from: out of
fold where no layer was trained on these images, else on the run's test part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from warmstart.data.splits import group_numbers
from warmstart.errors import DataError, ExportError, RunFolderError
from warmstart.evaluation.metrics import MODEL_VARIANCE, hits_estimate
from warmstart.events import Event, Steps
from warmstart.network.single_layer_head import last_layer, on_neck
from warmstart.network.surgery import MultiLayerHead, WarmModel
from warmstart.nouns import nouns_of
from warmstart.records.data import Example
from warmstart.records.export import Gap, SingleLayerHead
from warmstart.records.inputs import pictures
from warmstart.records.network import FeatureLayer, Ledger
from warmstart.records.plan import Choice, Plan
from warmstart.records.summary import Estimate
from warmstart.run.reopened import Pixels, Reopened
from warmstart.solve.kernels import Features
from warmstart.stats.paired import hits_difference
from warmstart.training import dataset
from warmstart.training.linear_probe import HeadFit, fit_head

ON_LAST = ("class-mean", "logistic", "last")  # heads that listen to the last tap alone
LEAST_THERE = 0.9  # share of the training images without which no twin is fitted
Feed = Callable[[Pixels], Tensor]  # prepared images (m, H, W, C) to inputs (m, C, H, W)
Hits = NDArray[np.float64]
Method = Literal["nested-cv", "holdout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the run folder tells that a twin needs.

    `right` says of examples held out by a fold whether the model's answer was right.
    `has_learnt`: layers of the network were trained on these images.
    """

    plan: Plan
    right: Mapping[str, bool]
    has_learnt: bool


def make_single_layer_head(
    model: WarmModel, images: Reopened, known: Known, feed: Feed
) -> Steps[tuple[WarmModel, SingleLayerHead]]:
    """The model with a head on its last tap alone, and what that is worth.

    Raises: ExportError if the training images are not there any more.
    """
    blank = torch.zeros(1, 1)
    probe = on_neck(model, pictures(images.prep), MultiLayerHead(blank, blank[0]))
    learn = images.of("train", "holdout")
    there, features = yield from _features(probe, learn, images, feed)
    record = replace(images.record, examples=(*there, *images.of("test")))
    try:
        labelled = dataset.arrange(record)
    except DataError as error:
        raise ExportError(f"no head for the last layer can be fitted: {error}") from error
    with threadpool_limits(limits=1, user_api="blas"):
        head = yield from _fitted(labelled, known.plan, last_layer(model), features)
    single_layer = on_neck(model, pictures(images.prep), as_module(head))
    told = yield from _measured(single_layer, model, head, labelled, images, known, feed)
    if len(there) < len(learn):
        many = labelled.nouns.count(len(learn), "training")
        lost = f"{len(learn) - len(there):,} of {many} were not there"
        told = replace(told, why=f"{told.why}; {lost}")
    return single_layer, told


def as_module(head: HeadFit) -> MultiLayerHead:
    """A fitted head as the last layer of a network."""
    return MultiLayerHead(
        torch.from_numpy(head.weight),
        torch.from_numpy(head.bias),
        head.calibration.temperature,
        torch.from_numpy(head.calibration.bias).float(),
    )


def right_answers(path: Path) -> dict[str, bool]:
    """Of each example that a fold held out: whether predictions.jsonl has it right.

    Raises: RunFolderError if the file is missing or damaged.
    """
    found = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                told = json.loads(line)
                if told["split"] == "oof":
                    found[told["id"]] = told["label"] == told["target"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or make the run again."
        ) from error
    return found


def has_trained(ledger: Ledger) -> bool:
    """Whether any tensor below the output was trained by the run.

    Of a network trained from nothing all are `new`; where nothing was trained, some of the
    start's are `kept`, whatever surgery at the input made new.
    """
    fates = {row.fate for row in ledger.rows if row.block != "head"}
    return bool(fates & {"trained", "merged"}) or ("new" in fates and "kept" not in fates)


def _features(
    probe: WarmModel, learn: Sequence[Example], images: Reopened, feed: Feed
) -> Steps[tuple[list[Example], Features]]:
    """The last tap of the training images that are there, (n, F)."""
    yield Event(stage="features", kind="begin", of=len(learn), values={"title": "Twin"})
    there: list[Example] = []
    found: list[Features] = []
    for examples, pixels in images.batches(learn):
        with torch.inference_mode():
            found.append(probe.features(feed(pixels))[0].float().numpy())
        there += examples
        yield Event(stage="features", kind="step", step=len(there), of=len(learn))
    if len(there) < LEAST_THERE * len(learn):
        many = nouns_of(images.record.kind).count(len(learn), "training")
        raise ExportError(
            f"this format holds one output layer, which must be fitted anew, and only "
            f"{len(there):,} of the run's {many} are where they were; "
            "name their place with --data, or use --to onnx, torch or openvino."
        )
    return there, np.concatenate(found)


def _fitted(
    labelled: dataset.LabelledRows, plan: Plan, layer: FeatureLayer, features: Features
) -> Steps[HeadFit]:
    """A closed-form head on one tap, chosen and estimated as the run's own is."""
    names = [str(name).removesuffix("+prior") for name in dataset.as_tuple(plan.head.candidates)]
    on_last = tuple(name for name in ON_LAST if name in names) or ("last",)
    chosen = Choice(value=on_last, because="heads of the last tap", source="rule")
    plan = replace(plan, head=replace(plan.head, candidates=chosen))

    def read(_: FeatureLayer) -> Features:
        return features

    heads = dataset.heads(plan, {"last": {layer: 1.0}}, read, len(features), None)
    problem = dataset.selection_problem(labelled, plan)
    return (yield from fit_head(heads, problem, 0 if labelled.holdout else None))


def _measured(
    single_layer: WarmModel,
    model: WarmModel,
    head: HeadFit,
    labelled: dataset.LabelledRows,
    images: Reopened,
    known: Known,
    feed: Feed,
) -> Steps[SingleLayerHead]:
    if not known.has_learnt:
        return _out_of_fold(head, labelled, known.right)
    many = labelled.nouns.many
    if not labelled.test:
        why = (
            f"no honest figure: its layers learnt from the same {many}, and the run has no test "
            f"part. Measure it with `warmstart audit` on {many} of your own"
        )
        return SingleLayerHead(head=head.name, estimate=None, original=None, gap=None, why=why)
    return (yield from _on_test(single_layer, model, head, labelled, images, feed))


def _out_of_fold(
    head: HeadFit, labelled: dataset.LabelledRows, right: Mapping[str, bool]
) -> SingleLayerHead:
    """On rows that both heads were fitted without."""
    both = [row for row, e in enumerate(labelled.learn) if head.fold[row] >= 0 and e.id in right]
    own = (head.probabilities[both].argmax(axis=1) == labelled.labels[both]).astype(float)
    model = np.array([right[labelled.learn[row].id] for row in both], dtype=float)
    is_held, one = bool(labelled.holdout), labelled.nouns.one
    found = _compared(own, model, labelled.groups()[both], "holdout" if is_held else "nested-cv")
    apart = f"out of fold: each {one} by heads that had not seen it"
    how = "on your hold-out" if is_held else apart
    return SingleLayerHead(
        head=head.name, why=how, estimate=found[0], original=found[1], gap=found[2]
    )


def _on_test(
    single_layer: WarmModel,
    model: WarmModel,
    head: HeadFit,
    labelled: dataset.LabelledRows,
    images: Reopened,
    feed: Feed,
) -> Steps[SingleLayerHead]:
    """On the run's test part: layers that were trained had seen every other image."""
    own: list[float] = []
    before: list[float] = []
    there: list[Example] = []
    number = {label: index for index, label in enumerate(images.record.classes)}
    for examples, pixels in images.batches(labelled.test):
        inputs, labels = feed(pixels), np.array([number[e.label] for e in examples])
        with torch.inference_mode():
            own += (single_layer(inputs).argmax(dim=1).numpy() == labels).astype(float).tolist()
            before += (model(inputs).argmax(dim=1).numpy() == labels).astype(float).tolist()
        there += examples
        yield Event(stage="evaluate", kind="step", step=len(there), of=len(labelled.test))
    many = labelled.nouns.many
    if not there:
        why = f"no honest figure: its layers learnt from the same {many}, and the test part is gone"
        return SingleLayerHead(head=head.name, estimate=None, original=None, gap=None, why=why)
    found = _compared(
        np.array(own), np.array(before), group_numbers(there, labelled.near_duplicates), "holdout"
    )
    why = f"on the run's test part; its layers had seen all other {many}"
    return SingleLayerHead(
        head=head.name, why=why, estimate=found[0], original=found[1], gap=found[2]
    )


def _compared(
    own: Hits, model: Hits, groups_of: NDArray[np.int64], method: Method
) -> tuple[Estimate, Estimate, Gap]:
    """Both accuracies on the same rows, and their paired difference. Shapes: (n,)."""
    gap = hits_difference(own, model, groups_of, 1.0 if method == "holdout" else MODEL_VARIANCE)
    return (
        hits_estimate(own, groups_of, method),
        hits_estimate(model, groups_of, method),
        Gap(value=gap.value, low=gap.low, high=gap.high, n=len(own)),
    )
