"""`warmstart export RUN --to FORMAT`: a finished model in a format that needs no warmstart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from warmstart.errors import ExportError, UsageError
from warmstart.events import Event, Steps, follow
from warmstart.exporting import FORMATS, check_format, graph
from warmstart.exporting.format import ExportFormat
from warmstart.exporting.graph import ExportedNetwork, ExportSource, scaled
from warmstart.exporting.predict_script import NAME, predict_script
from warmstart.exporting.quantize import quantize, session
from warmstart.exporting.quantize import run as run_graph
from warmstart.exporting.readme import ReadmeFacts, readme
from warmstart.exporting.single_layer_head import (
    has_trained,
    is_plain,
    make_single_layer_head,
    oof_hits,
)
from warmstart.features.batches import to_tensor
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.planning.plan_file import open_plan
from warmstart.records.answer import Agreement, Exported, Quantized, SingleLayerHead
from warmstart.records.data import DataRecord, Task
from warmstart.records.inputs import Inputs, pictures
from warmstart.records.network import Ledger
from warmstart.records.run_folder import read_json, sync_folder, write_bytes, write_json
from warmstart.records.summary import Summary
from warmstart.run.base_model import published
from warmstart.run.predictor import load
from warmstart.run.reopened import Pixels, Reopened, reopen
from warmstart.solve.calibration import Calibration
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS, none_if_default

# ---- Does an export agree with the model? Asked in a process that cannot import warmstart.


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
        _run_clean([sys.executable, "-I", "-W", "ignore", "-c", _ASK, *arguments], workdir)
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


def _run_clean(command: list[str], workdir: str) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60 * _MINUTES}
    try:
        job = subprocess.run(command, cwd=workdir, env=env, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise refusal(f"the export gave no answer in {_MINUTES} minutes") from error
    if job.returncode:
        last = (job.stderr.strip().splitlines() or [f"exit code {job.returncode}"])[-1]
        raise refusal(f"the export does not run without warmstart ({last[:200].rstrip(' .')})")


# ---- The folder of an export: written beside its destination, moved there once checked.

_FILES = (".pt", ".pth", ".bin", ".zip")  # and those of the formats


def free_folder(run: Path, name: str, out: Path | None) -> Path:
    """`out`, or RUN/export/NAME, with -2, -3 … where that is in use.

    Raises: UsageError if `out` is in use, or named like a file.
    """
    if out is None:
        folder = run / "export" / name
        numbered = (folder.with_name(f"{name}-{n}") for n in count(2))
        return next(path for path in chain([folder], numbered) if not _is_used(path))
    if out.suffix.lower() in (*_FILES, *(Path(to.model).suffix for to in FORMATS.values())):
        raise UsageError(
            f"--out {out}: an export is a folder (model, labels, card, script); "
            f"name one, such as {out.with_suffix('')}-{out.suffix[1:].lower()}."
        )
    if _is_used(out):
        raise UsageError(
            f"--out {out} exists and is not empty; nothing was changed. Name another folder."
        )
    return out


def _is_used(folder: Path) -> bool:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return True
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if nothing is raised, else is deleted.

    Raises: UsageError if no folder can be made there, or `folder` is in use by then.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}-", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); name another.") from error
    try:
        yield draft
        _publish(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _publish(draft: Path, folder: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    draft.chmod(0o777 & ~mask)  # mkdtemp's is for its owner alone
    for path in filter(Path.is_file, draft.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    try:
        if folder.is_dir() and not folder.is_symlink():
            folder.rmdir()  # only if it is empty
        os.rename(draft, folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}); nothing was changed. Name another."
        ) from error
    sync_folder(folder.parent)


# ---- Write, check and describe an export.

CHECKED = 16  # images on which an export must agree with the model
CHECKED_NOISE = 8  # and images of noise
RECORD = "export.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of an export. `data` and `test`: the run's images, where they have moved."""

    to: ExportFormat
    out: Path | None = None
    is_int8: bool = False
    with_pixels: bool = False
    data: Any = None
    test: Any = None


@dataclass(frozen=True, slots=True)
class _ExportJob:
    """An export of one run, its settings and inputs."""

    run: Path
    options: ExportOptions
    source: ExportSource
    images: Reopened
    title: str

    @property
    def prep(self) -> Inputs:
        return self.source.record.preprocessing

    @property
    def task(self) -> Task:
        return self.source.record.task

    def to_inputs(self, pixels: Pixels) -> Tensor:
        """Prepared images (m, H, W, C) to the network's inputs."""
        return to_tensor(pixels, self.prep).contiguous()

    def graph_inputs(self, pixels: Pixels) -> NDArray[np.generic]:
        """Prepared images to inputs of a graph, as in predict.py."""
        return pixels if self.options.with_pixels else scaled(pixels, self.prep)

    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = self.source.model(self.to_inputs(pixels)).float().numpy()
        return logits

    def test_inputs(self) -> tuple[Pixels, Literal["run", "noise"]]:
        pixels = self.images.some(self.images.record.examples, CHECKED)
        return (
            (modality_of(self.prep).noise(CHECKED, self.prep), "noise")
            if pixels is None
            else (pixels, "run")
        )


def steps(
    run: Path, options: ExportOptions, network: nn.Module | None = None
) -> Steps[tuple[Path, Exported]]:
    """Write one export of a run, complete and checked, or nothing; returns its folder and record.

    Raises: as `export`.
    """
    to, predictor = options.to, load(run, network)
    record, prep = predictor.bundle.record, predictor.bundle.record.preprocessing
    # Graphs record strides: in channels_last every one would begin with a transpose.
    model = cast(Any, predictor.model).to(memory_format=torch.contiguous_format)
    source = ExportSource(model, record, network, options.with_pixels)
    name = "-".join([to.name, *["int8"] * options.is_int8, *["pixels"] * options.with_pixels])
    destination = free_folder(run, name, options.out)
    to.check_installed()
    to.check_possible(source)
    if (options.is_int8 or options.with_pixels) and not modality_of(prep).has_pixels:
        option = "--int8" if options.is_int8 else "--pixels"
        raise ExportError(
            f"{option} is for networks that take images, and this one takes "
            f"{MODALITIES[prep.kind].nouns.many}; remove it."
        )
    data = read_json(run / "data.json", DataRecord)
    images = reopen(run, data, prep, options.data, options.test)
    job = _ExportJob(run, options, source, images, f"{run.resolve().name}, {to.title}")
    yield Event(stage="deliver", kind="begin")
    single_layer = None
    if to.is_single_layer and not is_plain(model):
        model, single_layer = yield from make_single_layer_head(
            model,
            images,
            job.to_inputs,
            plan=open_plan(run / "plan.toml"),
            hits=oof_hits(run / "predictions.jsonl"),
            is_fine_tuned=has_trained(read_json(run / "weights_ledger.json", Ledger)),
        )
        job = replace(job, source=ExportSource(model, record, network))
    with staged(destination) as folder:
        quantized = yield from _write(job, folder)
        agreement = _check(job, folder, quantized)
        exported = _record(job, folder, agreement, single_layer, quantized)
        facts = ReadmeFacts(
            exported=exported,
            summary=read_json(run / "summary.json", Summary),
            data_name=images.record.name,
            labels=record.classes,
            base=record.base,
            base_model=published((*record.lineage, record.base)[0]),
        )
        write_bytes(folder / "README.md", readme(facts).encode())
        write_json(folder / RECORD, exported)
    yield Event(stage="deliver", kind="end")
    return destination, exported


def _write(job: _ExportJob, folder: Path) -> Steps[Quantized | None]:
    """Write the model, predict.py and the files that it needs."""
    source, to = job.source, job.options.to
    input_name = source.exported().input_name
    write_json(folder / "labels.json", list(source.record.classes))
    write_json(folder / "preprocess.json", job.prep)
    if (modality := modality_of(job.prep)).file:
        write_bytes(folder / modality.file, modality.file_text(job.prep).encode())
    write_bytes(folder / NAME, predict_script(to, job.prep, input_name, job.task).encode())
    if not job.options.is_int8:
        to.write(folder, source, job.title)
        return None
    full = graph.onnx_graph(source, job.title)
    pixels, _ = job.test_inputs()
    logits, expected = run_graph(session(full), job.graph_inputs(pixels)), job.logits(pixels)
    gap = float(np.abs(logits - expected).max())
    if not gap <= allowed(expected, job.task):
        raise refusal(
            f"the graph disagrees with the model before quantization: a logit differs by {gap:.2g} "
            f"(at most {TOLERANCE:g} may)"
        )
    small, quantized = yield from quantize(full, job.images, job.graph_inputs, input_name)
    write_bytes(folder / to.model, small)
    return quantized


def _check(job: _ExportJob, folder: Path, quantized: Quantized | None) -> Agreement:
    """Compare the export, in a process without warmstart, with the model."""
    real, which = job.test_inputs()
    n, prep, task = len(real), job.prep, job.task
    # Similar images of a run may hide a difference; noise does not.
    modality = modality_of(prep)
    random = modality.noise(CHECKED_NOISE, prep)
    if modality.is_ragged:  # as long as the longest of the real ones
        random = random[:, : real.shape[1]]
    pixels = np.concatenate([real, random])
    expected = job.logits(pixels)
    cells = job.images.cells(CHECKED) if which == "run" and modality.form == "rows" else []
    answers = ask(folder, pixels, cells)
    if cells and not np.array_equal(answers["prepared"], real):
        raise refusal("predict.py encodes rows differently from the model")
    if quantized is None:
        return compare(answers, expected, which, prep, task=task, n=n)
    small = session((folder / job.options.to.model).read_bytes())
    outputs = run_graph(small, job.graph_inputs(pixels))
    compare(answers, outputs, which, prep, task=task)
    return compare(answers, expected, which, prep, tolerance=None, task=task, n=n)


def _record(
    job: _ExportJob,
    folder: Path,
    agreement: Agreement,
    single_layer: SingleLayerHead | None,
    quantized: Quantized | None,
) -> Exported:
    k = len(job.source.record.classes)
    outputs = TASKS[job.task].output_text.format(k=k)
    if job.options.to.is_single_layer:
        outputs = f"calibrated logits (N, {k}); their softmax are the probabilities"
    kind = job.images.record.kind
    return Exported(
        kind=kind,
        run=job.run.resolve().name,
        to=job.options.to.name,
        title=job.title,
        inputs=_describe_inputs(job.source.exported(), job.options.with_pixels),
        task=none_if_default(job.task),
        outputs=outputs,
        agreement=agreement,
        single_layer=single_layer,
        quantized=quantized,
        files={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        libraries=job.options.to.library_versions(),
    )


def _describe_inputs(network: ExportedNetwork, with_pixels: bool) -> str:
    inputs = network.preprocessing
    if with_pixels:
        shape = ", ".join(["N", *map(str, inputs.shape)])
        return f"prepared images ({shape}) uint8, named `pixels`"
    return modality_of(inputs).network_input(inputs)


def export(
    run: Any,
    to: str,
    *,
    out: str | Path | None = None,
    int8: bool = False,
    pixels: bool = False,
    data: Any = None,
    test: Any = None,
    network: nn.Module | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Exported:
    """Write a run's model as ONNX, torch.export, timm, transformers or OpenVINO.

    The same as `warmstart export`. `run` is a `Run` or the path of one; `out` the folder to
    write (default RUN/export/FORMAT). `int8` quantizes ONNX to 8 bits and measures the cost;
    `pixels` takes uint8 images (N, H, W, C) and scales them in the graph. `data` and `test` are the
    run's images if they have moved; `network` is the user's own module if the run fine-tuned one.
    Every export is compared with the model in a process without warmstart before it is published.

    Raises: UsageError for an unknown format or a folder in use, RunFolderError without a model,
    ExportError if the export fails or disagrees; then nothing is written.
    """
    path = Path(run) if isinstance(run, (str, Path)) else getattr(run, "path", None)
    if not isinstance(path, Path):
        raise UsageError(
            f"export() needs a run or the path of its folder, not a {type(run).__name__}."
        )
    network = network if network is not None else getattr(run, "network", None)
    options = ExportOptions(
        to=check_format(to, int8, pixels),
        out=Path(out) if out is not None else None,
        is_int8=int8,
        with_pixels=pixels,
        data=data,
        test=test,
    )
    return follow(steps(path, options, network), on_event or (lambda event: None))[1]
