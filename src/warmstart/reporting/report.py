"""report.html of a run, from the files in its folder and the pictures that these name."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from warmstart.data.dataset import Load
from warmstart.data.place import PREFIX
from warmstart.data.read import list_examples
from warmstart.data.splits import group_numbers
from warmstart.errors import DataError, RunFolderError, WarmstartError, no_folder
from warmstart.evaluation.classes import per_class
from warmstart.evaluation.multilabel import per_label
from warmstart.evaluation.reliability import certainty
from warmstart.events import Event
from warmstart.modalities.preprocessing import as_picture, has_bands, open_image, picture_of
from warmstart.network.ledger import summary_lines
from warmstart.network.model_folder import CALIBRATIONS
from warmstart.network.registry import title_of
from warmstart.nouns import nouns_of
from warmstart.planning.plan_file import read_plan
from warmstart.planning.schedule import head_alone
from warmstart.planning.words import in_words, runs
from warmstart.records.answer import CalibrationRecord, LabelCalibration, ModelRecord
from warmstart.records.comparison import ClassScore, Confidence
from warmstart.records.data import DataRecord, Task
from warmstart.records.inputs import Inputs, Preprocessing
from warmstart.records.network import Ledger, NetworkRecord
from warmstart.records.plan import Plan
from warmstart.records.recording import LOG, earlier_events
from warmstart.records.run_folder import read_json, write_bytes
from warmstart.records.summary import Inspection, LabelScore, Summary
from warmstart.reporting.facts import HeldOutAnswer, Repeat, ReportFacts, Stretch
from warmstart.reporting.page import page
from warmstart.reporting.pictures import wanted
from warmstart.request import NAME as request_NAME
from warmstart.request import OBJECT, Request, RequestFile, columns_of, decoded, read_request
from warmstart.tasks.multilabel import MULTILABEL

# ---- What a finished run of several labels, or of a number, has said, read for the report.


def read_calibration(run: Path) -> CalibrationRecord | None:
    """model/calibration.json of whatever task; None where there is no model."""
    path = run / "model"
    if not (path / "calibration.json").is_file() or not (path / "config.json").is_file():
        return None
    task = read_json(path / "config.json", ModelRecord).task
    return read_json(path / "calibration.json", CALIBRATIONS[task])


def read_numbers(path: Path, task: Task) -> tuple[tuple[float, float], ...]:
    """True and said numbers of examples held out. Raises: RunFolderError if damaged."""
    if task != "regress" or not path.is_file():
        return ()
    return tuple((float(told["target"]), float(told["value"])) for told in _held(path))


def read_label_scores(
    path: Path, task: Task, data: DataRecord | None, calibration: CalibrationRecord | None
) -> tuple[LabelScore, ...]:
    """Figures of each label, on examples held out. Raises: RunFolderError if damaged."""
    if task != "multilabel" or data is None or not path.is_file():
        return ()
    lines, names = [*_held(path)], data.classes
    if not lines:
        return ()
    truth = MULTILABEL.read([told["target"] for told in lines], names)
    answers = np.array([[told["scores"][name] for name in names] for told in lines])
    own = calibration.thresholds if isinstance(calibration, LabelCalibration) else ()
    thresholds = np.array(own) if own else np.full(len(names), 0.5)
    return per_label(answers, truth, names, thresholds)


def _held(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                told = json.loads(line)
                if told["split"] == "oof":
                    yield told
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or make the run again."
        ) from error


# ---- The command that makes a run again, from what its folder says of it.


OPTIONS = (
    "base",
    "arch",
    "strategy",
    "budget",
    "lr",
    "minutes",
    "test",
    "label",
    "text",
    "kind",
    "task",
    "group",
    "relabel",
    "seed",
)
_USUAL = {field.name: field.default for field in fields(Request)}


def repeat_of(run: Path, place: str) -> Repeat:
    """What a run was asked, as a command and as words for further ones.

    `place` is the folder as it was named. Where request.json is missing there is no command.
    """
    told = _read(run / request_NAME)
    asked = told.get("request")
    rows = tuple(_rows(told, _read(run / "env.json")))
    if not isinstance(asked, Mapping):
        return Repeat(command="", data="DATA", budget="", is_own_strategy=False, rows=rows)
    data = _word(asked.get("data")) or "DATA"
    return Repeat(
        command=_command(asked, data, place),
        data=data,
        budget=str(asked.get("budget", "")),
        is_own_strategy=asked.get("strategy", "auto") != "auto" or asked.get("plan") is not None,
        is_timed=asked.get("minutes") is not None,
        options=dict(_options(asked)),
        rows=rows,
    )


def _command(asked: Mapping[str, Any], data: str, place: str) -> str:
    """`warmstart fit`, or the call in Python where an object was given."""
    if any(isinstance(value, Mapping) and OBJECT in value for value in asked.values()):
        return f"warmstart.fit(…, seed={asked.get('seed', 0)})  # began in Python, from objects"
    words = ["warmstart fit", data, *(words for _, words in _options(asked))]
    if asked.get("plan") is not None:
        words += ["--plan", shlex.quote(f"{place}/plan.toml")]
    if asked.get("device") not in (None, "auto"):
        words += ["--device", _word(asked["device"])]
    settings = asked.get("settings")
    for setting in decoded(settings) or () if settings is not None else ():
        words += ["--set", shlex.quote(setting)]
    return " ".join([*words, *(["--fix"] if asked.get("fix") else [])])


def _options(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and words of each option that differs from the usual; none for an object."""
    for name in OPTIONS:
        value = decoded(asked.get(name))
        if value is not None and value != _USUAL[name]:
            yield name, f"--{name} {_word(value)}"


def _word(value: Any) -> str:
    """A value as it is typed; nothing for what no command can name."""
    plain = decoded(value)
    if plain is None or isinstance(plain, bool):
        return ""
    text = os.fspath(plain) if isinstance(plain, os.PathLike) else plain
    if isinstance(text, float) and text.is_integer():
        text = int(text)  # 5 minutes; of other numbers every digit counts
    return shlex.quote(str(text))


def _rows(told: Mapping[str, Any], env: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What else the result depends on: seed, versions, processor."""
    asked, around = told.get("request"), told.get("environment")
    if isinstance(asked, Mapping):
        yield "seed", str(asked.get("seed", ""))
    if told.get("place"):
        yield "typed in", str(told["place"])
    versions = dict(env.get("packages", {}))
    if isinstance(around, Mapping):
        versions |= around.get("packages", {})
        yield "processor", str(around.get("cpu", ""))
    yield from ((name, str(env[name])) for name in ("python", "platform", "threads") if name in env)
    versions.setdefault("warmstart", env.get("warmstart", "unknown"))
    yield "warmstart", str(versions.pop("warmstart"))
    if versions:
        yield "packages", ", ".join(f"{name} {v}" for name, v in sorted(versions.items()))


def _read(path: Path) -> dict[str, Any]:
    """A file of plain values; nothing where there is none, or it is damaged."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


# ---- What a finished run has left in its folder, read for the report; what is not there is None.


R = TypeVar("R")


def read_if_there(path: Path, kind: type[R]) -> R | None:
    """A record, or None where there is no such file. Raises: RunFolderError if it is damaged."""
    return read_json(path, kind) if path.is_file() else None


def read_plan_if_there(path: Path) -> Plan | None:
    """The plan of a run, or None. Raises: PlanError if it is damaged."""
    return read_plan(path.read_text("utf-8"), str(path)) if path.is_file() else None


def read_said(path: Path, record: DataRecord | None) -> tuple[HeldOutAnswer, ...]:
    """What was said of examples held out; of each only what the report needs is kept.

    Examples that the record does not list are passed over.
    Raises: RunFolderError if the file is damaged.
    """
    if not path.is_file():
        return ()
    try:
        found = tuple(_said(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or make the run again."
        ) from error
    if record is None:
        return found
    ids, names = {example.id for example in record.examples}, set(record.classes)
    return tuple(one for one in found if one.id in ids and {one.label, one.target} <= names)


def _said(path: Path) -> Iterator[HeldOutAnswer]:
    known: dict[str, str] = {}  # one text for all that say the same
    with path.open(encoding="utf-8") as file:
        for line in file:
            told = json.loads(line)
            scores = told["scores"]
            yield HeldOutAnswer(
                id=told["id"],
                split=known.setdefault(told["split"], told["split"]),
                target=known.setdefault(told["target"], told["target"]),
                label=known.setdefault(told["label"], told["label"]),
                probability=scores[told["label"]],
                own=scores.get(told["target"], 0.0),
            )


def read_training(path: Path) -> tuple[Event, ...]:
    """The events of trainings in a run's log."""
    log = path / LOG
    if not log.is_file():
        return ()
    return tuple(event for event in earlier_events(log) if event.stage == "fine_tune")


def first_folder(path: Path) -> str | None:
    """The run folder as it was named when the run began."""
    log = path / LOG
    if not log.is_file():
        return None
    told = (event.values.get("folder") for event in earlier_events(log))
    return next((str(folder) for folder in told if folder is not None), None)


def scored(said: Sequence[HeldOutAnswer], record: DataRecord) -> tuple[ClassScore, ...]:
    """Class by class, copies and groups counted as one where it comes to intervals."""
    if not said:
        return ()
    number = {name: k for k, name in enumerate(record.classes)}
    predicted = np.array([number[one.label] for one in said], dtype=np.int64)
    labels = np.array([number[one.target] for one in said], dtype=np.int64)
    return per_class(predicted, labels, _blocks(said, record), record.classes)


def weighed(said: Sequence[HeldOutAnswer], record: DataRecord) -> Confidence | None:
    """Whether answers are right as often as they are sure."""
    if not said:
        return None
    sure = np.array([one.probability for one in said])
    right = np.array([float(one.is_right) for one in said])
    return certainty(sure, right, _blocks(said, record), nouns_of(record.kind))


def _blocks(
    said: Sequence[HeldOutAnswer], record: DataRecord
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    found = {example.id: example for example in record.examples}
    return group_numbers([found[one.id] for one in said], record.near_duplicates)


# ---- Examples as small pictures for the report, read through the safe decoder.


SIDE = 160  # px of the longer side
SIGNS = 240  # of a text that is shown
TINY = 48  # px below which a picture is kept as it is, without loss
QUALITY = 72
WORKERS = 4


def thumbnails(
    ids: Sequence[str], record: DataRecord, load: Load, preprocessing: Inputs | None
) -> dict[str, str]:
    """Small pictures as data URIs, by id; `load` gives the bytes of an example.

    Left out is what the record does not list, has another content than the recorded one, or
    cannot be decoded. `preprocessing` tells how bands become a picture.
    """
    digests = {example.id: example.sha256 for example in record.examples}

    def one(id: str) -> str | None:
        try:
            payload = load(id)
            if sha256(payload).hexdigest() != digests[id]:
                return None
            return data_uri(_opened(payload, id, preprocessing))
        except (DataError, OSError, KeyError):
            return None

    known = [id for id in ids if id in digests]
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        made = pool.map(one, known)
        return {id: uri for id, uri in zip(known, made, strict=True) if uri is not None}


def excerpts(ids: Sequence[str], record: DataRecord, load: Load) -> dict[str, str]:
    """Texts, or the first `SIGNS` signs of long ones, by id; left out is what has changed."""
    digests, found = {example.id: example.sha256 for example in record.examples}, {}
    for id in ids:
        try:
            payload = load(id)
        except (DataError, OSError, KeyError):
            continue
        if sha256(payload).hexdigest() == digests.get(id):
            text = payload.decode("utf-8", "replace")
            found[id] = text if len(text) <= SIGNS else text[:SIGNS].rstrip() + " …"
    return found


def data_uri(image: Image.Image) -> str:
    """A picture made small, as text that stands in a page; tiny ones lose nothing.

    >>> data_uri(Image.new("L", (8, 8)))[:22]
    'data:image/png;base64,'
    """
    kind, options = ("JPEG", {"quality": QUALITY, "optimize": True})
    if max(image.size) <= TINY:
        kind, options = "PNG", {"optimize": True}
    elif max(image.size) > SIDE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _opened(payload: bytes, id: str, preprocessing: Inputs | None) -> Image.Image:
    """Raises: DataError if it is no usable image."""
    if isinstance(preprocessing, Preprocessing) and (
        preprocessing.sound is not None or has_bands(preprocessing)
    ):
        return as_picture(open_image(payload, id, preprocessing))
    return picture_of(payload, id, SIDE)


NAME = "report.html"


def write_report(run: Path, load: Load, data: DataRecord | None = None) -> Path:
    """Write report.html; `load` gives the bytes of an example by its id.

    The same folder and pictures give the same bytes. `data` is what data.json says, where that is
    in memory already.
    Raises: RunFolderError without a summary, or for a file that is damaged.
    """
    facts = read_facts(run, data)
    if facts.data is not None:
        facts = _shown(run, facts, facts.data, load)
    path = run / NAME
    write_bytes(path, page(facts).encode("utf-8", "replace"))
    return path


def _shown(run: Path, facts: ReportFacts, data: DataRecord, load: Load) -> ReportFacts:
    """With pictures of the examples that the page names, or excerpts of texts."""
    if data.kind == "text":
        return replace(facts, excerpts=excerpts(wanted(facts), data, load))
    model = read_if_there(run / "model" / "config.json", ModelRecord)
    prep = model.preprocessing if model is not None else None
    return replace(facts, thumbs=thumbnails(wanted(facts), data, load, prep))


def read_facts(run: Path, data: DataRecord | None = None) -> ReportFacts:
    """All that the report tells, without pictures. Raises: as `write_report`."""
    summary = read_json(run / "summary.json", Summary)
    place = first_folder(run) or run.name
    data = data or read_if_there(run / "data.json", DataRecord)
    plan = read_plan_if_there(run / "plan.toml")
    shipped = plan
    if plan is not None and plan.is_trained and summary.shipped.strategy in ("head", "none"):
        shipped = head_alone(plan, summary.shipped.why)
    network = read_if_there(run / "network.json", NetworkRecord)
    ledger = read_if_there(run / "weights_ledger.json", Ledger)
    lines = run / "predictions.jsonl"
    said = read_said(lines, data) if summary.task == "classify" else ()
    calibration = read_calibration(run)
    held = [one for one in said if one.split == "oof"]
    tested = [one for one in said if one.split == "test"]
    return ReportFacts(
        place=place,
        title=title_of(summary.base.name),
        summary=summary,
        repeat=repeat_of(run, place),
        data=data,
        inspection=read_if_there(run / "inspection.json", Inspection),
        network=network,
        plan=plan,
        ledger=ledger,
        calibration=calibration,
        label_scores=read_label_scores(lines, summary.task, data, calibration),
        numbers=read_numbers(lines, summary.task),
        said=said,
        events=read_training(run),
        classes=scored(held, data) if data is not None else (),
        tested=scored(tested, data) if data is not None else (),
        certainty=weighed(held, data) if data is not None else None,
        layers=_layers(shipped, _weights(network)) if shipped is not None else (),
        in_words=in_words(shipped) if shipped is not None else "",
        fates=summary_lines(ledger) if ledger is not None else (),
    )


def _weights(network: NetworkRecord | None) -> dict[str, int]:
    return {} if network is None else {block.name: block.parameters for block in network.blocks}


def _layers(plan: Plan, weights: Mapping[str, int]) -> tuple[Stretch, ...]:
    """Neighbouring layers with the same fate, from the image to the output."""
    return tuple(
        Stretch(
            layers=run.layers,
            names=run.names[0] if len(run.names) == 1 else f"{run.names[0]} … {run.names[-1]}",
            action=run.action,
            rates=run.rates.removeprefix("at "),
            weights=sum(weights.get(name, 0) for name in run.names),
            n=len(run.names),
        )
        for run in runs(plan)
    )


# ---- `warmstart report RUN`: the report of a run, written again from its folder.


def report(run: Path) -> Path:
    """Write RUN/report.html and return its path. What an older run lacks is left out.

    Raises: RunFolderError where RUN is no finished run, or a file in it is damaged.
    """
    if not run.is_dir():
        raise RunFolderError(no_folder(run, "name a folder that `warmstart fit` wrote."))
    return write_report(run, _loader(run))


def _loader(run: Path) -> Load:
    """The bytes of the run's examples, as far as the data are where they were."""
    try:
        file = read_request(run)
        asked = file.request
        columns = columns_of(asked)
        return list_examples(_found(asked.data, file), columns, _found(asked.test, file)).load
    except (WarmstartError, OSError):  # the latter where a folder may not be read
        return _nothing


def _found(source: Any, file: RequestFile) -> Any:
    """A source as it was typed, from where it was typed. Raises: DataError for an object's name."""
    if source is None or (isinstance(source, str) and source.startswith(PREFIX)):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise DataError("the data were Python objects, which no file holds")
    return file.place / Path(source).expanduser()


def _nothing(id: str) -> bytes:
    raise DataError(f"{id} is not where it was")
