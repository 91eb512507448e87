"""`warmstart export RUN --to FORMAT`: a finished model in a format that needs no warmstart."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from warmstart.errors import ExportError, UsageError
from warmstart.events import Event, Steps, follow
from warmstart.exporting import clean_process, formats
from warmstart.exporting.formats import LINEAR, ExportSource, check_asked
from warmstart.exporting.onnx import ExportedNetwork, scaled
from warmstart.exporting.predict_script import MODEL, NAME, predict_script
from warmstart.exporting.quantize import run as answered
from warmstart.exporting.quantize import session, shrink
from warmstart.exporting.readme import TITLES, ReadmeFacts, readme
from warmstart.exporting.single_layer_head import (
    Known,
    has_trained,
    make_single_layer_head,
    right_answers,
)
from warmstart.features.batches import noise, to_tensor
from warmstart.features.machine import n_threads
from warmstart.modalities import text
from warmstart.network.model_folder import TOKENIZER
from warmstart.network.single_layer_head import is_plain
from warmstart.network.surgery import WarmModel
from warmstart.nouns import nouns_of
from warmstart.planning.plan_file import open_plan
from warmstart.records.data import DataRecord
from warmstart.records.export import Agreement, Exported, ExportFormat, Quantized, SingleLayerHead
from warmstart.records.inputs import Inputs, Preprocessing, TextInputs
from warmstart.records.network import Ledger
from warmstart.records.run_folder import read_json, sync_folder, write_bytes, write_json
from warmstart.records.summary import Summary
from warmstart.run.lineage import published
from warmstart.run.predictor import load
from warmstart.run.reopened import Pixels, Reopened, reopen

# ---- Where an export goes: made beside its place, and moved there when it has been checked.


_FILES = (".onnx", ".pt2", ".pt", ".pth", ".xml", ".bin", ".safetensors", ".zip")


def free_place(run: Path, name: str, out: Path | None) -> Path:
    """`out`, or RUN/export/NAME, with -2, -3 … where that is taken.

    Raises: UsageError if `out` is in use, or named like a file.
    """
    if out is None:
        place, n = run / "export" / name, 1
        while _is_taken(place):
            n += 1
            place = run / "export" / f"{name}-{n}"
        return place
    if out.suffix.lower() in _FILES:
        raise UsageError(
            f"--out {out}: an export is a folder (model, labels, card, script); "
            f"name one, such as {out.with_suffix('')}-{out.suffix[1:].lower()}."
        )
    if _is_taken(out):
        raise UsageError(
            f"--out {out} exists and is not empty; nothing was changed. Name another folder."
        )
    return out


def _is_taken(place: Path) -> bool:
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        return True
    return place.is_dir() and any(place.iterdir())


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new folder next to `place`; it becomes `place` if nothing is raised, else it goes.

    Raises: UsageError if no folder can be made there.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name[:40]}-", dir=place.parent))
    except OSError as error:
        raise UsageError(f"{place} cannot be written ({error.strerror}); name another.") from error
    try:
        yield made
        _settle(made, place)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _settle(made: Path, place: Path) -> None:
    """Move a finished folder to its place. Raises: UsageError if that was taken meanwhile."""
    made.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
    for path in sorted(made.iterdir()):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    try:
        if place.is_dir() and not place.is_symlink():
            place.rmdir()  # only if it is empty
        os.rename(made, place)
    except OSError as error:
        raise UsageError(
            f"{place} cannot be written ({error.strerror}); nothing was changed. Name another."
        ) from error
    sync_folder(place.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- A finished model to a folder in another format: made, checked, described, put in place.


CHECKED = 16  # images that an export must answer as the model does
STRANGE = 8  # and images of noise besides
RECORD = "export.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
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
class _ExportJob:
    run: Path
    wanted: ExportOptions
    source: ExportSource
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


def write_export(run: Path, source: ExportSource, wanted: ExportOptions) -> Steps[Delivered]:
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
    job = _ExportJob(run, wanted, source, images, title)
    yield Event(stage="deliver", kind="begin")
    source, single_layer = yield from _holdable(job, source)
    with beside(place) as folder:
        quantized = yield from _write(job, source, folder)
        agreement = _agreed(job, source, folder, quantized)
        exported = _record(job, source, folder, agreement, single_layer, quantized)
        _describe(job, source, folder, exported)
    yield Event(stage="deliver", kind="end")
    return Delivered(place, exported)


def _holdable(
    job: _ExportJob, source: ExportSource
) -> Steps[tuple[ExportSource, SingleLayerHead | None]]:
    """The model, or its last-tap twin where the format holds no other head."""
    if job.wanted.to not in LINEAR or is_plain(source.model):
        return source, None
    known = Known(
        plan=open_plan(job.run / "plan.toml"),
        right=right_answers(job.run / "predictions.jsonl"),
        has_learnt=has_trained(read_json(job.run / "weights_ledger.json", Ledger)),
    )
    model, single_layer = yield from make_single_layer_head(
        source.model, job.images, known, job.feed
    )
    return ExportSource(model, source.record, source.network), single_layer


def _write(job: _ExportJob, source: ExportSource, folder: Path) -> Steps[Quantized | None]:
    """Everything that predict.py needs, and the script itself."""
    served = source.served()
    script = predict_script(job.wanted.to, job.prep, served.input_name, source.record.task)
    write_json(folder / "labels.json", list(source.record.classes))
    write_json(folder / "preprocess.json", job.prep)
    if isinstance(job.prep, TextInputs):
        write_bytes(folder / TOKENIZER, text.tokenizer_json(job.prep.tokenizer).encode())
    write_bytes(folder / NAME, script.encode())
    if not job.wanted.is_int8:
        formats.write_model(job.wanted.to, folder, source, job.title)
        return None
    graph = formats.onnx_graph(source, job.title)
    _check_graph(job, source, graph)
    small, quantized = yield from shrink(graph, job.images, job.graph_inputs, served.input_name)
    write_bytes(folder / MODEL["onnx"], small)
    return quantized


def _check_graph(job: _ExportJob, source: ExportSource, graph: bytes) -> None:
    """The graph in 32 bits must be the model, before anything is taken off it."""
    pixels, _ = _looked_at(job)
    found = answered(session(graph, n_threads()), job.graph_inputs(pixels))
    expected = _logits(job, source.model, pixels)
    gap = float(np.abs(found - expected).max())
    if not gap <= clean_process.allowed(expected, source.record.task):
        raise ExportError(
            f"the graph disagrees with the model before any rounding: a logit differs by {gap:.2g} "
            f"(at most {clean_process.TOLERANCE:g} may); nothing was written."
        )


def _agreed(
    job: _ExportJob, source: ExportSource, folder: Path, quantized: Quantized | None
) -> Agreement:
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
    found = clean_process.ask(folder, pixels, cells)
    if cells and not np.array_equal(found["prepared"], real):
        raise ExportError("predict.py encodes rows as the model does not; nothing was written.")
    if quantized is None:
        return clean_process.compare(found, expected, which, job.prep, task=source.record.task, n=n)
    made = session((folder / MODEL["onnx"]).read_bytes(), n_threads())
    task = source.record.task
    clean_process.compare(
        found, answered(made, job.graph_inputs(pixels)), which, job.prep, task=task
    )
    return clean_process.compare(found, expected, which, job.prep, tolerance=None, task=task, n=n)


def _looked_at(job: _ExportJob) -> tuple[Pixels, Literal["run", "noise"]]:
    found = job.images.some(job.images.record.examples, CHECKED)
    if found is None:
        return noise(job.prep, CHECKED), "noise"
    return found, "run"


def _logits(job: _ExportJob, model: WarmModel, pixels: Pixels) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = model(job.feed(pixels)).float().numpy()
    return found


def _record(
    job: _ExportJob,
    source: ExportSource,
    folder: Path,
    agreement: Agreement,
    single_layer: SingleLayerHead | None,
    quantized: Quantized | None,
) -> Exported:
    k = len(source.record.classes)
    outputs = f"`logits` and `probabilities`, (N, {k}) each, calibrated"
    if source.record.task == "regress":
        outputs = "`value`, (N, 1)"
    if job.wanted.to in LINEAR:
        outputs = f"calibrated logits (N, {k}); their softmax are the probabilities"
    kind = job.images.record.kind
    return Exported(
        kind=None if kind == "image" else kind,
        run=job.run.resolve().name,
        to=job.wanted.to,
        title=job.title,
        inputs=_taken(source.served(), job.wanted.with_pixels),
        task=None if source.record.task == "classify" else source.record.task,
        outputs=outputs,
        agreement=agreement,
        single_layer=single_layer,
        quantized=quantized,
        files={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        libraries=formats.library_versions(job.wanted.to),
    )


def _taken(served: ExportedNetwork, with_pixels: bool) -> str:
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


def _describe(job: _ExportJob, source: ExportSource, folder: Path, exported: Exported) -> None:
    """The card and the record of the export."""
    record = source.record
    facts = ReadmeFacts(
        exported=exported,
        summary=read_json(job.run / "summary.json", Summary),
        data_name=job.images.record.name,
        labels=record.classes,
        base=record.base,
        base_model=published((*record.lineage, record.base)[0]),
    )
    write_bytes(folder / "README.md", readme(facts).encode())
    write_json(folder / RECORD, exported)


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
    make (default RUN/export/FORMAT). `int8` rounds ONNX to 8 bits and measures what that
    costs, `pixels` takes uint8 images (N, H, W, C) and scales them inside. `data` and `test`
    are the run's images where they are not where the run found them; `network` is the user's
    own module where the run began from one. Every export has been compared with the model in
    a process without warmstart before it is in its place.

    Raises: UsageError for a format that is none or a place in use, RunFolderError without a
    model, ExportError if the export cannot be made or does not agree; then nothing is left.
    """
    path, own = _opened(run, network)
    wanted = ExportOptions(
        to=check_asked(to, int8, pixels),
        out=Path(out) if out is not None else None,
        is_int8=int8,
        with_pixels=pixels,
        data=data,
        test=test,
    )
    return follow(steps(path, wanted, own), on_event or (lambda event: None)).exported


def steps(run: Path, wanted: ExportOptions, network: nn.Module | None = None) -> Steps[Delivered]:
    """The same with its events; the folder comes back too. Raises: as `export`."""
    predictor = load(run, network)
    # Exporters write strides down: in channels_last every graph would begin with a transpose.
    model = cast(Any, predictor.model).to(memory_format=torch.contiguous_format)
    source = ExportSource(model, predictor.bundle.record, network, wanted.with_pixels)
    return (yield from write_export(run, source, wanted))


def _opened(run: Any, network: nn.Module | None) -> tuple[Path, nn.Module | None]:
    """The folder of a run, and the network that it began from, where it is known."""
    if isinstance(run, (str, Path)):
        return Path(run), network
    path, own = getattr(run, "path", None), getattr(run, "network", None)
    if not isinstance(path, Path):
        raise UsageError(
            f"export() wants a run or the path of its folder, not a {type(run).__name__}."
        )
    return path, network if network is not None else own
