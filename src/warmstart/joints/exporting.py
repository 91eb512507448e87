"""A finished model to a folder in another format: made, checked, described, put in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart import tokens
from warmstart.delivery.bundle import TOKENIZER
from warmstart.delivery.export import clean
from warmstart.delivery.export.place import beside, free_place
from warmstart.delivery.export.quantised import run as answered
from warmstart.delivery.export.quantised import session
from warmstart.delivery.export.readme import TITLES, ReadmeFacts, readme
from warmstart.delivery.export.scripts import MODEL, NAME, predict_script
from warmstart.delivery.export.served import Served, scaled
from warmstart.errors import ExportError
from warmstart.events import Event, Steps
from warmstart.features.engine import noise, to_tensor
from warmstart.folder import read_json, write_bytes, write_json
from warmstart.joints import formats
from warmstart.joints.formats import LINEAR, Source
from warmstart.joints.lineage import published
from warmstart.joints.processors import n_threads
from warmstart.joints.reopened import Pixels, Reopened, reopen
from warmstart.joints.shrink import shrink
from warmstart.joints.twin import Known, has_trained, make_twin, right_answers
from warmstart.network.edit import WarmModel
from warmstart.network.untapped import is_plain
from warmstart.planning.planfile import open_plan
from warmstart.records import (
    Agreement,
    DataRecord,
    Exported,
    ExportFormat,
    Inputs,
    Ledger,
    Preprocessing,
    Shrunk,
    Summary,
    TextInputs,
    Twin,
)
from warmstart.words import nouns_of

CHECKED = 16  # images that an export must answer as the model does
STRANGE = 8  # and images of noise besides
RECORD = "export.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of an export. `data` and `test`: the run's images, where they have moved."""

    to: ExportFormat
    out: Path | None = None
    is_int8: bool = False
    with_pixels: bool = False
    data: Any = None
    test: Any = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """An export in its place."""

    path: Path
    exported: Exported


@dataclass(frozen=True, slots=True)
class _Job:
    run: Path
    wanted: Wanted
    source: Source
    images: Reopened
    title: str

    @property
    def prep(self) -> Inputs:
        return self.source.record.preprocessing

    def feed(self, pixels: Pixels) -> Tensor:
        """Prepared images (m, H, W, C) to the network's inputs."""
        return to_tensor(pixels, self.prep).contiguous()

    def graph_inputs(self, pixels: Pixels) -> NDArray[np.generic]:
        """The same as predict.py gives them to a graph, which may take the pixels themselves."""
        return pixels if self.wanted.with_pixels else scaled(pixels, self.prep)


def export(run: Path, source: Source, wanted: Wanted) -> Steps[Delivered]:
    """Write one export of a run, complete and checked, or nothing.

    Raises: UsageError where its place is in use; ExportError where a library is missing, the
    format cannot hold the network, images that it takes are gone, or the export disagrees.
    """
    name = "-".join([wanted.to, *["int8"] * wanted.is_int8, *["pixels"] * wanted.with_pixels])
    place = free_place(run, name, wanted.out)
    formats.check_installed(wanted.to)
    formats.check_possible(wanted.to, source)
    if (wanted.is_int8 or wanted.with_pixels) and source.record.preprocessing.kind != "image":
        option = "--int8" if wanted.is_int8 else "--pixels"
        raise ExportError(
            f"{option} is for networks that take images, and this one takes "
            f"{nouns_of(source.record.preprocessing.kind).many}; leave it away."
        )
    record = read_json(run / "data.json", DataRecord)
    images = reopen(run, record, source.record.preprocessing, wanted.data, wanted.test)
    title = f"{run.resolve().name}, {TITLES[wanted.to]}"
    job = _Job(run, wanted, source, images, title)
    yield Event(stage="deliver", kind="begin")
    source, twin = yield from _holdable(job, source)
    with beside(place) as folder:
        shrunk = yield from _write(job, source, folder)
        agreement = _agreed(job, source, folder, shrunk)
        exported = _record(job, source, folder, agreement, twin, shrunk)
        _describe(job, source, folder, exported)
    yield Event(stage="deliver", kind="end")
    return Delivered(place, exported)


def _holdable(job: _Job, source: Source) -> Steps[tuple[Source, Twin | None]]:
    """The model, or its last-tap twin where the format holds no other head."""
    if job.wanted.to not in LINEAR or is_plain(source.model):
        return source, None
    known = Known(
        plan=open_plan(job.run / "plan.toml"),
        right=right_answers(job.run / "predictions.jsonl"),
        has_learnt=has_trained(read_json(job.run / "weights_ledger.json", Ledger)),
    )
    model, twin = yield from make_twin(source.model, job.images, known, job.feed)
    return Source(model, source.record, source.network), twin


def _write(job: _Job, source: Source, folder: Path) -> Steps[Shrunk | None]:
    """Everything that predict.py needs, and the script itself."""
    served = source.served()
    script = predict_script(job.wanted.to, job.prep, served.input_name, source.record.task)
    write_json(folder / "labels.json", list(source.record.classes))
    write_json(folder / "preprocess.json", job.prep)
    if isinstance(job.prep, TextInputs):
        write_bytes(folder / TOKENIZER, tokens.text_of(job.prep.tokenizer).encode())
    write_bytes(folder / NAME, script.encode())
    if not job.wanted.is_int8:
        formats.write_model(job.wanted.to, folder, source, job.title)
        return None
    graph = formats.onnx_graph(source, job.title)
    _check_graph(job, source, graph)
    small, shrunk = yield from shrink(graph, job.images, job.graph_inputs, served.input_name)
    write_bytes(folder / MODEL["onnx"], small)
    return shrunk


def _check_graph(job: _Job, source: Source, graph: bytes) -> None:
    """The graph in 32 bits must be the model, before anything is taken off it."""
    pixels, _ = _looked_at(job)
    found = answered(session(graph, n_threads()), job.graph_inputs(pixels))
    expected = _logits(job, source.model, pixels)
    gap = float(np.abs(found - expected).max())
    if not gap <= clean.allowed(expected, source.record.task):
        raise ExportError(
            f"the graph disagrees with the model before any rounding: a logit differs by {gap:.2g} "
            f"(at most {clean.TOLERANCE:g} may); nothing was written."
        )


def _agreed(job: _Job, source: Source, folder: Path, shrunk: Shrunk | None) -> Agreement:
    """What the export says in a process without warmstart, against the model."""
    real, which = _looked_at(job)
    n = len(real)
    # What the run's images have in common may hide a difference: noise has none of it.
    strange = noise(job.prep, STRANGE)
    if job.prep.kind == "text":  # as long as the longest of the real ones
        strange = strange[:, : real.shape[1]]
    pixels = np.concatenate([real, strange])
    expected = _logits(job, source.model, pixels)
    cells = job.images.cells(CHECKED) if which == "run" and job.prep.kind == "table" else []
    found = clean.ask(folder, pixels, cells)
    if cells and not np.array_equal(found["prepared"], real):
        raise ExportError("predict.py encodes rows as the model does not; nothing was written.")
    if shrunk is None:
        return clean.compare(found, expected, which, job.prep, task=source.record.task, n=n)
    made = session((folder / MODEL["onnx"]).read_bytes(), n_threads())
    task = source.record.task
    clean.compare(found, answered(made, job.graph_inputs(pixels)), which, job.prep, task=task)
    return clean.compare(found, expected, which, job.prep, tolerance=None, task=task, n=n)


def _looked_at(job: _Job) -> tuple[Pixels, Literal["run", "noise"]]:
    found = job.images.some(job.images.record.examples, CHECKED)
    if found is None:
        return noise(job.prep, CHECKED), "noise"
    return found, "run"


def _logits(job: _Job, model: WarmModel, pixels: Pixels) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = model(job.feed(pixels)).float().numpy()
    return found


def _record(
    job: _Job, source: Source, folder: Path, agreement: Agreement, twin: Twin | None,
    shrunk: Shrunk | None,
) -> Exported:  # fmt: skip
    k = len(source.record.classes)
    outputs = f"`logits` and `probabilities`, (N, {k}) each, calibrated"
    if source.record.task == "regress":
        outputs = "`value`, (N, 1)"
    if job.wanted.to in LINEAR:
        outputs = f"calibrated logits (N, {k}); their softmax are the probabilities"
    kind = job.images.record.kind
    return Exported(
        kind=None if kind == "image" else kind,
        run=job.run.resolve().name, to=job.wanted.to, title=job.title,
        inputs=_taken(source.served(), job.wanted.with_pixels),
        task=None if source.record.task == "classify" else source.record.task,
        outputs=outputs, agreement=agreement, twin=twin, shrunk=shrunk,
        files={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        libraries=formats.library_versions(job.wanted.to),
    )  # fmt: skip


def _taken(served: Served, with_pixels: bool) -> str:
    """What the export is given, in words."""
    inputs = served.preprocessing
    if isinstance(inputs, TextInputs):
        length = f"L up to {inputs.length}" if 1 in served.axes else f"L = {inputs.length}"
        return f"tokens of tokenizer.json (N, L) int64, {length}, as `prepare` in predict.py does"
    if not isinstance(inputs, Preprocessing):
        shape = ", ".join(["N", *map(str, inputs.shape)])
        how = ", encoded by `prepare` in predict.py" if inputs.kind in ("table", "audio") else ""
        return f"{nouns_of(inputs.kind).many} ({shape}) {inputs.dtype}{how}"
    height, width = inputs.size
    if with_pixels:
        return f"prepared images (N, {height}, {width}, {inputs.channels}) uint8, named `pixels`"
    shape = f"(N, {inputs.channels}, {height}, {width})"
    return f"images {shape} float32, scaled and normalised as preprocess.json says"


def _describe(job: _Job, source: Source, folder: Path, exported: Exported) -> None:
    """The card and the record of the export."""
    record = source.record
    facts = ReadmeFacts(
        exported=exported, summary=read_json(job.run / "summary.json", Summary),
        data_name=job.images.record.name, labels=record.classes,
        start=record.start, base_model=published((*record.lineage, record.start)[0]),
    )  # fmt: skip
    write_bytes(folder / "README.md", readme(facts).encode())
    write_json(folder / RECORD, exported)
