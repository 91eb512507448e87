"""report.html of a run: one page that loads nothing and runs nothing, and the pictures on it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from warmstart.data.dataset import Load
from warmstart.data.names import PREFIX
from warmstart.data.read import list_examples
from warmstart.errors import DataError, RunFolderError, WarmstartError, no_folder
from warmstart.formatting import duration, size
from warmstart.modalities.registry import MODALITIES, modality_of, picture_of
from warmstart.records.data import DataRecord
from warmstart.records.inputs import Inputs
from warmstart.records.run_folder import write_bytes
from warmstart.reporting.evidence import (
    base_values,
    data_values,
    off_topic,
    problem_examples,
    questionable,
    verdict_values,
)
from warmstart.reporting.facts import ReportFacts, read_facts
from warmstart.reporting.figures import Bar, Figure, lying
from warmstart.reporting.first_screen import first_screen_values, next_steps
from warmstart.reporting.markup import Values, macro, render
from warmstart.reporting.proof import answers_values, proof_values, worst
from warmstart.reporting.training import plan_values, training_values
from warmstart.request import RequestFile, columns_of, read_request
from warmstart.tasks.words import signed_points

NAME = "report.html"
MOST = 40  # pictures on one page


def report(run: Path) -> Path:
    """Write RUN/report.html and return its path; omits what an older run lacks.

    Raises: RunFolderError where RUN is no finished run, or a file in it is damaged.
    """
    if not run.is_dir():
        raise RunFolderError(no_folder(run, "name a folder that `warmstart fit` wrote."))
    return write_report(run, _loader(run))


def _loader(run: Path) -> Load:
    """The function that loads the run's examples, if the data have not moved."""

    def missing(id: str) -> bytes:
        raise DataError(f"{id} is not where it was")

    try:
        file = read_request(run)
        request = file.request
        data, test = _source(request.data, file), _source(request.test, file)
        return list_examples(data, columns_of(request), test).load
    except (WarmstartError, OSError):  # the latter where a folder may not be read
        return missing


def _source(source: Any, file: RequestFile) -> Any:
    """A source relative to where it was typed. Raises: DataError for a Python object."""
    if source is None or (isinstance(source, str) and source.startswith(PREFIX)):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise DataError("the data were Python objects, which no file holds")
    return file.place / Path(source).expanduser()


def write_report(run: Path, load: Load, facts: ReportFacts | None = None) -> Path:
    """Write report.html; `load` gives the bytes of an example by its id.

    The same folder and pictures give the same bytes. `facts` are read from the folder unless a
    run that ends has them in memory.
    Raises: RunFolderError without a summary, or for a damaged file.
    """
    plain = facts or read_facts(run)
    data, shown = plain.data, plain
    if data is not None and MODALITIES[data.kind].has_tokens:
        shown = replace(plain, excerpts=excerpts(wanted(plain), data, load))
    elif data is not None:
        shown = replace(plain, thumbs=thumbnails(wanted(plain), data, load, plain.preprocessing))
    path = run / NAME
    write_bytes(path, page(shown).encode("utf-8", "replace"))
    return path


def wanted(facts: ReportFacts) -> tuple[str, ...]:
    """Ids of the examples on the page, in its order, each once, at most 40."""
    ids = [id for step in next_steps(facts) for id, _ in step.examples]
    for examples in (questionable(facts), off_topic(facts), worst(facts)):
        ids += [one.id for one in examples]
    ids += [id for id, _ in problem_examples(facts)]
    return tuple(dict.fromkeys(ids))[:MOST]


# ---- Examples as small pictures and excerpts, read through the safe decoder.


SIDE = 160  # px of the longer side
MOST_LETTERS = 240  # of an excerpt
TINY = 48  # px up to which a picture keeps its size, without loss
QUALITY = 72
WORKERS = 4


def thumbnails(
    ids: Sequence[str], record: DataRecord, load: Load, preprocessing: Inputs | None
) -> dict[str, str]:
    """Small pictures as data URIs, by id; `preprocessing` says how bands become a picture.

    Omits what the record does not list, what has changed, and what cannot be decoded.
    """
    hashes = {example.id: example.sha256 for example in record.examples}

    def thumbnail(id: str) -> str | None:
        payload = _unchanged(id, hashes, load)
        try:
            return None if payload is None else data_uri(_picture(payload, id, preprocessing))
        except (DataError, OSError, KeyError):
            return None

    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        uris = zip(ids, pool.map(thumbnail, ids), strict=True)
        return {id: uri for id, uri in uris if uri is not None}


def excerpts(ids: Sequence[str], record: DataRecord, load: Load) -> dict[str, str]:
    """Texts, or the first `MOST_LETTERS` of long ones, by id; omits what has changed."""
    hashes, texts = {example.id: example.sha256 for example in record.examples}, {}
    for id in ids:
        payload = _unchanged(id, hashes, load)
        if payload is not None:
            text = payload.decode("utf-8", "replace")
            is_short = len(text) <= MOST_LETTERS
            texts[id] = text if is_short else text[:MOST_LETTERS].rstrip() + " …"
    return texts


def _unchanged(id: str, hashes: Mapping[str, str], load: Load) -> bytes | None:
    """The bytes of an example that the record lists, if they are the same."""
    try:
        payload = load(id) if id in hashes else None
    except (DataError, OSError, KeyError):
        return None
    is_same = payload is not None and sha256(payload).hexdigest() == hashes[id]
    return payload if is_same else None


def data_uri(image: Image.Image) -> str:
    """A small picture as a data URI; tiny ones lose nothing."""
    kind = "PNG" if max(image.size) <= TINY else "JPEG"
    if max(image.size) > SIDE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=QUALITY, optimize=True)  # PNG has no quality
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _picture(payload: bytes, id: str, preprocessing: Inputs | None) -> Image.Image:
    modality = modality_of(preprocessing)
    if preprocessing is None or not modality.is_rendered(preprocessing):
        return picture_of(payload, id, SIDE)
    return modality.picture(modality.open(payload, id, preprocessing))


# ---- The page.


def baselines_values(facts: ReportFacts) -> Values:
    baselines, own, rows = facts.summary.baselines, facts.summary.estimate, []
    if baselines and own is not None and facts.ships:
        rows.append(("this model", own.short_interval, ""))
    for one in baselines:
        low, gap, high = map(signed_points, (one.low, one.difference, one.high))
        difference = f"{gap} ({low} to {high})" if facts.ships else ""
        rows.append((one.name, one.estimate.short_interval, difference))
    return {"rows": rows}


LEAST_S = 0.05  # stages that took less are not shown
STAGES = {
    "read": "reading the files",
    "features": "feature extraction",
    "checks": "checks",
    "plan": "the plan",
    "head": "fitting the linear probe",
    "fine_tune": "fine-tuning",
    "evaluate": "evaluation",
    "deliver": "writing the files",
}


def cost_values(facts: ReportFacts) -> Values:
    seconds, stages = facts.summary.seconds, None
    total, memory = seconds.get("total", 0.0), size(int(facts.summary.peak_rss_mb * 1e6))
    rows = [(STAGES[key], seconds[key]) for key in STAGES if seconds.get(key, 0) >= LEAST_S]
    if rows and total > 0:
        most = max(value for _, value in rows)
        bars = [Bar(words, value / most, duration(value)) for words, value in rows]
        title = "Where the time went"
        about = ", ".join(f"{words} {duration(value)}" for words, value in rows)
        stages = Figure(title, lying(bars, name="seconds", title=title, about=about))
    numbers = ((duration(total), "in all"), (memory, "of memory at most"))
    return {"numbers": numbers, "stages": stages}


SECTIONS = {
    "data": data_values,
    "answers": answers_values,
    "base": base_values,
    "verdict": verdict_values,
    "plan": plan_values,
    "training": training_values,
    "proof": proof_values,
    "beside": baselines_values,
    "cost": cost_values,
}
TITLES = {"base": "Base model", "beside": "Baselines"}  # where the id is not the title


def section(name: str, facts: ReportFacts) -> Markup:
    """A section of the page, or its first screen; empty where there is nothing to say."""
    values = {"first_screen": first_screen_values, **SECTIONS}[name]
    return macro("sections.html", name, facts, values(facts))


def page(facts: ReportFacts) -> str:
    """The text of report.html; the same facts give the same text."""
    sections = {name: text for name in SECTIONS if (text := section(name, facts))}
    return render(
        "report.html",
        facts=facts,
        first_screen=section("first_screen", facts),
        sections=sections,
        titles=TITLES,
    )
