"""Damage of a model folder: one line that names it, or the right answer, whatever was hit."""

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
from warmstart.errors import WarmstartError
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application


@pytest.fixture(scope="module")
def picture(finished):
    return next((finished.path.parents[1] / "split" / "test" / "red").iterdir())


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


def rewritten(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")


def arrays_of(run):
    with safe_open(run / "model" / "neighbours.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def with_array(name, make):
    def damage(run):
        arrays, metadata = arrays_of(run)
        arrays[name] = np.ascontiguousarray(make(arrays[name]))
        save_arrays(arrays, run / "model" / "neighbours.safetensors", metadata)

    return damage


def with_ids(text):
    def damage(run):
        arrays, _ = arrays_of(run)
        save_arrays(arrays, run / "model" / "neighbours.safetensors", {"ids": text})

    return damage


def with_tensor(name, make):
    def damage(run):
        path = run / "model" / "model.safetensors"
        tensors = load_file(path)
        tensors[name] = make(tensors[name])
        save_file(tensors, path)

    return damage


def with_file(name, content):
    return lambda run: (run / "model" / name).write_bytes(content)


def with_calibration(**changes):
    return lambda run: rewritten(
        run / "model" / "calibration.json", lambda metadata: metadata | changes
    )


def with_inputs(**changes):
    return lambda run: rewritten(
        run / "model" / "config.json",
        lambda metadata: metadata | {"preprocessing": metadata["preprocessing"] | changes},
    )


def hit(values, place, value):
    changed = values.copy()
    changed.flat[place] = value
    return changed


NAN, INF = float("nan"), float("inf")
DEEP = b'{"a":' * 100_000 + b"0" + b"}" * 100_000
DAMAGES = {
    **{
        f"deep JSON in {name}": with_file(name, DEEP)
        for name in ("config.json", "calibration.json")
    },
    **{
        f"deep lists in {name}": with_file(name, b"[" * 200_000 + b"]" * 200_000)
        for name in ("config.json", "calibration.json")
    },
    **{
        f"no JSON but {value!r} in {name}": with_file(name, value)
        for name in ("config.json", "calibration.json")
        for value in (b"", b"null", b"3", b'"x"', b"[]", b"NaN", b"\xff\xfe", b"\0" * 99)
    },
    "deep ids": with_ids("[" * 200_000 + "]" * 200_000),
    "ids that are none": with_ids("3"),
    "ids that are numbers": with_ids(json.dumps(list(range(36)))),
    **{
        f"{name} of {value}": with_array(name, lambda a, v=value: hit(a, 3, v))
        for name in ("points", "offset", "scale")
        for value in (NAN, INF)
    },
    **{
        f"a target of {value}": with_array("target", lambda a, v=value: hit(a, 3, v))
        for value in (-1, 256, 2**31 - 1)
    },
    "a target of exabytes": with_array("target", lambda a: hit(a.astype(np.int64), 3, 2**60)),
    "a target with fractions": with_array("target", lambda a: a.astype(np.float32) + 0.5),
    "a sign of 3": with_array("sign", lambda a: hit(a, 3, 3)),
    **{
        f"{name} too short": with_array(name, lambda a: a[:-1])
        for name in ("target", "sign", "offset", "scale", "points")
    },
    **{
        f"{name} of another rank": with_array(name, lambda a: a[None])
        for name in ("target", "sign", "offset", "scale", "points")
    },
    **{
        f"{name} of texts": with_array(name, lambda a: a.astype(bool))
        for name in ("points", "offset", "scale")
    },
    "no examples": with_array("points", lambda a: a[:0]),
    "a head of NaN": with_tensor("head.weight", lambda t: t * NAN),
    "a bias of infinity": with_tensor("head.bias", lambda t: t + INF),
    "a temperature of NaN": with_tensor("head.temperature", lambda t: t * NAN),
    "a temperature of nothing": with_tensor("head.temperature", lambda t: t * 0),
    "a negative temperature": with_tensor("head.temperature", lambda t: -t),
    "a head of whole numbers": with_tensor("head.weight", lambda t: t.to(torch.int32)),
    "a head that is turned": with_tensor("head.weight", lambda t: t.T.contiguous()),
    "a head of one row more": with_tensor("head.weight", lambda t: torch.cat([t, t[:1]])),
    "moments of NaN": with_tensor("backbone.bn1.running_mean", lambda t: t * NAN),
    "a negative variance": with_tensor("backbone.bn1.running_var", lambda t: -1 - t.abs()),
    "moments of whole numbers": with_tensor(
        "backbone.bn1.running_var", lambda t: t.to(torch.int64)
    ),
    **{
        f"calibration {changes}": with_calibration(**changes)
        for changes in (
            {"nearest": 0},
            {"nearest": 10**9},
            {"nearest": True},
            {"ood_from": NAN},
            {"ood_from": INF},
            {"ood_from": -1.0},
            {"ood_from": 10**400},
            {"temperature": 0.0},
            {"temperature": -1.0},
            {"temperature": NAN},
            {"class_bias": []},
            {"class_bias": [NAN, 0, 0]},
            {"class_bias": [0, 0, 0, 0]},
            {"confident_from": NAN},
            {"confident_from": "high"},
            {"promised_error": NAN},
        )
    },
    **{
        f"inputs {changes}": with_inputs(**changes)
        for changes in (
            {"size": [0, 32]},
            {"size": [-3, 3]},
            {"size": [10**6, 10**6]},
            {"size": [2**62, 2**62]},
            {"size": [32]},
            {"size": "32"},
            {"resize": 0},
            {"resize": 10**9},
            {"resize": 2**70},
            {"mean": []},
            {"mean": [NAN] * 3},
            {"mean": [1e308] * 3},
            {"std": [0.0] * 3},
            {"std": [NAN] * 3},
            {"std": [1e-320] * 3},
            {"std": [INF] * 3},
            {"mean": [0.5], "std": [0.5]},
            {"interpolation": "best"},
            {"mean": {"a": 1}},
        )
    },
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_makes_no_sense_is_one_line(own_run, picture, damage):
    damage(own_run)
    message = outcome(own_run, picture)
    assert isinstance(message, str), message
    assert str(own_run / "model") in message


def test_the_command_line_and_the_server_say_the_same(own_run, picture, capsys):
    with_array("target", lambda a: hit(a, 3, 10**6))(own_run)
    message = outcome(own_run, picture)
    assert main(["predict", str(own_run), str(picture)]) == 2
    assert capsys.readouterr().err == f"warmstart: {message}\n"
    with pytest.raises(WarmstartError) as caught:
        application(own_run, ServeOptions(), ServerLimits())
    assert str(caught.value) == message


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A copy of the run to be damaged again and again."""
    return shutil.copytree(finished.path, tmp_path_factory.mktemp("damaged") / "run")


VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        3,
        2**40,
        10**400,
        0.5,
        -1e308,
        NAN,
        INF,
        "",
        "x",
        "timm:resnet18",
        [],
        [[]],
        [1, 2],
        {},
        {"a": 1},
    ]
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
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inner:
        yield from leaves(item, (*path, key))


@LAWFUL
@given(data=st.data())
@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
def test_any_value_of_the_settings_may_be_any_other(finished, place, picture, name, data):
    metadata = json.loads((finished.path / "model" / name).read_text("utf-8"))
    paths = [path for path in leaves(metadata) if path]
    path = data.draw(st.sampled_from(paths))
    is_lost = data.draw(st.booleans())
    changed = copy.deepcopy(metadata)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if is_lost:
        del parent[path[-1]]
    else:
        parent[path[-1]] = data.draw(VALUES)
    (place / "model" / name).write_text(json.dumps(changed), "utf-8")
    try:
        outcome(place, picture)
    finally:
        shutil.copy(finished.path / "model" / name, place / "model" / name)


@LAWFUL
@given(data=st.data())
@pytest.mark.parametrize("name", ["model.safetensors", "neighbours.safetensors", "config.json"])
def test_any_bytes_may_be_any_others(finished, place, picture, name, data):
    content = bytearray((finished.path / "model" / name).read_bytes())
    most = len(content) - 1 if data.draw(st.booleans()) else min(4000, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, most))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, most)) :]
    (place / "model" / name).write_bytes(content)
    try:
        outcome(place, picture)
    finally:
        shutil.copy(finished.path / "model" / name, place / "model" / name)
