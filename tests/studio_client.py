"""A studio with the real flow behind it, asked as its page asks."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager

from server_client import form, live
from warmstart_studio.app import Keys
from warmstart_studio.studio import StudioOptions, application, open_project


def nothing(event):
    """Shows no event."""


def open_studio(place, data=None):
    """A studio on `place`, as its page sees it."""
    return open_as(place, data=data and str(data))


@contextmanager
def open_as(place, **asked):
    """The same, opened as is asked."""
    project, _ = open_project(StudioOptions(out=place, **asked), nothing)
    app, close = application(project, "lite0", Keys("secret", "session"), 1)
    try:
        with live(app) as server:
            try:
                yield Page(server.port, "studio-1=session", project, server)
            finally:
                close()
    finally:
        project.close()


class Page:
    """Asks a studio as its page does."""

    def __init__(self, port, cookie, project=None, server=None):
        self.port, self.cookie, self.project, self.server = port, cookie, project, server

    def ask(self, method, path, body=None, kind="application/json"):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body)
        link.request(method, path, body, {"cookie": self.cookie, "content-type": kind})
        answer = link.getresponse()
        content = answer.read()
        link.close()
        is_json = "json" in (answer.getheader("content-type") or "")
        return answer.status, json.loads(content) if is_json else content

    def get(self, path):
        status, found = self.ask("GET", f"/api/{path}")
        assert status == 200, found
        return found

    def post(self, path, value=None):
        status, found = self.ask("POST", f"/api/{path}", value or {})
        assert status in (200, 202), found
        return found

    def add(self, label, *files):
        body, kind = form(files)
        return self.ask("POST", f"/api/pictures?label={label}", body, kind)[1]

    def tried(self, payload):
        """The newest model's answer to a picture."""
        body, kind = form([("new.png", payload)])
        status, found = self.ask("POST", "/api/predict", body, kind)
        assert status == 200, found
        return found

    def wait(self, *states, seconds=120):
        until = time.monotonic() + seconds
        while (work := self.get("board")["work"])["state"] not in states:
            assert time.monotonic() < until, work
            assert work["state"] != "failed", work
            time.sleep(0.05)
        return work

    def until(self, happens, seconds=120):
        until = time.monotonic() + seconds
        while not happens(self.get("board")):
            assert time.monotonic() < until
            time.sleep(0.05)

    def learn(self, **asked):
        self.post("fit", asked)
        return self.wait("idle")


def started(place, *words):
    """A studio as a command; the process and the address it prints."""
    command = [sys.executable, "-m", "warmstart", "studio", *map(str, words), "--out", str(place)]
    command += ["--port", "0", "--no-open", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, json.loads(process.stdout.readline())["url"]


def entered(place, *words):
    """The same with its page, the token in the address changed for a cookie as browsers do."""
    process, url = started(place, *words)
    port, path = re.search(r":(\d+)(/.*)", url).groups()
    link = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    link.request("GET", path)
    cookie = link.getresponse().getheader("set-cookie").partition(";")[0]
    link.close()
    return process, Page(int(port), cookie)


def predicted(home, model, picture):
    """The answer of a downloaded model.zip in a process of its own."""
    zipfile.ZipFile(model).extractall(home / "home")
    (run,) = (home / "home").iterdir()
    command = [sys.executable, "-m", "warmstart", "predict", str(run), str(picture), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["label"]
