"""What a stored row depends on: change any member and the store misses.

Free of torch, so that what is missing can be known, and decoding can begin, before
torch has been imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from warmstart.records.inputs import Inputs
from warmstart.records.network import FeatureLayer

EngineName = Literal["torch", "traced", "onnxruntime", "openvino"]
ENGINE_TITLES: dict[EngineName, str] = {
    "torch": "torch",
    "traced": "traced torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}

version_of = cache(version)  # a run asks for some forty, and each is parsed anew

# Raise it when the code of features/ computes other rows from the same members.
FORMAT_VERSION = 1
# Images in one pass, the last batch padded: some kernels choose another order of
# summation for another batch size, so the size is fixed and a member of the key.
BATCH = 32
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")


@cache
def cpu_name() -> str:
    """The processor as far as its arithmetic goes: kernels differ by instruction set.

    Two machines may share one cache folder; rows of one are not mixed with the other's.

    >>> cpu_name() == cpu_name() != ""
    True
    """
    known: dict[str, str] = {}
    table = Path("/proc/cpuinfo")  # Linux; elsewhere `platform` has to do
    if table.exists():
        for line in table.read_text("utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            known.setdefault(name.strip().lower(), value.strip())
    model = known.get("model name") or platform.processor() or "unknown"
    flags = set((known.get("flags") or known.get("features") or "").split())
    return " ".join([platform.machine(), model, *(flag for flag in _FLAGS if flag in flags)])


def engine_version(name: EngineName) -> str:
    """The versions an engine's rows depend on, without importing it.

    Raises: PackageNotFoundError if the engine is not installed.

    >>> engine_version("torch").startswith("torch ")
    True
    """
    torch = f"torch {version_of('torch')}"  # the others run the graph that torch wrote down
    if name in ("torch", "traced"):
        return torch
    return f"{name} {version_of(name)}, {torch}"


def installed_engines() -> tuple[EngineName, ...]:
    """The engines that this Python can import; torch is always the first.

    >>> installed_engines()[:2]
    ('torch', 'traced')
    """
    return tuple(name for name in get_args(EngineName) if _is_installed(name))


def _is_installed(name: EngineName) -> bool:
    try:
        engine_version(name)
    except PackageNotFoundError:
        return False
    return True


class NamedColumn(Protocol):
    """A column of a row: a tap."""

    @property
    def name(self) -> str:
        """What the column is called in files."""
        ...


class CacheFileKey(Protocol):
    """What a shelf's rows depend on: `FeatureKey`, or another that has these."""

    @property
    def feature_layers(self) -> Sequence[NamedColumn]:
        """The columns of a row, in order."""
        ...

    @property
    def dtype(self) -> str:
        """Of the values in a row."""
        ...

    @property
    def plain(self) -> dict[str, Any]:
        """All members as JSON gives them back."""
        ...

    @property
    def digest(self) -> str:
        """Names the files."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKey:
    """Everything that the rows of one look depend on, apart from the examples' bytes.

    `network` is the digest of all tensors; the same tensors in another architecture, or
    cut elsewhere, give other taps: hence `arch` and `parts`. `decoder` names what turns
    encoded bytes into pixels, `view` what was done to the pixels ("plain": nothing),
    `arithmetic` the mode of MKL, in which a strict one rounds alike at every position.

    >>> from warmstart.records.inputs import Preprocessing
    >>> prep = Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))
    >>> key = FeatureKey(network="ab", arch="timm:x", blocks=("stem",), decoder="pillow 11",
    ...     feature_layers=(FeatureLayer(block=1, pool="avg"),), preprocessing=prep, engine="torch",
    ...     engine_version="2.8", threads=2, cpu="x86_64")
    >>> len(key.digest), key.digest == key.digest
    (64, True)
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
    view: str = "plain"
    dtype: str = "float32"
    batch: int = BATCH
    version: int = FORMAT_VERSION

    @property
    def plain(self) -> dict[str, Any]:
        """The members as JSON gives them back: dicts, lists and scalars."""
        return _plain(self)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all members."""
        return _digest(self.plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A named part of a row."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThumbnailKey:
    """What the glances at images depend on: the decoder, and what a glance notes.

    `draft` is the short side in px that large JPEGs were decoded for.

    >>> ThumbnailKey(decoder="pillow 11", draft=256, version=1).feature_layers[0].name
    'glance'
    """

    decoder: str
    draft: int
    version: int
    dtype: str = "uint8"
    feature_layers: tuple[Column, ...] = (Column(name="glance"),)

    @property
    def plain(self) -> dict[str, Any]:
        """The members as JSON gives them back: dicts, lists and scalars."""
        return _plain(self)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all members."""
        return _digest(self.plain)


def _plain(key: FeatureKey | ThumbnailKey) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(key)))
    if (prep := plain.get("preprocessing")) is not None and prep.get("sound", 0) is None:
        del prep["sound"]  # rows of pictures keep the keys that they had before there were sounds
    return plain


def _digest(plain: dict[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# ---- The key of stored activations: what the frozen parts of a network gave for one view.


MAIN = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationKey:
    """Everything that one view's stored activations depend on, apart from the images' bytes.

    `extracted` has the members that a look's features depend on, `view` among them; `cut` counts
    the parts that were run, `wanted` are the taps taken on the way.
    """

    extracted: FeatureKey
    cut: int
    wanted: tuple[FeatureLayer, ...]
    dtype: str

    @property
    def feature_layers(self) -> tuple[Column, ...]:
        """The columns of a row: the output of part `cut`, then the taps."""
        return (Column(name=MAIN), *(Column(name=layer.name) for layer in self.wanted))

    @property
    def plain(self) -> dict[str, Any]:
        """All members as JSON gives them back."""
        names = [layer.name for layer in self.wanted]
        return {
            "activations": 1,
            **self.extracted.plain,
            "dtype": self.dtype,
            "cut": self.cut,
            "wanted": names,
        }

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all members."""
        text = json.dumps(self.plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def main_key(extracted: FeatureKey, cut: int) -> ActivationKey:
    """Of what part `cut` gives alone, as a look passes it on its way."""
    return ActivationKey(
        extracted=replace(extracted, feature_layers=()), cut=cut, wanted=(), dtype=extracted.dtype
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchKey:
    """Of rows that belong to one run and end with it: their columns say all.

    >>> ScratchKey(feature_layers=(Column(name="3.avg"),)).digest
    'scratch'
    """

    feature_layers: tuple[Column, ...]
    dtype: str = "float32"
    digest: str = "scratch"

    @property
    def plain(self) -> dict[str, Any]:
        """All members as JSON gives them back."""
        return {
            "feature_layers": [layer.name for layer in self.feature_layers],
            "dtype": self.dtype,
        }
