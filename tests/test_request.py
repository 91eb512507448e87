"""request.json: what was asked comes back as it was, whatever its fields are."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import plans
from tiny import PREP, network
from warmstart.errors import RunFolderError, UsageError
from warmstart.planning.settings import parse_settings
from warmstart.planning.strategy import parse
from warmstart.records.plan import Choice
from warmstart.request import (
    Request,
    as_plain,
    decoded,
    encoded,
    read_request,
    with_objects,
    write_request,
)

ENVIRONMENT = {"packages": {"torch": "2.9"}, "processors": 2}
FULL = Request(
    data="photos",
    base=Path("a.safetensors"),
    arch="timm:resnet18",
    preprocessing=PREP,
    base_choice=Choice(value="lite0", because="so", source="measured", rule="lite1"),
    strategy=parse("last:4+lora"),
    budget="thorough",
    out=Path("runs/a b"),
    test="später.csv",
    label="kind",
    group="person",
    relabel=Path("fix.csv"),
    fix=True,
    seed=7,
    lr=0.1 + 0.2,
    settings=parse_settings(["training.epochs=10", "block.3.action=frozen"]),
    given=frozenset({"seed", "lr"}),
)


@pytest.mark.parametrize("wanted", [Request(data="photos"), FULL], ids=["plain", "full"])
def test_a_request_comes_back(tmp_path, wanted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_request(tmp_path, wanted, "ab" * 32, ENVIRONMENT)
    result = read_request(tmp_path)
    assert result.request == wanted
    assert (result.base, result.environment, result.objects) == ("ab" * 32, ENVIRONMENT, ())
    assert result.place == tmp_path
    assert json.loads((tmp_path / "request.json").read_text())["request"].keys() == {
        f.name for f in fields(Request)
    }


def test_every_field_of_a_request_has_a_kind_that_is_stored():
    """A new option is kept as well; one whose kind is not would be called an object."""
    plain = as_plain(FULL)
    assert not [
        name for name, value in plain.items() if isinstance(value, dict) and "object" in value
    ]


def test_a_plan_is_written_out(tmp_path):
    plan = plans.plan_for("full")
    write_request(tmp_path, Request(data="photos", plan=plan), "", ENVIRONMENT)
    assert read_request(tmp_path).request.plan == plan


@settings(max_examples=60)
@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.frozensets(st.text(st.characters(exclude_categories=["Cs"])))
    | st.lists(st.integers() | st.text(st.characters(exclude_categories=["Cs"]))).map(tuple)
)
def test_a_value_comes_back_with_its_kind(value):
    again = decoded(json.loads(json.dumps(encoded(value))))
    assert again == value
    assert type(again) is type(value)


OBJECTS = {
    "data": (np.zeros((4, 8, 8, 3), np.uint8), [0, 0, 1, 1]),
    "test": object(),
    "base": network(),
}


def test_objects_are_named_and_must_be_given_again(tmp_path):
    request = Request(**OBJECTS, seed=3)
    write_request(tmp_path, request, "", ENVIRONMENT)
    result = read_request(tmp_path)
    assert result.objects == ("data", "base", "test")
    assert result.request == replace(request, data=None, base=None, test=None)
    with pytest.raises(UsageError) as caught:
        with_objects(result, Path("runs/a"), {"data": OBJECTS["data"]})
    assert str(caught.value) == (
        "runs/a began in Python from objects (data, base, test), which no file holds; resume it "
        "there with the same ones: warmstart.resume('runs/a', data=…, base=…, test=…)"
    )
    again = with_objects(result, Path("runs/a"), OBJECTS)
    assert (again.data, again.base, again.test) == tuple(
        OBJECTS[n] for n in ("data", "base", "test")
    )
    assert again.seed == 3


def test_what_the_run_knows_by_itself_cannot_be_given_another_value(tmp_path):
    write_request(tmp_path, Request(data="photos"), "", ENVIRONMENT)
    with pytest.raises(UsageError, match=r"knows its data; omit data="):
        with_objects(read_request(tmp_path), tmp_path, {"data": "others"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format": 2}',
        '{"format": 1, "request": 3}',
        '{"format": 1, "request": {"data": {"plan": "x = "}}, "place": "/", "base": "",'
        ' "environment": {}}',
        '{"format": 1, "request": {"data": {"record": "No", "value": 1}}, "place": "/", "base": "",'
        ' "environment": {}}',
        '{"format": 1, "request": {}, "place": "/", "base": "", "environment": {}}',
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text):
    (tmp_path / "request.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"request\.json cannot be read .*restore it") as error:
        read_request(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_one_is_no_run_that_can_go_on(tmp_path):
    with pytest.raises(RunFolderError) as caught:
        read_request(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has no request.json: it is no run that can be resumed. Name a folder in which "
        "`warmstart fit` was stopped, or begin a new one with `warmstart fit`."
    )


def test_fields_of_a_later_version_are_passed_over(tmp_path):
    write_request(tmp_path, Request(data="photos"), "", ENVIRONMENT)
    told = json.loads((tmp_path / "request.json").read_text())
    told["request"]["later"] = 3
    (tmp_path / "request.json").write_text(json.dumps(told))
    assert read_request(tmp_path).request == Request(data="photos")
