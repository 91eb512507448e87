"""Encoders of images that transformers builds, cut by design: ViT, DINOv2, SigLIP, CLIP.

    a_1 = patches and their places,  a_k = layer(a_k-1),  vector = neck(a_P)

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", §3.1: between parts goes one tensor
(B, patches, C), with a class token before the patches where the encoder has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from warmstart.network.audio_encoders import ended, layers_of
from warmstart.network.encoder import Encoder, build_encoder, design, refused, settings_of
from warmstart.network.segments import SegmentStep, SegmentSteps
from warmstart.records.inputs import Inputs, Preprocessing

PREFIX = "vision:"
_HALF, _IMAGENET = (0.5,) * 3, (0.485, 0.456, 0.406)
Told = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Vision:
    """One sort of encoder: where its layers are, and what is before and behind them.

    `vector` makes (B, C) of the last layer's (B, N, C). `mean`, `std`: how its inputs are scaled
    where the folder says nothing; `renamed`: what parts of the names of tensors are called today.
    """

    layers: str
    before: tuple[str, ...]
    behind: tuple[str, ...]
    vector: Callable[[Any, Tensor], Tensor]
    options: Told = field(default_factory=dict)  # that the class takes besides its configuration
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF
    renamed: Mapping[str, str] = field(default_factory=dict)
    is_told: bool = True  # whether it must be told that images are of another size


_OLD_VIT = {  # as modules were called before transformers 5, and in its files still
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_OLD_DINO = {old: new for old, new in _OLD_VIT.items() if old.startswith("attention.")}
_VIT = Vision(
    "layers",
    ("embeddings",),
    ("layernorm",),
    lambda own, x: own.layernorm(x)[:, 0],
    options={"add_pooling_layer": False},
    renamed=_OLD_VIT,
)
_DINO = Vision(
    "encoder.layer",
    ("embeddings",),
    ("layernorm",),
    lambda own, x: own.layernorm(x)[:, 0],
    mean=_IMAGENET,
    std=(0.229, 0.224, 0.225),
    renamed=_OLD_DINO,
    is_told=False,
)
_SIGLIP = Vision(
    "encoder.layers",
    ("embeddings",),
    ("post_layernorm", "head"),
    lambda own, x: own.head(own.post_layernorm(x)),
)
_CLIP = Vision(
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
        """`size`: height and width in px of the images that its table of places is for."""
        super().__init__()
        self.encoder = encoder
        self.kind = kind
        self.own_size = size

    def window_of(self, inputs: Inputs) -> int:
        """An image passes as a whole. Raises: ModelError for inputs that are none."""
        if not isinstance(inputs, Preprocessing):
            raise refused("images", inputs)
        return inputs.channels

    def steps(self, window: int) -> SegmentSteps:
        """Patches, then layer after layer."""
        told = IMAGE_ENCODERS[self.kind]
        layers = self.encoder.get_submodule(told.layers)
        before = tuple(f"encoder.{name}" for name in told.before)
        behind = tuple(f"encoder.{name}" for name in told.behind)
        return ended(
            [
                SegmentStep("patches", _patches, before, ()),
                *layers_of(
                    f"encoder.{told.layers}",
                    len(list(layers.children())),
                    lambda _, __: {"attention_mask": None},
                ),
            ],
            SegmentStep("neck", _vector, behind, ()),
        )


def _patches(network: nn.Module, images: Tensor) -> Tensor:
    whole: Any = network
    told = IMAGE_ENCODERS[whole.kind]
    is_other = tuple(images.shape[2:]) != whole.own_size
    options = {"interpolate_pos_encoding": True} if told.is_told and is_other else {}
    found: Tensor = whole.encoder.embeddings(images, **options)
    for name in told.before[1:]:
        found = whole.encoder.get_submodule(name)(found)
    return found


def _vector(network: nn.Module, hidden: Tensor) -> Tensor:
    whole: Any = network
    return IMAGE_ENCODERS[whole.kind].vector(whole.encoder, hidden)


def vision_arch(config: Told) -> str:
    """A design in one line: its kind, and what differs from transformers' own defaults.

    >>> vision_arch({"model_type": "vit", "hidden_size": 32})
    'vision:vit{"hidden_size":32}'
    """
    return design(PREFIX, config, {})


def build_vision(arch: str) -> VisionNetwork:
    """The network that `vision_arch` named, with random weights; the global random state stays.

    Raises: ModelError if transformers is missing, or the design is none that it can build.
    """
    kind, told = settings_of(arch, PREFIX, IMAGE_KINDS)
    config, encoder = build_encoder(kind, told, **IMAGE_ENCODERS[kind].options)
    side = config.image_size
    size = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    return VisionNetwork(kind, encoder, size).eval()
