"""`warmstart audit MODEL DATA`: what a finished model is worth on labelled images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warmstart.auditing.judging import judge as judged
from warmstart.data.labelled import list_given
from warmstart.errors import StartError, missing
from warmstart.events import Event, Steps
from warmstart.features.machine import n_threads
from warmstart.network.hub_base import is_hub_folder, open_folder, open_with
from warmstart.network.hub_folder import PREFIX
from warmstart.network.onnx_file import SUFFIX, open_onnx
from warmstart.network.trained_elsewhere import (
    Array,
    Feeding,
    Outside,
    is_published,
    open_file,
    open_named,
)
from warmstart.network.weights import SUFFIXES
from warmstart.records.data import DataRecord
from warmstart.records.inputs import pictures
from warmstart.records.judged import Judged
from warmstart.records.run_folder import read_json
from warmstart.run.predictor import load


def judge(
    model: str,
    data: Any,
    *,
    arch: str | None = None,
    labels: Path | None = None,
    train: Any = None,
    label: str | None = None,
    group: str | None = None,
    feeding: Feeding | None = None,
) -> Steps[Judged]:
    """Show a finished model labelled images; nothing is trained or written.

    `model` is a file of weights (with `arch`), an ONNX file, a folder in the format of the
    Hugging Face hub, a run folder, or the name of a start. `labels` is a file that names its
    outputs in their order, `train` the images that it was trained on, to look for leaks.
    Raises: StartError, RunFolderError or DataError where one of them cannot be used.
    """
    _check_there(model, arch)
    listing = list_given(data, label=label, group=group, train=train)
    yield Event(stage="look", kind="begin")
    opened = open_model(model, arch, feeding or Feeding())
    return (yield from judged(listing, opened, labels))


def _check_there(name: str, arch: str | None) -> None:
    """Before images are read: is the file there, and of a kind that holds weights?"""
    path = Path(name)
    if path.suffix in (*SUFFIXES, SUFFIX) and not path.exists():
        raise StartError(missing(path, name, "name a file of weights, a run folder or a start."))
    is_other = path.is_file() and path.suffix not in (*SUFFIXES, SUFFIX)
    if is_other and arch is None and not is_hub_folder(path.parent):
        known = f"{', '.join(SUFFIXES)} or {SUFFIX}"
        raise StartError(f"{name} is no file of weights; name one that ends in {known}.")


def open_model(name: str, arch: str | None, feeding: Feeding) -> Outside:
    """A finished model by its name, of whatever kind it is.

    Raises: StartError or RunFolderError if it cannot be opened, or a design is named for one
    that knows its own.
    """
    path = Path(name)
    if path.suffix in (SUFFIX, *SUFFIXES) or path.is_file():
        if path.suffix == SUFFIX:
            _check_alone(name, arch)
            return open_onnx(path, feeding, n_threads())
        if arch is not None and arch.startswith(PREFIX):
            return open_with(path, arch.removeprefix(PREFIX), feeding)
        if arch is None and is_hub_folder(path.parent):
            return open_folder(path.parent, feeding)
        return open_file(path, arch, feeding)
    _check_alone(name, arch)
    if name.startswith(PREFIX):
        return open_folder(Path(name.removeprefix(PREFIX)), feeding)
    if path.is_dir():
        return open_folder(path, feeding) if is_hub_folder(path) else _open_run(path, feeding)
    if not is_published(name):
        raise StartError(
            f"{name} does not exist; name a file of weights, an ONNX file, a run folder or a start."
        )
    return open_named(name, feeding)


def _check_alone(name: str, arch: str | None) -> None:
    if arch is not None:
        raise StartError(f"--arch {arch}: {name} knows its own design; leave --arch away.")


def _open_run(run: Path, feeding: Feeding) -> Outside:
    """A run: its calibrated output, and the images that it learnt from."""
    predictor = load(run)
    record, model = predictor.bundle.record, predictor.model
    if feeding.is_said:
        raise StartError(f"{run} says itself how images are fed in; leave those options away.")
    if record.task != "classify":
        raise StartError(
            f"{run} does not name one class an image, which is what audit judges; use "
            f"`warmstart evaluate {run} DATA`."
        )

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        with torch.inference_mode():
            taps = model.features(inputs)
            return model.head(taps).float().numpy(), taps[-1].flatten(1).float().numpy()

    n_numbers = sum(parameter.numel() for parameter in model.parameters())
    return Outside(
        name=str(run),
        title=f"{os.path.normpath(run)} (a run), {n_numbers / 1e6:.1f} M parameters",
        answer=answer,
        outputs=len(record.classes),
        preprocessing=pictures(record.preprocessing),
        fed_as="the run",
        labels=record.classes,
        labels_from="the run",
        learnt=_learnt(run),
    )


def _learnt(run: Path) -> frozenset[str]:
    """Content hashes of what a run learnt from; none where it keeps no record."""
    if not (run / "data.json").is_file():
        return frozenset()
    examples = read_json(run / "data.json", DataRecord).examples
    return frozenset(example.sha256 for example in examples if example.split != "test")
