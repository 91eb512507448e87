"""What a run says, and whether a sentence speaks of images."""

from __future__ import annotations

import html
import re
from pathlib import Path

OF_IMAGES = re.compile(r"\b(image|picture|photo|photograph|pixel)s?\b|\bpx\b", re.I)
FILES = (
    "README.md",
    "report.html",
    "summary.json",
    "inspection.json",
    "data.json",
    "plan.toml",
    "progress.jsonl",
)


def of_images(text: str) -> list[str]:
    """Each place where a text speaks of images, with what stands around it."""
    return [text[max(m.start() - 60, 0) : m.end() + 30] for m in OF_IMAGES.finditer(text)]


def read_out(page: str) -> str:
    """A page as it is read out: its words, and those that stand for pictures and figures."""
    body = re.sub(r"<style>.*?</style>|<code>.*?</code>", "", page, flags=re.S)
    said = re.findall(r'(?:alt|aria-label|title)="([^"]*)"', body)
    return html.unescape("\n".join([re.sub(r"<[^>]*>", "\n", body), *said]))


def said_in(run: Path) -> dict[str, list[str]]:
    """The same of every file of a run folder that speaks to people."""
    found = {}
    for name in FILES:
        text = (run / name).read_text("utf-8").replace(str(run), "RUN")
        text = read_out(text) if name.endswith(".html") else text
        if name == "README.md":  # beyond the code, which calls libraries by their names
            text = re.sub(r"```python.*?```", "", text, flags=re.S)
        found |= {name: said} if (said := of_images(text)) else {}
    return found
