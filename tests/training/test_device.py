"""The device that trains: as it was asked for, or as torch finds it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import warmstart
from plans import a_choice, plan_for, refusal
from tiny import PREP, fit, network
from warmstart.errors import PlanError, UsageError
from warmstart.planning.plan_file import write_plan
from warmstart.training.device import check_device, check_machine, find_machine


@pytest.fixture
def usable(monkeypatch):
    """Pretends that torch can use these."""

    def use(*names):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return use


@pytest.mark.parametrize(
    ("there", "device"),
    [
        ((), "cpu"),
        (("mps",), "mps"),
        (("cuda",), "cuda"),
        (("mps", "cuda"), "cuda"),
    ],
)
def test_a_gpu_is_taken_where_there_is_one(usable, there, device):
    usable(*there)
    found = find_machine("auto", 4)
    assert (found.device, found.threads, found.is_explicit) == (device, 4, False)
    assert found.has_bfloat16 == (device == "cuda")
    wished = find_machine("cpu", 4)
    assert (wished.device, wished.is_explicit, wished.has_bfloat16) == ("cpu", True, False)


def test_a_device_that_there_is_not_is_refused(usable):
    usable("cuda")
    for name in ("auto", "cpu", "cuda"):
        check_device(name)
    with pytest.raises(UsageError, match="--device tpu is not one of auto, cpu, cuda, mps"):
        check_device("tpu")
    says = "--device mps: torch finds no such device here; use --device cpu, or remove --device."
    with pytest.raises(UsageError, match=says):
        check_device("mps")


def test_a_plan_for_another_device_is_refused(usable):
    usable()
    plan = plan_for("full")
    on_gpu = replace(plan, training=replace(plan.training, device=a_choice("cuda")))
    assert refusal(check_machine, on_gpu) == (
        "the plan has training.device cuda, and torch finds no such device here; add --device cpu, "
        "or remove training.device."
    )
    for fine in (plan, plan_for("head")):
        check_machine(fine)
    usable("cuda")
    check_machine(on_gpu)


SETTINGS = {"training.epochs": 0.8889, "training.batch_size": 8}


def test_a_plan_that_was_made_on_a_gpu_runs_here_where_that_is_asked_for(pictures, tmp_path):
    one = fit(pictures, strategy="last:1", settings=SETTINGS, out=tmp_path / "one")
    training = one.plan.training
    there = replace(
        training, device=a_choice("cuda"), precision=a_choice("bfloat16"), compile=a_choice(True)
    )
    path = tmp_path / "gpu.toml"
    path.write_text(write_plan(replace(one.plan, training=there)))
    options = {"base": network(), "preprocessing": PREP, "plan": path}
    with pytest.raises(PlanError, match=r"the plan has training\.device cuda"):
        warmstart.fit(pictures, **options, out=tmp_path / "two")
    assert not (tmp_path / "two").exists()  # nothing was begun
    run = warmstart.fit(pictures, **options, device="cpu", out=tmp_path / "two")
    found = run.plan.training
    assert (found.device.value, found.device.source) == ("cpu", "user")
    assert (found.precision.value, found.compile.value) == ("float32", False)
    assert run.estimate == one.estimate
