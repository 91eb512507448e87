"""The model folder: there and back, and every damage named in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

import warmstart
from warmstart.errors import RunFolderError, WarmstartError
from warmstart.network.model_folder import read_bundle, write_bundle
from warmstart.records.run_folder import to_plain

FILES = (
    "model.safetensors",
    "config.json",
    "labels.json",
    "preprocess.json",
    "calibration.json",
    "neighbours.safetensors",
)
READ = ("model.safetensors", "config.json", "calibration.json", "neighbours.safetensors")


def test_what_is_read_is_what_was_written(finished, tmp_path):
    bundle = read_bundle(finished.path)
    write_bundle(tmp_path / "model", bundle)
    again = read_bundle(tmp_path)
    assert (again.record, again.calibration) == (bundle.record, bundle.calibration)
    assert list(again.ids) == list(bundle.ids)
    for ours, theirs in ((bundle.tensors, again.tensors), (bundle.neighbours, again.neighbours)):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for name in FILES:
        theirs = (finished.path / "model" / name).read_bytes()
        assert (tmp_path / "model" / name).read_bytes() == theirs, name


def test_files_for_readers_agree_with_the_configuration(finished):
    folder = finished.path / "model"
    config = json.loads((folder / "config.json").read_text())
    assert json.loads((folder / "labels.json").read_text()) == config["classes"]
    assert json.loads((folder / "preprocess.json").read_text()) == config["preprocessing"]
    calibration = json.loads((folder / "calibration.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    assert tensors["head.temperature"].item() == pytest.approx(calibration["temperature"])
    assert tensors["head.class_bias"].tolist() == pytest.approx(calibration["class_bias"])
    assert {name.split(".")[0] for name in tensors} == {"backbone", "head"}


def test_the_tensors_are_those_of_the_model_and_of_the_base_model(finished):
    tensors = load_file(finished.path / "model" / "model.safetensors")
    state = finished.model.state_dict()
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)
    base = load_file(finished.path.parents[1] / "start.safetensors")
    unchanged = {name: t for name, t in base.items() if f"backbone.{name}" in tensors}
    assert len(unchanged) > len(base) / 2
    assert all(torch.equal(t, tensors[f"backbone.{name}"]) for name, t in unchanged.items())


def test_the_neighbours_are_the_training_examples_in_order(finished):
    examples = json.loads((finished.path / "data.json").read_text())["examples"]
    train = [example["id"] for example in examples if example["split"] == "train"]
    with safe_open(finished.path / "model" / "neighbours.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["ids"]) == train
        assert file.get_tensor("points").shape[0] == len(train)


# ---- damage ------------------------------------------------------------------------------


def refused(run, *words, error=RunFolderError):
    """Loading fails in one line that holds these words."""
    with pytest.raises(error) as caught:
        warmstart.load(run)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_is_named(own_run, name):
    (own_run / "model" / name).unlink()
    refused(own_run, name)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.98])
@pytest.mark.parametrize("name", READ)
def test_a_file_cut_short_is_named(own_run, name, keep):
    path = own_run / "model" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    refused(own_run, name, "cannot be read")


@pytest.mark.parametrize("name", READ)
def test_a_file_that_is_a_folder_is_named(own_run, name):
    (own_run / "model" / name).unlink()
    (own_run / "model" / name).mkdir()
    refused(own_run, name)


EDITS = {
    "no architecture": lambda c: c.pop("arch"),
    "another class count": lambda c: c["classes"].append("violet"),
    "a class less": lambda c: c["classes"].pop(),
    "a tap that is not there": lambda c: c["feature_layers"].__setitem__(
        0, {"block": 99, "pool": "avg"}
    ),
    "a pooling that is none": lambda c: c["feature_layers"].__setitem__(
        0, {"block": 1, "pool": "max"}
    ),
    "no taps": lambda c: c.__setitem__("feature_layers", []),
    "taps as text": lambda c: c.__setitem__("feature_layers", "all"),
    "other weights' architecture": lambda c: c.__setitem__("arch", "timm:resnet18"),
    "an unknown architecture": lambda c: c.__setitem__("arch", "timm:no_such_network"),
    "an architecture of no library": lambda c: c.__setitem__("arch", "nonsense"),
    "an architecture that is a number": lambda c: c.__setitem__("arch", 3),
    "classes as a number": lambda c: c.__setitem__("classes", 3),
    "a size that is none": lambda c: c["preprocessing"].__setitem__("size", [0, 0]),
    "a size of one side": lambda c: c["preprocessing"].__setitem__("size", [32]),
    "an unknown filter": lambda c: c["preprocessing"].__setitem__("interpolation", "magic"),
    "two channels": lambda c: c["preprocessing"].update(mean=[0.5, 0.5], std=[0.5, 0.5]),
    "a spread of zero": lambda c: c["preprocessing"].__setitem__("std", [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edited_configuration_is_one_line(own_run, edit):
    path = own_run / "model" / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))
    refused(own_run, error=RunFolderError)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.pop("temperature"),
        lambda c: c.__setitem__("ood_from", "far"),
        lambda c: c.__setitem__("nearest", "many"),
        lambda c: c.__setitem__("nearest", 0),
        lambda c: c.__setitem__("confident_from", "often"),
    ],
)
def test_an_edited_calibration_is_one_line(own_run, edit):
    path = own_run / "model" / "calibration.json"
    calibration = json.loads(path.read_text())
    edit(calibration)
    path.write_text(json.dumps(calibration))
    refused(own_run, "calibration.json")


def test_a_missing_tensor_is_named(own_run):
    path = own_run / "model" / "model.safetensors"
    tensors = load_file(path)
    for name in ("head.weight", "head.temperature", next(iter(tensors))):
        save_file({key: t for key, t in tensors.items() if key != name}, path)
        refused(own_run, "model.safetensors", name.removeprefix("backbone."))


def test_a_tensor_too_many_or_of_another_shape_is_named(own_run):
    path = own_run / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "backbone.spare.weight": torch.zeros(2)}, path)
    refused(own_run, "backbone.spare.weight")
    save_file({**tensors, "head.bias": torch.zeros(7)}, path)
    refused(own_run, "head.bias")
    save_file({**tensors, "head.bias": torch.full((3,), float("nan"))}, path)
    refused(own_run, "head.bias")


@pytest.mark.parametrize("name", ["points", "sign", "offset"])
def test_neighbours_without_one_of_their_arrays_are_refused(own_run, name):
    path = own_run / "model" / "neighbours.safetensors"
    with safe_open(path, "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys() if key != name}  # noqa: SIM118
        metadata = file.metadata()
    save_arrays(arrays, path, metadata=metadata)
    refused(own_run, "neighbours.safetensors")


def test_neighbours_without_their_ids_are_refused(own_run):
    path = own_run / "model" / "neighbours.safetensors"
    with safe_open(path, "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_arrays(arrays, path)
    refused(own_run, "neighbours.safetensors")


def test_a_run_without_a_model_and_another_folder_have_their_own_errors(own_run, tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is a file; name a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not a finished run folder")
    shutil.rmtree(own_run / "model")
    refused(own_run, "holds no model: none was shipped", "summary.json")
    (own_run / "DONE").unlink()
    (own_run / "INTERRUPTED").touch()
    refused(own_run, "its run did not finish", "resume")


def test_a_bundle_is_made_of_records(finished):
    bundle = read_bundle(finished.path)
    assert to_plain(bundle.record)["format"] == 1
    assert issubclass(RunFolderError, WarmstartError)
