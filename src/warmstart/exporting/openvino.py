"""OpenVINO: the ONNX graph in its own format, computed in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.errors import ExportError, first_line
from warmstart.exporting.format import ExportFormat
from warmstart.exporting.onnx import Onnx

if TYPE_CHECKING:
    from warmstart.exporting.graph import ExportSource


class OpenVINO(ExportFormat):
    """model.xml and the .bin beside it."""

    name = "openvino"
    title = "OpenVINO"
    model = "model.xml"
    libraries = ("openvino",)
    extra = "fast"

    needs = "openvino"
    imports = "import openvino"
    load = (
        "# By itself OpenVINO computes in bfloat16 where the processor can (AMX): "
        "faster, and\n# probabilities are off by up to 0.03.\n"
        'f32 = {"INFERENCE_PRECISION_HINT": "f32"}\n'
        'model = openvino.Core().compile_model(HERE / "model.xml", "CPU", f32)'
    )
    answer = '    out = model([{x}])\n    return out["logits"], out["probabilities"]'
    value = '    return [model([{x}])["value"]] * 2'
    how_loaded = (
        'openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})'
    )
    note = (
        " `f32` requests 32 bits: on processors with bfloat16 (AMX) OpenVINO uses that by default, "
        "and probabilities then differ by up to 0.03 from the model's."
    )

    def write(self, folder: Path, source: ExportSource, title: str) -> None:
        from warmstart.exporting.graph import onnx_graph

        write_ir(onnx_graph(source, title), folder / self.model, source.metadata(title))


def write_ir(graph: bytes, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX graph in OpenVINO's format: `path` (.xml) and the .bin beside it, in float32.

    `openvino.convert_model` would send telemetry; reading a graph does not.
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
            f"OpenVINO cannot read the network ({first_line(error)}); try --to {Onnx.name}."
        ) from error
