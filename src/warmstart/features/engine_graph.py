"""Engines that run an exported graph: ONNX Runtime and OpenVINO, from the same ONNX bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.features.engine_torch import (
    Engine,
    EngineError,
    Pixels,
    Rows,
    first_line,
    silent,
)
from warmstart.features.feeding import noise, to_tensor
from warmstart.features.key import BATCH
from warmstart.records import Inputs, pictures

_INPUT = "inputs"


def onnxruntime_engine(module: nn.Module, preprocessing: Inputs, threads: int) -> Engine:
    """The network in ONNX Runtime. Raises: EngineError where it cannot be had there."""
    session = _session(_export(module, preprocessing), threads)

    def run(images: Pixels) -> Rows:
        values = to_tensor(images, preprocessing).contiguous().numpy()
        found: Rows = session.run(None, {_INPUT: values})
        return found

    return run


def openvino_engine(module: nn.Module, preprocessing: Inputs, threads: int) -> Engine:
    """The network in OpenVINO, in float32. Raises: EngineError where it cannot be had there."""
    request = _request(_export(module, preprocessing), preprocessing, threads)

    def run(images: Pixels) -> Rows:
        values = to_tensor(images, preprocessing).contiguous().numpy()
        found = request.infer([values], share_inputs=True)
        return [np.asarray(found[number]) for number in range(len(found))]

    return run


def _export(module: nn.Module, preprocessing: Inputs) -> bytes:
    """The network as an ONNX graph of any batch size; two images make it quick."""
    inputs: Tensor = to_tensor(noise(preprocessing, 2), preprocessing).contiguous()
    buffer = io.BytesIO()
    try:
        with silent(), torch.inference_mode():
            torch.onnx.export(
                module, (inputs,), buffer, dynamo=False, opset_version=17,  # type: ignore[arg-type]
                input_names=[_INPUT], dynamic_axes={_INPUT: {0: "batch"}},
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever an operator raises
        raise EngineError(f"the network cannot be exported to ONNX: {first_line(error)}") from error
    return buffer.getvalue()


def _session(graph: bytes, threads: int) -> Any:
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Planning all buffers at once takes 300 MB more and no less time (measured on lite0).
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        # Exported with two images, run with the one size that is ever asked for.
        options.add_free_dimension_override_by_name("batch", BATCH)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise EngineError(f"ONNX Runtime cannot load the network: {first_line(error)}") from error


def _request(graph: bytes, preprocessing: Inputs, threads: int) -> Any:
    """The graph compiled for one batch size. `openvino.convert_model` would report its use."""
    try:
        import openvino

        core = openvino.Core()
        model = core.read_model(graph)
        prep = pictures(preprocessing)
        model.reshape([BATCH, prep.channels, *prep.size])
        # Left to itself it takes bfloat16 or float16 where the processor has them, as many
        # threads as it likes, and binds them to cores that the decoder wants, too.
        wanted = {
            "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False,
        }  # fmt: skip
        return core.compile_model(model, "CPU", wanted).create_infer_request()
    except Exception as error:  # openvino raises plain RuntimeErrors
        raise EngineError(f"OpenVINO cannot load the network: {first_line(error)}") from error
