"""OpenVINO: the ONNX graph as its own representation, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from warmstart.errors import ExportError
from warmstart.exporting.onnx import first_line


def write_ir(graph: bytes, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `path` (.xml) and the .bin beside it. Weights stay float32.

    `openvino.convert_model` would report its use to its makers; reading a graph does not.
    Raises: ExportError where OpenVINO cannot read the graph.
    """
    import openvino

    try:
        model = openvino.Core().read_model(graph)
        for key, value in metadata.items():
            model.set_rt_info(value, ["warmstart", key])
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except Exception as error:  # openvino raises plain RuntimeErrors
        raise ExportError(
            f"OpenVINO cannot take the network ({first_line(error)}); try --to onnx."
        ) from error
