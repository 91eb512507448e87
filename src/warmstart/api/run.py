"""The Python interface: fit, resume, load, and finished runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from warmstart.distributed import here, join_group
from warmstart.errors import UsageError
from warmstart.evaluation.readiness import readiness_line
from warmstart.events import Event, Steps, drain, follow
from warmstart.formatting import printable, sentence
from warmstart.planning.plan_file import read_plan
from warmstart.records.answer import Answer
from warmstart.records.data import TaskOption
from warmstart.records.inputs import Preprocessing
from warmstart.records.plan import Plan
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Estimate, Summary, TestScores, Verdict
from warmstart.tasks.registry import TASKS
from warmstart.terminal.result_text import claims_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from warmstart.run.deliver import Finished
    from warmstart.run.predictor import Predictor

_LEFT = 'style="text-align:left;vertical-align:top;padding:2px 12px 2px 0;white-space:nowrap"'
_RIGHT = 'style="text-align:left;vertical-align:top;padding:2px 0"'


@dataclass(frozen=True)
class Run:
    """A finished run, made by `warmstart.fit` or `Run.open`: what was measured and shipped."""

    path: Path
    summary: Summary
    network: nn.Module | None = field(default=None, repr=False, compare=False)  # the user's own

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a finished run. Raises: RunFolderError if it is none."""
        return cls(Path(path), read_json(Path(path) / "summary.json", Summary))

    @property
    def verdict(self) -> Verdict:
        """What the evidence says about this base model on these data."""
        return self.summary.verdict

    @property
    def estimate(self) -> Estimate | None:
        """Accuracy on unseen examples, with its interval."""
        return self.summary.estimate

    @property
    def test(self) -> TestScores | None:
        """Metrics on the test set, or None without one."""
        return self.summary.test

    @cached_property
    def plan(self) -> Plan:
        """Every choice of the run and its reason."""
        return read_plan((self.path / "plan.toml").read_text("utf-8"))

    @cached_property
    def predictor(self) -> Predictor:
        """The shipped model with its preprocessing. Raises: RunFolderError if none shipped."""
        return load(self.path, self.network)

    @property
    def model(self) -> nn.Module:
        """The network: normalised inputs (B, C, H, W) to calibrated logits (B, K)."""
        return self.predictor.model

    @overload
    def predict(self, inputs: list[Any]) -> list[Answer]: ...
    @overload
    def predict(self, inputs: Any) -> Any: ...
    def predict(self, inputs: Any) -> Answer | list[Answer]:
        """Answer for one image (a path, a PIL image, an array), or for each of many.

        One in, one answer out: `run.predict("new.jpg").label`. A list, a folder or a stack of
        arrays gives a list. See `Predictor.predict`.
        Raises: DataError where a single input cannot be read.
        """
        answers: Answer | list[Answer] = self.predictor.predict(inputs)
        return answers

    def show_inputs(self, n: int = 8, *, data: Any = None) -> Image:
        """`n` training images as the network saw them, as one picture for a notebook.

        Where blocks were fine-tuned, each is followed by its augmentations. `data` is needed only
        where the run began from Python objects. `load(run).show_inputs(paths)` shows other images.
        Raises: UsageError, DataError or RunFolderError where the images cannot be read again.
        """
        from warmstart.run.reopened import show_inputs

        return show_inputs(self.path, n, data)

    def _repr_html_(self) -> str:
        return run_html(self.summary, self.path)


def run_html(summary: Summary, path: Path) -> str:
    """Readiness, verdict, accuracy, grave findings and folder of a run."""
    is_shipped = summary.shipped.strategy != "none"
    shipped = summary.shipped.strategy if is_shipped else "nothing"
    scores = claims_of(summary) if is_shipped else []
    rows = [(TASKS[summary.task].words.title, "; ".join(scores) + ".")] if scores else []
    rows.append(("Shipped", f"{shipped}: {summary.shipped.why.rstrip('.')}."))
    # Findings that make a figure wrong; the others are in the report.
    grave = [one for one in summary.findings if not one.about.is_folded]
    rows += [*(("Found", sentence(one.sentence)) for one in grave), ("Folder", str(path))]
    cells = "".join(
        f"<tr><th {_LEFT}>{_safe(title)}</th><td {_RIGHT}>{_safe(text)}</td></tr>"
        for title, text in rows
    )
    ready, verdict = readiness_line(summary.readiness), sentence(summary.verdict.sentence)
    return (
        f'<div style="max-width:50em"><p><b>{_safe(ready)}</b></p><p>{_safe(verdict)}</p>'
        f"<table>{cells}</table></div>"
    )


def _safe(text: str) -> str:
    return escape(printable(" ".join(text.split())))


def fit(
    data: Any,
    *,
    base: str | Path | nn.Module = "lite0",
    arch: str | None = None,
    preprocessing: Preprocessing | None = None,
    strategy: str = "auto",
    budget: Literal["fast", "balanced", "thorough"] = "balanced",
    out: str | Path | None = None,
    test: Any = None,
    label: str | None = None,
    group: str | None = None,
    task: TaskOption = "auto",
    relabel: str | Path | None = None,
    fix: bool = False,
    ignore: str | Sequence[str] = (),
    strict: bool = False,
    seed: int = 0,
    lr: float | None = None,
    minutes: float | None = None,
    device: str = "auto",
    plan: str | Path | Plan | None = None,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
    track: str | Sequence[str] = (),
    progress: bool | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Run:
    """Fit labelled images and return the finished run, as `warmstart fit` does.

    `data` is a path as on the command line, or arrays (X, y) with X (N, H, W[, C]) or paths.
    `task` says what y is: one class per example, any of several labels (a matrix of 0 and 1, or
    lists of names) or a number; "auto" recognises matrices, lists and fractions.
    `base` is the name of a base model, a file of weights (with `arch`), or an `nn.Module` of your
    own (with `preprocessing`, unless it carries its own); "auto" ranks the base models on this
    computer and takes the best, of those that tie the one with the least work.
    `strategy` is a word of the command line's grammar ("last:4", "full+lora"), `lr` the learning
    rate of the uppermost unfrozen block, `minutes` the time for everything, `device` the one to
    train on (auto, cpu, cuda, mps), `plan` a plan or its file, `settings` single values of it
    ({"training.epochs": 20}, or ["training.epochs=20"]). `relabel` is a table of corrected
    labels, `fix` leaves duplicates and conflicts out, `ignore` names findings that are not
    reported ("WS102"), `strict` refuses unreadable files instead of leaving them out.
    `track` names trackers for live training curves ("tensorboard", ["wandb", "mlflow"]),
    `progress` shows progress: in a notebook unless False, elsewhere on stderr if True. `on_event`
    gets every event. Under `torchrun`, several processes share the work; all return the same run,
    which the first one writes.
    Raises: DataError, ModelError, PlanError, UsageError, RunFolderError; TrainingError if the
    training fails.
    """
    from warmstart.planning.plan_file import open_plan
    from warmstart.planning.strategy import parse
    from warmstart.request import Request, read_settings

    request = Request(
        data=data,
        base=base,
        arch=arch,
        preprocessing=preprocessing,
        strategy=parse(strategy),
        budget=budget,
        out=Path(out) if out is not None else None,
        test=test,
        label=label,
        group=group,
        task=task,
        relabel=Path(relabel) if relabel is not None else None,
        fix=fix,
        ignore=(ignore,) if isinstance(ignore, str) else tuple(ignore),
        strict=strict,
        seed=seed,
        lr=lr,
        minutes=minutes,
        device=device,
        plan=open_plan(Path(plan)) if isinstance(plan, (str, Path)) else plan,
        settings=read_settings(settings),
        track=(track,) if isinstance(track, str) else tuple(track),
    )

    def steps() -> Steps[Finished]:
        from warmstart.run.fit import fit as recipe

        return recipe(request)

    def along() -> Steps[Finished]:
        from warmstart.run.resume import fit_along

        return fit_along(request)

    finished = _together(steps, along, progress, on_event)
    network = None if isinstance(base, (str, Path)) else base
    return Run(finished.path, finished.summary, network)


def resume(
    run: str | Path,
    *,
    data: Any = None,
    test: Any = None,
    base: nn.Module | None = None,
    progress: bool | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Run:
    """Go on with a run that was stopped or killed, as `warmstart resume` does.

    The result is, byte for byte, that of a run that was never stopped. A finished run is
    returned. Give `data`, `test` and `base` again only where they were Python objects (arrays,
    a DataFrame, an `nn.Module`), which no file holds; changes are refused.

    Raises: RunFolderError where there is no such run, or it failed, is at work elsewhere, or
    began with other versions; UsageError for objects that are missing; DataError or
    ModelError where data or base model have changed; TrainingError if the training fails.
    """
    if not isinstance(run, (str, Path)):
        raise UsageError("resume() wants the path of a run folder, such as runs/photos.")
    values = {"data": data, "test": test, "base": base}
    objects = {name: value for name, value in values.items() if value is not None}

    def steps() -> Steps[Finished]:
        from warmstart.run.resume import resume as recipe

        here().gather(None)  # the other processes have copied the folder
        return recipe(Path(run), objects)

    def along() -> Steps[Finished]:
        from warmstart.run.resume import resume_along

        return resume_along(Path(run), objects)

    finished = _together(steps, along, progress, on_event)
    return Run(finished.path, finished.summary, base)


def _together(
    steps: Callable[[], Steps[Finished]],
    along: Callable[[], Steps[Finished]],
    progress: bool | None,
    on_event: Callable[[Event], None] | None,
) -> Finished:
    """The result of `steps`, in the first process; others, if any, work `along` without output."""
    with join_group() as world:
        if not world.is_first:
            return world.same(drain(along()))
        from warmstart.terminal.progress import python_watcher

        with python_watcher(progress) as watcher:

            def show(event: Event) -> None:
                watcher.show(event)
                if on_event is not None:
                    on_event(event)

            # `steps` is called in here, for what it imports may print in notebooks.
            finished = follow(steps(), show)
        return world.same(finished)


def load(run: str | Path, network: nn.Module | None = None) -> Predictor:
    """Load a finished run for predictions; `network` only where the base model was your own.

    Raises: RunFolderError if there is no model, ModelError if it cannot be rebuilt.
    """
    from warmstart.run.predictor import load as load_predictor

    if not isinstance(run, (str, Path)):
        raise UsageError("load() wants the path of a run folder, such as runs/photos.")
    return load_predictor(run, network)
