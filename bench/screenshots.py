"""The pictures of README and docs, from real runs: `make pictures`.

Chromium shows the pages, rich draws what the commands print. Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text
from sklearn.datasets import load_digits

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
SIZE: ViewportSize = {"width": 1120, "height": 700}  # px of the window
SHOWN = 760  # px of the picture's width
FRAME_MS = 2200
DIGITS, PER_DIGIT = (3, 5, 8, 9), 40
LONG_MS = 100_000  # for a training
COLUMNS = 88  # of a terminal
# What the pictures of a terminal show: the name of the picture, the commands.
SESSIONS = {
    "check": ("check digits",),
    "rank": ("rank digits --models lite0,lite1",),
    "compare": ("compare digits --strategies head,last:4 --budget fast",),
    "dry-run": ("fit digits --strategy last:4 --dry-run",),
    "suggest": ("suggest runs/digits new --count 5",),
    "predict": ("predict runs/digits new/3-41.png new/8-44.png new/noise.png",),
    "evaluate": ("evaluate runs/digits later",),
    "export": ("export runs/digits --to onnx",),
    "audit": ("audit runs/digits later --train digits",),
}
WARMSTART = (sys.executable, "-m", "warmstart")


def main() -> None:
    """Write the pictures in docs/figures, all of scikit-learn's digits."""
    parser = argparse.ArgumentParser(prog="python -m bench.screenshots")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=args.chromium, args=["--no-sandbox", "--hide-scrollbars"]
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(LONG_MS)
        _draw_digits(Path(folder))
        _write("report", _report(page, Path(folder)))
        _write("studio", _studio(page, Path(folder)))
        _write("serve", _server(page, Path(folder)))
        browser.close()
        for name, commands in SESSIONS.items():
            _draw_session(name, commands, Path(folder))


def _draw_digits(folder: Path) -> None:
    """Scans of four digits as PNG files: digits/ and later/ by class, new/ in one folder.

    Two of digits/ have a wrong label, and one of new/ shows noise.
    """
    scans = load_digits()
    (folder / "new").mkdir()
    for digit in DIGITS:
        (folder / "digits" / str(digit)).mkdir(parents=True)
        (folder / "later" / str(digit)).mkdir(parents=True)
    for digit in DIGITS:
        for number, scan in enumerate(scans.images[scans.target == digit]):
            name = f"{digit}-{number:02}.png"
            if number < PER_DIGIT:
                label = DIGITS[0] if digit == DIGITS[1] and number < 2 else digit
                path = folder / "digits" / str(label) / name
            elif number < 2 * PER_DIGIT:
                path = folder / "new" / name
            else:
                path = folder / "later" / str(digit) / name
            _save(scan, path)
    _save(np.random.default_rng(0).integers(0, 17, (8, 8)), folder / "new" / "noise.png")


def _save(scan: NDArray[Any], path: Path) -> None:
    """A scan of 8 x 8 values from 0 to 16, enlarged."""
    pixels = np.rint(scan * 255 / 16).astype(np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)


def _report(page: Page, folder: Path) -> Iterator[bytes]:
    """The first screen of a report, then a screen for each of its headings."""
    fit = [*WARMSTART, "fit", "digits", "--budget", "fast", "--out", "runs/digits", "--quiet"]
    subprocess.run(fit, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    page.goto((folder / "runs" / "digits" / "report.html").as_uri())
    yield page.screenshot()
    height = page.evaluate("document.documentElement.scrollHeight")
    for heading in page.locator("h2").all()[:5]:
        place = heading.evaluate("(one) => one.getBoundingClientRect().top + scrollY")
        page.evaluate(f"scrollTo(0, {min(place - 12, height - SIZE['height'])})")
        yield page.screenshot()


def _studio(page: Page, folder: Path) -> Iterator[bytes]:
    """Pictures on the board, a training, its result."""
    words = ("studio", "digits", "--out", "studio", "--port", "0", "--no-open", "--json")
    with _running(folder, *words) as address:
        page.goto(address)
        page.wait_for_selector("#board:not([hidden])")
        page.wait_for_load_state("networkidle")
        yield page.screenshot()
        page.locator("#train").click()
        page.wait_for_timeout(2500)
        yield page.screenshot()
        expect(page.locator("#train")).to_have_text(re.compile("^Train again"), timeout=LONG_MS)
        page.wait_for_load_state("networkidle")
        yield page.screenshot()
        for _ in range(2):
            page.mouse.wheel(0, 620)
            page.wait_for_timeout(800)
            yield page.screenshot()


def _server(page: Page, folder: Path) -> Iterator[bytes]:
    """The page of a server: empty, an answer, what mattered."""
    with _running(folder, "serve", "runs/digits", "--port", "0", "--json") as address:
        page.goto(address)
        page.wait_for_load_state("networkidle")
        yield page.screenshot()
        page.locator("#file").set_input_files(folder / "new" / "8-44.png")
        page.wait_for_selector("#answer:not([hidden])")
        page.wait_for_load_state("networkidle")
        yield page.screenshot()
        page.locator("#explain").click()
        page.wait_for_selector("#heat:not([hidden])")
        yield page.screenshot()


@contextmanager
def _running(folder: Path, *words: str) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block."""
    job: Any = subprocess.Popen([*WARMSTART, *words], stdout=subprocess.PIPE, text=True, cwd=folder)
    try:
        yield json.loads(job.stdout.readline())["url"]
    finally:
        job.terminate()
        job.wait()


def _draw_session(name: str, commands: Sequence[str], folder: Path) -> None:
    """What a terminal shows of these commands' results, as an SVG file."""
    console = Console(record=True, width=COLUMNS, file=StringIO())
    for command in commands:
        console.print(Text(f"$ warmstart {command}", style="bold"))
        console.print(Text.from_ansi(_printed([*WARMSTART, *shlex.split(command)], folder)))
    svg = console.export_svg(title="warmstart", theme=DEFAULT_TERMINAL_THEME, unique_id=name)
    # Without the fonts of another host.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")
    path = FIGURES / f"{name}.svg"
    path.write_text(svg, encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def _printed(command: Sequence[str], folder: Path) -> str:
    """The standard output of a command whose output is a terminal."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    job = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, cwd=folder)
    os.close(terminal)
    printed = b""
    while True:
        try:
            printed += os.read(reader, 65536)
        except OSError:  # the terminal is gone with its last writer
            break
    os.close(reader)
    if job.wait() not in (0, 3):
        raise SystemExit(f"{shlex.join(command)} ended with {job.returncode}")
    return printed.decode().replace("\r\n", "\n")


def _write(name: str, shots: Iterator[bytes]) -> None:
    frames = [Image.open(BytesIO(shot)).convert("RGB") for shot in shots]
    height = round(SHOWN * frames[0].height / frames[0].width)
    small = [frame.resize((SHOWN, height), Image.Resampling.LANCZOS) for frame in frames]
    path = FIGURES / f"{name}.webp"
    small[0].save(
        path,
        save_all=True,
        append_images=small[1:],
        duration=FRAME_MS,
        loop=0,
        quality=70,
        method=6,
    )
    print(f"{path}: {len(small)} frames, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
