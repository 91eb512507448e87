"""What an export format is: one class, in a file of its own, named once in `registry`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from warmstart.errors import ExportError, install_command, installed_version
from warmstart.formatting import joined

if TYPE_CHECKING:  # the command line reads the formats' names without torch
    from warmstart.exporting.graph import ExportSource

AS_TENSOR = "    with torch.inference_mode():\n"  # the first line of `answer` in torch


class ExportFormat(ABC):
    """One format of `warmstart export`: what it holds, how it is written and how it is loaded.

    `needs` to `value` are lines of predict.py; `answer` and `value` return logits and
    probabilities, or a number twice, of the inputs `{x}`, which a graph calls `{name}`. They are
    what `export` runs, in a process of its own, to compare the file with the model.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # behind "as": "a timm model"
    hint: ClassVar[str] = ""  # behind the name in the help
    model: ClassVar[str]  # the file of the network
    libraries: ClassVar[tuple[str, ...]]  # that write and check it
    extra: ClassVar[str] = ""  # of warmstart, which installs them
    hub_library: ClassVar[str] = ""  # in the card, if not `name`
    is_single_layer: ClassVar[bool] = False  # holds classifiers with one linear layer alone
    has_int8: ClassVar[bool] = False  # its file is an ONNX graph, which can be quantized

    needs: ClassVar[str]
    imports: ClassVar[str]
    load: ClassVar[str]
    answer: ClassVar[str]
    value: ClassVar[str] = ""
    how_loaded: ClassVar[str]  # in README.md, in one line
    note: ClassVar[str] = ""  # behind it

    def check_installed(self) -> None:
        """Raises: ExportError with the command to run where a library is missing."""
        missing = [name for name in self.libraries if find_spec(name) is None]
        if missing:
            cure = install_command(self.extra) if self.extra else f"pip install {missing[0]}"
            raise ExportError(
                f"--to {self.name} needs {missing[0]}, which is not installed; run `{cure}`."
            )

    def library_versions(self) -> dict[str, str]:
        """Versions of the libraries that write and check the export."""
        names = dict.fromkeys(("torch", *self.libraries))
        return {name: installed_version(name) or "unknown" for name in names}

    def check_possible(self, source: ExportSource) -> None:  # noqa: B027
        """Raises: ExportError with the alternatives where the format cannot hold the model."""

    @abstractmethod
    def write(self, folder: Path, source: ExportSource, title: str) -> None:
        """Write the network. Raises: ExportError where the format cannot hold it."""


def any_head() -> str:
    """`--to` and the formats that hold any head, as a refusal names them."""
    from warmstart.exporting import FORMATS  # it imports the formats, which refuse

    names = [one.name for one in FORMATS.values() if not one.is_single_layer]
    return f"--to {joined(names, 'or')}"
