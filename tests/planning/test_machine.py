"""How a training uses the machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import network, plan_for
from warmstart.planning.check import check_plan
from warmstart.planning.machine import (
    COMPILED_STEPS,
    DEVICES,
    MOST_WORKERS,
    PRECISIONS,
    Machine,
    compiled,
    device,
    precision,
    workers,
)

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
