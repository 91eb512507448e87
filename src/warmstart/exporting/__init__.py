"""A finished model in the formats of other programs, each a folder that needs no warmstart."""

from __future__ import annotations

from warmstart.errors import UsageError
from warmstart.exporting.format import ExportFormat
from warmstart.exporting.onnx import Onnx
from warmstart.exporting.openvino import OpenVINO
from warmstart.exporting.timm import Timm
from warmstart.exporting.torch import TorchExport
from warmstart.exporting.transformers import Transformers
from warmstart.formatting import joined

# In the order of the help.
FORMATS: dict[str, ExportFormat] = {
    one.name: one for one in (Onnx(), TorchExport(), Timm(), Transformers(), OpenVINO())
}


def check_format(to: str, is_int8: bool, with_pixels: bool) -> ExportFormat:
    """The format of that name. Raises: UsageError if there is none, or it lacks an option."""
    if to not in FORMATS:
        raise UsageError(f"--to {to} is not one of {', '.join(FORMATS)}.")
    if is_int8 and not FORMATS[to].has_int8:
        able = joined([one.name for one in FORMATS.values() if one.has_int8], "or")
        raise UsageError(f"--int8 needs --to {able}, not {to}; remove one of them.")
    if with_pixels and FORMATS[to].is_single_layer:
        raise UsageError(
            f"--pixels puts preprocessing into the graph, and {to} has its own; remove it."
        )
    return FORMATS[to]
