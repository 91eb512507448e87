"""A model as its library's plain network: exact for a head on the neck alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import ExportError
from warmstart.network.added import AddedBlock
from warmstart.network.architectures import build, size_option
from warmstart.network.ensemble import NAME as BRANCH
from warmstart.network.position_embeddings import refit_size
from warmstart.network.stem import refit
from warmstart.network.surgery import MultiLayerHead, WarmModel
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

_OTHERS = "use --to onnx, torch or openvino"


def is_plain(model: WarmModel) -> bool:
    """Whether the head reads the neck alone, so that a plain network gives the same outputs."""
    return model.scan.feature_layers == (last_layer(model),)


def last_layer(model: WarmModel) -> FeatureLayer:
    """The feature layer of the original network's own output layer."""
    return FeatureLayer(block=len(model.scan.blocks), pool="neck")


def on_neck(model: WarmModel, preprocessing: Preprocessing, head: MultiLayerHead) -> WarmModel:
    """The same backbone with a head on the neck of its own blocks, without an ensemble branch."""
    scan = replace(model.scan, feature_layers=(last_layer(model),), widths=(0,), ensemble=None)
    with torch.inference_mode():
        blank = torch.zeros(1, preprocessing.channels, *preprocessing.size)
        width = scan.run(model.backbone, blank)[0].shape[1]
    return WarmModel(model.backbone, replace(scan, widths=(width,)), head).eval()


def as_timm(
    model: WarmModel, arch: str, preprocessing: Preprocessing
) -> tuple[nn.Module, dict[str, Any]]:
    """The plain timm network with the outputs of `model`, and its arguments of `create_model`.

    Raises: ExportError where timm has no such network: blocks were added, the architecture is
    another library's, or its tensors have other shapes.
    """
    name = arch.partition(":")[2]
    if not arch.startswith("timm:"):
        raise ExportError(f"the network ({name}) is not from timm; {_OTHERS}.")
    classifier = _classifier(model, "timm")
    weight, bias = linear(model.head)
    state = _backbone_state(model)
    options = {"num_classes": len(bias), **size_option(arch, preprocessing.size)}
    if preprocessing.channels != 3:
        options["in_chans"] = preprocessing.channels
    module = build(arch, {**state, f"{classifier}.weight": weight}, preprocessing.size)
    return _fill(module, state, classifier, model.head, f"timm's {name}"), options


def as_native(model: WarmModel, network: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The transformers network that a run began from, with the run's tensors and output.

    Raises: ExportError where its output is no linear layer, or blocks were added.
    """
    classifier = _classifier(model, "transformers")
    state = _backbone_state(model)
    clone: Any = copy.deepcopy(network)
    refit_size(clone, state, preprocessing.size)
    refit(clone, state, preprocessing.channels)
    parent, _, last = classifier.rpartition(".")
    n_classes, width = model.head.weight.shape
    setattr(clone.get_submodule(parent), last, nn.Linear(width, n_classes))
    clone.config.num_labels = clone.num_labels = n_classes
    return _fill(clone, state, classifier, model.head, type(network).__name__)


def is_native(network: nn.Module | None) -> bool:
    """Whether a network is one of transformers, which writes its own folder."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(network).__mro__}
    return "transformers.modeling_utils.PreTrainedModel" in kinds


def linear(head: MultiLayerHead) -> tuple[Tensor, Tensor]:
    """A head with its calibration as one matrix and bias: (K, D) and (K,).

    >>> head = MultiLayerHead(torch.ones(1, 2), torch.ones(1), 0.5, torch.tensor([0.5]))
    >>> [tensor.tolist() for tensor in linear(head)]
    [[[2.0, 2.0]], [2.5]]
    """
    temperature = head.temperature.detach()
    return head.weight.detach() / temperature, head.bias.detach() / temperature + head.class_bias


def _classifier(model: WarmModel, library: str) -> str:
    name = model.scan.steps.classifier
    if name is None:
        raise ExportError(
            f"the network has no linear output layer that {library} could hold; {_OTHERS}."
        )
    if any(isinstance(module, AddedBlock) for module in model.backbone.modules()):
        fault = f"the run added blocks behind the last layer, and {library} has no place for them"
        raise ExportError(f"{fault}; {_OTHERS}.")
    return name


def _backbone_state(model: WarmModel) -> dict[str, Tensor]:
    state = model.backbone.state_dict()
    return {name: t for name, t in state.items() if not name.startswith(f"{BRANCH}.")}


def _fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    classifier: str,
    head: MultiLayerHead,
    title: str,
) -> nn.Module:
    weight, bias = linear(head)
    if isinstance(module.get_submodule(classifier), nn.Conv2d):
        weight = weight[:, :, None, None]
    try:
        module.load_state_dict(
            {**state, f"{classifier}.weight": weight, f"{classifier}.bias": bias}
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:120].rstrip(" .")
        raise ExportError(f"the run's tensors do not fit {title} ({reason}); {_OTHERS}.") from error
    return module.eval()
