"""A single-layer head, for formats that hold one linear layer on the network's last features.

The head is fitted in closed form on the last features of the finished network. Its accuracy is
measured on images that neither head nor layers were trained on: out of fold where no layer was
trained on these images, else on the run's test set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from warmstart.data.splits import group_numbers
from warmstart.errors import DataError, ExportError, RunFolderError
from warmstart.events import Event, Steps
from warmstart.exporting.format import any_head
from warmstart.modalities.registry import MODALITIES
from warmstart.network.surgery import BRANCH, AddedBlock, MultiLayerHead, WarmModel
from warmstart.records.answer import Gap, SingleLayerHead
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.network import FeatureLayer, Ledger
from warmstart.records.plan import Choice, Plan
from warmstart.reporting.facts import read_lines
from warmstart.run.reopened import Pixels, Reopened
from warmstart.solve.kernels import Features
from warmstart.stats.metrics import MODEL_VARIANCE, hits_estimate
from warmstart.stats.paired import hits_difference
from warmstart.training import dataset
from warmstart.training.linear_probe import HeadFit, fit_head

ON_LAST = ("class-mean", "logistic", "last")  # heads on the last features alone
LEAST_SHARE = 0.9  # of the training images that a fit needs
Feed = Callable[[Pixels], Tensor]  # prepared images (m, H, W, C) to inputs (m, C, H, W)
Hits = NDArray[np.float64]
Method = Literal["nested-cv", "holdout"]


# ---- Fit the head, and measure it.


def make_single_layer_head(
    model: WarmModel,
    images: Reopened,
    feed: Feed,
    *,
    plan: Plan,
    hits: Mapping[str, bool],
    is_fine_tuned: bool,
) -> Steps[tuple[WarmModel, SingleLayerHead]]:
    """The model with a head on its last features alone, and the head's accuracy.

    `hits`: whether the model's out-of-fold answer to an example was right, by id.
    `is_fine_tuned`: layers of the network were trained on these images.
    Raises: ExportError if the training images are missing.
    """
    blank = torch.zeros(1, 1)
    probe = on_neck(model, pictures(images.prep), MultiLayerHead(blank, blank[0]))
    learning = images.of("train", "holdout")
    present, features = yield from _features(probe, learning, images, feed)
    record = replace(images.record, examples=(*present, *images.of("test")))
    try:
        labelled = dataset.arrange(record)
    except DataError as error:
        raise ExportError(f"no head for the last layer can be fitted: {error}") from error
    with threadpool_limits(limits=1, user_api="blas"):
        head = yield from _fit(labelled, plan, last_layer(model), features)
    module = MultiLayerHead(
        torch.from_numpy(head.weight),
        torch.from_numpy(head.bias),
        head.calibration.temperature,
        torch.from_numpy(head.calibration.bias).float(),
    )
    exported = on_neck(model, pictures(images.prep), module)
    many = labelled.nouns.many
    if not is_fine_tuned:
        result = _out_of_fold(head, labelled, hits)
    elif labelled.test:
        result = yield from _on_test(exported, model, head, labelled, images, feed)
    else:
        audit = f"Measure it with `warmstart audit` on {many} of your own"
        result = _unmeasured(head.name, many, f"the run has no test set. {audit}")
    if len(present) < len(learning):
        total = labelled.nouns.count(len(learning), "training")
        missing = f"{len(learning) - len(present):,} of {total} were missing"
        result = replace(result, why=f"{result.why}; {missing}")
    return exported, result


def oof_hits(path: Path) -> dict[str, bool]:
    """Whether predictions.jsonl has each out-of-fold example right, by id.

    Raises: RunFolderError if the file is missing or damaged.
    """
    lines = read_lines(
        path, lambda line: (line["split"], line["id"], line["label"] == line["target"])
    )
    if not lines:
        raise RunFolderError(
            f"{path} cannot be read (it is missing or empty); restore it, or make the run again."
        )
    return {id: is_right for split, id, is_right in lines if split == "oof"}


def has_trained(ledger: Ledger) -> bool:
    """Whether the run trained any tensor below the head.

    In a network trained from scratch all are `new`; where nothing was trained, some of the base
    model's are unchanged, whatever surgery at the input added.
    """
    fates = {row.fate for row in ledger.rows if row.block != "head"}
    return bool(fates & {"trained", "merged"}) or ("new" in fates and "unchanged" not in fates)


def _features(
    probe: WarmModel, learning: Sequence[Example], images: Reopened, feed: Feed
) -> Steps[tuple[list[Example], Features]]:
    """The last features (n, F) of the learning images that are present."""
    yield Event(stage="features", kind="begin", of=len(learning), values={"title": "Single layer"})
    present: list[Example] = []
    features: list[Features] = []
    for examples, pixels in images.batches(learning):
        with torch.inference_mode():
            features.append(probe.features(feed(pixels))[0].float().numpy())
        present += examples
        yield Event(stage="features", kind="step", step=len(present), of=len(learning))
    if len(present) < LEAST_SHARE * len(learning):
        many = MODALITIES[images.record.kind].nouns.count(len(learning), "training")
        raise ExportError(
            "this format holds a single-layer head, which must be fitted again, and only "
            f"{len(present):,} of the run's {many} are where they were; name their folder with "
            f"--data, or use {any_head()}."
        )
    return present, np.concatenate(features)


def _fit(
    labelled: dataset.LabelledRows, plan: Plan, layer: FeatureLayer, features: Features
) -> Steps[HeadFit]:
    """A closed-form head on one feature layer, selected and estimated like the run's own."""
    names = [str(name).removesuffix("+prior") for name in dataset.as_tuple(plan.head.candidates)]
    on_last = tuple(name for name in ON_LAST if name in names) or ("last",)
    candidates = Choice(value=on_last, because="heads on the last features", source="rule")
    plan = replace(plan, head=replace(plan.head, candidates=candidates))
    heads = dataset.heads(plan, {"last": {layer: 1.0}}, lambda _: features, len(features), None)
    problem = dataset.selection_problem(labelled, plan)
    return (yield from fit_head(heads, problem, 0 if labelled.holdout else None))


def _out_of_fold(
    head: HeadFit, labelled: dataset.LabelledRows, run_hits: Mapping[str, bool]
) -> SingleLayerHead:
    """Compare on rows that both heads were fitted without."""
    rows = [row for row, e in enumerate(labelled.learn) if head.fold[row] >= 0 and e.id in run_hits]
    refit = (head.probabilities[rows].argmax(axis=1) == labelled.labels[rows]).astype(float)
    original = np.array([run_hits[labelled.learn[row].id] for row in rows], dtype=float)
    method: Method = "holdout" if labelled.holdout else "nested-cv"
    why = f"out of fold: each {labelled.nouns.one} by heads fitted without it"
    why = "on your hold-out" if labelled.holdout else why
    return _compare(head.name, why, refit, original, labelled.groups()[rows], method)


def _on_test(
    exported: WarmModel,
    model: WarmModel,
    head: HeadFit,
    labelled: dataset.LabelledRows,
    images: Reopened,
    feed: Feed,
) -> Steps[SingleLayerHead]:
    """Compare on the run's test set: its layers were trained on every other image."""
    refit: list[float] = []
    original: list[float] = []
    present: list[Example] = []
    number = {label: index for index, label in enumerate(images.record.classes)}
    for examples, pixels in images.batches(labelled.test):
        inputs, labels = feed(pixels), np.array([number[e.label] for e in examples])
        with torch.inference_mode():
            refit += (exported(inputs).argmax(dim=1).numpy() == labels).astype(float).tolist()
            original += (model(inputs).argmax(dim=1).numpy() == labels).astype(float).tolist()
        present += examples
        yield Event(stage="evaluate", kind="step", step=len(present), of=len(labelled.test))
    many = labelled.nouns.many
    if not present:
        return _unmeasured(head.name, many, "the test set is missing")
    why = f"on the run's test set; its layers were trained on all other {many}"
    groups = group_numbers(present, labelled.near_duplicates)
    return _compare(head.name, why, np.array(refit), np.array(original), groups, "holdout")


def _unmeasured(name: str, many: str, reason: str) -> SingleLayerHead:
    why = f"no honest figure: its layers were trained on the same {many}, and {reason}"
    return SingleLayerHead(head=name, estimate=None, original=None, gap=None, why=why)


def _compare(
    name: str, why: str, refit: Hits, original: Hits, groups: NDArray[np.int64], method: Method
) -> SingleLayerHead:
    """Both accuracies on the same rows, and their paired difference. Shapes: (n,)."""
    gap = hits_difference(refit, original, groups, 1.0 if method == "holdout" else MODEL_VARIANCE)
    return SingleLayerHead(
        head=name,
        why=why,
        estimate=hits_estimate(refit, groups, method),
        original=hits_estimate(original, groups, method),
        gap=Gap(value=gap.value, low=gap.low, high=gap.high, n=len(refit)),
    )


# ---- The plain network of a library, exact for a head on the neck alone.


def is_plain(model: WarmModel) -> bool:
    """Whether the head reads the neck alone, so that a plain network gives the same outputs."""
    return model.scan.feature_layers == (last_layer(model),)


def last_layer(model: WarmModel) -> FeatureLayer:
    """The feature layer of the original network's own output layer."""
    return FeatureLayer(block=len(model.scan.blocks), pool="neck")


def on_neck(model: WarmModel, preprocessing: Preprocessing, head: MultiLayerHead) -> WarmModel:
    """The same backbone with a head on the neck of its own blocks, without an ensemble branch."""
    scan = replace(model.scan, feature_layers=(last_layer(model),), widths=(0,), ensemble=None)
    with torch.inference_mode():
        blank = torch.zeros(1, preprocessing.channels, *preprocessing.size)
        width = scan.run(model.backbone, blank)[0].shape[1]
    return WarmModel(model.backbone, replace(scan, widths=(width,)), head).eval()


def linear(head: MultiLayerHead) -> tuple[Tensor, Tensor]:
    """A head with its calibration as one matrix and bias: (K, D) and (K,).

    >>> head = MultiLayerHead(torch.ones(1, 2), torch.ones(1), 0.5, torch.tensor([0.5]))
    >>> [tensor.tolist() for tensor in linear(head)]
    [[[2.0, 2.0]], [2.5]]
    """
    temperature = head.temperature.detach()
    return head.weight.detach() / temperature, head.bias.detach() / temperature + head.class_bias


def classifier_of(model: WarmModel, library: str) -> str:
    """The name of the network's own output layer.

    Raises: ExportError where that is no linear layer, or blocks were added.
    """
    name = model.scan.steps.classifier
    if name is None:
        raise ExportError(
            f"the network has no linear output layer that {library} could hold; use {any_head()}."
        )
    if any(isinstance(module, AddedBlock) for module in model.backbone.modules()):
        fault = f"the run added blocks behind the last layer, and {library} has no place for them"
        raise ExportError(f"{fault}; use {any_head()}.")
    return name


def backbone_state(model: WarmModel) -> dict[str, Tensor]:
    """The tensors below the head by name, without those of an ensemble branch."""
    state = model.backbone.state_dict()
    return {name: t for name, t in state.items() if not name.startswith(f"{BRANCH}.")}


def fill(module: nn.Module, model: WarmModel, classifier: str, title: str) -> nn.Module:
    """Load the tensors of `model`, its head as the output layer `classifier`, into `module`.

    Raises: ExportError where they do not fit.
    """
    weight, bias = linear(model.head)
    if isinstance(module.get_submodule(classifier), nn.Conv2d):
        weight = weight[:, :, None, None]
    output = {f"{classifier}.weight": weight, f"{classifier}.bias": bias}
    try:
        module.load_state_dict({**backbone_state(model), **output})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:120].rstrip(" .")
        raise ExportError(
            f"the run's tensors do not fit {title} ({reason}); use {any_head()}."
        ) from error
    return module.eval()
