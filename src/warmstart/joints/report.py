"""report.html of a run, from the files in its folder and the pictures that these name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from warmstart.data.collection import Load
from warmstart.delivery.report import Facts, Stretch, page, wanted
from warmstart.folder import read_json, write_bytes
from warmstart.joints.answered import read_calibration, read_label_scores, read_numbers
from warmstart.joints.repeat import repeat_of
from warmstart.joints.saved import (
    first_folder,
    read_if_there,
    read_plan_if_there,
    read_said,
    read_training,
    scored,
    weighed,
)
from warmstart.joints.thumbnails import excerpts, thumbnails
from warmstart.network.ledger import summary_lines
from warmstart.network.registry import title_of
from warmstart.planning.schedule import head_alone
from warmstart.planning.wording import in_words, runs
from warmstart.records import (
    DataRecord,
    Inspection,
    Ledger,
    ModelRecord,
    NetworkRecord,
    Plan,
    Summary,
)

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


def _shown(run: Path, facts: Facts, data: DataRecord, load: Load) -> Facts:
    """With pictures of the examples that the page names, or excerpts of texts."""
    if data.kind == "text":
        return replace(facts, excerpts=excerpts(wanted(facts), data, load))
    model = read_if_there(run / "model" / "config.json", ModelRecord)
    prep = model.preprocessing if model is not None else None
    return replace(facts, thumbs=thumbnails(wanted(facts), data, load, prep))


def read_facts(run: Path, data: DataRecord | None = None) -> Facts:
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
    return Facts(
        place=place,
        title=title_of(summary.start.name),
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
    return {} if network is None else {part.name: part.parameters for part in network.parts}


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
