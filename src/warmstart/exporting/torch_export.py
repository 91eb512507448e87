"""torch.export: the network as one program, without any code of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from warmstart.errors import ExportError
from warmstart.exporting.network import Served
from warmstart.exporting.onnx import first_line, silent


def to_program(served: Served) -> Any:
    """The network as an exported program, any batch size and length of text.

    Raises: ExportError where its forward depends on the values that it is given, or on how many.
    """
    example = served.example(2)
    axes = {
        axis: torch.export.Dim(
            name, min=1 if axis == 0 else 2, max=example.shape[axis] if axis else None
        )
        for axis, name in served.axes.items()
    }  # what is no batch is as long as the example at most
    try:
        with silent(), torch.no_grad():
            return torch.export.export(served, (example,), dynamic_shapes=(axes,), strict=False)
    except Exception as error:  # torch raises many kinds, some without a common base
        raise ExportError(
            f"the network cannot be written as one program ({first_line(error)}); where its "
            "forward branches on the values of an image, or on how many come at once, no format "
            "holds it."
        ) from error


def save_program(program: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a .pt2: a zip of graph, tensors and metadata; nothing in it is pickled."""
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(dict(metadata))})
