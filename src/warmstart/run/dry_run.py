"""`warmstart fit DATA --dry-run`: the plan and its forecast; nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from warmstart.errors import UsageError
from warmstart.events import Steps
from warmstart.features import engine_choice
from warmstart.network.added import make_block
from warmstart.planning.feature_layers import probe_layers
from warmstart.planning.plan_file import write_plan
from warmstart.planning.rules import runs_controls
from warmstart.planning.strategy import parse
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import DryRun, Plan
from warmstart.records.recording import Clock
from warmstart.records.run_folder import write_bytes
from warmstart.request import Request, read_data
from warmstart.request import check as check_request
from warmstart.run import forecast, lineage, notes
from warmstart.run import plan as run_plan
from warmstart.run.base_model import choose_base
from warmstart.run.forecast import Bench, make_forecaster
from warmstart.run.model_files import surgery_of
from warmstart.training.dataset import arrange


def dry_run(request: Request) -> Steps[DryRun]:
    """Read the data, load the base model, make the plan, measure this machine for some seconds.

    With `out`, the plan is written there as a file to edit and follow.
    Raises: as `fit` does; UsageError where `out` is no new FILE.toml.
    """
    clock = Clock()
    _check_out(request.out)
    check_request(replace(request, out=None))
    request = run_plan.with_plan_file(request)
    collection = yield from read_data(request)
    yield notes.data(collection)
    request, base = yield from choose_base(request, collection, clock)
    yield notes.base(base.record)
    survey = engine_choice.survey_engines(collection, base)
    inherited = yield from lineage.inherit(base, survey.network.record, collection.record)
    labelled = arrange(collection.record)
    elapsed = request.elapsed + clock.table()["total"]  # a run measures engines in `features`
    chosen = yield from engine_choice.choose(survey, run_plan.engine_of(request))
    facts, record = labelled.facts(), survey.network.record
    request = forecast.shorten_checks(request, record, len(collection.record.examples))
    compares_fine_tuning = run_plan.may_fine_tune(request, record, facts)
    network = run_plan.network_facts(request, base, survey.network, None, compares_fine_tuning)
    names = inherited.names(tuple(probe_layers(survey.feature_layers)))
    plan = run_plan.make_plan(request, facts, network, names, chosen.choice)
    with threadpool_limits(limits=1, user_api="blas"):
        bench = Bench(
            survey.network, survey.feature_layers, collection, labelled, base.record.preprocessing
        )
        is_close, n_missing = runs_controls(request.budget), len(survey.missing[chosen.key])
        forecaster = make_forecaster(bench, plan, n_missing, is_close, elapsed)
        if request.minutes is not None and plan.is_trained:
            plan = forecast.shorten(plan, request.minutes, forecaster, network, facts)
    if request.out is not None:
        write_bytes(request.out, write_plan(plan).encode())
    kind = collection.record.kind
    return DryRun(
        data=collection.record.name,
        title=base.record.title,
        n=len(labelled.learn),
        n_test=len(labelled.test),
        classes=collection.record.classes,
        plan=plan,
        forecast=forecaster(plan),
        parameters=_count_parameters(plan, record),
        surgery=surgery_of(base),
        # What the run measures may still change the plan.
        follows_verdict=parse(request.strategy).depth == "auto"
        and not isinstance(request.plan, Plan),
        plan_file=str(request.out) if request.out else None,
        kind=None if kind == "image" else kind,
    )


def _count_parameters(plan: Plan, network: NetworkRecord) -> dict[str, int]:
    counts = {block.name: block.parameters for block in network.blocks}
    for block in plan.blocks:
        if block.action.value == "added":
            added = make_block(network.blocks[-1], torch.Generator())
            counts[block.name] = sum(parameter.numel() for parameter in added.parameters())
    return counts


def _check_out(out: Path | None) -> None:
    if out is None:
        return
    if out.suffix != ".toml":
        raise UsageError(
            f"--out {out}: with --dry-run it names the file for the plan, such as plan.toml."
        )
    if out.exists():
        raise UsageError(f"--out {out} exists; nothing was changed. Choose another name.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first.")
