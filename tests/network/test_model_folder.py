"""The model folder: there and back; every damage is one line, or the right answer comes out."""

from __future__ import annotations

import copy
import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

import warmstart
from warmstart.cli.main import main
from warmstart.errors import RunFolderError, WarmstartError
from warmstart.network.model_folder import read_bundle, write_bundle
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application

JSON = ("config.json", "calibration.json")
READ = ("model.safetensors", "neighbours.safetensors", *JSON)


def test_what_is_read_is_what_was_written(finished, tmp_path):
    bundle = read_bundle(finished.path)
    write_bundle(tmp_path / "model", bundle)
    again = read_bundle(tmp_path)
    assert (again.record, again.calibration) == (bundle.record, bundle.calibration)
    assert list(again.ids) == list(bundle.ids)
    for ours, theirs in ((bundle.tensors, again.tensors), (bundle.neighbours, again.neighbours)):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for name in (*READ, "labels.json", "preprocess.json"):
        theirs = (finished.path / "model" / name).read_bytes()
        assert (tmp_path / "model" / name).read_bytes() == theirs, name


def test_the_files_agree_with_each_other_the_model_and_the_base_model(finished):
    folder = finished.path / "model"
    names = ("config", "labels", "preprocess", "calibration")
    config, labels, preprocess, calibration = (
        json.loads((folder / f"{name}.json").read_text()) for name in names
    )
    assert (labels, preprocess) == (config["classes"], config["preprocessing"])
    tensors, state = load_file(folder / "model.safetensors"), finished.model.state_dict()
    assert tensors["head.temperature"].item() == pytest.approx(calibration["temperature"])
    assert tensors["head.class_bias"].tolist() == pytest.approx(calibration["class_bias"])
    assert {name.split(".")[0] for name in tensors} == {"backbone", "head"}
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)
    base = load_file(finished.path.parents[1] / "start.safetensors")
    unchanged = {name: t for name, t in base.items() if f"backbone.{name}" in tensors}
    assert len(unchanged) > len(base) / 2
    assert all(torch.equal(t, tensors[f"backbone.{name}"]) for name, t in unchanged.items())
    examples = json.loads((finished.path / "data.json").read_text())["examples"]
    train = [example["id"] for example in examples if example["split"] == "train"]
    arrays, metadata = arrays_of(finished.path)
    assert json.loads(metadata["ids"]) == train
    assert len(arrays["points"]) == len(train)


def test_a_run_without_a_model_and_another_folder_have_their_own_errors(own_run, tmp_path):
    def refused(run, *words):
        with pytest.raises(RunFolderError) as caught:
            read_bundle(run)
        assert all(word in str(caught.value) for word in words)

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


# ---- damage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture(finished):
    return next((finished.path.parents[1] / "split" / "test" / "red").iterdir())


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A copy of the run to be damaged again and again."""
    return shutil.copytree(finished.path, tmp_path_factory.mktemp("damaged") / "run")


@pytest.fixture
def damaged(finished, place):
    """The copy, repaired afterwards."""
    yield place
    shutil.rmtree(place / "model")
    shutil.copytree(finished.path / "model", place / "model")


def outcome(run, picture):
    """What a run answers for a picture, or the line that says why it does not.

    What comes out is an answer of its classes, or a typed error of one line.
    """
    try:
        predictor = warmstart.load(run)
        (answer,) = predictor.predict([picture])
    except WarmstartError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 700, message
        return message
    assert set(answer.scores) == set(predictor.labels)
    assert all(math.isfinite(p) and -1e-6 <= p <= 1 + 1e-6 for p in answer.scores.values())
    assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-6)
    assert answer.label == max(answer.scores, key=answer.scores.get)
    return answer


def arrays_of(run):
    with safe_open(run / "model" / "neighbours.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def with_array(name, make, ids=None):
    def damage(folder):
        arrays, metadata = arrays_of(folder.parent)
        arrays[name] = make(arrays[name])
        arrays = {n: np.ascontiguousarray(a) for n, a in arrays.items() if a is not None}
        metadata = metadata if ids is None else {"ids": ids}
        save_arrays(arrays, folder / "neighbours.safetensors", metadata)

    return damage


def with_tensor(name, make):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = make(tensors.get(name))
        tensors = {n: t for n, t in tensors.items() if t is not None}
        save_file(tensors, folder / "model.safetensors")

    return damage


def with_file(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def with_values(name, inside="", **changes):
    """A JSON file with other values, or some within one of its objects; "gone": without them."""

    def damage(folder):
        document = json.loads((folder / name).read_text("utf-8"))
        part = document[inside] if inside else document
        part |= changes
        for key in [key for key, value in changes.items() if value == "gone"]:
            del part[key]
        (folder / name).write_text(json.dumps(document), "utf-8")

    return damage


def without_file(name, is_folder=False):
    def damage(folder):
        (folder / name).unlink()
        if is_folder:
            (folder / name).mkdir()

    return damage


def cut_short(name, share):
    def damage(folder):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return damage


def hit(value):
    def make(values):
        changed = values.copy()
        changed.flat[3] = value
        return changed

    return make


def key(value):
    return "deep" if len(str(value)) > 400 else repr(value)


NAN, INF = float("nan"), float("inf")
ALL = ("target", "sign", "offset", "scale", "points")
NO_JSON = (b"", b"null", b"3", b'"x"', b"[]", b"NaN", b"\xff\xfe", b"\0" * 99, b"[" * 200_000)
CALIBRATION = {
    "nearest": (0, 10**9, True, "many"),
    "ood_from": (NAN, INF, -1.0, 10**400, "far"),
    "temperature": (0.0, -1.0, NAN, "gone"),
    "class_bias": ([], [NAN, 0, 0], [0, 0, 0, 0]),
    "confident_from": (NAN, "high"),
    "promised_error": (NAN,),
}
INPUTS = {
    "size": ([0, 32], [-3, 3], [10**6, 10**6], [2**62, 2**62], [32], "32"),
    "resize": (0, 10**9, 2**70),
    "mean": ([], [NAN] * 3, [1e308] * 3, [0.5] * 2, {"a": 1}),
    "std": ([0.0] * 3, [NAN] * 3, [1e-320] * 3, [INF] * 3),
    "interpolation": ("best",),
}
CONFIG = {
    "arch": ("gone", "timm:resnet18", "timm:no_such_network", "nonsense", 3),
    "classes": (["a"], [*"abcd"], 3),
    "feature_layers": ([], "all", [{"block": 99, "pool": "avg"}], [{"block": 1, "pool": "max"}]),
}
TENSORS = {
    "head.weight": {
        "gone": lambda t: None,
        "NaN": lambda t: t * NAN,
        "whole": lambda t: t.to(torch.int32),
        "turned": lambda t: t.T.contiguous(),
        "a row more": lambda t: torch.cat([t, t[:1]]),
    },
    "head.bias": {"infinite": lambda t: t + INF, "longer": lambda t: torch.zeros(7)},
    "head.temperature": {
        "gone": lambda t: None,
        "NaN": lambda t: t * NAN,
        "0": lambda t: t * 0,
        "negative": lambda t: -t,
    },
    "backbone.spare.weight": {"too many": lambda t: torch.zeros(2)},
    "backbone.bn1.running_mean": {"NaN": lambda t: t * NAN},
    "backbone.bn1.running_var": {
        "gone": lambda t: None,
        "negative": lambda t: -1 - t.abs(),
        "whole": lambda t: t.to(torch.int64),
    },
}
NEIGHBOURS = {
    **{(name, v): hit(v) for name in ("points", "offset", "scale") for v in (NAN, INF)},
    **{("target", value): hit(value) for value in (-1, 256, 2**31 - 1)},
    ("target", "exabytes"): lambda a: hit(2**60)(a.astype(np.int64)),
    ("target", "fractions"): lambda a: a.astype(np.float32) + 0.5,
    ("sign", 3): hit(3),
    **{(name, "too short"): lambda a: a[:-1] for name in ALL},
    **{(name, "of another rank"): lambda a: a[None] for name in ALL},
    **{(name, "gone"): lambda a: None for name in ALL},
    **{(name, "of bool"): lambda a: a.astype(bool) for name in ("points", "offset", "scale")},
    ("points", "none"): lambda a: a[:0],
}
DAMAGES = {
    **{f"{n} missing": without_file(n) for n in READ},
    **{f"{n} a folder": without_file(n, is_folder=True) for n in READ},
    **{f"{n} to {share}": cut_short(n, share) for n in READ for share in (0.01, 0.5, 0.98)},
    **{f"{n} is {key(v)}": with_file(n, v) for n in JSON for v in NO_JSON},
    **{
        f"{inside} {name} {key(value)}": with_values(file, inside, **{name: value})
        for file, inside, table in (
            ("calibration.json", "", CALIBRATION),
            ("config.json", "preprocessing", INPUTS),
            ("config.json", "", CONFIG),
        )
        for name, each in table.items()
        for value in each
    },
    **{f"{n} {how}": with_tensor(n, make) for n, t in TENSORS.items() for how, make in t.items()},
    **{f"{name} {how}": with_array(name, make) for (name, how), make in NEIGHBOURS.items()},
    **{
        f"ids {key(ids)}": with_array("sign", lambda a: a, ids)
        for ids in ("[" * 200_000, "3", json.dumps(list(range(36))), "[]")
    },
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_makes_no_sense_is_one_line(damaged, picture, damage):
    damage(damaged / "model")
    message = outcome(damaged, picture)
    assert isinstance(message, str), message
    assert "model" in message


def test_the_command_line_and_the_server_say_the_same(damaged, picture, capsys):
    with_array("target", hit(10**6))(damaged / "model")
    message = outcome(damaged, picture)
    assert str(damaged / "model") in message
    assert main(["predict", str(damaged), str(picture)]) == 2
    assert capsys.readouterr().err == f"warmstart: {message}\n"
    with pytest.raises(WarmstartError) as caught:
        application(damaged, ServeOptions(), ServerLimits())
    assert str(caught.value) == message


NUMBERS = [-1, 0, 1, 3, 2**40, 10**400, 0.5, -1e308, NAN, INF]
VALUES = st.sampled_from(
    [*NUMBERS, None, True, "", "x", "timm:resnet18", [], [[]], [1, 2], {}, {"a": 1}]
)
LAWFUL = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def leaves(value, path=()):
    """The paths of all that stands in a JSON document."""
    yield path
    if isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, name))


@LAWFUL
@given(data=st.data())
@pytest.mark.parametrize("name", JSON)
def test_any_value_of_the_settings_may_be_any_other(finished, damaged, picture, name, data):
    document = json.loads((finished.path / "model" / name).read_text("utf-8"))
    *path, last = data.draw(st.sampled_from([path for path in leaves(document) if path]))
    changed = parent = copy.deepcopy(document)
    for step in path:
        parent = parent[step]
    if data.draw(st.booleans()):
        del parent[last]
    else:
        parent[last] = data.draw(VALUES)
    (damaged / "model" / name).write_text(json.dumps(changed), "utf-8")
    outcome(damaged, picture)


@LAWFUL
@given(data=st.data())
@pytest.mark.parametrize("name", READ[:3])
def test_any_bytes_may_be_any_others(finished, damaged, picture, name, data):
    content = bytearray((finished.path / "model" / name).read_bytes())
    most = len(content) - 1 if data.draw(st.booleans()) else min(4000, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, most))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, most)) :]
    (damaged / "model" / name).write_bytes(content)
    outcome(damaged, picture)
