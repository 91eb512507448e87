"""Does an export say what the model says? Asked in a process that cannot import warmstart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import ExportError
from warmstart.exporting.predict_script import NAME
from warmstart.records.data import Task
from warmstart.records.export import Agreement
from warmstart.records.inputs import Inputs, Preprocessing

TOLERANCE = 1e-3  # largest difference of a logit
_MINUTES = 10
_PLAIN = (40, 120, 200)  # a picture of one colour: no way of resizing changes it
_FEW = 3  # images of a smaller batch: an answer must not hang on what else is in it
_ASK = f"""\
import sys
sys.modules["warmstart"] = None  # importing it is an error from here on
import runpy
import numpy as np

script, images, answers, cells = sys.argv[1:5]
sys.argv = sys.argv[:1]
found = runpy.run_path(script, run_name="export")
pixels = np.load(images, allow_pickle=False)
logits, probabilities = (np.asarray(x) for x in found["answer"](pixels))
few = [found["answer"](pixels[n : n + {_FEW}])[0] for n in range(0, len(pixels), {_FEW})]
few = np.concatenate([np.asarray(x) for x in few])
alone, _ = (np.asarray(x) for x in found["answer"](pixels[:1]))
kept = dict(logits=logits, probabilities=probabilities, few=few, alone=alone)
if "processor" in found and pixels.shape[3] == 3:
    from PIL import Image
    plain = Image.new("RGB", (90, 70), {_PLAIN})
    kept["seen"] = found["processor"](plain, return_tensors="pt")["pixel_values"].numpy()
if cells:
    import json
    rows = json.loads(open(cells, encoding="utf-8").read())
    kept["prepared"] = np.stack([found["prepare"](row) for row in rows])
np.savez(answers, **kept)
"""

Floats = NDArray[np.floating]
Answers = Mapping[str, Floats]


def ask(folder: Path, pixels: NDArray[Any], cells: Sequence[Mapping[str, str]] = ()) -> Answers:
    """What predict.py of a folder says: `logits` and `probabilities` (n, K), `few` (n, K)
    in smaller batches, `alone` (1, K).

    `prepared` (n, F), where `cells` holds the rows that `pixels` were made of: what that makes
    of them.
    `seen` (1, C, H, W), where it has an image processor: what that makes of a plain picture.
    Raises: ExportError with the last line of what went wrong there.
    """
    with tempfile.TemporaryDirectory(prefix="warmstart-") as place:
        images, answers = Path(place) / "images.npy", Path(place) / "answers.npz"
        np.save(images, pixels, allow_pickle=False)
        rows = Path(place) / "cells.json"
        rows.write_text(json.dumps(list(cells)), "utf-8")
        words = [str((folder / NAME).resolve()), str(images), str(answers)]
        words.append(str(rows) if cells else "")
        _run([sys.executable, "-I", "-W", "ignore", "-c", _ASK, *words], place)
        with np.load(answers, allow_pickle=False) as found:
            return dict(found)


def compare(
    found: Answers,
    expected: Floats,
    images: Literal["run", "noise"],
    prep: Inputs,
    tolerance: float | None = TOLERANCE,
    task: Task = "classify",
    n: int | None = None,
) -> Agreement:
    """Compare what predict.py of an export answered with the model's own logits (n, K).

    With `tolerance` None logits may differ as they like.
    Raises: ExportError if a logit differs by more, for all images at once, in smaller batches, or
    for the first one alone; if probabilities are not those of the logits; if an image processor
    prepares images another way. The first `n` are the examples that the agreement tells of.
    """
    logits, n = found["logits"], len(expected) if n is None else n
    if logits.shape != expected.shape or not np.isfinite(logits).all():
        raise ExportError(
            f"the export gives {logits.shape} where the model gives {expected.shape}, or no "
            "numbers; nothing was written."
        )
    gap = float(np.abs(logits - expected).max())
    lonely = float(np.abs(found["alone"][0] - expected[0]).max())
    fewer = float(np.abs(found["few"] - expected).max())
    worst = max(gap, lonely, fewer)
    same = int((logits.argmax(axis=1) == expected.argmax(axis=1))[:n].sum())
    if tolerance is not None:
        tolerance = allowed(expected, task, tolerance)
    if tolerance is not None and not worst <= tolerance:
        raise ExportError(
            f"the export disagrees with the model: a logit differs by {worst:.2g} "
            f"(at most {tolerance:g} may), {same} of {n} labels are the same; "
            "nothing was written."
        )
    if np.abs(found["probabilities"] - _LINKS[task](logits)).max() > 1e-4:
        raise ExportError(
            "the export's probabilities are not those of its logits; nothing was written."
        )
    _check_processor(found, prep)
    return Agreement(
        n=n,
        images=images,
        difference=worst,
        tolerance=tolerance,
        same_labels=same,
    )


def allowed(expected: Floats, task: Task, tolerance: float = TOLERANCE) -> float:
    """How far an answer may be off: of numbers, in whatever unit, by their size."""
    return tolerance * max(1.0, float(np.abs(expected).max())) if task == "regress" else tolerance


def _run(command: list[str], place: str) -> None:
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=place,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=60 * _MINUTES,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"the export gave no answer in {_MINUTES} minutes; nothing was written."
        ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ExportError(
            f"the export does not run without warmstart ({last[:200].rstrip(' .')}); "
            "nothing was written."
        )


def _check_processor(found: Answers, prep: Inputs) -> None:
    if "seen" not in found or not isinstance(prep, Preprocessing):
        return
    wanted = (np.array(_PLAIN) / 255 - prep.mean) / prep.std
    seen = found["seen"]
    is_same = seen.shape == (1, 3, *prep.size)
    if not is_same or np.abs(seen - wanted[None, :, None, None]).max() > 1e-3:
        raise ExportError(
            f"the format's image processor prepares images another way (it gives {seen.shape}); "
            "nothing was written."
        )


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def _sigmoid(logits: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-logits))
    return found


_LINKS: dict[Task, Callable[[Floats], Floats]] = {
    "classify": _softmax,
    "multilabel": _sigmoid,
    "regress": lambda values: values,
}
