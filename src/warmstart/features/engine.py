"""Engines: a tapped network as a fast function on batches of fixed size.

A row must not depend on its neighbours, so every pass has 32 images, the last padded
with zeros; 8 texts, of one padded length. All engines run the same network on the same
normalised images; they round differently, so the engine is a member of the store's key.
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

from warmstart.errors import TrainingError
from warmstart.features.batches import noise, padded_lengths, passes, to_tensor, together
from warmstart.features.cache_key import BATCH, ENGINE_TITLES, EngineName
from warmstart.records.inputs import Inputs, TextInputs, pictures

# ---- Engines of torch itself: as it stands, and traced and frozen into one graph.


Pixels = NDArray[Any]  # encoded examples, stacked
Rows = list[NDArray[np.float32]]
Engine = Callable[[Pixels], Rows]

AGREEMENT = 1e-3  # of a tap's RMS: beyond it another engine's graph is not the network


class EngineError(TrainingError):
    """An engine could not be made; another one can."""


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether a tap's values on the same images are the same, up to rounding.

    >>> agree(torch.ones(2, 3), 1.0001 * torch.ones(2, 3)), agree(torch.ones(2), torch.zeros(2))
    (True, False)
    """
    rms = float(a.pow(2).mean().sqrt()) or 1.0
    return a.shape == b.shape and float((a - b).abs().max()) <= AGREEMENT * rms


def first_line(error: Exception) -> str:
    """What an error says, on one line; torch's may fill a screen.

    >>> first_line(RuntimeError("no such operator\\n  at line 3"))
    'no such operator'
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def eager_engine(module: nn.Module, preprocessing: Inputs) -> Engine:
    """The module as it is, in channels_last, its BatchNorms folded into convolutions."""
    module = _in_channels_last(module, preprocessing)

    def run(images: Pixels) -> Rows:
        with torch.inference_mode():
            return _arrays(module(to_tensor(images, preprocessing)))

    return run


def traced_engine(module: nn.Module, preprocessing: Inputs) -> Engine:
    """The same as one frozen graph: what Python costs between layers goes.

    Not made of oneDNN's own operators (`optimize_for_inference`): every tap would be brought
    back from their layout, and with 35 taps of EfficientNet-Lite0 that takes 40 % longer.
    Raises: EngineError where the network cannot be traced.
    """
    module = _in_channels_last(module, preprocessing)
    images = noise(preprocessing, BATCH)  # a graph may hold the size of the batch it was made of
    try:
        with silent(), torch.no_grad():
            inputs = to_tensor(images, preprocessing)
            traced = torch.jit.trace(module, (inputs,), check_trace=False)  # type: ignore[no-untyped-call]
            graph = torch.jit.freeze(traced)
    except Exception as error:  # tracing raises whatever an operator raises
        raise EngineError(f"the network cannot be traced: {first_line(error)}") from error

    def run(images: Pixels) -> Rows:
        # Without optimising as it runs: the second call could round otherwise than the first.
        as_frozen = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.inference_mode(), as_frozen:
            return _arrays(graph(to_tensor(images, preprocessing)))

    return run


def _arrays(feature_layers: tuple[Tensor, ...]) -> Rows:
    return [layer.float().numpy() for layer in feature_layers]


def _in_channels_last(module: nn.Module, preprocessing: Inputs) -> nn.Module:
    return labelled(module, to_tensor(noise(preprocessing, 2), preprocessing))


def labelled(module: nn.Module, probe: Tensor) -> nn.Module:
    """A module as the engine runs it, tried on a probe: fused, its kernels in channels_last."""
    module = fused(module, probe)
    if any(p.ndim == 5 for p in module.parameters()):  # kernels over volumes have no such order
        return module
    found: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found


def fused(module: nn.Module, probe: Tensor) -> nn.Module:
    """The module with each BatchNorm that directly follows a convolution folded into it.

    Neighbours among a module's children are taken to run one after the other; outputs on
    the probe are compared, and where they differ the module comes back as it was.
    """
    if not _foldable(module):
        return module
    candidate = copy.deepcopy(module)
    for parent, conv, name, norm in _foldable(candidate):
        _fold(parent, conv, name, norm)
    with torch.inference_mode():
        pairs = zip(module(probe), candidate(probe), strict=True)
        return candidate if all(agree(a, b) for a, b in pairs) else module


def _foldable(module: nn.Module) -> list[tuple[nn.Module, nn.Conv2d, str, nn.BatchNorm2d]]:
    """Each BatchNorm after a convolution, with what holds both and its name there."""
    return [
        (parent, conv, name, norm)
        for parent in module.modules()
        for (_, conv), (name, norm) in pairwise(parent.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if norm.num_features == conv.out_channels and norm.running_mean is not None
    ]


def _fold(parent: nn.Module, conv: nn.Conv2d, name: str, norm: nn.BatchNorm2d) -> None:
    whole = fuse_conv_bn_eval(conv, norm)
    conv.weight, conv.bias = whole.weight, whole.bias
    # timm's BatchNorm carries its activation.
    setattr(parent, name, getattr(norm, "act", None) or nn.Identity())


@contextmanager
def silent() -> Iterator[None]:
    """Tracing's and exporting's warnings say nothing to a user of an engine."""
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
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        return core.compile_model(model, "CPU", wanted).create_infer_request()
    except Exception as error:  # openvino raises plain RuntimeErrors
        raise EngineError(f"OpenVINO cannot load the network: {first_line(error)}") from error


TEXTS = 8  # in one pass: few have the same length, and the rest of a pass is filled up


def make_engine(name: EngineName, module: nn.Module, preprocessing: Inputs, threads: int) -> Engine:
    """Build an engine: uint8 images (n <= 32, H, W, C) to one float32 (n, …) per tap.

    `module` maps (32, C, H, W) to a tuple of taps; it is left as it is.
    Raises: EngineError where an engine other than torch cannot take the network, disagrees
    with torch, or lets a row depend on its place.
    """
    torch.set_num_threads(threads)
    own = copy.deepcopy(module).eval()
    if name == "torch":
        return _padded(eager_engine(own, preprocessing), preprocessing)
    if name == "traced":
        run = traced_engine(copy.deepcopy(own), preprocessing)
    elif name == "onnxruntime":
        run = onnxruntime_engine(own, preprocessing, threads)
    else:
        run = openvino_engine(own, preprocessing, threads)
    _check(name, run, own, preprocessing)
    return _padded(run, preprocessing)


def _padded(run: Engine, preprocessing: Inputs) -> Engine:
    if isinstance(preprocessing, TextInputs):
        return _by_length(run, preprocessing)
    return _filled_up(run, preprocessing, BATCH)


def _by_length(run: Engine, inputs: TextInputs) -> Engine:
    """Texts of one padded length pass together, so that no row depends on its neighbours.

    Of long texts as many as have `TEXTS` windows together. Outputs for each token are filled up
    to `inputs.length` with zeros.
    """

    def by_length(rows: Pixels) -> Rows:
        sizes = padded_lengths(rows, inputs)
        made: list[NDArray[np.float32]] = []
        for places in passes(rows, inputs, TEXTS):
            size = int(sizes[places[0]])
            found = _filled_up(run, inputs, together(size, inputs, TEXTS))(rows[places])
            if not made:
                made = [
                    np.zeros((len(rows), *_shape(layer, inputs)), np.float32) for layer in found
                ]
            for whole, layer in zip(made, found, strict=True):
                (whole[:, :size] if layer.ndim == 3 else whole)[places] = layer
        return made

    return by_length


def _shape(layer: NDArray[np.float32], inputs: TextInputs) -> tuple[int, ...]:
    """Of a row: what is given for each token is as long as the longest text."""
    return (inputs.length, layer.shape[2]) if layer.ndim == 3 else layer.shape[1:]


def _filled_up(run: Engine, preprocessing: Inputs, batch: int) -> Engine:
    def padded(images: Pixels) -> Rows:
        n = len(images)
        if n > batch:
            raise ValueError(f"{n} images in one pass; the most is {batch}")
        if n < batch:
            shape = (batch - n, *images.shape[1:])
            blank = np.full(shape, preprocessing.blank, images.dtype)
            images = np.concatenate([images, blank])
        return [rows[:n] for rows in run(images)]

    return padded


def _check(name: EngineName, run: Engine, module: nn.Module, preprocessing: Inputs) -> None:
    """One pass of two images, sixteen times over: as torch has them, and alike in every place."""
    two = noise(preprocessing, 2)
    found = run(np.tile(two, (BATCH // 2, *[1] * (two.ndim - 1))))
    with torch.inference_mode():
        expected = module(to_tensor(two, preprocessing))
    for number, (ours, rows) in enumerate(zip(expected, found, strict=True), 1):
        if not agree(ours.float(), torch.from_numpy(rows[:2])):
            raise EngineError(f"{ENGINE_TITLES[name]} disagrees with torch at tap {number}")
        pairs = rows.reshape(BATCH // 2, -1)
        if (pairs.view(np.uint32) != pairs[:1].view(np.uint32)).any():
            raise EngineError(
                f"{ENGINE_TITLES[name]} rounds an image by its place among others, at tap {number}"
            )
