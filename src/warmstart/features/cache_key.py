"""Cache keys: everything that a stored row depends on. Change any member and the cache misses.

Free of torch, so that decoding of what is missing can begin before torch is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from warmstart.records.inputs import Inputs
from warmstart.records.network import FeatureLayer

EngineName = Literal["torch", "traced", "onnxruntime", "openvino"]
ENGINE_TITLES: dict[EngineName, str] = {
    "torch": "torch",
    "traced": "traced torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}

version_of = cache(version)  # a run needs some forty, and each is parsed anew

# Raise it when the code of features/ computes different rows from the same members.
FORMAT_VERSION = 1
MAIN, THUMBNAIL = "main", "thumbnail"  # names of columns in files
# Images in one batch, the last one padded: some kernels sum in another order for another
# batch size, so the size is fixed and a member of the key.
BATCH = 32
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")


@cache
def cpu_name() -> str:
    """The processor and its instruction sets, by which kernels differ.

    Two machines may share one cache folder without mixing their rows.
    """
    fields: dict[str, str] = {}
    table = Path("/proc/cpuinfo")  # Linux; elsewhere `platform`
    if table.exists():
        for line in table.read_text("utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip().lower(), value.strip())
    model = fields.get("model name") or platform.processor() or "unknown"
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    return " ".join([platform.machine(), model, *(flag for flag in _FLAGS if flag in flags)])


def engine_version(name: EngineName) -> str:
    """The versions that an engine's rows depend on, without importing it.

    Raises: PackageNotFoundError if the engine is not installed.
    """
    torch = f"torch {version_of('torch')}"  # the others run the graph that torch exported
    if name in ("torch", "traced"):
        return torch
    return f"{name} {version_of(name)}, {torch}"


def installed_engines() -> tuple[EngineName, ...]:
    """The engines that this Python can import; torch is always the first."""
    return tuple(name for name in get_args(EngineName) if _is_installed(name))


def _is_installed(name: EngineName) -> bool:
    try:
        engine_version(name)
    except PackageNotFoundError:
        return False
    return True


class _HashedKey:
    __slots__ = ()

    @property
    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]
        if (prep := plain.get("preprocessing")) is not None and prep.get("sound", 0) is None:
            del prep["sound"]  # rows of pictures keep the keys from before there were sounds
        return plain

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all members."""
        text = json.dumps(self.plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKey(_HashedKey):
    """Everything that the rows of one extraction depend on, apart from the examples' bytes.

    `network` is the digest of all tensors; the same tensors in another architecture, or
    partitioned elsewhere, give other features: hence `arch` and `blocks`. `decoder` is the
    decoder from bytes to pixels, `augmentation` that of the pixels ("plain": none),
    `arithmetic` the mode of MKL, in which a strict one rounds alike at every position.
    """

    network: str
    arch: str
    blocks: tuple[str, ...]
    feature_layers: tuple[FeatureLayer, ...]
    preprocessing: Inputs
    decoder: str
    engine: EngineName
    engine_version: str
    threads: int
    arithmetic: str = field(default_factory=lambda: os.environ.get("MKL_CBWR", ""))
    cpu: str = field(default_factory=cpu_name)
    augmentation: str = "plain"
    dtype: str = "float32"
    batch: int = BATCH
    version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A named column of a row."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThumbnailKey(_HashedKey):
    """Everything that thumbnails depend on; `draft` is the short side of large JPEGs in px."""

    decoder: str
    draft: int
    version: int
    dtype: str = "uint8"
    feature_layers: tuple[Column, ...] = (Column(name=THUMBNAIL),)


# ---- The key of cached activations: the output of the frozen blocks for one augmentation.


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationKey(_HashedKey):
    """Everything that the activations of one augmentation depend on, apart from the bytes.

    `extraction` has the members that features depend on, `augmentation` among them; `cut` counts
    the blocks that were run, `layers` are their feature layers.
    """

    extraction: FeatureKey
    cut: int
    layers: tuple[FeatureLayer, ...]
    dtype: str

    @property
    def feature_layers(self) -> tuple[Column, ...]:
        """The columns of a row: the output of block `cut`, then the feature layers."""
        return (Column(name=MAIN), *(Column(name=layer.name) for layer in self.layers))

    @property
    def plain(self) -> dict[str, Any]:
        names = [layer.name for layer in self.layers]
        return {
            "activations": 1,
            **self.extraction.plain,
            "dtype": self.dtype,
            "cut": self.cut,
            "layers": names,
        }


def main_key(extraction: FeatureKey, cut: int) -> ActivationKey:
    """The key of the output of block `cut` alone, as an extraction computes it."""
    members = replace(extraction, feature_layers=())
    return ActivationKey(extraction=members, cut=cut, layers=(), dtype=extraction.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchKey:
    """The key of rows that are deleted with their run: their columns alone."""

    feature_layers: tuple[Column, ...]
    dtype: str = "float32"
    digest: str = "scratch"

    @property
    def plain(self) -> dict[str, Any]:
        names = [layer.name for layer in self.feature_layers]
        return {"feature_layers": names, "dtype": self.dtype}


CacheFileKey = FeatureKey | ThumbnailKey | ActivationKey | ScratchKey
