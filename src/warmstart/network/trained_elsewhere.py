"""External classifiers, trained elsewhere: weights with an architecture, or a published name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.architectures import build, for_channels, preprocessing_of, split_arch
from warmstart.network.class_names import names_beside
from warmstart.network.load import load
from warmstart.network.registry import SHIPPED
from warmstart.network.segments import as_tensor, find_classifier, probe
from warmstart.network.tensors import n_parameters
from warmstart.network.weights import SUFFIXES, check_finite, check_match, read_weights
from warmstart.records.inputs import Preprocessing, pictures

Array = NDArray[np.float32]
Answer = Callable[[Tensor], tuple[Array, Array]]
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExternalClassifier:
    """A finished classifier and its description.

    `answer` takes normalised images (B, C, H, W) and returns scores (B, K), which are logits or
    log-probabilities, and an embedding (B, D). `labels` are names of its outputs, empty where
    unknown. `training_hashes`: content hashes of its known training images.
    """

    name: str
    title: str
    answer: Answer
    outputs: int
    preprocessing: Preprocessing
    preprocessing_from: str  # its source, in words
    labels: tuple[str, ...] = ()
    labels_from: str = ""
    is_imagenet: bool = False  # published weights whose outputs are ImageNet's classes
    training_hashes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputHandling:
    """The user's preprocessing; None, empty: the model's own.

    `size` is (height, width) in px; mean and std are of values 0..1, one for all channels or
    one each.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def is_set(self) -> bool:
        """Whether any option differs from the model's own."""
        return self.size is not None or bool(self.mean) or bool(self.std)

    def over(self, usual: Preprocessing) -> Preprocessing:
        """The usual preprocessing with these options; the crop keeps its share of the image.

        Raises: ModelError where mean or std do not fit the channels.

        >>> from warmstart.network.architectures import IMAGENET
        >>> prep = InputHandling(size=(112, 112), mean=(0.5,)).over(IMAGENET)
        >>> prep.resize, prep.mean
        (128, (0.5, 0.5, 0.5))
        """
        size = self.size or usual.size
        short = usual.resize / min(usual.size)
        return replace(
            usual,
            size=size,
            resize=usual.resize if self.size is None else int(min(size) * short + 1e-6),
            mean=_per_channel(self.mean, usual, "--mean") or usual.mean,
            std=_per_channel(self.std, usual, "--std") or usual.std,
        )


def _per_channel(values: tuple[float, ...], usual: Preprocessing, option: str) -> tuple[float, ...]:
    if len(values) not in (0, 1, usual.channels):
        raise ModelError(
            f"{option} has {len(values)} numbers, the model takes {usual.channels} channels; "
            "give one number, or one for each."
        )
    return values * usual.channels if len(values) == 1 else values


def open_named(name: str, handling: InputHandling) -> ExternalClassifier:
    """A published classifier by the name of its base model: lite0, timm:NAME, torchvision:NAME.

    Raises: ModelError as `load`.
    """
    size = handling.size
    base = load(name)
    usual = pictures(base.record.preprocessing)
    if size is not None and size != usual.size:
        # Some networks are built for one size, and must be loaded for another.
        base = load(name, preprocessing=handling.over(usual))
    prep = handling.over(pictures(base.record.preprocessing))
    source = preprocessing_source(handling, base.record.arch)
    classifier = from_module(base.module, name, base.record.title, prep, source)
    return replace(classifier, is_imagenet=classifier.outputs == IMAGENET_CLASSES)


def open_file(path: Path, arch: str | None, handling: InputHandling) -> ExternalClassifier:
    """Weights of a file, in a network of architecture `arch` with as many classes.

    Raises: ModelError if the architecture is missing or unknown, or the weights do not fit it.
    """
    if arch is None:
        raise ModelError(
            f"{path.name} holds weights but not the network they belong to; add --arch "
            "timm:NAME, torchvision:NAME or transformers:FOLDER."
        )
    library, network = split_arch(arch)
    weights = read_weights(path)
    check_finite(weights, path.name)
    usual = preprocessing_of(arch)
    size = handling.size or (usual.size if library == "torchvision" else None)
    module = build(arch, weights, size)
    check_match(module.state_dict(), weights, path.name)
    module.load_state_dict(weights)
    prep = handling.over(for_channels(usual, module))
    title, source = f"{path.name} ({network})", preprocessing_source(handling, arch)
    classifier = from_module(module, str(path), title, prep, source)
    return replace(classifier, labels=names_beside(path), labels_from=f"labels.json beside {path}")


def from_module(
    module: nn.Module, name: str, title: str, preprocessing: Preprocessing, preprocessing_from: str
) -> ExternalClassifier:
    """Any module in eval mode as a finished classifier; it is changed to channels_last order.

    Raises: ModelError if it cannot take such images, or gives one number for each.
    """
    module.eval().requires_grad_(False)
    with torch.inference_mode():
        outputs, classifier = find_classifier(module, probe(preprocessing))
    n_outputs = outputs.flatten(1).shape[1]
    check_outputs(title, n_outputs)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    embeddings: list[Tensor] = []
    if classifier:
        last = module.get_submodule(classifier)
        last.register_forward_pre_hook(lambda _, inputs: embeddings.append(inputs[0]))

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        embeddings.clear()
        with torch.inference_mode():
            scores = as_tensor(module(inputs)).flatten(1).float()
            vectors = embeddings[-1].flatten(1).float() if embeddings else scores
        return scores.numpy(), vectors.numpy()

    return ExternalClassifier(
        name=name,
        title=f"{title}, {n_parameters(module) / 1e6:.1f} M parameters",
        answer=answer,
        outputs=n_outputs,
        preprocessing=preprocessing,
        preprocessing_from=preprocessing_from,
    )


def check_outputs(title: str, n_outputs: int) -> None:
    """Refuse a model without one output per class. Raises: ModelError."""
    if n_outputs < 2:
        raise ModelError(
            f"{title} gives one number an image; a classifier with one output a class can be "
            "audited on images."
        )


def preprocessing_source(handling: InputHandling, source: str) -> str:
    """The source of a preprocessing, in words.

    >>> usual, own = InputHandling(), InputHandling(mean=(0.5,))
    >>> preprocessing_source(usual, "timm:resnet18"), preprocessing_source(own, "timm:resnet18")
    ('timm:resnet18', 'timm:resnet18, and your options')
    """
    return f"{source}, and your options" if handling.is_set else source


def is_published(name: str) -> bool:
    """Whether a name is that of a base model, not a path.

    >>> is_published("lite0"), is_published("timm:resnet18"), is_published("best.pt")
    (True, True, False)
    """
    if name in SHIPPED or name.startswith(("timm:", "torchvision:")):
        return True
    return not (os.sep in name or Path(name).suffix in (*SUFFIXES, ".onnx") or Path(name).exists())
