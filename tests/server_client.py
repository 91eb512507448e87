"""A server on loopback for tests, and the plainest client that can talk to it."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from warmstart.records.answer import Answer
from warmstart.serving import running
from warmstart.serving.access import access_for
from warmstart.serving.app import make_app
from warmstart.serving.model import Heat, ServedModel, ServedPicture, ServerLimits, UnreadableInput


@dataclass(frozen=True)
class Got:
    """One answer."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Live:
    """A server that runs; `port` on 127.0.0.1."""

    port: int
    server: running.Server = field(repr=False)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, body=None, **headers):
        """One request on a connection of its own; header names with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Got(response.status, headers, response.read())
        finally:
            connection.close()

    def send(self, *files, path="/predict", **headers):
        """Files (name, bytes) as a form."""
        body, kind = form(files)
        return self.ask("POST", path, body, content_type=kind, **headers)

    def raw(self, payload, timeout=30):
        """Bytes in, all bytes out until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as link:
            link.sendall(payload)
            return read_all(link)

    def number(self, name, **headers):
        """The value of one line of /metrics."""
        lines = self.ask("GET", "/metrics", **headers).body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def read_all(link):
    """What comes until the other side closes, or resets what it had refused."""
    found = b""
    try:
        while chunk := link.recv(65536):
            found += chunk
    except ConnectionResetError:
        pass
    return found


def form(files):
    """A multipart body and its content type."""
    edge, lines = "edge-of-a-part", []
    for name, payload in files:
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        lines += [f"--{edge}", head, "Content-Type: image/png", "", payload]
    lines += [f"--{edge}--", ""]
    encoded = (line if isinstance(line, bytes) else line.encode() for line in lines)
    return b"\r\n".join(encoded), f"multipart/form-data; boundary={edge}"


def png(colour=(200, 30, 30), size=(20, 20)):
    """A picture of one colour."""
    made = io.BytesIO()
    Image.new("RGB", size, colour).save(made, "PNG")
    return made.getvalue()


# Heads of a request whose host one reader takes for this computer and another does not.
ODD_HEADS = (
    "Host: 127.0.0.1:80@evil.example",
    "Host: evil.example@127.0.0.1",
    "Host: 127.0.0.1 :80",
    "Host: 127.0.0.1\r\nHost: evil.example",
    "Host: evil.example\r\nHost: 127.0.0.1",
    "Host: 127.0.0.1\r\nhost: 127.0.0.1",
    "Host : 127.0.0.1",
    "Host: 127.0.0.1,evil.example",
    "Host: localhost.",
    "Host: [::1%25lo]",
    "Host: [::1]evil",
    "Host: 127.0.0.1:99999",
    "Host:",
    "X: 1",
    "Host: 127.0.0.1\r\n evil.example",
    "Host: \xa0127.0.0.1",
)


@contextmanager
def live(app, limits=None, patience=30):
    """The app behind a real uvicorn, in a thread; `patience`: seconds until it must have ended."""
    limits = limits or ServerLimits()
    taken = running.bind("127.0.0.1", 0)
    up = threading.Event()
    server = running.Server(app, limits, up.set, lambda: None)
    thread = threading.Thread(target=running.run, args=(server, taken), daemon=True)
    thread.start()
    try:
        assert up.wait(30)
        yield Live(taken.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join(patience)
        taken.close()
        assert not thread.is_alive()


def plain(answer=None, decode=None, **changes):
    """A model of one line: the class is the strongest colour."""
    return ServedModel(
        **{
            "title": "colours",
            "labels": ("blue", "green", "red"),
            "metadata": {"name": "colours"},
            "decode": decode or decode_plain,
            "answer": answer or answer_plain,
            "explain": lambda picture: Heat("red", 0.9, 0.4, np.eye(3)),
            "index_of": {"a.png": 0}.get,
            "label_of": lambda index: "red",
            "thumbnail": lambda index: b"jpeg" if index == 0 else None,
            **changes,
        }
    )


def decode_plain(payload, name):
    try:
        with Image.open(io.BytesIO(payload)) as image:
            return ServedPicture(
                name, np.asarray(image.convert("RGB").resize((2, 2))), (0, 0, 1, 1)
            )
    except OSError:
        return UnreadableInput(name, f"{name} is not an image")


def answer_plain(pictures):
    return [answer_one(picture) for picture in pictures]


def answer_one(picture):
    best = ("red", "green", "blue")[int(picture.pixels.sum((0, 1)).argmax())]
    scores = {best: 0.9} | {name: 0.05 for name in ("blue", "green", "red") if name != best}
    return Answer(
        path=picture.name,
        label=best,
        probability=0.9,
        confident=True,
        ood=False,
        scores=scores,
        nearest=("a.png", "gone.png"),
    )


@contextmanager
def alive(served=None, token=None, **limits):
    """A plain model behind a server with these limits."""
    bound = ServerLimits(**limits)
    app = make_app(served or plain(), access_for("127.0.0.1", token), bound)
    with live(app, bound) as server:
        yield server


def wait_until(happens, seconds=20.0):
    """Wait for something that will happen."""
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.01)
