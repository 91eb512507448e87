"""A classifier that was trained elsewhere, kept as it is: weights with a design, or a name."""

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
from warmstart.network.weights import SUFFIXES, check_finite, check_match, read_weights
from warmstart.records.inputs import Preprocessing, pictures

Array = NDArray[np.float32]
Answer = Callable[[Tensor], tuple[Array, Array]]
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExternalClassifier:
    """A finished classifier and what it says of itself.

    `answer` takes normalised images (B, C, H, W) and gives scores (B, K), which are logits or
    log-probabilities, and a vector (B, D) an image that says what it looks like. `labels` are
    names of its outputs, empty where nothing tells them. `learnt`: content hashes of images
    that it is known to have learnt from.
    """

    name: str
    title: str
    answer: Answer
    outputs: int
    preprocessing: Preprocessing
    preprocessing_from: str  # whose preprocessing that is, for people
    labels: tuple[str, ...] = ()
    labels_from: str = ""
    is_imagenet: bool = False  # published weights whose outputs are ImageNet's classes
    training_hashes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputHandling:
    """How images are to be fed in, where that is not as the model says; None, empty: as it says.

    `size` is (height, width) in px; mean and std are of values 0..1, one for all channels or
    one each.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def is_set(self) -> bool:
        """Whether anything is to be another way."""
        return self.size is not None or bool(self.mean) or bool(self.std)

    def over(self, usual: Preprocessing) -> Preprocessing:
        """The usual way with what was said; the margin around the crop keeps its share.

        Raises: ModelError where mean or std do not fit the channels.

        >>> from warmstart.network.architectures import IMAGENET
        >>> found = InputHandling(size=(112, 112), mean=(0.5,)).over(IMAGENET)
        >>> found.resize, found.mean
        (128, (0.5, 0.5, 0.5))
        """
        size = self.size or usual.size
        short = usual.resize / min(usual.size)
        return replace(
            usual,
            size=size,
            resize=usual.resize if self.size is None else int(min(size) * short + 1e-6),
            mean=_each(self.mean, usual, "--mean") or usual.mean,
            std=_each(self.std, usual, "--std") or usual.std,
        )


def _each(values: tuple[float, ...], usual: Preprocessing, option: str) -> tuple[float, ...]:
    if len(values) not in (0, 1, usual.channels):
        raise ModelError(
            f"{option} has {len(values)} numbers, the model takes {usual.channels} channels; "
            "give one number, or one for each."
        )
    return values * usual.channels if len(values) == 1 else values


def open_named(name: str, feeding: InputHandling) -> ExternalClassifier:
    """A published classifier by the name of its start: lite0, timm:NAME, torchvision:NAME.

    Raises: ModelError as `load`.
    """
    size = feeding.size
    found = load(name)
    usual = pictures(found.record.preprocessing)
    if size is not None and size != usual.size:
        # Some networks are built for one size: they must hear of another one.
        found = load(name, preprocessing=feeding.over(usual))
    outside = from_module(
        found.module,
        name,
        found.record.title,
        feeding.over(pictures(found.record.preprocessing)),
        preprocessing_source(feeding, found.record.arch),
    )
    return replace(outside, is_imagenet=outside.outputs == IMAGENET_CLASSES)


def open_file(path: Path, arch: str | None, feeding: InputHandling) -> ExternalClassifier:
    """Weights from a file, in a network of that design with as many classes as they have.

    Raises: ModelError if the design is missing or unknown, or the weights do not fit it.
    """
    if arch is None:
        raise ModelError(
            f"{path.name} holds weights but not the network they belong to; add --arch "
            "timm:NAME, torchvision:NAME or transformers:FOLDER."
        )
    library, design = split_arch(arch)
    weights = read_weights(path)
    check_finite(weights, path.name)
    usual = preprocessing_of(arch)
    size = feeding.size or (usual.size if library == "torchvision" else None)
    module = build(arch, weights, size)
    check_match(module.state_dict(), weights, path.name)
    module.load_state_dict(weights)
    prep = feeding.over(for_channels(usual, module))
    outside = from_module(
        module, str(path), f"{path.name} ({design})", prep, preprocessing_source(feeding, arch)
    )
    return replace(outside, labels=names_beside(path), labels_from=f"labels.json beside {path}")


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
    met: list[Tensor] = []
    if classifier:
        last = module.get_submodule(classifier)
        last.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))

    def answer(inputs: Tensor) -> tuple[Array, Array]:
        met.clear()
        with torch.inference_mode():
            scores = as_tensor(module(inputs)).flatten(1).float()
            vectors = met[-1].flatten(1).float() if met else scores
        return scores.numpy(), vectors.numpy()

    n_numbers = sum(parameter.numel() for parameter in module.parameters())
    return ExternalClassifier(
        name=name,
        title=f"{title}, {n_numbers / 1e6:.1f} M parameters",
        answer=answer,
        outputs=n_outputs,
        preprocessing=preprocessing,
        preprocessing_from=preprocessing_from,
    )


def check_outputs(title: str, n_outputs: int) -> None:
    """Refuse what is no classifier with an output a class. Raises: ModelError."""
    if n_outputs < 2:
        raise ModelError(
            f"{title} gives one number an image; a classifier with one output a class can be "
            "audited on images."
        )


def preprocessing_source(feeding: InputHandling, source: str) -> str:
    """Whose preprocessing it is, for people.

    >>> usual, own = InputHandling(), InputHandling(mean=(0.5,))
    >>> preprocessing_source(usual, "timm:resnet18"), preprocessing_source(own, "timm:resnet18")
    ('timm:resnet18', 'timm:resnet18, and your options')
    """
    return f"{source}, and your options" if feeding.is_set else source


def is_published(name: str) -> bool:
    """Whether a name is that of a start, not a path.

    >>> is_published("lite0"), is_published("timm:resnet18"), is_published("best.pt")
    (True, True, False)
    """
    if name in SHIPPED or name.startswith(("timm:", "torchvision:")):
        return True
    return not (os.sep in name or Path(name).suffix in (*SUFFIXES, ".onnx") or Path(name).exists())
