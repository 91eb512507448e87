"""What a finished run of several labels, or of a number, has said, read for the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.delivery.bundle import CALIBRATIONS
from warmstart.errors import RunFolderError
from warmstart.evaluation.label_measure import per_label
from warmstart.folder import read_json
from warmstart.records import (
    CalibrationRecord,
    DataRecord,
    LabelCalibration,
    LabelScore,
    ModelRecord,
    Task,
)
from warmstart.tasks.label_sets import LABEL_SETS


def read_calibration(run: Path) -> CalibrationRecord | None:
    """model/calibration.json of whatever task; None where there is no model."""
    path = run / "model"
    if not (path / "calibration.json").is_file() or not (path / "config.json").is_file():
        return None
    task = read_json(path / "config.json", ModelRecord).task
    return read_json(path / "calibration.json", CALIBRATIONS[task])


def read_numbers(path: Path, task: Task) -> tuple[tuple[float, float], ...]:
    """True and said numbers of examples held out. Raises: RunFolderError if damaged."""
    if task != "regress" or not path.is_file():
        return ()
    return tuple((float(told["target"]), float(told["value"])) for told in _held(path))


def read_label_scores(
    path: Path, task: Task, data: DataRecord | None, calibration: CalibrationRecord | None
) -> tuple[LabelScore, ...]:
    """Figures of each label, on examples held out. Raises: RunFolderError if damaged."""
    if task != "multilabel" or data is None or not path.is_file():
        return ()
    lines, names = [*_held(path)], data.classes
    if not lines:
        return ()
    truth = LABEL_SETS.read([told["target"] for told in lines], names)
    answers = np.array([[told["scores"][name] for name in names] for told in lines])
    own = calibration.thresholds if isinstance(calibration, LabelCalibration) else ()
    thresholds = np.array(own) if own else np.full(len(names), 0.5)
    return per_label(answers, truth, names, thresholds)


def _held(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                told = json.loads(line)
                if told["split"] == "oof":
                    yield told
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or make the run again."
        ) from error
