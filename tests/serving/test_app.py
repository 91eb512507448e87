"""The application behind a real server on loopback: answers, refusals, limits."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from server_client import ODD_HEADS, alive, answer_plain, plain, png, read_all, wait_until
from warmstart.serving.model import ServedPicture, UnreadableInput

GREEN, RED = png((0, 200, 0)), png((200, 0, 0))
SENT = ("a.png", RED)
PROBLEM = "application/problem+json"
POSTED = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def server():
    with alive() as running:
        yield running


@contextmanager
def held(**limits):
    """A server whose answers wait for an event; another is set when the first is begun."""
    gate, begun = threading.Event(), threading.Event()

    def slow(pictures):
        begun.set()
        gate.wait(30)
        return answer_plain(pictures)

    with alive(plain(answer=slow), **limits) as server:
        yield server, gate, begun


def check_problem(got, status):
    """RFC 9457: its own media type, the status within, a reason for people."""
    assert (got.status, got.headers["content-type"]) == (status, PROBLEM)
    content = got.json
    assert content["status"] == status
    assert {"type", "title", "detail"} <= content.keys()
    assert "\n" not in content["detail"]
    return content["detail"]


# ---- Answers.


def test_one_answer_an_image_in_order(server):
    got = server.send(("a.png", GREEN), ("b.png", RED), ("c.txt", b"dear"))
    assert got.status == 200
    first, second, third = got.json["answers"]
    assert (first["name"], first["label"]) == ("a.png", "green")
    assert first["words"] == "green, fairly confident"
    assert second["label"] == "red"
    assert second["nearest"] == [{"index": 0, "label": "red"}]
    assert (third["label"], third["error"]) == (None, "c.txt is not an image")


def test_what_it_tells_of_itself(server):
    assert server.ask("GET", "/labels").json == {"labels": ["blue", "green", "red"]}
    assert server.ask("GET", "/metadata").json == {"name": "colours"}
    assert server.ask("GET", "/health").json == {"status": "alive"}
    assert server.ask("GET", "/ready").json == {"status": "ready"}


def test_a_heat_map(server):
    got = server.send(SENT, path="/explain")
    assert got.json["grid"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert got.json["words"] == "With the highlighted region covered, red falls from 90 % to 40 %."
    check_problem(server.send(SENT, SENT, path="/explain"), 422)
    check_problem(server.send(("a.txt", b"dear"), path="/explain"), 422)


def test_a_thumbnail_by_its_number_alone(server):
    got = server.ask("GET", "/examples/0/thumbnail")
    assert (got.body, got.headers["content-type"]) == (b"jpeg", "image/jpeg")
    check_problem(server.ask("GET", "/examples/1/thumbnail"), 404)
    for number in ("-1", "a.png", "0x0", "1e3", "9" * 30, "%00"):
        check_problem(server.ask("GET", f"/examples/{number}/thumbnail"), 422)


def test_metrics_count_what_happened(server):
    before = server.number('warmstart_images_total{outcome="confident"}')
    server.send(("a.png", GREEN), ("b.png", RED))
    assert server.number('warmstart_images_total{outcome="confident"}') == before + 2
    server.ask("GET", "/none-of-ours/" + "x" * 50)
    text = server.ask("GET", "/metrics").body.decode()
    assert 'path="/predict",status="200"' in text
    assert 'path="other",status="404"' in text
    assert "none-of-ours" not in text
    assert server.number("warmstart_queue_images ") == 0
    assert server.number("process_resident_memory_bytes") > 1e6


def test_every_answer_protects_the_page(server):
    asked = (("GET", "/"), ("GET", "/nowhere"), ("PUT", "/predict"))
    answers = [server.ask(*words) for words in asked]
    for got in (*answers, server.send(("a", b"")), server.ask("GET", "/", Host="evil.example")):
        assert "default-src 'none'" in got.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in got.headers["content-security-policy"]
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cache-control"]


def test_a_bug_is_a_problem_with_its_headers_and_the_server_lives(caplog):
    def broken(pictures):
        raise ZeroDivisionError

    with alive(plain(answer=broken)) as server:
        got = server.send(SENT)
        assert "bug" in check_problem(got, 500)
        assert got.headers["x-content-type-options"] == "nosniff"
        assert server.ask("GET", "/health").status == 200
    assert "ZeroDivisionError" in caplog.text


# ---- Refusals.


def test_unreadable_images_are_named(server):
    assert check_problem(server.send(("a.txt", b"dear")), 422) == "a.txt is not an image"
    got = server.send(("a.txt", b"dear"), ("b.txt", b""))
    assert check_problem(got, 422) == "none of 2 images could be read"
    assert [one["name"] for one in got.json["images"]] == ["a.txt", "b.txt"]


def test_too_many_pixels_is_another_status():
    large = plain(decode=lambda payload, name: UnreadableInput(name, "too many pixels", True))
    with alive(large) as server:
        check_problem(server.send(SENT), 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("PUT", "/predict", 405),
        ("DELETE", "/labels", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/predict/", 404),
        ("GET", "//etc/passwd", 404),
        ("OPTIONS", "/predict", 405),
        ("BREW", "/", 405),
        ("GET", "/page", 404),
    ],
)
def test_what_is_not_there_is_a_problem(server, method, path, status):
    got = server.ask(method, path)
    check_problem(got, status)
    assert status != 405 or got.headers["allow"]


PATHS = (
    *("/../../../../etc/passwd", "/..%2f..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd"),
    *("/page.css/../../../etc/passwd", "/examples/../../etc/passwd/thumbnail"),
    *("/examples/..%2f..%2fetc%2fpasswd/thumbnail", "/examples/%2e%2e/thumbnail"),
    *("/examples//etc/passwd/thumbnail", "/examples/0%00.jpg/thumbnail", "/\\..\\etc"),
    *("/docs/../../etc/passwd", "/examples/0/thumbnail/../../../../etc/passwd"),
    "/%5c..%5c..%5cetc%5cpasswd",
)


def test_no_path_leads_out(server):
    for path in PATHS:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        answer = server.raw(head.encode())
        assert re.match(rb"HTTP/1.1 4\d\d ", answer), path
        assert b"root:" not in answer
    assert server.ask("GET", "/health").status == 200


def test_foreign_hosts_and_pages_are_refused(server):
    check_problem(server.ask("GET", "/labels", Host="evil.example"), 421)
    check_problem(server.ask("POST", "/predict", b"", Origin="https://evil.example"), 403)
    got = server.raw(b"GET /labels HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400 ")


def test_hosts_that_two_readers_read_differently_are_refused(server):
    for head in ODD_HEADS:
        asked = f"GET /labels HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n"
        status = server.raw(asked.encode("latin-1"))[:13]
        assert status in (b"HTTP/1.1 400 ", b"HTTP/1.1 421 "), head
    for target in ("http://evil.example/labels", "evil.example:80", "*"):
        asked = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert re.match(rb"HTTP/1.1 4\d\d ", server.raw(asked.encode())), target
    for payload in (b"\x00" * 50, b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02"):
        server.raw(payload + b"\r\n\r\n")  # no HTTP at all
    assert server.ask("GET", "/health").status == 200


def test_a_token_is_needed_where_there_is_one():
    with alive(token="secret") as server:
        got = server.ask("GET", "/labels")
        check_problem(got, 401)
        assert got.headers["www-authenticate"].startswith("Bearer")
        check_problem(server.send(SENT), 401)
        check_problem(server.ask("GET", "/metrics", Authorization="Bearer wrong"), 401)
        assert server.send(SENT, Authorization="Bearer secret").status == 200
        assert server.ask("GET", "/").status == server.ask("GET", "/health").status == 200
        described = server.ask("GET", "/openapi.json").body.decode()
        assert "HTTPBearer" in described
        assert '"401"' in described
        assert "colours" not in described


# ---- Limits.


@pytest.mark.parametrize("path", ["/predict", "/explain"])
@pytest.mark.parametrize("line", ["Content-Type: text/html", "Content-Encoding: gzip", "X: 1"])
def test_a_body_of_another_kind_is_refused_by_its_head(server, path, line):
    """Nothing of it is sent: who waited for it would not answer. A gigabyte neither."""
    kind = "" if line.startswith(("Content-Type", "X")) else "Content-Type: image/png\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}{line}\r\nContent-Length: 9\r\n\r\n"
    large = POSTED.replace(b"/predict", path.encode()) + b"Content-Length: 1000000000\r\n\r\n"
    for sent, status in ((head.encode(), b" 415 "), (large, b" 413 ")):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
            link.sendall(sent)
            assert status in link.recv(65536)


def test_a_body_without_an_end_is_refused_once_it_is_too_long():
    """A gigabyte in pieces: the server reads little more than its limit, answers and closes."""
    sent, piece = 0, b"x" * 65536
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    head = POSTED + b"Transfer-Encoding: chunked\r\n\r\n"
    with alive(body_bytes=500_000) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
            link.sendall(head)
            link.settimeout(0.01)
            answer = b""
            while sent < 1_000_000_000 and not answer:
                link.setblocking(True)
                link.sendall(chunk)
                sent += len(piece)
                link.settimeout(0.001)
                try:
                    answer = link.recv(65536)
                except TimeoutError:
                    continue
        assert b" 413 " in answer
        assert sent < 20_000_000  # what lay in the buffers between us besides
        assert server.ask("GET", "/health").status == 200


def test_bodies_together_are_bounded():
    half = POSTED + b"Content-Length: 60000\r\n\r\n" + b"x" * 50000
    picture = {"body": b"x" * 60_000, "content_type": "image/png"}
    with alive(held_bytes=100_000) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as link:
            link.sendall(half)
            wait_until(lambda: server.ask("POST", "/predict", **picture).status == 503)
            got = server.ask("POST", "/predict", **picture)
            check_problem(got, 503)
            assert int(got.headers["retry-after"]) > 0
        wait_until(lambda: server.ask("POST", "/predict", **picture).status == 422)


def test_a_body_that_drips_is_given_up():
    head = POSTED + b"Content-Length: 100\r\n\r\nx"
    with alive(body_s=0.3) as server:
        assert b" 408 " in server.raw(head)
        assert server.ask("GET", "/health").status == 200


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: loc"])
def test_a_head_that_drips_is_cut_off(begun):
    """Slow loris: many connections that never say what they want."""
    with alive(head_s=0.4) as server:
        links = [
            socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(40)
        ]
        for link in links:
            link.sendall(begun)
        assert server.ask("GET", "/health").status == 200
        assert [read_all(link) for link in links] == [b""] * 40
        for link in links:
            link.close()


def test_a_drip_on_a_connection_that_was_used_before_is_cut_off():
    with alive(head_s=0.4, idle_s=0.4) as server:
        got = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert got.count(b"HTTP/1.1 200") == 1


def test_connections_are_bounded():
    with alive(connections=5, head_s=20) as server:
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(5)]
        wait_until(lambda: len(server.server.server_state.connections) == 5)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one_more:
            assert read_all(one_more) == b""
        for link in held:
            link.close()
        wait_until(lambda: not server.server.server_state.connections)
        assert server.ask("GET", "/health").status == 200


def test_a_full_queue_is_announced():
    with held(queue=3, batch=1) as (server, gate, begun), ThreadPoolExecutor(3) as many:
        waiting = [many.submit(server.send, SENT) for _ in range(3)]
        begun.wait(20)
        wait_until(lambda: server.number("warmstart_queue_images ") == 3)
        got = server.send(("b.png", RED))
        check_problem(got, 503)
        assert 1 <= int(got.headers["retry-after"]) <= 60
        check_problem(server.ask("GET", "/ready"), 503)
        assert server.ask("GET", "/health").status == 200
        gate.set()
        assert [one.result().status for one in waiting] == [200] * 3
        assert server.ask("GET", "/ready").status == 200


def test_an_answer_that_takes_too_long_is_a_problem():
    with held(answer_s=0.3) as (server, gate, _):
        check_problem(server.send(SENT), 503)
        check_problem(server.ask("GET", "/ready"), 503)  # a forward pass hangs
        gate.set()
        wait_until(lambda: server.send(SENT).status == 200)


def test_what_is_inside_is_answered_before_it_stops():
    with held(batch=2) as (server, gate, _), ThreadPoolExecutor(6) as many:
        waiting = [many.submit(server.send, SENT) for _ in range(6)]
        wait_until(lambda: server.number("warmstart_queue_images ") == 6)
        server.server.should_exit = True
        wait_until(lambda: not can_connect(server.port))
        gate.set()
        assert [one.result().status for one in waiting] == [200] * 6


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_decoding_large_pictures_does_not_hold_up_the_rest():
    """The event loop answers while every decoder is at work."""
    gate = threading.Event()

    def slow(payload, name):
        gate.wait(30)
        return UnreadableInput(name, "late")

    with alive(plain(decode=slow)) as server, ThreadPoolExecutor(8) as many:
        waiting = [many.submit(server.send, SENT) for _ in range(8)]
        busy = min(os.cpu_count() or 1, 4)
        wait_until(lambda: server.number("warmstart_queue_images ") >= busy)
        assert server.ask("GET", "/labels").status == 200
        gate.set()
        assert {one.result().status for one in waiting} == {422}


# ---- Description.


def schema_of(described, path, kind):
    return described["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]


def test_the_description_names_every_route_its_errors_and_what_a_body_must_hold(server):
    described = server.ask("GET", "/openapi.json").json
    assert sorted(described["paths"]) == [
        *("/examples/{index}/thumbnail", "/explain", "/health", "/labels", "/metadata"),
        *("/metrics", "/predict", "/ready"),
    ]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)):
        assert name in described["components"]["schemas"]
    for path, most in (("/predict", 32), ("/explain", 1)):
        assert {"413", "422", "503"} <= described["paths"][path]["post"]["responses"].keys()
        body = described["paths"][path]["post"]["requestBody"]
        assert body["required"] is True
        kinds = {"multipart/form-data", "application/json", "application/octet-stream"}
        assert set(body["content"]) == kinds | {"image/*", "audio/*"}
        sent = schema_of(described, path, "application/json")
        assert sent["oneOf"] == [{"required": ["image"]}, {"required": ["images"]}]
        assert sent["additionalProperties"] is False
        images = sent["properties"]["images"]
        assert (images["minItems"], images["maxItems"]) == (1, most)
        assert schema_of(described, path, "multipart/form-data")["required"] == ["file"]


@pytest.mark.parametrize(
    ("kind", "name"), [("image", "image"), ("audio", "image"), ("text", "text"), ("table", "row")]
)
def test_each_content_type_of_the_description_is_taken_and_no_other(kind, name):
    with alive(plain(kind=kind)) as server:
        described = server.ask("GET", "/openapi.json").json
        content = described["paths"]["/predict"]["post"]["requestBody"]["content"]
        for one in content:
            got = server.ask("POST", "/predict", b"x", content_type=one.replace("*", "x"))
            assert got.status in (200, 400, 422), one
        for one in {"image/png", "text/plain", "text/csv", "text/html", "application/xml"}:
            if not {one, one.split("/")[0] + "/*"} & set(content):
                assert server.ask("POST", "/predict", b"x", content_type=one).status == 415
        example = {} if name == "row" else "aa"
        both = json.dumps({name: example, f"{name}s": [example]})
        got = server.ask("POST", "/predict", both, content_type="application/json")
        assert check_problem(got, 422) == f"send {name} or {name}s, not both"


def decode_any(payload, name):
    """A text, or a row of a table, as a picture."""
    return ServedPicture(name, np.full((2, 2, 3), len(payload) % 256, np.uint8), (0, 0, 1, 1))


CONFORMING = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance", "unsupported_method"),
    *("allow_header_conformance", "ignored_auth"),
)


@pytest.mark.parametrize("token", [None, "secret"])
@pytest.mark.parametrize("kind", ["image", "text", "table"])
def test_bytes_of_chance_break_nothing(kind, token):
    """Every operation of the description, with inputs made of it and against it.

    What comes back is as the description says. Texts and rows that it allows are answered; bytes
    of chance are no image.
    """
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    named = {name: getattr(checks, name, not_a_server_error) for name in CONFORMING}
    if kind == "text":
        named["positive_data_acceptance"] = checks.positive_data_acceptance
    served = plain(kind=kind) if kind == "image" else plain(kind=kind, decode=decode_any)
    settings = hypothesis.settings(
        max_examples=12,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    seen, modes = set(), schemathesis.GenerationMode
    with alive(served, token=token) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for result in schema.get_all_operations():
            for mode in (modes.POSITIVE, modes.NEGATIVE):
                operation = result.ok()

                @settings
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def check(case):
                    response = case.call(timeout=30, headers=headers)
                    case.validate_response(response, checks=list(named.values()), headers=headers)
                    seen.add((case.operation.path, response.status_code))

                with suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong with it
                    check()
        assert {path for path, _ in seen} == set(server.ask("GET", "/openapi.json").json["paths"])
        assert (kind == "image") or ("/predict", 200) in seen
        assert server.ask("GET", "/ready").status == 200
