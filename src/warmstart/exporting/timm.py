"""A timm model: the plain network of a library, with one linear layer as its head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from warmstart.errors import ExportError
from warmstart.exporting.format import AS_TENSOR, ExportFormat, any_head
from warmstart.modalities.registry import modality_of
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.run_folder import write_bytes, write_json
from warmstart.tasks.registry import TASKS

if TYPE_CHECKING:
    from torch import nn

    from warmstart.exporting.graph import ExportSource
    from warmstart.network.surgery import WarmModel

LOGITS = "        logits = {}\n    return logits.numpy(), logits.softmax(1).numpy()"
_COPIED = ("classifier", "first_conv", "pool_size", "fixed_input_size", "min_input_size")


class Timm(ExportFormat):
    """config.json and model.safetensors, which `timm.create_model` reads from a folder."""

    name = "timm"
    title = "a timm model"
    model = "model.safetensors"
    libraries: ClassVar[tuple[str, ...]] = ("timm",)
    is_single_layer = True

    needs = "timm"
    imports = "import timm, torch"
    load = 'model = timm.create_model(f"local-dir:{HERE}", pretrained=True).eval()'
    answer = AS_TENSOR + LOGITS.format("model(torch.from_numpy({x}))")
    how_loaded = 'timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()'
    config: ClassVar[Mapping[str, Any]] = {}  # more of config.json

    def check_possible(self, source: ExportSource) -> None:
        target = TASKS[source.record.task]
        if not target.has_classes:
            what = "a number" if target.has_numbers else "several labels"
            raise ExportError(
                f"{self.name} holds classifiers, and this model predicts {what}; use {any_head()}."
            )
        if modality_of(source.record.preprocessing).has_tokens:
            raise ExportError(
                f"{self.name} cannot hold the head of a text model; use {any_head()}. The "
                "run's README.md rebuilds it in plain torch and transformers."
            )
        self.check_rebuilt(source)

    def check_rebuilt(self, source: ExportSource) -> None:
        """Raises: ExportError where the library does not have the network."""
        if not source.record.arch.startswith("timm:"):
            kind, _, name = source.record.arch.partition(":")
            what = "your own network" if kind == "module" else f"a {kind} network"
            raise ExportError(
                f"{name} is {what}, which {self.name} cannot rebuild; use {any_head()}."
            )

    def write(self, folder: Path, source: ExportSource, title: str) -> None:
        record, prep = source.record, pictures(source.record.preprocessing)
        module, options = as_timm(source.model, record.arch, prep)
        name = record.arch.partition(":")[2]
        write_timm(
            module,
            folder,
            arch=name,
            labels=record.classes,
            prep=prep,
            options=options,
            more=self.config,
        )


def as_timm(
    model: WarmModel, arch: str, preprocessing: Preprocessing
) -> tuple[nn.Module, dict[str, Any]]:
    """The plain timm network with the outputs of `model`, and its arguments of `create_model`.

    Raises: ExportError where timm has no such network: blocks were added, the architecture is
    another library's, or its tensors have other shapes.
    """
    from warmstart.exporting.single_layer_head import backbone_state, classifier_of, fill, linear
    from warmstart.network.architectures import build, size_option

    name = arch.partition(":")[2]
    if not arch.startswith("timm:"):
        raise ExportError(f"the network ({name}) is not from timm; use {any_head()}.")
    classifier = classifier_of(model, Timm.name)
    weight, bias = linear(model.head)
    options = {"num_classes": len(bias), **size_option(arch, preprocessing.size)}
    if preprocessing.channels != 3:
        options["in_chans"] = preprocessing.channels
    state = {**backbone_state(model), f"{classifier}.weight": weight}
    module = build(arch, state, preprocessing.size)
    return fill(module, model, classifier, f"timm's {name}"), options


def write_timm(
    module: nn.Module,
    folder: Path,
    *,
    arch: str,
    labels: Sequence[str],
    prep: Preprocessing,
    options: Mapping[str, object],
    more: Mapping[str, Any],
) -> None:
    """A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    `options`: further arguments of `create_model`. `more`: further entries of config.json.
    """
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory.
    state = {name: t.detach().clone().contiguous() for name, t in module.state_dict().items()}
    write_bytes(folder / Timm.model, save(state, metadata={"format": "pt"}))
    pretrained: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    copied = {name: pretrained[name] for name in _COPIED if pretrained.get(name) is not None}
    args = {name: value for name, value in options.items() if name != "num_classes"}
    config = {
        "architecture": arch,
        "num_classes": len(labels),
        "num_features": getattr(module, "num_features", None),
        "label_names": list(labels),
        **({"model_args": args} if args else {}),
        "pretrained_cfg": {**copied, **timm_config(prep), "num_classes": len(labels)},
        **more,
    }
    write_json(folder / "config.json", config)


def timm_config(prep: Preprocessing) -> dict[str, Any]:
    """The preprocessing in timm's terms."""
    share = min(prep.size) / prep.resize
    if math.floor(min(prep.size) / share) != prep.resize:  # timm rounds down
        share = min(prep.size) / (prep.resize + 1e-6)
    return {
        "input_size": (prep.channels, *prep.size),
        "mean": prep.mean,
        "std": prep.std,
        "interpolation": prep.interpolation,
        "crop_pct": share,
        "crop_mode": "squash" if prep.squash else "center",
    }
