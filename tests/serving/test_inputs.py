"""From bodies to images: forms, JSON, one image as it is, and everything that is none of them."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_client import form
from warmstart.serving.http import HttpProblem
from warmstart.serving.inputs import ImagesBody, Upload, parse_length, read_files
from warmstart.serving.model import ServerLimits

LIMITS = ServerLimits(images=3)


def refused(kind, body):
    with pytest.raises(HttpProblem) as content:
        read_files(kind, body, LIMITS)
    return content.value.status, str(content.value)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_what_goes_into_a_form_comes_out(payloads):
    files = [(f"{n}.png", payload) for n, payload in enumerate(payloads)]
    body, kind = form(files)
    if any(b"--edge-of-a-part" in payload for payload in payloads):
        return
    assert read_files(kind, body, LIMITS) == [Upload(name, payload) for name, payload in files]


def test_fields_that_are_no_files_and_folders_in_names_are_dropped():
    body, kind = form([("../../etc/passwd", b"x"), (r"C:\a\b.png", b"y")])
    extra = b'--edge-of-a-part\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    uploads = read_files(kind, extra + body, LIMITS)
    assert uploads == [Upload("passwd", b"x"), Upload("b.png", b"y")]
    assert refused(kind, extra * 100 + body)[0] == 413


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_in_json(prefix):
    text = prefix + base64.b64encode(b"bytes").decode()
    for content in ({"image": text}, {"images": [text] * LIMITS.images}):
        body = json.dumps(content).encode()
        uploads = read_files("application/json; charset=utf-8", body, LIMITS)
        assert {one.payload for one in uploads} == {b"bytes"}


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream"])
def test_an_image_as_it_is(kind):
    assert read_files(kind, b"bytes", LIMITS) == [Upload("image", b"bytes")]


BODY, KIND = form([("a.png", b"x")])


@pytest.mark.parametrize(
    ("kind", "body", "status", "says"),
    [
        ("", b"x", 415, "multipart/form-data"),
        ("text/plain", b"x", 415, "application/json"),
        ("image/png", b"", 400, "no image was sent"),
        ("application/json", b"{", 422, "JSON"),
        ("application/json", b"[]", 422, ""),
        ("application/json", b"{}", 400, "no image was sent"),
        ("application/json", b'{"imgs": []}', 422, "imgs"),
        ("application/json", b'{"image": "!"}', 422, "image 0 is not base64"),
        ("application/json", b'{"images": ["", "", "", ""]}', 413, "more than 3 files"),
        ("application/json", b"\xff\xfe", 422, ""),
        ("multipart/form-data", BODY, 400, "no boundary"),
        (f"multipart/form-data; boundary={'a' * 300}", BODY, 400, "form"),
        ("multipart/form-data; boundary=other", BODY, 400, "form"),
        (KIND, BODY[:40], 400, "breaks off"),
        (KIND, BODY[:-8], 400, "breaks off"),
        (KIND, b"", 400, "breaks off"),
        (KIND, b"not a form at all", 400, "cannot be read"),
        (KIND, form([(f"{n}", b"") for n in range(4)])[0], 413, "more than 3 files"),
    ],
)
def test_anything_else_is_refused_with_a_reason(kind, body, status, says):
    result, text = refused(kind, body)
    assert result == status
    assert says in text


@pytest.mark.parametrize("tiny", [b'""', b"1", b"{}", b'{"a":1,"b":2}'])
def test_countless_values_are_refused_before_they_are_read(tiny, monkeypatch):
    monkeypatch.setattr(ImagesBody, "model_validate_json", lambda body: pytest.fail("it was read"))
    body = b'{"images": [' + b",".join([tiny] * 10_000) + b"]}"
    assert refused("application/json", body)[0] == 413


def test_a_refusal_does_not_repeat_a_long_name():
    body = json.dumps({"a" * 100_000: 1}).encode()
    assert len(refused("application/json", body)[1]) < 300


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_problem(body):
    for kind in (KIND, "application/json", "multipart/form-data; boundary=x"):
        with suppress(HttpProblem):
            read_files(kind, body, LIMITS)


def test_a_length_of_thousands_of_digits_is_just_large():
    assert parse_length("12") == 12
    assert parse_length("9" * 5000) > 10**20
