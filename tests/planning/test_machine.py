"""How a training uses the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import apply_settings, network, plan_for
from warmstart.errors import PlanError
from warmstart.planning.check import check_plan
from warmstart.planning.facts import (
    COMPILED_STEPS,
    DEVICES,
    MOST_WORKERS,
    PRECISIONS,
    Machine,
    compiled,
    device,
    precision,
    with_parallel,
    workers,
)
from warmstart.planning.schedule import schedule
from warmstart.records.plan import Choice

machines = st.builds(
    Machine,
    device=st.sampled_from(DEVICES),
    has_bfloat16=st.booleans(),
    threads=st.integers(1, 512),
    is_explicit=st.booleans(),
)


@given(machine=machines, n_steps=st.integers(1, 10**6))
def test_any_machine_gives_a_plan_that_is_sound(machine, n_steps):
    assert device(machine).value == machine.device
    assert device(machine).source == ("user" if machine.is_explicit else "rule")
    assert precision(machine).value in PRECISIONS
    assert 1 <= workers(machine).value <= min(MOST_WORKERS, max(machine.threads, 1))
    assert compiled(machine, n_steps).value == (
        machine.device == "cuda" and n_steps >= COMPILED_STEPS
    )
    check_plan(plan_for("full", machine=machine), network())


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(), "float32"),
        (Machine(device="mps"), "float32"),
        (Machine(device="mps", has_bfloat16=True), "float32"),
        (Machine(device="cuda"), "float16"),
        (Machine(device="cuda", has_bfloat16=True), "bfloat16"),
        (Machine(has_bfloat16=True), "float32"),
    ],
)
def test_half_precision_is_for_gpus_that_gain_from_it(machine, expected):
    assert precision(machine).value == expected


def test_the_plan_says_what_the_machine_is():
    machine = Machine(device="cuda", has_bfloat16=True, threads=16, is_explicit=True)
    training = plan_for("full", machine=machine).training
    assert (training.device.value, training.device.source) == ("cuda", "user")
    assert (training.precision.value, training.workers.value) == ("bfloat16", 8)
    assert "188 steps do not pay" in training.compile.because
    assert plan_for("head", machine=machine).training.device is None


# ---- What a pipeline asks of a plan.


def test_a_pipeline_takes_a_batch_in_parts():
    plan = apply_settings(
        plan_for("full"), ["training.parallel=pipeline:2", "training.batch_size=12"]
    )
    chosen = schedule(plan)
    assert (chosen.parallel, chosen.micro_batch) == ("pipeline", 2)
    assert plan.training.micro_batch.source == "rule"
    own = ["training.parallel=pipeline:2", "training.batch_size=12", "training.micro_batch=3"]
    assert schedule(apply_settings(plan_for("full"), own)).micro_batch == 3


def test_weights_are_shared_where_they_do_not_fit_beside_their_moments():
    plan, record = plan_for("full"), network()
    size = 4 * sum(block.parameters for block in record.blocks)
    need = 2 * (2 + 6) * size  # of two processes: as it came, as it is trained, and beside it
    found = with_parallel(plan, record, 2, need - 1).training.parallel
    assert (found.value, found.source) == ("fsdp", "rule")
    assert "2 times the weights with their gradients and moments" in found.because
    for processes, free in ((2, need), (1, 1), (2, None)):
        assert with_parallel(plan, record, processes, free) == plan
    own = apply_settings(plan, ["training.parallel=data"])
    assert with_parallel(own, record, 2, 1) == own
    assert with_parallel(plan_for("head"), record, 2, 1) == plan_for("head")


def test_a_network_that_is_streamed_is_not_shared():
    plan = apply_settings(plan_for("full"), ["training.parallel=fsdp"])
    stream = Choice(value="float32", because="small memory", source="rule")
    plan = replace(plan, training=replace(plan.training, offload=stream))
    with pytest.raises(PlanError, match="which no process has in memory to share; leave out --par"):
        check_plan(plan, network())
    open_plan = replace(plan, training=replace(plan.training, parallel=None))
    check_plan(with_parallel(open_plan, network(), 2, 1), network())
