"""report.html of a run, from the files in its folder and the pictures that they name."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from warmstart.data.dataset import Load
from warmstart.data.names import PREFIX
from warmstart.data.read import list_examples
from warmstart.data.splits import group_numbers
from warmstart.errors import DataError, RunFolderError, WarmstartError, no_folder
from warmstart.evaluation.reliability import certainty
from warmstart.modalities.registry import MODALITIES, modality_of, picture_of
from warmstart.network.ledger import summary_lines
from warmstart.network.registry import title_of
from warmstart.planning.plan_file import read_plan
from warmstart.planning.schedule import head_only
from warmstart.planning.words import in_words, runs
from warmstart.records.answer import CalibrationRecord, LabelCalibration, ModelRecord
from warmstart.records.comparison import Confidence
from warmstart.records.data import DataRecord
from warmstart.records.inputs import Inputs
from warmstart.records.network import Ledger, NetworkRecord
from warmstart.records.plan import Plan
from warmstart.records.recording import LOG, earlier_events
from warmstart.records.run_folder import read_json, write_bytes
from warmstart.records.summary import ClassScore, Inspection, LabelScore, Summary
from warmstart.reporting.data import off_topic, problem_examples, questionable
from warmstart.reporting.facts import HeldOutAnswer, LayerRange, Repeat, ReportFacts
from warmstart.reporting.next_steps import next_steps
from warmstart.reporting.page import page
from warmstart.reporting.proof import worst
from warmstart.request import NAME as REQUEST
from warmstart.request import OBJECT, Request, RequestFile, columns_of, decoded, read_request
from warmstart.tasks.classify import per_class
from warmstart.tasks.multilabel import per_label
from warmstart.tasks.registry import TASKS
from warmstart.tasks.task import Target

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


def read_facts(run: Path) -> ReportFacts:
    """All facts of the report without pictures, from the files. Raises: as `write_report`."""
    model = read_if_there(run / "model" / "config.json", ModelRecord)
    calibration = None
    if model is not None:
        path = run / "model" / "calibration.json"
        calibration = read_if_there(path, TASKS[model.task].calibration_record)
    return report_facts(
        run,
        read_json(run / "summary.json", Summary),
        _lines(run / "predictions.jsonl"),
        data=read_if_there(run / "data.json", DataRecord),
        inspection=read_if_there(run / "inspection.json", Inspection),
        network=read_if_there(run / "network.json", NetworkRecord),
        plan=read_plan_if_there(run / "plan.toml"),
        ledger=read_if_there(run / "weights_ledger.json", Ledger),
        model=model,
        calibration=calibration,
    )


def report_facts(
    run: Path,
    summary: Summary,
    lines: Iterable[Line],
    *,
    data: DataRecord | None,
    inspection: Inspection | None,
    network: NetworkRecord | None,
    plan: Plan | None,
    ledger: Ledger | None,
    model: ModelRecord | None,
    calibration: CalibrationRecord | None,
) -> ReportFacts:
    """All facts of the report without pictures, from the records; `lines` are the predictions."""
    log, target = run / LOG, TASKS[summary.task]
    events = tuple(earlier_events(log)) if log.is_file() else ()
    folders = (event.values.get("folder") for event in events)  # as named when the run began
    place = next((str(folder) for folder in folders if folder is not None), run.name)
    shipped = plan
    if plan is not None and plan.is_trained and summary.shipped.strategy in ("head", "none"):
        shipped = head_only(plan, summary.shipped.why)
    path, answers, held_out_lines = run / "predictions.jsonl", tuple[HeldOutAnswer, ...](), []
    if target.has_classes:
        answers = _answers(lines, path, data)
    else:
        splits = _parsed(lines, path, lambda line: (line["split"], line))
        held_out_lines = [line for split, line in splits if split == "oof"]
    held_out = [one for one in answers if one.split == "oof"]
    test = [one for one in answers if one.split == "test"]
    numbers = held_out_lines if target.has_numbers else []
    return ReportFacts(
        place=place,
        title=title_of(summary.base.name),
        summary=summary,
        repeat=repeat_of(run, place),
        data=data,
        inspection=inspection,
        network=network,
        plan=plan,
        ledger=ledger,
        calibration=calibration,
        preprocessing=model.preprocessing if model is not None else None,
        label_scores=_label_scores(held_out_lines, target, data, calibration),
        numbers=tuple((float(line["target"]), float(line["value"])) for line in numbers),
        answers=answers,
        events=tuple(event for event in events if event.stage == "fine_tune"),
        classes=_class_scores(held_out, data),
        test_classes=_class_scores(test, data),
        confidence=_confidence(held_out, data),
        layers=_layers(shipped, network) if shipped is not None else (),
        in_words=in_words(shipped) if shipped is not None else "",
        fates=summary_lines(ledger) if ledger is not None else (),
    )


def _layers(plan: Plan, network: NetworkRecord | None) -> tuple[LayerRange, ...]:
    weights = {block.name: block.parameters for block in network.blocks} if network else {}
    return tuple(
        LayerRange(
            layers=run.layers,
            names=run.names[0] if len(run.names) == 1 else f"{run.names[0]} … {run.names[-1]}",
            action=run.behaviour,
            rates=run.rates.removeprefix("at "),
            weights=sum(weights.get(name, 0) for name in run.names),
            n=len(run.names),
        )
        for run in runs(plan)
    )


# ---- Files of the run folder; what is missing is None or empty.


R = TypeVar("R")
Line = Mapping[str, Any]  # of predictions.jsonl


def read_if_there(path: Path, kind: type[R]) -> R | None:
    """A record, or None without the file. Raises: RunFolderError if it is damaged."""
    return read_json(path, kind) if path.is_file() else None


def read_plan_if_there(path: Path) -> Plan | None:
    """The plan of a run, or None. Raises: PlanError if it is damaged."""
    return read_plan(path.read_text("utf-8"), str(path)) if path.is_file() else None


def _lines(path: Path) -> Iterator[Line]:
    """The lines of predictions.jsonl; none without the file."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _parsed(lines: Iterable[Line], path: Path, parse: Callable[[Line], R]) -> list[R]:
    """The lines, parsed. Raises: RunFolderError naming the path if they are damaged."""
    try:
        return [parse(line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or make the run again."
        ) from error


def read_answers(path: Path, record: DataRecord | None) -> tuple[HeldOutAnswer, ...]:
    """The predictions for held-out examples that the record lists. Raises: RunFolderError."""
    return _answers(_lines(path), path, record)


def _answers(
    lines: Iterable[Line], path: Path, record: DataRecord | None
) -> tuple[HeldOutAnswer, ...]:
    def parse(line: Line) -> HeldOutAnswer:
        target, label, scores = line["target"], line["label"], line["scores"]
        return HeldOutAnswer(
            id=line["id"],
            split=sys.intern(line["split"]),
            target=sys.intern(target),
            label=sys.intern(label),
            probability=scores[label],
            target_probability=scores.get(target, 0.0),
        )

    answers = _parsed(lines, path, parse)
    if record is None:
        return tuple(answers)
    ids, names = {example.id for example in record.examples}, set(record.classes)
    return tuple(one for one in answers if one.id in ids and {one.label, one.target} <= names)


def _label_scores(
    lines: Sequence[Line],
    target: Target,
    data: DataRecord | None,
    calibration: CalibrationRecord | None,
) -> tuple[LabelScore, ...]:
    if data is None or not lines or not target.has_label_sets:
        return ()
    names = data.classes
    truth = target.read([line["target"] for line in lines], names)
    scores = np.array([[line["scores"][name] for name in names] for line in lines])
    own = calibration.thresholds if isinstance(calibration, LabelCalibration) else ()
    thresholds = np.array(own) if own else np.full(len(names), 0.5)
    return per_label(scores, truth, names, thresholds)


def _class_scores(
    answers: Sequence[HeldOutAnswer], record: DataRecord | None
) -> tuple[ClassScore, ...]:
    """Scores by class; near-duplicates and groups count once in the intervals."""
    if not answers or record is None:
        return ()
    number = {name: k for k, name in enumerate(record.classes)}
    predicted = np.array([number[one.label] for one in answers], dtype=np.int64)
    labels = np.array([number[one.target] for one in answers], dtype=np.int64)
    return per_class(predicted, labels, _groups(answers, record), record.classes)


def _confidence(answers: Sequence[HeldOutAnswer], record: DataRecord | None) -> Confidence | None:
    if not answers or record is None:
        return None
    probabilities = np.array([one.probability for one in answers])
    right = np.array([float(one.is_right) for one in answers])
    return certainty(probabilities, right, _groups(answers, record), MODALITIES[record.kind].nouns)


def _groups(
    answers: Sequence[HeldOutAnswer], record: DataRecord
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    examples = {example.id: example for example in record.examples}
    return group_numbers([examples[one.id] for one in answers], record.near_duplicates)


# ---- The command that repeats a run.


OPTIONS = (
    *("base", "arch", "strategy", "budget", "lr", "minutes", "test", "label", "text", "kind"),
    *("task", "group", "relabel", "seed"),
)
_DEFAULTS = {field.name: field.default for field in fields(Request)}


def repeat_of(run: Path, place: str) -> Repeat:
    """The request of a run as a command; `place` is the folder as it was named."""
    file = _read(run / REQUEST)
    request = file.get("request")
    rows = tuple(_environment(file, _read(run / "env.json")))
    if not isinstance(request, Mapping):
        return Repeat(command="", data="DATA", budget="", is_own_strategy=False, rows=rows)
    data = _word(request.get("data")) or "DATA"
    is_planned = request.get("plan") is not None
    return Repeat(
        command=_command(request, data, place),
        data=data,
        budget=str(request.get("budget", "")),
        is_own_strategy=request.get("strategy", "auto") != "auto" or is_planned,
        is_timed=request.get("minutes") is not None,
        options=dict(_options(request)),
        rows=rows,
    )


def _command(request: Mapping[str, Any], data: str, place: str) -> str:
    """`warmstart fit`, or the call in Python where an option was an object."""
    if any(isinstance(value, Mapping) and OBJECT in value for value in request.values()):
        return f"warmstart.fit(…, seed={request.get('seed', 0)})  # began in Python, from objects"
    words = ["warmstart fit", data, *(words for _, words in _options(request))]
    if request.get("plan") is not None:
        words += ["--plan", shlex.quote(f"{place}/plan.toml")]
    if request.get("device") not in (None, "auto"):
        words += ["--device", _word(request["device"])]
    for setting in decoded(request.get("settings")) or ():
        words += ["--set", shlex.quote(setting)]
    return " ".join([*words, *(["--fix"] if request.get("fix") else [])])


def _options(request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and words of each option that differs from its default; none for an object."""
    for name in OPTIONS:
        value = decoded(request.get(name))
        if value is not None and value != _DEFAULTS[name]:
            yield name, f"--{name} {_word(value)}"


def _word(value: Any) -> str:
    """A value as it is typed; empty for what no command can name."""
    plain = decoded(value)
    if plain is None or isinstance(plain, bool):
        return ""
    text = os.fspath(plain) if isinstance(plain, os.PathLike) else plain
    if isinstance(text, float) and text.is_integer():
        text = int(text)  # 5 minutes, not 5.0
    return shlex.quote(str(text))


def _environment(file: Mapping[str, Any], env: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    request, environment = file.get("request"), file.get("environment")
    if isinstance(request, Mapping):
        yield "seed", str(request.get("seed", ""))
    if file.get("place"):
        yield "typed in", str(file["place"])
    versions = dict(env.get("packages", {}))
    if isinstance(environment, Mapping):
        versions |= environment.get("packages", {})
        yield "processor", str(environment.get("cpu", ""))
    yield from ((name, str(env[name])) for name in ("python", "platform", "threads") if name in env)
    versions.setdefault("warmstart", env.get("warmstart", "unknown"))
    yield "warmstart", str(versions.pop("warmstart"))
    if versions:
        yield "packages", ", ".join(f"{name} {v}" for name, v in sorted(versions.items()))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


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
