"""Engines: a network with feature layers as a fast function on batches of fixed size.

A row must not depend on its neighbours, so every batch has 32 images, the last padded
with zeros; or 8 texts of one padded length. All engines run the same network on the same
normalised images; they round differently, so the engine is a member of the cache key.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from warmstart.errors import TrainingError, first_line
from warmstart.features.batches import sub_batches, to_tensor
from warmstart.features.cache_key import BATCH, ENGINE_TITLES, EngineName
from warmstart.modalities.registry import modality_of
from warmstart.records.inputs import Inputs, pictures

# ---- Engines of torch: eager, and traced and frozen into one graph.

Pixels = NDArray[Any]  # encoded examples, stacked
Rows = list[NDArray[np.float32]]
Engine = Callable[[Pixels], Rows]

AGREEMENT = 1e-3  # of the RMS of a feature layer: the largest error of another engine


class EngineError(TrainingError):
    """An engine could not be made; another one can."""


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs of a feature layer agree up to rounding."""
    rms = float(a.pow(2).mean().sqrt()) or 1.0
    return a.shape == b.shape and float((a - b).abs().max()) <= AGREEMENT * rms


def eager_engine(module: nn.Module, preprocessing: Inputs) -> Engine:
    """The eager module, in channels_last, its BatchNorms folded into convolutions."""
    module = _in_channels_last(module, preprocessing)

    def run(images: Pixels) -> Rows:
        with torch.inference_mode():
            return _arrays(module(to_tensor(images, preprocessing)))

    return run


def traced_engine(module: nn.Module, preprocessing: Inputs) -> Engine:
    """The same as one frozen graph, without Python between layers."""
    module = _in_channels_last(module, preprocessing)
    images = modality_of(preprocessing).noise(
        BATCH, preprocessing
    )  # a graph may depend on its batch size
    try:
        with silent(), torch.no_grad():
            inputs = to_tensor(images, preprocessing)
            traced = torch.jit.trace(module, (inputs,), check_trace=False)  # type: ignore[no-untyped-call]
            graph = torch.jit.freeze(traced)
    except Exception as error:  # tracing raises whatever an operator raises
        raise EngineError(f"the network cannot be traced: {first_line(error)}") from error

    def run(images: Pixels) -> Rows:
        # Without optimising at run time: the second call could round differently from the first.
        unoptimised = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.inference_mode(), unoptimised:
            return _arrays(graph(to_tensor(images, preprocessing)))

    return run


def _arrays(feature_layers: tuple[Tensor, ...]) -> Rows:
    return [layer.float().numpy() for layer in feature_layers]


def _in_channels_last(module: nn.Module, preprocessing: Inputs) -> nn.Module:
    return lay_out(
        module, to_tensor(modality_of(preprocessing).noise(2, preprocessing), preprocessing)
    )


def lay_out(module: nn.Module, probe: Tensor) -> nn.Module:
    """A module as the engine runs it: BatchNorms fused, kernels in channels_last."""
    module = fuse_batch_norms(module, probe)
    if any(p.ndim == 5 for p in module.parameters()):  # 3d kernels have no such layout
        return module
    moved: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def fuse_batch_norms(module: nn.Module, probe: Tensor) -> nn.Module:
    """The module with each BatchNorm that directly follows a convolution folded into it.

    Assumes that neighbouring children of a module run one after the other; outputs on the
    probe are compared, and if they differ the module is returned unchanged.
    """
    if not _foldable(module):
        return module
    candidate = copy.deepcopy(module)
    for parent, conv, name, norm in _foldable(candidate):
        folded = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = folded.weight, folded.bias
        # timm's BatchNorm carries its activation.
        setattr(parent, name, getattr(norm, "act", None) or nn.Identity())
    with torch.inference_mode():
        pairs = zip(module(probe), candidate(probe), strict=True)
        return candidate if all(agree(a, b) for a, b in pairs) else module


def _foldable(module: nn.Module) -> list[tuple[nn.Module, nn.Conv2d, str, nn.BatchNorm2d]]:
    """Each BatchNorm after a convolution: (parent, convolution, name in the parent, BatchNorm)."""
    return [
        (parent, conv, name, norm)
        for parent in module.modules()
        for (_, conv), (name, norm) in pairwise(parent.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if norm.num_features == conv.out_channels and norm.running_mean is not None
    ]


@contextmanager
def silent() -> Iterator[None]:
    """Suppress warnings of tracing and exporting, which mean nothing to users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# ---- Engines that run an exported graph: ONNX Runtime and OpenVINO, from the same ONNX bytes.

_INPUT = "inputs"


def onnxruntime_engine(module: nn.Module, preprocessing: Inputs, threads: int) -> Engine:
    graph = _export(module, preprocessing)
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Planning all buffers at once takes 300 MB more and no less time (measured on lite0).
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        # Exported with two images, run with the only size in use.
        options.add_free_dimension_override_by_name("batch", BATCH)
        providers = ["CPUExecutionProvider"]
        session: Any = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class
        raise EngineError(f"ONNX Runtime cannot load the network: {first_line(error)}") from error

    def run(images: Pixels) -> Rows:
        values = to_tensor(images, preprocessing).contiguous().numpy()
        rows: Rows = session.run(None, {_INPUT: values})
        return rows

    return run


def openvino_engine(module: nn.Module, preprocessing: Inputs, threads: int) -> Engine:
    """The network in float32, for one batch size."""
    graph = _export(module, preprocessing)
    try:
        import openvino

        core = openvino.Core()
        model = core.read_model(graph)  # `openvino.convert_model` would report its use
        prep = pictures(preprocessing)
        model.reshape([BATCH, prep.channels, *prep.size])
        # By default it uses bfloat16 or float16 if the processor has them, any number of threads,
        # and pins them to cores that the decoder needs, too.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
    except Exception as error:  # openvino raises plain RuntimeErrors
        raise EngineError(f"OpenVINO cannot load the network: {first_line(error)}") from error

    def run(images: Pixels) -> Rows:
        values = to_tensor(images, preprocessing).contiguous().numpy()
        outputs = request.infer([values], share_inputs=True)
        return [np.asarray(outputs[number]) for number in range(len(outputs))]

    return run


def _export(module: nn.Module, preprocessing: Inputs) -> bytes:
    """The network as an ONNX graph of any batch size; exporting two images is fast."""
    inputs: Tensor = to_tensor(
        modality_of(preprocessing).noise(2, preprocessing), preprocessing
    ).contiguous()
    buffer = io.BytesIO()
    try:
        with silent(), torch.inference_mode():
            torch.onnx.export(
                module,
                (inputs,),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=17,
                input_names=[_INPUT],
                dynamic_axes={_INPUT: {0: "batch"}},
            )
    except Exception as error:  # the exporter raises whatever an operator raises
        raise EngineError(f"the network cannot be exported to ONNX: {first_line(error)}") from error
    return buffer.getvalue()


TEXTS = 8  # in one batch: few have the same length, and the rest is padding


def make_engine(name: EngineName, module: nn.Module, preprocessing: Inputs, threads: int) -> Engine:
    """Build an engine: uint8 images (n <= 32, H, W, C) to one float32 (n, …) per feature layer.

    `module` maps (32, C, H, W) to a tuple of feature layers; it is not changed.
    Raises: EngineError if an engine other than torch cannot run the network, disagrees with
    torch, or lets a row depend on its position.
    """
    torch.set_num_threads(threads)
    module = copy.deepcopy(module).eval()
    if name == "torch":
        run = eager_engine(module, preprocessing)
    elif name == "traced":
        run = traced_engine(copy.deepcopy(module), preprocessing)
    elif name == "onnxruntime":
        run = onnxruntime_engine(module, preprocessing, threads)
    else:
        run = openvino_engine(module, preprocessing, threads)
    if name != "torch":
        _check(name, run, module, preprocessing)
    if modality_of(preprocessing).is_ragged:
        return _by_length(run, preprocessing)
    return _padded(run, preprocessing, BATCH)


def _by_length(run: Engine, inputs: Inputs) -> Engine:
    """Run rows of one padded length together, so that no row depends on its neighbours."""
    modality = modality_of(inputs)

    def by_length(rows: Pixels) -> Rows:
        sizes = modality.padded_lengths(rows, inputs)
        outputs: list[NDArray[np.float32]] = []
        for index in sub_batches(rows, inputs, TEXTS):
            size = int(sizes[index[0]])
            n = modality.rows_at_once(size, inputs, TEXTS)
            layers = _padded(run, inputs, n)(rows[index])
            if not outputs:
                outputs = [
                    np.zeros((len(rows), *_shape(layer, inputs)), np.float32) for layer in layers
                ]
            for output, layer in zip(outputs, layers, strict=True):
                (output[:, :size] if layer.ndim == 3 else output)[index] = layer
        return outputs

    return by_length


def _shape(layer: NDArray[np.float32], inputs: Inputs) -> tuple[int, ...]:
    """The shape of a row; outputs for each token are as long as the longest text."""
    return (*inputs.shape, layer.shape[2]) if layer.ndim == 3 else layer.shape[1:]


def _padded(run: Engine, preprocessing: Inputs, batch: int) -> Engine:
    def padded(images: Pixels) -> Rows:
        n = len(images)
        if n > batch:
            raise ValueError(f"{n} images in one batch; at most {batch} are allowed")
        if n < batch:
            shape = (batch - n, *images.shape[1:])
            blank = np.full(shape, preprocessing.blank, images.dtype)
            images = np.concatenate([images, blank])
        return [rows[:n] for rows in run(images)]

    return padded


def _check(name: EngineName, run: Engine, module: nn.Module, preprocessing: Inputs) -> None:
    """Run two images, sixteen times each: they must match torch, and each other."""
    two = modality_of(preprocessing).noise(2, preprocessing)
    outputs = run(np.tile(two, (BATCH // 2, *[1] * (two.ndim - 1))))
    with torch.inference_mode():
        expected = module(to_tensor(two, preprocessing))
    for number, (ours, rows) in enumerate(zip(expected, outputs, strict=True), 1):
        if not agree(ours.float(), torch.from_numpy(rows[:2])):
            raise EngineError(
                f"{ENGINE_TITLES[name]} disagrees with torch at feature layer {number}"
            )
        pairs = rows.reshape(BATCH // 2, -1)
        if (pairs.view(np.uint32) != pairs[:1].view(np.uint32)).any():
            raise EngineError(
                f"{ENGINE_TITLES[name]} rounds an image by its position in the batch, at feature "
                f"layer {number}"
            )
