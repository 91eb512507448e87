"""What the report shows: every fact, read from the files of one run folder."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from warmstart.data.splits import group_numbers
from warmstart.errors import RunFolderError
from warmstart.evaluation.reliability import certainty
from warmstart.events import Event
from warmstart.modalities.modality import Modality
from warmstart.modalities.registry import MODALITIES
from warmstart.network.ledger import summary_lines
from warmstart.network.registry import title_of
from warmstart.nouns import Nouns
from warmstart.planning.plan_file import in_words, read_plan, runs
from warmstart.planning.schedule import head_only
from warmstart.planning.strategy import AUTO
from warmstart.records.answer import (
    CalibrationRecord,
    LabelCalibration,
    ModelRecord,
    NumberCalibration,
)
from warmstart.records.block_actions import BlockAction
from warmstart.records.comparison import Confidence
from warmstart.records.data import DataRecord, LabelIssues
from warmstart.records.inputs import Inputs
from warmstart.records.network import Ledger, NetworkRecord
from warmstart.records.plan import Plan
from warmstart.records.run_folder import LOG, earlier_events, read_json
from warmstart.records.summary import ClassScore, Evidence, Inspection, LabelScore, Summary
from warmstart.request import NAME as REQUEST
from warmstart.request import OBJECT, Request, decoded
from warmstart.stats.intervals import Groups
from warmstart.tasks.classify import per_class
from warmstart.tasks.multilabel import per_label
from warmstart.tasks.registry import TASKS
from warmstart.tasks.task import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutAnswer:
    """The prediction for one held-out example."""

    id: str
    split: str  # "oof" or "test"
    target: str
    label: str  # the predicted class
    probability: float
    target_probability: float

    @property
    def is_right(self) -> bool:
        return self.target == self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRange:
    """Neighbouring layers with the same action; `n` of them, with `weights` numbers."""

    layers: str
    names: str
    action: BlockAction
    rates: str
    weights: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """How to repeat the run, and the options that further commands need.

    `options` maps the name of an option to its words: {"label": "--label kind"}. Without them, a
    further command would read other data or another base model.
    """

    command: str
    data: str  # as it is typed; DATA where it was no path
    budget: str
    is_own_strategy: bool
    is_timed: bool = False  # cut to fit --minutes, which depends on the speed of the computer
    options: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """The content of a run folder; what an older one lacks is None or empty.

    `place` is the folder as commands name it, `title` the base model for people, `thumbs` are
    small pictures as data URIs by the id of their example, `excerpts` the beginnings of texts.
    """

    place: str
    title: str
    summary: Summary
    repeat: Repeat
    data: DataRecord | None = None
    inspection: Inspection | None = None
    network: NetworkRecord | None = None
    plan: Plan | None = None
    ledger: Ledger | None = None
    calibration: CalibrationRecord | None = None
    preprocessing: Inputs | None = None
    answers: tuple[HeldOutAnswer, ...] = ()
    events: tuple[Event, ...] = ()
    classes: tuple[ClassScore, ...] = ()
    label_scores: tuple[LabelScore, ...] = ()  # of multilabel
    numbers: tuple[tuple[float, float], ...] = ()  # (target, prediction), held out
    test_classes: tuple[ClassScore, ...] = ()
    confidence: Confidence | None = None
    layers: tuple[LayerRange, ...] = ()
    in_words: str = ""  # the plan of the layers
    fates: tuple[str, ...] = ()  # of the weights, a line for each fate
    thumbs: Mapping[str, str] = field(default_factory=dict)
    excerpts: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The data set's name, or the run's."""
        return self.data.name if self.data is not None else self.place.rstrip("/").split("/")[-1]

    @property
    def nouns(self) -> Nouns:
        return self.modality.nouns

    @property
    def modality(self) -> Modality[Any]:
        return MODALITIES[self.summary.data.kind if self.data is None else self.data.kind]

    @property
    def ships(self) -> bool:
        return self.summary.shipped.strategy != "none"

    @property
    def is_discarded(self) -> bool:
        """Whether layers were fine-tuned, and the model has none of them."""
        is_trained = self.plan is not None and self.plan.is_trained
        return is_trained and self.summary.shipped.strategy in ("head", "none")

    @property
    def held_out(self) -> tuple[HeldOutAnswer, ...]:
        """Cross-validated predictions for the training examples."""
        return tuple(one for one in self.answers if one.split == "oof")

    @property
    def label_issues(self) -> LabelIssues | None:
        return self.inspection.label_issues if self.inspection is not None else None

    @property
    def half_width(self) -> float | None:
        """Of the interval of a number; None for other tasks, or where none is guaranteed."""
        numbers = self.calibration if isinstance(self.calibration, NumberCalibration) else None
        return None if numbers is None else numbers.half_width

    @property
    def target(self) -> Target:
        """The task, not fitted to labels."""
        return TASKS[self.summary.task]

    @property
    def has_issues(self) -> bool:
        """Whether label issues are counted; then they come first."""
        return self.label_issues is not None and bool(self.label_issues.count)

    @property
    def majority(self) -> tuple[str, float] | None:
        """The largest class and its share; None where it is not known or there are no classes."""
        if not self.target.has_classes:
            return None
        sizes = Counter(one.target for one in self.held_out)
        if not sizes and self.data is not None:
            sizes = Counter(e.label for e in self.data.examples if e.split != "test")
        if not sizes:
            return None
        label = min(sizes, key=lambda name: (-sizes[name], name))
        return label, sizes[label] / sizes.total()

    def evidence(self, name: str) -> Evidence | None:
        """The evidence of this name, if it was measured."""
        evidence = self.summary.verdict.evidence
        return next((e for e in evidence if e.name == name and e.value is not None), None)

    def detail(self, name: str, key: str) -> float | None:
        """A number among the details of the evidence."""
        evidence = self.evidence(name)
        value = evidence.details.get(key) if evidence is not None else None
        return float(value) if isinstance(value, (int, float)) else None


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
    path, answers, out_of_fold = run / "predictions.jsonl", tuple[HeldOutAnswer, ...](), []
    if target.has_classes:
        answers = _answers(lines, path, data)
    else:
        out_of_fold = _held_out(lines, path)
    held_out = [one for one in answers if one.split == "oof"]
    test = [one for one in answers if one.split == "test"]
    numbers = out_of_fold if target.has_numbers else []
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
        label_scores=_label_scores(out_of_fold, target, data, calibration),
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


def read_lines(path: Path, parse: Callable[[Line], R]) -> list[R]:
    """The lines of predictions.jsonl, parsed. Raises: RunFolderError if it is damaged."""
    return _parsed(_lines(path), path, parse)


def held_out_lines(path: Path) -> list[Line]:
    """The out-of-fold lines of predictions.jsonl. Raises: RunFolderError if it is damaged."""
    return _held_out(_lines(path), path)


def _held_out(lines: Iterable[Line], path: Path) -> list[Line]:
    splits = _parsed(lines, path, lambda line: (line["split"], line))
    return [line for split, line in splits if split == "oof"]


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
    return per_class(
        predicted, labels, groups_of([one.id for one in answers], record), record.classes
    )


def _confidence(answers: Sequence[HeldOutAnswer], record: DataRecord | None) -> Confidence | None:
    if not answers or record is None:
        return None
    probabilities = np.array([one.probability for one in answers])
    right = np.array([float(one.is_right) for one in answers])
    return certainty(
        probabilities,
        right,
        groups_of([one.id for one in answers], record),
        MODALITIES[record.kind].nouns,
    )


def groups_of(ids: Iterable[str], record: DataRecord) -> Groups:
    """Group numbers of examples: near-duplicates and groups count as one."""
    examples = {example.id: example for example in record.examples}
    return group_numbers([examples[id] for id in ids], record.near_duplicates)


# ---- The command that repeats a run.


OPTIONS = (
    *("base", "arch", "strategy", "budget", "lr", "minutes", "test", "label", "text", "kind"),
    *("task", "group", "relabel", "seed"),
)
_DEFAULTS = {field.name: field.default for field in fields(Request)}


def repeat_of(run: Path, place: str) -> Repeat:
    """The request of a run as a command; `place` is the folder as it was named."""
    file = _read_values(run / REQUEST)
    request = file.get("request")
    rows = tuple(_environment(file, _read_values(run / "env.json")))
    if not isinstance(request, Mapping):
        return Repeat(command="", data="DATA", budget="", is_own_strategy=False, rows=rows)
    data = _word(request.get("data")) or "DATA"
    is_planned = request.get("plan") is not None
    return Repeat(
        command=fit_command(request, data, place),
        data=data,
        budget=str(request.get("budget", "")),
        is_own_strategy=decoded(request.get("strategy")) not in (None, AUTO) or is_planned,
        is_timed=request.get("minutes") is not None,
        options=dict(_options(request)),
        rows=rows,
    )


def fit_command(request: Mapping[str, Any], data: str, place: str) -> str:
    """`warmstart fit`, or the call in Python where an option was an object."""
    if any(isinstance(value, Mapping) and OBJECT in value for value in request.values()):
        return f"warmstart.fit(…, seed={request.get('seed', 0)})  # began in Python, from objects"
    words = ["warmstart fit", data, *(words for _, words in _options(request))]
    if request.get("plan") is not None:
        words += ["--plan", shlex.quote(f"{place}/plan.toml")]
    if request.get("device") not in (None, "auto"):
        words += ["--device", _word(request["device"])]
    for setting in (decoded(request.get("settings")) or {}).values():
        words += ["--set", shlex.quote(str(setting))]
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


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
