"""A transformers model: timm's folder with its wrapper, or the user's own of that library."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from warmstart.errors import ExportError
from warmstart.exporting.format import AS_TENSOR, any_head
from warmstart.exporting.timm import LOGITS, Timm
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.run_folder import write_json

if TYPE_CHECKING:
    from torch import nn

    from warmstart.exporting.graph import ExportSource
    from warmstart.network.surgery import WarmModel

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers


class Transformers(Timm):
    """A folder for `AutoModelForImageClassification` and `AutoImageProcessor`."""

    name = "transformers"
    title = "a transformers model"
    libraries = ("transformers",)
    extra = "text"

    needs = "transformers, timm, torchvision"
    imports = (
        "import torch\nfrom transformers import AutoImageProcessor, AutoModelForImageClassification"
    )
    load = (
        "processor = AutoImageProcessor.from_pretrained(HERE)\n"
        "model = AutoModelForImageClassification.from_pretrained(HERE).eval()"
    )
    answer = AS_TENSOR + LOGITS.format("model(torch.from_numpy({x})).logits")
    how_loaded = 'AutoModelForImageClassification.from_pretrained("THIS_FOLDER")'
    config: ClassVar[Mapping[str, Any]] = {
        "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperForImageClassification"],
    }

    def check_rebuilt(self, source: ExportSource) -> None:
        if not is_native(source.network):
            super().check_rebuilt(source)

    def write(self, folder: Path, source: ExportSource, title: str) -> None:
        if source.network is None or not is_native(source.network):
            super().write(folder, source, title)
            return
        labels, prep = source.record.classes, pictures(source.record.preprocessing)
        module: Any = as_native(source.model, source.network, prep)
        module.config.id2label = dict(enumerate(labels))
        module.config.label2id = {name: number for number, name in enumerate(labels)}
        module.save_pretrained(str(folder))
        write_json(folder / "preprocessor_config.json", processor(prep))


def is_native(network: nn.Module | None) -> bool:
    """Whether a network is one of transformers, which writes its own folder."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(network).__mro__}
    return "transformers.modeling_utils.PreTrainedModel" in kinds


def as_native(model: WarmModel, network: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The transformers network that a run began from, with the run's tensors and output.

    Raises: ExportError where its output is no linear layer, or blocks were added.
    """
    from torch import nn

    from warmstart.exporting.single_layer_head import backbone_state, classifier_of, fill
    from warmstart.network.inputs import refit, refit_size

    classifier = classifier_of(model, Transformers.name)
    state = backbone_state(model)
    clone: Any = copy.deepcopy(network)
    refit_size(clone, state, preprocessing.size)
    refit(clone, state, preprocessing.channels)
    parent, _, last = classifier.rpartition(".")
    n_classes, width = model.head.weight.shape
    setattr(clone.get_submodule(parent), last, nn.Linear(width, n_classes))
    clone.config.num_labels = clone.num_labels = n_classes
    return fill(clone, model, classifier, type(network).__name__)


def processor(prep: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json of transformers for the same preprocessing.

    Raises: ExportError where both sides are squashed to more than the network takes, or the sides
    differ: no processor does that.
    """
    height, width = prep.size
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": _RESAMPLE[prep.interpolation],
        "image_mean": list(prep.mean),
        "image_std": list(prep.std),
    }
    if prep.squash and prep.resize == height == width:
        size = {"height": height, "width": width}
        return {"image_processor_type": "ViTImageProcessor", "size": size, **common}
    if prep.squash:
        raise ExportError(
            f"no image processor of transformers squashes to {prep.resize} px and crops "
            f"{height} x {width}; use {any_head()}."
        )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": prep.resize},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        **common,
    }
