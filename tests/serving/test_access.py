"""Hosts, foreign pages and tokens."""

from __future__ import annotations

import pytest

from warmstart.errors import UsageError
from warmstart.serving.access import LOCAL, OPEN, Access, access_for, host_name
from warmstart.serving.app import FILES

SERVERS = {
    "local": access_for("127.0.0.1", None),
    "named": access_for("127.0.0.1", None, ["models.example.org"]),
    "open": access_for("0.0.0.0", None, ["Models.example.org"]),
    "token": access_for("127.0.0.1", "secret"),
    "studio": Access(hosts=LOCAL, is_strict=True),
}


def refused(access, path="/labels", **headers):
    """The status of a refusal; a list is a header that is sent more than once."""
    pairs = [
        (name.encode(), one.encode("latin-1"))
        for name, value in headers.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    problem = access.refuse(path, pairs)
    return None if problem is None else problem.status


@pytest.mark.parametrize(
    ("server", "status", "hosts"),
    [
        ("local", None, "127.0.0.1 127.0.0.1:8000 LOCALHOST:80 [::1]:8000"),
        ("local", 421, "evil.example evil.example:8000 192.168.0.7 127.0.0.1.evil.example 0"),
        ("local", 400, ":8000 [::1 []:80"),
        ("open", None, "192.168.0.7:8000 models.example.org"),
        ("open", 421, "evil.example"),
    ],
)
def test_a_server_answers_to_its_own_names_and_to_no_other(server, status, hosts):
    for host in hosts.split():
        assert refused(SERVERS[server], host=host) == status, host
    assert refused(SERVERS[server]) == refused(SERVERS[server], host="") == 400
    pairs = (["evil.example", "127.0.0.1"], ["127.0.0.1", "evil.example"], ["localhost"] * 2)
    assert {refused(SERVERS[server], host=pair) for pair in pairs} == {400}


@pytest.mark.parametrize(
    ("server", "host", "status", "origins"),
    [
        ("local", "127.0.0.1", None, "http://127.0.0.1:8000 http://localhost:3000"),
        ("local", "127.0.0.1", 403, "https://evil.example null http://[ ftp://127.0.0.1"),
        ("local", "127.0.0.1", 403, "http://127.0.0.1/ http://a@127.0.0.1 127.0.0.1 http:///"),
        ("open", "192.168.0.7:8000", None, "http://192.168.0.7:8000 http://models.example.org"),
        ("open", "192.168.0.7:8000", 403, "http://203.0.113.9 http://[2001:db8::1]"),
        ("studio", "127.0.0.1:1", None, "http://127.0.0.1:1"),
        ("studio", "127.0.0.1:1", 403, "http://127.0.0.1:2 http://localhost:1"),
    ],
)
def test_pages_of_other_hosts_may_not_ask(server, host, status, origins):
    for origin in origins.split():
        assert refused(SERVERS[server], host=host, origin=origin) == status, origin
    own = f"http://{host}"
    for pair in ([own, "https://evil.example"], [own] * 2, ""):
        assert refused(SERVERS[server], host=host, origin=pair) == 403


@pytest.mark.parametrize(
    ("status", "values"),
    [
        (None, ["Bearer secret", "bearer secret", "Bearer  secret "]),
        (401, ["Bearer secre", "Bearer secrets", "Basic secret", "secret"]),
        (401, ["Bearer", "", "Bearer sécret"]),
    ],
)
def test_a_token_is_needed(status, values):
    for value in values:
        assert refused(SERVERS["token"], host="127.0.0.1", authorization=value) == status, value


def test_the_page_and_the_probes_need_no_token_and_nothing_else_goes_without():
    for path in OPEN:
        assert refused(SERVERS["token"], path, host="localhost") is None
    for path in ("/predict", "/labels", "/metadata", "/metrics", "/examples/0/thumbnail", "//"):
        assert refused(SERVERS["token"], path, host="localhost") == 401
    assert set(FILES) <= OPEN


# What names another host to some reader, or no host at all.
ODD = r"""
127.0.0.1:80@evil.example 127.0.0.1@evil.example user:pass@127.0.0.1 127.0.0.1:80:80 127.0.0.1:x
127.0.0.1:-1 127.0.0.1:+80 127.0.0.1:99999 127.0.0.1:8000000000 127.0.0.1,evil.example ::1
127.0.0.1/evil.example 127.0.0.1#evil 127.0.0.1?evil 127.0.0.1\evil.example 127.0.0.1%00 127.0.0.1..
localhost.. .localhost 127.0.0.1. localhost. localhost.:80 http://127.0.0.1 //127.0.0.1 127.1
127.0.0.01 2130706433 0x7f.0.0.1 127.0.0.1.nip.example ::1:8000 [::1 ::1] [[::1]] [::1]80 [::1]:x
[::1]evil [::1%25lo] [::1%lo] [127.0.0.1] [localhost] [v1.x] [] []:80 [::ffff:127.0.0.1]
"""
ODD_HOSTS = [
    *ODD.split(),
    *("127.0.0.1: 80", "127.0.0.1 :80", "127.0.0.1\t", "127.0.0.1 evil", "127.0.0.1\x00"),
    *("localhost:80\x7f", "l\xf6calhost", "\xb9\xb2\xb7.0.0.1", "", " ", ":80"),
]


@pytest.mark.parametrize("server", ["local", "named", "studio", "open"])
@pytest.mark.parametrize("host", ODD_HOSTS)
def test_a_host_that_is_not_written_as_one_is_refused(host, server):
    if server == "open" and host == "[::ffff:127.0.0.1]":
        return  # a number like any other
    assert refused(SERVERS[server], host=host) in (400, 421)
    if server in ("local", "named"):
        assert refused(SERVERS[server], host="127.0.0.1", origin=f"http://{host}") == 403


def test_a_number_is_the_same_however_it_is_written():
    assert host_name("[0:0:0:0:0:0:0:1]:8000") == "::1"
    assert host_name("127.0.0.1:") == "127.0.0.1"


@pytest.mark.parametrize("name", ["models.example.org:x", "http://models.example.org", "a b", ""])
def test_a_name_to_answer_to_must_be_one(name):
    with pytest.raises(UsageError, match="is not a host name"):
        access_for("0.0.0.0", None, [name])
