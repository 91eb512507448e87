"""The work behind the studio's page, by the flow, records and events of the command line."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from warmstart.errors import RunFolderError, WarmstartError
from warmstart.events import Steps, drain
from warmstart.exporting.export import export
from warmstart.formatting import duration
from warmstart.modalities.image import decode
from warmstart.planning.words import runs
from warmstart.records.answer import LabelAnswer
from warmstart.records.plan import Choice, Plan
from warmstart.records.run_folder import write_bytes
from warmstart.request import Request
from warmstart.run.dry_run import dry_run
from warmstart.run.predictor import Predictor, load
from warmstart.run.resume import resume
from warmstart.serving.wording import own_keys, words
from warmstart.studio.jobs import Worker
from warmstart.studio.pictures import see, small
from warmstart.studio.project import GROUP, LABEL, Project, corrections_of, has_groups, id_of
from warmstart.studio.result import result_of
from warmstart.studio.work import Order, Told, Tools

Fit = Callable[..., Steps[Any]]
STRATEGY = "strategy="
NAMES = {
    "frozen": "stay as they are",
    "tuned": "learn",
    "low-rank": "learn a little",
    "fresh": "begin anew",
    "added": "are added",
}


@dataclass(slots=True)
class Hands:
    """Does for a project what the page asks for. `fit` is the flow; `start` what to begin from."""

    project: Project
    worker: Worker
    fit: Fit
    base: str
    _loaded: dict[int, Predictor] = field(default_factory=dict)

    def tools(self) -> Tools:
        """These works as the server takes them."""
        return Tools(
            see=see,
            small=small,
            working=self.worker.extracted,
            fit=self.begin,
            resume=self.go_on,
            stop=self.worker.stop,
            forecast=self.forecast,
            result=lambda number: result_of(self.project, number),
            answer=self.answer,
            take=self.take,
        )

    def begin(self, order: Order) -> None:
        """Begin to learn. Raises: UsageError while something is at work."""
        # As one would type it. Only here: while a run is gone on with, "here" is elsewhere.
        asked = replace(self.request(order), data=str(_from_here(order.table)))
        self.worker.begin(order.number, order.budget, lambda: self.fit(asked))

    def go_on(self) -> None:
        """Go on with what was stopped. Raises: UsageError where nothing was."""
        now = self.worker.extracted()
        if now.state != "stopped" or now.number is None:
            raise RunFolderError("there is nothing to go on with.")
        run = self.project.run(now.number)
        self.worker.begin(now.number, now.budget or "", lambda: resume(run, self.fit))

    def request(self, order: Order) -> Request:
        """What the command line would be told."""
        strategy = [s.removeprefix(STRATEGY) for s in order.settings if s.startswith(STRATEGY)]
        group, about = GROUP if has_groups(order.table) else None, self.project.about
        typed = {"strategy": strategy, "group": group}
        given = {"budget", "base", "label", "out", *(name for name in typed if typed[name])}
        budget: Any = order.budget
        others = tuple(one for one in order.settings if not one.startswith(STRATEGY))
        return Request(
            data=str(order.table),
            base=self.base,
            label=about.called or LABEL,
            group=group,
            task=about.task or "auto",
            out=order.out,
            budget=budget,
            strategy=strategy[-1] if strategy else "auto",
            given=frozenset(given),
            settings=others,
        )

    def forecast(self, order: Order) -> Told:
        """What a learning would take, and its plan; `problem` where it cannot be done."""
        try:
            found = drain(dry_run(replace(self.request(order), out=None)))
        except WarmstartError as error:
            return {
                "seconds": None,
                "words": "",
                "memory_mb": None,
                "rows": [],
                "problem": str(error),
            }
        seconds = found.forecast.total
        return {
            "seconds": round(seconds, 1),
            "words": f"about {duration(seconds)}",
            "memory_mb": round(found.forecast.memory_mb),
            "rows": plan_rows(found.plan),
            "problem": None,
        }

    def answer(self, number: int, payload: bytes, name: str) -> Told:
        """What a run's model says of one picture. Raises: DataError where it cannot be read."""
        predictor = self._predictor(number)
        ((shown, pixels),) = predictor.prepared([decode(payload, name)])
        (found,) = predictor.answer([shown], [pixels])
        labels = self.project.board.labels
        ids = [id_of(example) for example in found.nearest]

        def now(label: str) -> str:
            return self.project.history.name_of(label, number)

        called = replace(
            found,
            label=found.label and now(found.label),
            scores={now(label): p for label, p in found.scores.items()},
        )
        if isinstance(called, LabelAnswer):
            called = replace(called, labels=tuple(now(label) for label in called.labels))
        return {
            **own_keys(called),
            "label": called.label,
            "words": words(called),
            "probability": called.probability,
            "confident": called.confident,
            "ood": called.ood,
            "scores": called.scores,
            "nearest": [{"id": id, "label": labels.get(id)} for id in ids if id in labels],
        }

    def _predictor(self, number: int) -> Predictor:
        if number not in self._loaded:
            self._loaded = {number: load(self.project.run(number))}
        return self._loaded[number]

    def _corrections(self) -> str:
        """The labels by the user's own files; what was taken off the board is to be dropped."""
        board, history = self.project.board, self.project.history
        changed = {id for change in history.done for id in change.labels}
        return corrections_of(board, self.project.pictures, changed - set(board.labels))

    def take(self, number: int, what: str) -> Path:
        """A file to take home. Raises: ExportError where it cannot be made."""
        run = self.project.run(number)
        if what == "report.html":
            return run / what
        if what == "labels.csv":
            place = self.project.path / what
            write_bytes(place, self._corrections().encode())
            return place
        if what == "model.zip":
            name = self.project.about.name
            return _zipped([run / "model", run / "README.md"], run / what, name)
        target = run / "export" / "onnx"
        if not target.exists():
            export(run, "onnx")
        return _zipped([target], run / what, self.project.about.name)


def _from_here(path: Path) -> Path:
    """A path as one would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def plan_rows(plan: Plan) -> list[Told]:
    """The plan for people: layers, then what training does, each with its reason."""
    rows = [_row("how deep", plan.strategy, "strategy")]
    for group in runs(plan):
        part = next(one for one in plan.blocks if one.name == group.names[0])
        said = _row(f"layers {group.layers}", part.action, None)
        rows.append({**said, "value": NAMES.get(group.action, group.action)})
    if plan.is_trained:
        for one in fields(plan.training):
            choice = getattr(plan.training, one.name)
            if isinstance(choice, Choice):
                rows.append(_row(one.name.replace("_", " "), choice, f"training.{one.name}"))
    return rows


def _row(what: str, choice: Choice, path: str | None) -> Told:
    return {
        "what": what,
        "value": str(choice.value),
        "because": choice.because,
        "source": choice.source,
        "rule": None if choice.rule is None else str(choice.rule),
        "path": path,
    }


def _zipped(what: Sequence[Path], target: Path, name: str) -> Path:
    """Files and folders as a zip with one folder in it, made beside its place."""
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        made = Path(place) / target.name
        with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
            for root in what:
                for path in [root] if root.is_file() else sorted(root.rglob("*")):
                    if path.is_file():
                        archive.write(path, Path(name) / path.relative_to(root.parent))
        shutil.move(made, target)
    return target
