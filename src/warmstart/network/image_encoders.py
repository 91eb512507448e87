"""Image encoders of transformers: ViT, DINOv2, SigLIP, CLIP, in blocks by design.

    a_1 = patches and positions,  a_k = layer(a_k-1),  vector = neck(a_P)

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", §3.1: between blocks passes one tensor
(B, patches, C), led by a class token where the encoder has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from warmstart.modalities.image import IMAGE
from warmstart.network.architectures import IMAGENET
from warmstart.network.encoder import (
    RENAMED_ATTENTION,
    RENAMED_VIT,
    Encoder,
    Settings,
    build_encoder,
    design,
    encoder_steps,
    layers_of,
    settings_of,
)
from warmstart.network.hub import PROCESSOR, damaged, fill, read_processor
from warmstart.network.segments import SegmentStep, SegmentSteps
from warmstart.records.inputs import Preprocessing

PREFIX = "vision:"


@dataclass(frozen=True, slots=True)
class ImageArchitecture:
    """One kind of encoder: its list of layers, and the modules before and after them.

    `vector` maps the last layer's (B, N, C) to (B, C). `mean`, `std`: defaults of the
    preprocessing; `renamed`: current names of parts of tensors' names.
    """

    layers: str
    vector: Callable[[Any, Tensor], Tensor]
    before: tuple[str, ...] = ("embeddings",)
    after: tuple[str, ...] = ("layernorm",)
    options: Settings = field(default_factory=dict)  # of the class, besides its configuration
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    renamed: Mapping[str, str] = field(default_factory=dict)
    needs_size_flag: bool = True  # whether other image sizes need an argument of forward


def _class_token(encoder: Any, hidden: Tensor) -> Tensor:
    return cast(Tensor, encoder.layernorm(hidden)[:, 0])


_VIT = ImageArchitecture(
    "layers", _class_token, options={"add_pooling_layer": False}, renamed=RENAMED_VIT
)
_DINO = ImageArchitecture(
    "encoder.layer",
    _class_token,
    mean=IMAGENET.mean,
    std=IMAGENET.std,
    renamed=RENAMED_ATTENTION,
    needs_size_flag=False,
)
_SIGLIP = ImageArchitecture(
    "encoder.layers",
    lambda encoder, x: encoder.head(encoder.post_layernorm(x)),
    after=("post_layernorm", "head"),
)
_CLIP = ImageArchitecture(
    "encoder.layers",
    lambda encoder, x: encoder.post_layernorm(x[:, 0]),
    before=("embeddings", "pre_layrnorm"),
    after=("post_layernorm",),
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


class VisionNetwork(Encoder):
    """Images (B, 3, H, W) to vectors; `size` (height, width) in px is its position table's."""

    layout = "NLC"
    modality = IMAGE

    def __init__(self, kind: str, encoder: nn.Module, size: tuple[int, int]) -> None:
        super().__init__(encoder)
        self.kind = kind
        self.size = size

    def steps(self, window: int) -> SegmentSteps:
        arch = IMAGE_ENCODERS[self.kind]
        path = f"encoder.{arch.layers}"
        n_layers = len(list(self.get_submodule(path).children()))
        layers = layers_of(path, n_layers, lambda _, __: {"attention_mask": None})
        before = tuple(f"encoder.{name}" for name in arch.before)
        after = [f"encoder.{name}" for name in arch.after]
        patches = SegmentStep("patches", _patches, before, ())
        vector = lambda network, hidden: arch.vector(network.encoder, hidden)  # noqa: E731
        return encoder_steps([patches, *layers], vector, after)


def _patches(network: Any, images: Tensor) -> Tensor:
    arch = IMAGE_ENCODERS[network.kind]
    is_resized = tuple(images.shape[2:]) != network.size
    options = {"interpolate_pos_encoding": True} if arch.needs_size_flag and is_resized else {}
    patches = network.encoder.embeddings(images, **options)
    for name in arch.before[1:]:
        patches = network.encoder.get_submodule(name)(patches)
    return cast(Tensor, patches)


def build_vision(arch: str) -> VisionNetwork:
    """The network of `design`, with random weights. Raises: ModelError if it cannot be built."""
    kind, settings = settings_of(arch, PREFIX, IMAGE_ENCODERS)
    config, encoder = build_encoder(kind, settings, **IMAGE_ENCODERS[kind].options)
    side = config.image_size
    size = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    return VisionNetwork(kind, encoder, size).eval()


# ---- From a folder.


_LARGEST = 8192  # px of a side
# Models of images and texts, by the kind of their image encoder.
IMAGE_TOWERS = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
_IMAGE_HEADS = (
    "pooler. classifier. cls_classifier. distillation_classifier. decoder. text_model. "
    "logit_scale logit_bias visual_projection. text_projection. embeddings.position_ids "
    "embeddings.mask_token"
)


def load_vision(
    folder: Path, config: Settings, preprocessing: Preprocessing | None
) -> tuple[VisionNetwork, str, Preprocessing]:
    if (kind := str(config["model_type"])) in IMAGE_TOWERS:
        kind, tower = IMAGE_TOWERS[kind], config.get("vision_config")
        config = {**(tower if isinstance(tower, Mapping) else {}), "model_type": kind}
    architecture, arch = IMAGE_ENCODERS[kind], design(PREFIX, config, {})
    network, path = build_vision(arch), folder / PROCESSOR
    fill(network.encoder, folder, _IMAGE_HEADS.split(), architecture.renamed)
    prep, size = preprocessing, network.size
    if prep is None and path.is_file():
        prep = read_processor(path)
        if not all(1 <= side <= _LARGEST for side in (*prep.size, prep.resize)):
            raise damaged(path, f"images of {prep.size} px")
    elif prep is None:
        mean, std = architecture.mean, architecture.std
        prep = Preprocessing(size=size, resize=min(size), mean=mean, std=std)
    return network, arch, prep
