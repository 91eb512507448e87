"""ONNX: one graph for any batch size, with its metadata inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.exporting.format import ExportFormat
from warmstart.records.run_folder import write_bytes

if TYPE_CHECKING:
    from warmstart.exporting.graph import ExportSource


class Onnx(ExportFormat):
    """model.onnx, which `quantize` can turn into 8-bit numbers."""

    name = "onnx"
    title = "ONNX"
    model = "model.onnx"
    libraries = ("onnx", "onnxruntime")
    has_int8 = True

    needs = "onnxruntime"
    imports = "import onnxruntime"
    load = (
        'session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), '
        'providers=["CPUExecutionProvider"])'
    )
    answer = '    return session.run(["logits", "probabilities"], {{"{name}": {x}}})'
    value = '    return session.run(["value"], {{"{name}": {x}}}) * 2'
    how_loaded = 'onnxruntime.InferenceSession("model.onnx")'

    def write(self, folder: Path, source: ExportSource, title: str) -> None:
        from warmstart.exporting.graph import onnx_graph

        write_bytes(folder / self.model, onnx_graph(source, title))
