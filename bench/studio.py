"""The studio beside the command line: first verdict, fitting again, scrolling 5,000 images."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from bench import sets

SET = "trashnet"  # 1,000 pictures to learn from
MANY = 5000
CHROMIUM = "/usr/bin/chromium"
# Long tasks while the page scrolls from one end to the other and back, for some seconds.
SCROLL = """async () => {
  const long = [];
  new PerformanceObserver((list) => list.getEntries().forEach((one) => long.push(one.duration)))
    .observe({ type: "longtask", buffered: false });
  const panes = [document.scrollingElement, ...document.querySelectorAll("*")]
    .filter((one) => one.scrollHeight > one.clientHeight + 50);
  const began = performance.now();
  let frames = 0;
  while (performance.now() - began < 6000) {
    const at = Math.abs(Math.sin((performance.now() - began) / 900));
    for (const pane of panes) pane.scrollTop = at * (pane.scrollHeight - pane.clientHeight);
    await new Promise(requestAnimationFrame);
    frames += 1;
  }
  return { long, frames, panes: panes.length };
}"""


def add_options(parser: ArgumentParser) -> None:
    """--repeats."""
    parser.add_argument("--repeats", type=int, default=3)


def measure(options_: Namespace) -> dict[str, Any]:
    """Each from a cold cache; refits after 10 relabels; long tasks of the page."""
    data = sets.root(options_) / SET / "train"
    typed = [sets.fit(data, "--budget", "fast").seconds for _ in range(options_.repeats)]
    opened, first, again = [], [], []
    for _ in range(options_.repeats):
        with tempfile.TemporaryDirectory() as place, studio(Path(place), data) as page:
            opened.append(page.opened)
            first.append(page.learn())
            ids = [one["id"] for one in page.get("board")["pictures"]]
            classes = page.get("board")["classes"]
            for turn in range(3):
                for id in ids[10 * turn : 10 * turn + 10]:
                    page.post("label", {"ids": [id], "label": classes[turn]})
                again.append(page.learn())
    return {
        "summary": {
            "first verdict over the command line's": round(median(first) / median(typed), 3),
            "with its start and the copying": round(
                (median(opened) + median(first)) / median(typed), 3
            ),
            "learning again after 10 relabels, s": round(median(again), 2),
            **_scrolled(),
        },
        "rows": [{"command line": typed, "opened": opened, "first": first, "again": again}],
    }


@dataclass(frozen=True)
class Page:
    """Asks a studio as its page does. `opened`: seconds from the command to its address."""

    url: str
    opened: float

    def request(self, method: str, path: str, value: Any = None) -> Any:
        with self.requested(method, path, value) as answer:
            return json.loads(answer.read())

    @cached_property
    def cookie(self) -> str:
        """What the address is changed for."""
        link = HTTPConnection("127.0.0.1", self.port, timeout=120)
        link.request("GET", self.url.partition(str(self.port))[2])
        return str(link.getresponse().getheader("set-cookie")).partition(";")[0]

    @property
    def port(self) -> int:
        return int(re.search(r":(\d+)/", self.url)[1])  # type: ignore[index]

    @contextmanager
    def requested(self, method: str, path: str, value: Any = None) -> Iterator[HTTPResponse]:
        link = HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"cookie": self.cookie, "content-type": "application/json"}
        link.request(method, path, None if value is None else json.dumps(value), headers)
        try:
            yield link.getresponse()
        finally:
            link.close()

    def get(self, path: str) -> Any:
        return self.request("GET", f"/api/{path}")

    def post(self, path: str, value: Any) -> Any:
        return self.request("POST", f"/api/{path}", value)

    def learn(self) -> float:
        """Seconds from the button to the result; the page hears of its end, it does not ask."""
        with self.requested("GET", "/api/events") as events:
            events.readline()
            began = time.perf_counter()
            self.post("fit", {"budget": "fast"})
            while events.readline() != b"event: result\n":
                pass
        self.get("result")
        return round(time.perf_counter() - began, 2)


@contextmanager
def studio(place: Path, data: Path) -> Iterator[Page]:
    """A studio as a process of its own, with a cold cache."""
    env = os.environ | {"WARMSTART_CACHE": str(place / "cache")}
    command = [sys.executable, "-m", "warmstart", "studio", str(data), "--out", str(place / "s")]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", "0", "--no-open", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
        env=env,
    )
    try:
        output = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        yield Page(output["url"], round(time.perf_counter() - began, 2))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _scrolled() -> dict[str, Any]:
    """The longest task while 5,000 pictures are scrolled."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place:
        for number in range(MANY):
            home = Path(place) / "data" / f"class {number % 5}"
            home.mkdir(parents=True, exist_ok=True)
            colour = (number % 256, number // 256 * 12, 40 * (number % 5))
            Image.new("RGB", (160, 120), colour).save(home / f"{number:05}.jpg")
        with studio(Path(place), Path(place) / "data") as page, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            seen = browser.new_page(viewport={"width": 1400, "height": 900})
            began = time.perf_counter()
            seen.goto(page.url)
            seen.wait_for_selector("#board img", timeout=60_000)
            shown = time.perf_counter() - began
            result = seen.evaluate(SCROLL)
            browser.close()
    return {
        "5,000 pictures shown after, s": round(shown, 2),
        "longest task while they are scrolled, ms": round(max(result["long"], default=0.0)),
        "tasks above 200 ms": sum(one > 200 for one in result["long"]),
        "frames in 6 s": result["frames"],
    }
