"""Hosts, foreign pages and tokens."""

from __future__ import annotations

import pytest

from warmstart.errors import UsageError
from warmstart.serving.access import LOCAL, OPEN, Access, access_for, host_name
from warmstart.serving.app import FILES


def refused(access, path="/labels", **headers):
    result = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    problem = access.refuse(path, result)
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
        ("http://127.0.0.1:8000", None),
        ("http://localhost:3000", None),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_pages_of_other_hosts_may_not_ask(origin, status):
    access = access_for("127.0.0.1", None)
    assert refused(access, host="127.0.0.1", origin=origin) == status


def test_a_page_of_another_number_may_not_ask_an_open_server():
    access = access_for("0.0.0.0", None, ["models.example.org"])
    for origin, status in (
        ("http://192.168.0.7:8000", None),
        ("http://models.example.org", None),
        ("http://203.0.113.9", 403),
        ("http://[2001:db8::1]", 403),
    ):
        assert refused(access, host="192.168.0.7:8000", origin=origin) == status


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer secret", None),
        ("bearer secret", None),
        ("Bearer  secret ", None),
        ("Bearer secre", 401),
        ("Bearer secrets", 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("Bearer", 401),
        ("", 401),
        ("Bearer sécret", 401),
    ],
)
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


# What names another host to some reader, or no host at all.
ODD_HOSTS = [
    "127.0.0.1:80@evil.example",
    "127.0.0.1@evil.example",
    "user:pass@127.0.0.1",
    "127.0.0.1:80:80",
    "127.0.0.1:x",
    "127.0.0.1:-1",
    "127.0.0.1:+80",
    "127.0.0.1:99999",
    "127.0.0.1:8000000000",
    "127.0.0.1: 80",
    "127.0.0.1 :80",
    "127.0.0.1\t",
    "127.0.0.1 evil",
    "127.0.0.1,evil.example",
    "127.0.0.1/evil.example",
    "127.0.0.1#evil.example",
    "127.0.0.1?evil.example",
    "127.0.0.1\\evil.example",
    "127.0.0.1\x00",
    "127.0.0.1%00",
    "127.0.0.1..",
    "localhost..",
    ".localhost",
    "127.0.0.1.",
    "localhost.",
    "localhost.:80",
    "http://127.0.0.1",
    "//127.0.0.1",
    "127.1",
    "127.0.0.01",
    "2130706433",
    "0x7f.0.0.1",
    "127.0.0.1.nip.example",
    "::1",
    "::1:8000",
    "[::1",
    "::1]",
    "[[::1]]",
    "[::1]80",
    "[::1]:x",
    "[::1]evil",
    "[::1%25lo]",
    "[::1%lo]",
    "[127.0.0.1]",
    "[localhost]",
    "[v1.x]",
    "[]",
    "[]:80",
    "[::ffff:127.0.0.1]",
    "localhost:80\x7f",
    "l\xf6calhost",
    "\xb9\xb2\xb7.0.0.1",
    "",
    " ",
    ":80",
]


@pytest.mark.parametrize("host", ODD_HOSTS)
@pytest.mark.parametrize("kind", ["local", "named", "studio"])
def test_a_host_that_is_not_written_as_one_is_refused(host, kind):
    access = {
        "local": access_for("127.0.0.1", None),
        "named": access_for("127.0.0.1", None, ["models.example.org"]),
        "studio": Access(hosts=LOCAL, is_strict=True),
    }[kind]
    assert refused(access, host=host) in (400, 421)
    if kind != "studio":
        assert refused(access, host="127.0.0.1", origin=f"http://{host}") == 403


@pytest.mark.parametrize("host", [one for one in ODD_HOSTS if one != "[::ffff:127.0.0.1]"])
def test_nor_does_a_server_that_is_open_to_others_take_it(host):
    assert refused(access_for("0.0.0.0", None), host=host) in (400, 421)


def test_two_hosts_are_none_whichever_comes_first():
    access = access_for("127.0.0.1", None)
    for pair in (("evil.example", "127.0.0.1"), ("127.0.0.1", "evil.example"), ("localhost",) * 2):
        problem = access.refuse("/labels", [(b"host", one.encode()) for one in pair])
        assert problem.status == 400
        assert str(problem) == "the request names 2 hosts"


def test_nor_may_a_request_come_from_two_pages():
    access = access_for("127.0.0.1", None)
    for pair in (("http://127.0.0.1", "https://evil.example"), ("http://127.0.0.1",) * 2):
        headers = [(b"host", b"127.0.0.1"), *((b"origin", one.encode()) for one in pair)]
        assert access.refuse("/labels", headers).status == 403


@pytest.mark.parametrize(
    "origin",
    ["ftp://127.0.0.1", "http://127.0.0.1/", "http://a@127.0.0.1", "127.0.0.1", "http:///"],
)
def test_a_page_says_where_it_is_from_in_one_way(origin):
    assert refused(access_for("127.0.0.1", None), host="127.0.0.1", origin=origin) == 403


def test_a_number_is_the_same_however_it_is_written():
    assert host_name("[0:0:0:0:0:0:0:1]:8000") == "::1"
    assert host_name("127.0.0.1:") == "127.0.0.1"


@pytest.mark.parametrize("name", ["models.example.org:x", "http://models.example.org", "a b", ""])
def test_a_name_to_answer_to_must_be_one(name):
    with pytest.raises(UsageError, match="is not a host name"):
        access_for("0.0.0.0", None, [name])
