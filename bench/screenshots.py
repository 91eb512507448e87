"""Animated pictures of the report and of the studio, from real runs: `make pictures`.

Chromium shows both pages; each frame is a screenshot. Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright
from sklearn.datasets import load_digits

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
SIZE: ViewportSize = {"width": 1120, "height": 700}  # px of the window
SHOWN = 760  # px of the picture's width
FRAME_MS = 2200
DIGITS, PER_DIGIT = (3, 5, 8, 9), 40
LONG_MS = 100_000  # for a training
WARMSTART = (sys.executable, "-m", "warmstart")


def main() -> None:
    """Write report.webp and studio.webp in docs/figures, both of scikit-learn's digits."""
    parser = argparse.ArgumentParser(prog="python -m bench.screenshots")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=args.chromium, args=["--no-sandbox", "--hide-scrollbars"]
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(LONG_MS)
        _draw_digits(Path(folder) / "digits")
        _write("report", _report(page, Path(folder)))
        _write("studio", _studio(page, Path(folder)))
        browser.close()


def _draw_digits(folder: Path) -> None:
    """Scans of four digits as folders of PNG files, two of them with a wrong label."""
    scans = load_digits()
    for digit in DIGITS:
        (folder / str(digit)).mkdir(parents=True)
    for digit in DIGITS:
        for number, scan in enumerate(scans.images[scans.target == digit][:PER_DIGIT]):
            label = DIGITS[0] if digit == DIGITS[1] and number < 2 else digit
            pixels = np.rint(scan * 255 / 16).astype(np.uint8)  # scans hold 0..16
            enlarged = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
            enlarged.save(folder / str(label) / f"{digit}-{number:02}.png")


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
    with _running_studio(folder) as address:
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


@contextmanager
def _running_studio(folder: Path) -> Iterator[str]:
    """The address of a studio in a process of its own, which ends with the block."""
    words = ["studio", "digits", "--out", "studio", "--port", "0", "--no-open", "--json"]
    job: Any = subprocess.Popen([*WARMSTART, *words], stdout=subprocess.PIPE, text=True, cwd=folder)
    try:
        yield json.loads(job.stdout.readline())["url"]
    finally:
        job.terminate()
        job.wait()


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
