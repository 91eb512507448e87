"""What a pipeline asks of a plan."""

from __future__ import annotations

import pytest

from plans import plan_for
from warmstart.errors import PlanError
from warmstart.planning.limits import check_values
from warmstart.planning.schedule import schedule
from warmstart.planning.settings import apply_settings


def test_a_pipeline_takes_a_batch_in_parts():
    plan = apply_settings(plan_for("full"), ["training.parallel=pipeline:2", "training.batch=12"])
    chosen = schedule(plan)
    assert (chosen.is_pipeline, chosen.micro_batch) == (True, 2)
    assert plan.training.micro_batch.source == "rule"
    own = ["training.parallel=pipeline:2", "training.batch=12", "training.micro_batch=3"]
    assert schedule(apply_settings(plan_for("full"), own)).micro_batch == 3


def test_rows_are_shared_as_ever():
    plan = apply_settings(plan_for("full"), ["training.parallel=data"])
    assert not schedule(plan).is_pipeline
    assert schedule(plan).micro_batch == schedule(plan_for("full")).micro_batch


def test_another_word_is_refused():
    plan = apply_settings(plan_for("full"), ["training.parallel=pipes"])
    says = r"training.parallel .?pipes.?; it is data, or pipeline:N for as many processes\.$"
    with pytest.raises(PlanError, match=says):
        check_values(plan)
