"""Image encoders of transformers: ViT, DINOv2, SigLIP, CLIP, in blocks by design.

    a_1 = patches and positions,  a_k = layer(a_k-1),  vector = neck(a_P)

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", §3.1: between blocks passes one tensor
(B, patches, C), with a class token before the patches where the encoder has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from warmstart.network.audio_encoders import layers_of
from warmstart.network.encoder import (
    RENAMED_ATTENTION,
    RENAMED_VIT,
    Encoder,
    Settings,
    build_encoder,
    design,
    encoder_steps,
    settings_of,
    wrong_inputs,
)
from warmstart.network.segments import SegmentStep, SegmentSteps
from warmstart.records.inputs import Inputs, Preprocessing

PREFIX = "vision:"
_HALF, _IMAGENET = (0.5,) * 3, (0.485, 0.456, 0.406)


@dataclass(frozen=True, slots=True)
class ImageArchitecture:
    """One kind of encoder: its list of layers, and the modules before and behind them.

    `vector` maps the last layer's (B, N, C) to (B, C). `mean`, `std`: defaults of the
    preprocessing; `renamed`: today's names of parts of tensors' names.
    """

    layers: str
    before: tuple[str, ...]
    behind: tuple[str, ...]
    vector: Callable[[Any, Tensor], Tensor]
    options: Settings = field(default_factory=dict)  # of the class, besides its configuration
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF
    renamed: Mapping[str, str] = field(default_factory=dict)
    needs_size_flag: bool = True  # whether other image sizes need an argument of forward


_VIT = ImageArchitecture(
    "layers",
    ("embeddings",),
    ("layernorm",),
    lambda own, x: own.layernorm(x)[:, 0],
    options={"add_pooling_layer": False},
    renamed=RENAMED_VIT,
)
_DINO = ImageArchitecture(
    "encoder.layer",
    ("embeddings",),
    ("layernorm",),
    lambda own, x: own.layernorm(x)[:, 0],
    mean=_IMAGENET,
    std=(0.229, 0.224, 0.225),
    renamed=RENAMED_ATTENTION,
    needs_size_flag=False,
)
_SIGLIP = ImageArchitecture(
    "encoder.layers",
    ("embeddings",),
    ("post_layernorm", "head"),
    lambda own, x: own.head(own.post_layernorm(x)),
)
_CLIP = ImageArchitecture(
    "encoder.layers",
    ("embeddings", "pre_layrnorm"),
    ("post_layernorm",),
    lambda own, x: own.post_layernorm(x[:, 0]),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
IMAGE_ENCODERS = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "siglip_vision_model": _SIGLIP,
    "clip_vision_model": _CLIP,
}
IMAGE_KINDS = tuple(IMAGE_ENCODERS)


class VisionNetwork(Encoder):
    """An encoder without its output layers: images (B, 3, H, W) to vectors (B, C)."""

    layout = "NLC"

    def __init__(self, kind: str, encoder: nn.Module, size: tuple[int, int]) -> None:
        """`size`: height and width in px of the images that its position table is for."""
        super().__init__()
        self.encoder = encoder
        self.kind = kind
        self.own_size = size

    def window_of(self, inputs: Inputs) -> int:
        if not isinstance(inputs, Preprocessing):
            raise wrong_inputs("images", inputs)
        return inputs.channels

    def steps(self, window: int) -> SegmentSteps:
        """Patches, then layer after layer."""
        arch = IMAGE_ENCODERS[self.kind]
        path = f"encoder.{arch.layers}"
        n_layers = len(list(self.get_submodule(path).children()))
        before, behind = (
            tuple(f"encoder.{name}" for name in names) for names in (arch.before, arch.behind)
        )
        blocks = [
            SegmentStep("patches", _patches, before, ()),
            *layers_of(path, n_layers, lambda _, __: {"attention_mask": None}),
        ]
        return encoder_steps(blocks, SegmentStep("neck", _vector, behind, ()))


def _patches(network: Any, images: Tensor) -> Tensor:
    arch = IMAGE_ENCODERS[network.kind]
    is_other = tuple(images.shape[2:]) != network.own_size
    options = {"interpolate_pos_encoding": True} if arch.needs_size_flag and is_other else {}
    patches = network.encoder.embeddings(images, **options)
    for name in arch.before[1:]:
        patches = network.encoder.get_submodule(name)(patches)
    return cast(Tensor, patches)


def _vector(network: Any, hidden: Tensor) -> Tensor:
    return IMAGE_ENCODERS[network.kind].vector(network.encoder, hidden)


def vision_arch(config: Settings) -> str:
    """The architecture in one line: its kind, and differences from transformers' defaults."""
    return design(PREFIX, config, {})


def build_vision(arch: str) -> VisionNetwork:
    """The network of a line of `vision_arch`, with random weights; the global random state stays.

    Raises: ModelError if transformers is missing, or cannot build it.
    """
    kind, settings = settings_of(arch, PREFIX, IMAGE_KINDS)
    config, encoder = build_encoder(kind, settings, **IMAGE_ENCODERS[kind].options)
    side = config.image_size
    size = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    return VisionNetwork(kind, encoder, size).eval()
