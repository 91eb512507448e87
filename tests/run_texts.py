"""The texts of a run, and whether a sentence speaks of images."""

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


def text_of(page: str) -> str:
    """The text of a page, with the descriptions of its pictures."""
    body = re.sub(r"<style>.*?</style>|<code>.*?</code>", "", page, flags=re.S)
    attributes = re.findall(r'(?:alt|aria-label|title)="([^"]*)"', body)
    return html.unescape("\n".join([re.sub(r"<[^>]*>", "\n", body), *attributes]))


def image_words_in(run: Path) -> dict[str, list[str]]:
    """Places in the files of a run folder, by file, where a text speaks of images."""
    places = {}
    for name in FILES:
        text = (run / name).read_text("utf-8").replace(str(run), "RUN")
        text = text_of(text) if name.endswith(".html") else text
        if name == "README.md":  # beyond the code, which calls libraries by their names
            text = re.sub(r"```python.*?```", "", text, flags=re.S)
        places |= {name: words} if (words := of_images(text)) else {}
    return places
