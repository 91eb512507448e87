"""What every surface of a finished run says, as the text that a reader gets."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import warmstart
from warmstart.api.run import Run
from warmstart.cli.compare import comparison_text
from warmstart.serving.serve import describe
from warmstart.terminal.result_text import result_text
from warmstart_studio.project import Project
from warmstart_studio.result import result_of

BLOCKS = r"</(p|h\d|li|tr|figure|figcaption|section|div|td|th|summary|text|title|code|desc)>"


def plain(page: str) -> str:
    """The text of a page, a line for each block."""
    page = re.sub(r"<(style|head)>.*?</\1>", "", page, flags=re.DOTALL)
    page = re.sub(r'src="data:[^"]*"', "", page)
    page = re.sub(BLOCKS, "\n", page)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


@dataclass
class Surfaces:
    """One run and all that is shown of it."""

    run: Run
    root: Path
    texts: dict[str, str] = field(default_factory=dict)
    studio: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] | None = None
    comparison: Any = None
    page: str = ""

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return json.loads((self.run.path / "summary.json").read_text("utf-8"))

    @cached_property
    def ledger(self) -> list[dict[str, Any]]:
        """Rows of weights_ledger.json; none where nothing ships."""
        path = self.run.path / "weights_ledger.json"
        return json.loads(path.read_text("utf-8"))["rows"] if path.is_file() else []

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of predictions.jsonl that were held out by a fold."""
        text = (self.run.path / "predictions.jsonl").read_text("utf-8")
        return [one for one in map(json.loads, text.splitlines()) if one["split"] == "oof"]

    @property
    def ships(self) -> bool:
        """Whether there is a model."""
        return self.summary["shipped"]["strategy"] != "none"

    @property
    def is_trained(self) -> bool:
        """Whether the model holds weights that steps of a training have moved."""
        fates = {row["fate"] for row in self.ledger}
        is_fresh = any(
            row["fate"] == "new" and row["block"] not in ("head", "added", "unused")
            for row in self.ledger
        )
        return bool(fates & {"trained", "merged"}) or is_fresh

    @property
    def everything(self) -> str:
        """All texts after each other."""
        return "\n".join(self.texts.values())


def surfaces(run: Run, root: Path) -> Surfaces:
    """Show a run everywhere where it can be shown."""
    found = Surfaces(run, root)
    found.page = (run.path / "report.html").read_text("utf-8")
    card = (run.path / "README.md").read_text("utf-8")
    found.texts = {
        "terminal": result_text(run.summary, run.path, None),
        "report": plain(found.page),
        "card": card.split("---\n", 2)[2],
        "notebook": plain(run._repr_html_()),
    }
    found.studio = json.loads(json.dumps(_studio(run, root / "studio")))
    found.texts["studio"] = "\n".join(_words(found.studio))
    if found.ships:
        _of_a_model(found, run, root)
    return found


def _of_a_model(found: Surfaces, run: Run, root: Path) -> None:
    """What is shown where there is a model."""
    predictor = run.predictor
    found.server = json.loads(json.dumps(describe(run.path, predictor)))
    found.texts["server"] = "\n".join(_words(found.server))
    clone = root / "twin"
    shutil.copytree(run.path, clone)
    found.comparison = warmstart.compare(run.path, clone)
    found.texts["compare"] = comparison_text(found.comparison)
    if predictor.modality.has_pixels and not predictor.bundle.record.arch.startswith("module:"):
        warmstart.export(run.path, "torch", out=root / "export")
        text = (root / "export" / "README.md").read_text("utf-8")
        found.texts["export"] = text.split("---\n", 2)[2]


def _studio(run: Run, place: Path) -> dict[str, Any]:
    """The answer of a studio that holds this run."""
    project = Project.open(place, "studio")
    try:
        shutil.copytree(run.path, project.run(1))
        return dict(result_of(project, 1))
    finally:
        project.close()


def _words(value: object) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for one in value.values() for text in _words(one)]
    return [text for one in value for text in _words(one)] if isinstance(value, list) else []


# ---- numbers ---------------------------------------------------------------------------------


def percentages(text: str, pattern: str) -> list[tuple[str, ...]]:
    """Groups of every place where the pattern stands, with line breaks as spaces."""
    flat = re.sub(r"\s+", " ", text)
    return [found if isinstance(found, tuple) else (found,) for found in re.findall(pattern, flat)]


def agrees(shown: str, share: float) -> bool:
    """Whether a figure in per cent or points is the share, at the precision it is shown with."""
    text = shown.replace("−", "-").replace("+", "").replace("%", "").strip()
    digits = len(text.partition(".")[2])
    exact = 100 * share
    if text in ("0.1", "99.9") and 0 < share < 1:  # never rounded to a certainty
        return True
    return abs(float(text) - exact) <= 0.5 * 10**-digits + 1e-6


def score(lines: list[dict[str, Any]], task: str) -> float:
    """The task's score, made of the lines of predictions.jsonl alone."""
    if task == "classify":
        return float(np.mean([one["label"] == one["target"] for one in lines]))
    if task == "regress":
        truth = np.array([float(one["target"]) for one in lines])
        said = np.array([one["value"] for one in lines])
        return float(1 - ((truth - said) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    names = sorted(lines[0]["scores"])
    has = np.array([[name in one["target"].split("|") for name in names] for one in lines])
    said = np.array([[one["scores"][name] for name in names] for one in lines])
    return float(np.mean([_average_precision(has[:, k], said[:, k]) for k in range(len(names))]))


def _average_precision(has: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(has, scores))


def largest(lines: list[dict[str, Any]]) -> tuple[str, float]:
    """The largest class of the rows, and its share."""
    sizes = Counter(one["target"] for one in lines)
    name = min(sizes, key=lambda label: (-sizes[label], label))
    return name, sizes[name] / sizes.total()
