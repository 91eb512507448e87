"""Classifiers trained elsewhere: kept as they are, with as many outputs as they have."""

import json
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from torch import nn

from external_models import Colours
from tiny import PREP, network
from warmstart.errors import ModelError
from warmstart.network.architectures import IMAGENET
from warmstart.network.external_classifier import InputHandling, from_module, open_file, open_named

SMALL = InputHandling(size=(32, 32))


def saved(module, path):
    torch.save({"state_dict": {f"module.{n}": t for n, t in module.state_dict().items()}}, path)
    return path


@pytest.mark.parametrize(
    ("arch", "make"),
    [
        ("timm:lcnet_035", lambda: timm.create_model("lcnet_035", num_classes=6)),
        ("torchvision:squeezenet1_1", lambda: torchvision.models.squeezenet1_1(num_classes=6)),
    ],
)
def test_a_file_answers_as_the_network_it_came_from(tmp_path, arch, make):
    torch.manual_seed(0)
    module = make().eval()
    result = open_file(saved(module, tmp_path / "best.pth"), arch, SMALL)
    x = torch.randn(5, 3, 32, 32)
    scores, vectors = result.answer(x)
    assert (result.outputs, scores.shape, len(vectors)) == (6, (5, 6), 5)
    assert torch.allclose(torch.from_numpy(scores), module(x).detach(), atol=1e-4)
    assert result.preprocessing.size == (32, 32)
    assert "best.pth" in result.title
    assert result.labels == ()


def test_the_vector_is_what_the_classifier_sees():
    module = network()
    result = from_module(module, "net", "net", PREP, "PREP")
    scores, vectors = result.answer(torch.randn(2, 3, 32, 32))
    again = module.out(torch.from_numpy(vectors))
    assert torch.allclose(again, torch.from_numpy(scores), atol=1e-5)
    few, _ = result.answer(torch.randn(1, 3, 32, 32))
    assert few.shape == (1, 5)


def test_names_beside_the_file_are_found(tmp_path):
    torch.manual_seed(0)
    path = saved(timm.create_model("lcnet_035", num_classes=2), tmp_path / "best.pt")
    (tmp_path / "labels.json").write_text(json.dumps(["cat", "dog"]))
    assert open_file(path, "timm:lcnet_035", SMALL).labels == ("cat", "dog")


def test_a_published_base_model_keeps_its_own_classes():
    result = open_named("lite0", InputHandling(size=(64, 64)))
    assert (result.outputs, result.is_imagenet) == (1000, True)
    assert result.answer(torch.zeros(1, 3, 64, 64))[0].shape == (1, 1000)
    assert result.preprocessing.resize == 73  # as much of a margin as at 224


def test_options_override_the_preprocessing_and_the_rest_stays():
    prep = InputHandling(mean=(0.5,), std=(0.1, 0.2, 0.3)).over(IMAGENET)
    assert prep == replace(IMAGENET, mean=(0.5,) * 3, std=(0.1, 0.2, 0.3))
    assert InputHandling().over(IMAGENET) == IMAGENET
    for name in ("mean", "std"):
        with pytest.raises(ModelError, match=f"--{name} has 2 numbers, the model takes 3"):
            InputHandling(**{name: (0.5, 0.5)}).over(IMAGENET)


def test_mistakes_are_refused(tmp_path):
    path = saved(timm.create_model("lcnet_035", num_classes=2), tmp_path / "best.pt")
    with pytest.raises(ModelError, match="add --arch timm:NAME, torchvision:NAME or transformers"):
        open_file(path, None, InputHandling())
    with pytest.raises(ModelError, match="check --arch"):
        open_file(path, "timm:resnet18", InputHandling())
    one = nn.Sequential(Colours(), nn.Linear(3, 1))
    with pytest.raises(ModelError, match="gives one number an image"):
        from_module(one, "one", "one", PREP, "PREP")
