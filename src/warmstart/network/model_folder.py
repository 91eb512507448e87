"""The model folder: tensors in safetensors, everything else in JSON; no code, no pickle.

model.safetensors        backbone.* under their original names, head.*
config.json              settings to rebuild the network
labels.json              class names in the order of the outputs
preprocess.json          how an image, or another example, becomes an input
tokenizer.json           for texts: how they become tokens
calibration.json         from scores to confident and out of distribution
neighbours.safetensors   sketches of the training examples; in its metadata their ids, and numbers
                         of the content hashes of all training examples, earlier runs' included
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from warmstart.errors import ModelError, RunFolderError, first_line, no_folder
from warmstart.modalities.registry import modality_of
from warmstart.network.weights import chunks
from warmstart.records.answer import CalibrationRecord, ModelRecord
from warmstart.records.run_folder import (
    RunFolder,
    fields_of,
    read_json,
    write_bytes,
    write_chunks,
    write_json,
)
from warmstart.tasks.registry import TASKS

Arrays = Mapping[str, NDArray[np.generic]]
Read = TypeVar("Read")

LARGEST = 2**30  # values of one input


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model folder in memory. `ids` are the training examples behind `neighbours`."""

    tensors: Mapping[str, Tensor]
    record: ModelRecord
    calibration: CalibrationRecord
    neighbours: Arrays
    ids: Sequence[str]


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write model/, each file atomically; `bundle.tensors` must be contiguous, without ties."""
    folder.mkdir(exist_ok=True)
    write_chunks(folder / "model.safetensors", chunks(bundle.tensors))
    write_json(folder / "config.json", bundle.record)
    write_json(folder / "labels.json", list(bundle.record.classes))
    inputs = bundle.record.preprocessing
    write_json(folder / "preprocess.json", inputs)
    if (modality := modality_of(inputs)).file:
        write_bytes(folder / modality.file, modality.file_text(inputs).encode())
    write_json(folder / "calibration.json", bundle.calibration)
    arrays = {
        name: torch.from_numpy(np.require(values, requirements=("C", "W")))
        for name, values in bundle.neighbours.items()
    }
    metadata = {"ids": json.dumps(list(bundle.ids), ensure_ascii=False)}
    write_chunks(folder / "neighbours.safetensors", chunks(arrays, metadata))


def read_bundle(run: Path) -> Bundle:
    """Read the model folder of a run.

    Raises: RunFolderError if there is none, or a file is missing or damaged.
    """
    folder = run / "model"
    if not run.is_dir():
        raise RunFolderError(no_folder(run, "name a folder that `warmstart fit` wrote."))
    if not folder.is_dir():
        why = "is not a finished run folder; name one that `warmstart fit` wrote."
        if (run / "DONE").exists():
            why = "holds no model: none was shipped, as no signal was found in its data."
            why = f"{why} {run / 'summary.json'} says more."
        elif RunFolder(run).is_unfinished:
            command = RunFolder(run).resume_command
            why = f"holds no model: its run did not finish. Run {command}."
        raise RunFolderError(f"{run} {why}")
    record = read_json(folder / "config.json", ModelRecord)
    calibration = read_json(folder / "calibration.json", TASKS[record.task].calibration_record)
    tensors = _read(folder / "model.safetensors", load_file)
    arrays, ids = _read(folder / "neighbours.safetensors", _read_neighbours)
    inputs = record.preprocessing
    modality = modality_of(inputs)
    if why := modality.problem(inputs):
        raise _damaged(folder / "config.json", why)
    if modality.file:
        path = folder / modality.file
        try:
            modality.load_file(_read(path, lambda file: file.read_text("utf-8")), inputs)
        except ModelError as error:
            raise _damaged(path, str(error)) from error
    if min(inputs.shape, default=1) < 1 or math.prod(inputs.shape) > LARGEST:  # fills the memory
        raise _damaged(folder / "config.json", f"its inputs are of shape {inputs.shape}"[:120])
    _check_calibration(folder / "calibration.json", calibration, record, len(ids))
    return Bundle(tensors, record, calibration, arrays, ids)


def _check_calibration(
    path: Path, calibration: CalibrationRecord, record: ModelRecord, n_examples: int
) -> None:
    if not 1 <= calibration.nearest <= n_examples:
        raise _damaged(path, f"nearest is {calibration.nearest}")
    for name, value in fields_of(calibration).items():
        is_number = isinstance(value, (float, tuple))
        if is_number and not np.isfinite(np.asarray(value, np.float64)).all():
            raise _damaged(path, f"{name} is not finite")
    if calibration.temperature <= 0 or calibration.ood_from < 0:
        raise _damaged(path, "its temperature or its distance makes no sense")
    if TASKS[record.task].has_classes and len(calibration.class_bias) != len(record.classes):
        raise _damaged(path, "class_bias is not one number a class")


def _read(path: Path, read: Callable[[Path], Read]) -> Read:
    try:
        return read(path)
    except RecursionError as error:
        raise _damaged(path, "it is nested too deep") from error
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, first_line(error, 200)) from error


def _read_neighbours(path: Path) -> tuple[Arrays, list[str]]:
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ids: list[str] = json.loads((file.metadata() or {}).get("ids", "[]"))
    for name in ("points", "target", "sign", "offset", "scale"):
        if name not in arrays:
            raise ValueError(f"it holds no {name}")
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise ValueError("its ids are not strings")
    points, target, sign = arrays["points"], arrays["target"], arrays["sign"]
    if len(ids) != len(points):
        raise ValueError(f"{len(ids)} ids for {len(points)} examples")
    if points.ndim != 2 or not points.size:
        raise ValueError(f"points are of shape {points.shape}")
    n_features = len(target) if target.ndim == 1 else -1
    for name in ("sign", "offset", "scale"):
        if arrays[name].shape != (n_features,):
            raise ValueError(f"{name} is of shape {arrays[name].shape}")
    for name in ("points", "offset", "scale"):
        if arrays[name].dtype.kind != "f":
            raise ValueError(f"{name} are of type {arrays[name].dtype}")
        if not np.isfinite(arrays[name].astype(np.float64)).all():
            raise ValueError(f"{name} holds NaN or infinity")
    if target.dtype.kind not in "iu" or not np.isin(sign, (-1, 1)).all():
        raise ValueError("its sketch makes no sense")
    if n_features and not 0 <= int(target.min()) <= int(target.max()) < points.shape[1]:
        raise ValueError(f"a feature goes to place {int(target.max())} of {points.shape[1]}")
    return arrays, ids


def _damaged(path: Path, why: str) -> RunFolderError:
    return RunFolderError(f"{path} cannot be read ({why}); restore it, or make the run again.")
