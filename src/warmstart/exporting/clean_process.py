"""Does an export agree with the model? Tested in a process that cannot import warmstart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import ExportError
from warmstart.exporting.predict_script import NAME
from warmstart.records.answer import Agreement
from warmstart.records.data import Task
from warmstart.records.inputs import Inputs, pictures
from warmstart.solve.calibration import Calibration
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS

TOLERANCE = 1e-3  # largest difference of a logit
_MINUTES = 10
_PLAIN = (40, 120, 200)  # a picture of one colour: no way of resizing changes it
_FEW = 3  # images of a smaller batch: an answer must not depend on the rest of its batch
_ASK = f"""\
import sys
sys.modules["warmstart"] = None  # importing it is an error from here on
import runpy
import numpy as np

script, images, answers, cells = sys.argv[1:5]
sys.argv = sys.argv[:1]
script = runpy.run_path(script, run_name="export")
pixels = np.load(images, allow_pickle=False)
logits, probabilities = (np.asarray(x) for x in script["answer"](pixels))
few = [script["answer"](pixels[n : n + {_FEW}])[0] for n in range(0, len(pixels), {_FEW})]
few = np.concatenate([np.asarray(x) for x in few])
alone, _ = (np.asarray(x) for x in script["answer"](pixels[:1]))
outputs = dict(logits=logits, probabilities=probabilities, few=few, alone=alone)
if "processor" in script and pixels.shape[3] == 3:
    from PIL import Image
    plain = Image.new("RGB", (90, 70), {_PLAIN})
    outputs["plain"] = script["processor"](plain, return_tensors="pt")["pixel_values"].numpy()
if cells:
    import json
    rows = json.loads(open(cells, encoding="utf-8").read())
    outputs["prepared"] = np.stack([script["prepare"](row) for row in rows])
np.savez(answers, **outputs)
"""

Floats = NDArray[np.floating]
Answers = Mapping[str, Floats]


def refusal(why: str) -> ExportError:
    """The error for an export that is not published."""
    return ExportError(f"{why}; nothing was written.")


def ask(folder: Path, pixels: NDArray[Any], cells: Sequence[Mapping[str, str]] = ()) -> Answers:
    """Run predict.py of a folder: `logits` and `probabilities` (n, K), `few` (n, K) in smaller
    batches, `alone` (1, K).

    Also `prepared` (n, F), the encoded rows `cells`, and `plain` (1, C, H, W), a plain picture
    through its image processor, where it has one.
    Raises: ExportError with the last line of the script's error.
    """
    with tempfile.TemporaryDirectory(prefix="warmstart-") as workdir:
        images, answers = Path(workdir) / "images.npy", Path(workdir) / "answers.npz"
        np.save(images, pixels, allow_pickle=False)
        rows = Path(workdir) / "cells.json"
        rows.write_text(json.dumps(list(cells)), "utf-8")
        arguments = [str((folder / NAME).resolve()), str(images), str(answers)]
        arguments.append(str(rows) if cells else "")
        _run([sys.executable, "-I", "-W", "ignore", "-c", _ASK, *arguments], workdir)
        with np.load(answers, allow_pickle=False) as arrays:
            return dict(arrays)


def compare(
    answers: Answers,
    expected: Floats,
    images: Literal["run", "noise"],
    prep: Inputs,
    tolerance: float | None = TOLERANCE,
    task: Task = CLASSIFICATION.task,
    n: int | None = None,
) -> Agreement:
    """Compare the answers of predict.py with the model's own logits (n, K).

    With `tolerance` None logits may differ by any amount. The first `n` are the examples that the
    agreement counts.
    Raises: ExportError if a logit differs by more, for all images at once, in smaller batches, or
    for the first one alone; if probabilities are not those of the logits; if an image processor
    prepares images differently.
    """
    logits, n = answers["logits"], len(expected) if n is None else n
    if logits.shape != expected.shape or not np.isfinite(logits).all():
        shapes = f"{logits.shape} where the model gives {expected.shape}"
        raise refusal(f"the export gives {shapes}, or no numbers")
    pairs = ((logits, expected), (answers["alone"][0], expected[0]), (answers["few"], expected))
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    same = int((logits.argmax(axis=1) == expected.argmax(axis=1))[:n].sum())
    if tolerance is not None:
        tolerance = allowed(expected, task, tolerance)
    if tolerance is not None and not worst <= tolerance:
        raise refusal(
            f"the export disagrees with the model: a logit differs by {worst:.2g} "
            f"(at most {tolerance:g} may), {same} of {n} labels are the same"
        )
    uncalibrated = Calibration(1.0, np.zeros(logits.shape[1]))
    probabilities = TASKS[task].answers(logits.astype(np.float64), uncalibrated)
    if np.abs(answers["probabilities"] - probabilities).max() > 1e-4:
        raise refusal("the export's probabilities are not those of its logits")
    if "plain" in answers:
        prep = pictures(prep)
        normalised = (np.array(_PLAIN) / 255 - prep.mean) / prep.std
        plain = answers["plain"]
        is_same = plain.shape == (1, 3, *prep.size)
        if not is_same or np.abs(plain - normalised[None, :, None, None]).max() > 1e-3:
            why = "the format's image processor prepares images differently"
            raise refusal(f"{why} (it gives {plain.shape})")
    return Agreement(n=n, images=images, difference=worst, tolerance=tolerance, same_labels=same)


def allowed(expected: Floats, task: Task, tolerance: float = TOLERANCE) -> float:
    """The tolerance of an answer; that of numbers scales with their size."""
    return tolerance * (max(1.0, float(np.abs(expected).max())) if TASKS[task].has_numbers else 1)


def _run(command: list[str], workdir: str) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60 * _MINUTES}
    try:
        job = subprocess.run(command, cwd=workdir, env=env, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise refusal(f"the export gave no answer in {_MINUTES} minutes") from error
    if job.returncode:
        last = (job.stderr.strip().splitlines() or [f"exit code {job.returncode}"])[-1]
        raise refusal(f"the export does not run without warmstart ({last[:200].rstrip(' .')})")
