"""The network itself in a format: what is written into the folder of an export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from torch import nn

from warmstart.errors import ExportError, UsageError, install_command
from warmstart.exporting import hub_folder, onnx, openvino, torch_export
from warmstart.exporting.network import Served, serve
from warmstart.exporting.predict_script import MODEL
from warmstart.network.single_layer_head import as_native, as_timm, is_native
from warmstart.network.surgery import WarmModel
from warmstart.records.answer import ModelRecord
from warmstart.records.export import ExportFormat
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.run_folder import write_bytes

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
LINEAR = ("timm", "transformers")  # formats that hold one linear output on the last tap
_EXTRAS = {"openvino": "fast", "transformers": "text", "onnx": "", "torch": "", "timm": ""}
_LIBRARIES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "torch": ("torch",),
    "timm": ("timm",),
    "transformers": ("transformers",),
    "openvino": ("openvino",),
}


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: a model, its record, and the user's own network where there is one."""

    model: WarmModel
    record: ModelRecord
    network: nn.Module | None
    with_pixels: bool = False

    @property
    def prep(self) -> Preprocessing:
        """How images are fed in, of a format that is made for them."""
        return pictures(self.record.preprocessing)

    def served(self) -> Served:
        """The network with named outputs, in plain memory order."""
        return serve(self.model, self.record.preprocessing, self.with_pixels, self.record.task)


def check_asked(to: str, is_int8: bool, with_pixels: bool) -> ExportFormat:
    """The format of that name. Raises: UsageError if there is none, or it lacks what is asked.

    >>> check_asked("onnx", True, True)
    'onnx'
    """
    if to not in FORMATS:
        raise UsageError(f"--to {to} is not one of {', '.join(FORMATS)}.")
    if is_int8 and to != "onnx":
        raise UsageError(f"--int8 is made for --to onnx, not for {to}; leave one of them away.")
    if with_pixels and to in LINEAR:
        raise UsageError(
            f"--pixels puts preprocessing into the graph, and {to} has its own; leave it away."
        )
    return to


def check_installed(to: ExportFormat) -> None:
    """Raises: ExportError saying what to install where the format's library is not installed."""
    missing = [name for name in _LIBRARIES[to] if not is_installed(name)]
    if missing:
        extra = _EXTRAS[to]
        cure = install_command(extra) if extra else f"pip install {missing[0]}"
        raise ExportError(f"--to {to} needs {missing[0]}, which is not installed; run `{cure}`.")


def is_installed(name: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(name) is not None


def library_versions(to: ExportFormat) -> dict[str, str]:
    """Of what the export was made and checked with."""
    found = {}
    for name in dict.fromkeys(("torch", *_LIBRARIES[to])):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def check_possible(to: ExportFormat, source: Source) -> None:
    """Refuse at once what a format cannot hold. Raises: ExportError with the alternatives."""
    arch, task = source.record.arch, source.record.task
    if to in LINEAR and task != "classify":
        what = "several labels" if task == "multilabel" else "a number"
        raise ExportError(
            f"{to} says of its outputs that they are classes, and this model answers {what}; use "
            "--to onnx, torch or openvino."
        )
    if to in LINEAR and source.record.preprocessing.kind == "text":
        raise ExportError(
            f"a model of texts has an output that {to} does not hold; use --to onnx, torch or "
            "openvino. The run's README.md rebuilds it in plain torch and transformers."
        )
    if to == "transformers" and is_native(source.network):
        return
    if to in LINEAR and not arch.startswith("timm:"):
        kind, _, name = arch.partition(":")
        whose = "your own network" if kind == "module" else f"a network of {kind}"
        raise ExportError(
            f"{name} is {whose}, which {to} cannot rebuild; use --to onnx, torch or openvino."
        )


def write_model(to: ExportFormat, folder: Path, source: Source, title: str) -> None:
    """Write the network. Raises: ExportError where the format cannot hold it."""
    _WRITERS[to](folder, source, title)


def onnx_graph(source: Source, title: str) -> bytes:
    """The network as ONNX. Raises: ExportError where it branches on the values of an image."""
    served = source.served()

    def judge() -> None:
        """A trace takes one branch for all images; what makes a program follows them."""
        if is_own:
            torch_export.to_program(served)

    # The designs of a library ask for sizes, and assert them, but do not branch on values.
    is_own = source.record.arch.startswith("module:")
    if _is_whole(source.model):
        torch_export.to_program(served)
    return onnx.to_onnx(served, metadata(source, served, title), judge)


def metadata(source: Source, served: Served, title: str) -> dict[str, str]:
    """What the file says of itself."""
    return onnx.metadata_of(served, source.record.classes, title)


def _is_whole(model: WarmModel) -> bool:
    """Whether the network could not be cut: nobody has seen that its forward is a plain graph."""
    return any("" in step.modules for step in model.scan.steps.parts)


def _write_onnx(folder: Path, source: Source, title: str) -> None:
    write_bytes(folder / MODEL["onnx"], onnx_graph(source, title))


def _write_torch(folder: Path, source: Source, title: str) -> None:
    served = source.served()
    told = metadata(source, served, title)
    torch_export.save_program(torch_export.to_program(served), folder / MODEL["torch"], told)


def _write_openvino(folder: Path, source: Source, title: str) -> None:
    told = metadata(source, source.served(), title)
    openvino.write_ir(onnx_graph(source, title), folder / MODEL["openvino"], told)


def _write_timm(folder: Path, source: Source, title: str) -> None:
    record = source.record
    module, options = as_timm(source.model, record.arch, source.prep)
    hub_folder.write_timm(module, folder, _hub(source, options))


def _write_transformers(folder: Path, source: Source, title: str) -> None:
    record, network = source.record, source.network
    if network is not None and is_native(network):
        own = as_native(source.model, network, source.prep)
        hub_folder.write_native(own, folder, record.classes, source.prep)
        return
    module, options = as_timm(source.model, record.arch, source.prep)
    hub_folder.write_wrapped(module, folder, _hub(source, options))


def _hub(source: Source, options: dict[str, object]) -> hub_folder.Described:
    record = source.record
    return hub_folder.Described(
        design=record.arch.partition(":")[2],
        labels=record.classes,
        prep=source.prep,
        options=options,
    )


_WRITERS: dict[ExportFormat, Callable[[Path, Source, str], None]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "openvino": _write_openvino,
    "timm": _write_timm,
    "transformers": _write_transformers,
}
