"""The work behind the studio's page, with the requests, records and events of the command line."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from warmstart.errors import RunFolderError, WarmstartError
from warmstart.events import drain
from warmstart.exporting.export import export
from warmstart.exporting.onnx import Onnx
from warmstart.formatting import duration
from warmstart.modalities.image import decode
from warmstart.planning.plan_file import runs
from warmstart.records.answer import LabelAnswer
from warmstart.records.plan import Choice, Plan
from warmstart.records.run_folder import write_bytes
from warmstart.request import Request
from warmstart.run.fit import fit
from warmstart.run.forecast import dry_run
from warmstart.run.predictor import Predictor, load
from warmstart.run.resume import resume
from warmstart.serving.wording import own_keys, words
from warmstart.studio.jobs import Worker
from warmstart.studio.project import GROUP, LABEL, Project, corrections_of, has_groups, id_of
from warmstart.studio.result import Json

STRATEGY = "strategy="


@dataclass(slots=True)
class StudioWork:
    """The work of a project. `base` is the base model."""

    project: Project
    worker: Worker
    base: str
    _loaded: dict[int, Predictor] = field(default_factory=dict)

    def begin(self, number: int, table: Path, budget: str, settings: Sequence[str]) -> None:
        """Begin a run. Raises: UsageError while another one is in progress."""
        request = self.request(table, budget, settings, self.project.run(number))
        # A path as one would type it. Only here: a resumed run may be in another folder.
        here = Path.cwd()
        data = table.relative_to(here) if table.is_relative_to(here) else table
        request = replace(request, data=str(data))
        self.worker.begin(number, budget, lambda: fit(request))

    def resume(self) -> None:
        """Resume the stopped run. Raises: RunFolderError where there is none."""
        now = self.worker.status()
        if now.state != "stopped" or now.number is None:
            raise RunFolderError("there is no stopped run to resume.")
        run = self.project.run(now.number)
        self.worker.begin(now.number, now.budget or "", lambda: resume(run))

    def request(
        self, table: Path, budget: Any, settings: Sequence[str], out: Path | None
    ) -> Request:
        """The request as on the command line."""
        strategies = [s.removeprefix(STRATEGY) for s in settings if s.startswith(STRATEGY)]
        group, about = GROUP if has_groups(table) else None, self.project.about
        given = {"budget", "base", "label", "out"}
        given |= {name for name, value in (("strategy", strategies), ("group", group)) if value}
        return Request(
            data=str(table),
            base=self.base,
            label=about.label_column or LABEL,
            group=group,
            task=about.task or "auto",
            out=out,
            budget=budget,
            strategy=strategies[-1] if strategies else "auto",
            given=frozenset(given),
            settings=tuple(one for one in settings if not one.startswith(STRATEGY)),
        )

    def forecast(self, table: Path, budget: str, settings: Sequence[str]) -> Json:
        """The time, memory and plan of a run; `problem` where it is not possible."""
        try:
            result = drain(dry_run(self.request(table, budget, settings, None)))
        except WarmstartError as error:
            forecast = dict.fromkeys(("seconds", "memory_mb"))
            return {**forecast, "words": "", "rows": [], "problem": str(error)}
        seconds = result.forecast.total
        return {
            "seconds": round(seconds, 1),
            "words": f"about {duration(seconds)}",
            "memory_mb": round(result.forecast.memory_mb),
            "rows": plan_rows(result.plan),
            "problem": None,
        }

    def answer(self, number: int, payload: bytes, name: str) -> Json:
        """A model's answer to one picture. Raises: DataError where it cannot be read."""
        if number not in self._loaded:
            self._loaded = {number: load(self.project.run(number))}
        predictor = self._loaded[number]
        ((id, pixels),) = predictor.prepared([decode(payload, name)])
        (answer,) = predictor.answer([id], [pixels])
        labels = self.project.board.labels

        def now(label: str) -> str:
            return self.project.history.name_of(label, number)

        ids = [id_of(example) for example in answer.nearest]
        answer = replace(
            answer,
            label=answer.label and now(answer.label),
            scores={now(label): p for label, p in answer.scores.items()},
        )
        if isinstance(answer, LabelAnswer):
            answer = replace(answer, labels=tuple(now(label) for label in answer.labels))
        return {
            **own_keys(answer),
            "label": answer.label,
            "words": words(answer),
            "probability": answer.probability,
            "confident": answer.confident,
            "ood": answer.ood,
            "scores": answer.scores,
            "nearest": [{"id": id, "label": labels.get(id)} for id in ids if id in labels],
        }

    def download(self, number: int, name: str) -> Path:
        """Write a file to download. Raises: ExportError where it cannot be made."""
        run, title = self.project.run(number), self.project.about.name
        if name == "report.html":
            return run / name
        if name == "labels.csv":
            board, history = self.project.board, self.project.history
            changed = {id for change in history.done for id in change.labels}
            removed = changed - set(board.labels)
            path = self.project.path / name
            write_bytes(path, corrections_of(board, self.project.pictures, removed).encode())
            return path
        if name == "model.zip":
            return _zip([run / "model", run / "README.md"], run / name, title)
        folder = run / "export" / Onnx.name
        if not folder.exists():
            export(run, Onnx.name)
        return _zip([folder], run / name, title)


def plan_rows(plan: Plan) -> list[Json]:
    """The plan for people: layers, then the training, each with its reason."""
    rows = [_row("strategy", plan.strategy, "strategy")]
    for group in runs(plan):
        block = next(one for one in plan.blocks if one.name == group.names[0])
        row = _row(f"layers {group.layers}", block.action, None)
        rows.append({**row, "value": group.behaviour.plain})
    if plan.is_trained:
        for one in fields(plan.training):
            choice = getattr(plan.training, one.name)
            if isinstance(choice, Choice):
                rows.append(_row(one.name.replace("_", " "), choice, f"training.{one.name}"))
    return rows


def _row(name: str, choice: Choice, path: str | None) -> Json:
    return {
        "name": name,
        "value": str(choice.value),
        "because": choice.because,
        "source": choice.source,
        "rule": None if choice.rule is None else str(choice.rule),
        "path": path,
    }


def _zip(roots: Sequence[Path], target: Path, name: str) -> Path:
    """Files and folders as a zip with one folder `name` in it."""
    with tempfile.TemporaryDirectory(dir=target.parent) as workdir:
        draft = Path(workdir) / target.name
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for root in roots:
                for path in [root] if root.is_file() else sorted(root.rglob("*")):
                    if path.is_file():
                        archive.write(path, Path(name) / path.relative_to(root.parent))
        shutil.move(draft, target)
    return target
