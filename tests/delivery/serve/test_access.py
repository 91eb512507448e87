"""Hosts, foreign pages and tokens."""

from __future__ import annotations

import pytest

from warmstart.delivery.serve.access import OPEN, access_for, host_name
from warmstart.delivery.serve.pages import FILES


def refused(access, path="/labels", **headers):
    found = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    problem = access.refuse(path, found)
    return None if problem is None else problem.status


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "LOCALHOST:80", "[::1]:8000"])
def test_a_local_server_answers_to_its_own_names(host):
    assert refused(access_for("127.0.0.1", None), host=host) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "192.168.0.7", "127.0.0.1.evil.example", "0"]
)
def test_and_to_no_other(host):
    assert refused(access_for("127.0.0.1", None), host=host) == 421


@pytest.mark.parametrize("host", ["", " ", ":8000", "[::1", "[]:80"])
def test_a_request_must_name_its_host(host):
    assert refused(access_for("127.0.0.1", None), host=host) == 400


def test_without_a_host_header_it_is_refused():
    assert refused(access_for("127.0.0.1", None)) == 400


def test_an_open_server_takes_numbers_and_the_names_it_was_given():
    access = access_for("0.0.0.0", None, ["Models.example.org"])
    assert refused(access, host="192.168.0.7:8000") is None
    assert refused(access, host="models.example.org") is None
    assert refused(access, host="evil.example") == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8000", None), ("http://localhost:3000", None),
        ("https://evil.example", 403), ("null", 403), ("http://[", 403), ("", 403),
    ],
)  # fmt: skip
def test_pages_of_other_hosts_may_not_ask(origin, status):
    access = access_for("127.0.0.1", None)
    assert refused(access, host="127.0.0.1", origin=origin) == status


def test_a_page_of_another_number_may_not_ask_an_open_server():
    access = access_for("0.0.0.0", None, ["models.example.org"])
    for origin, status in (
        ("http://192.168.0.7:8000", None), ("http://models.example.org", None),
        ("http://203.0.113.9", 403), ("http://[2001:db8::1]", 403),
    ):  # fmt: skip
        assert refused(access, host="192.168.0.7:8000", origin=origin) == status


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer secret", None), ("bearer secret", None), ("Bearer  secret ", None),
        ("Bearer secre", 401), ("Bearer secrets", 401), ("Basic secret", 401), ("secret", 401),
        ("Bearer", 401), ("", 401), ("Bearer sécret", 401),
    ],
)  # fmt: skip
def test_a_token_is_asked_for(given, status):
    access = access_for("127.0.0.1", "secret")
    assert refused(access, host="127.0.0.1", authorization=given) == status


def test_the_page_and_the_probes_need_no_token_and_nothing_else_goes_without():
    access = access_for("127.0.0.1", "secret")
    for path in OPEN:
        assert refused(access, path, host="localhost") is None
    for path in ("/predict", "/labels", "/metadata", "/metrics", "/examples/0/thumbnail", "//"):
        assert refused(access, path, host="localhost") == 401
    assert set(FILES) <= OPEN


def test_a_name_is_compared_without_its_dot_and_port():
    assert host_name("localhost.:8000") == "localhost"
