"""The device of training: the user's choice, or the fastest that torch can use."""

from __future__ import annotations

from warmstart.errors import PlanError, UsageError
from warmstart.planning.facts import DEVICES, Machine
from warmstart.records.plan import Plan

AUTO = "auto"


def check_device(name: str) -> None:
    """Raises: UsageError for a device that does not exist, or that torch cannot use here."""
    if name not in (AUTO, *DEVICES):
        raise UsageError(f"--device {name} is not one of {AUTO}, {', '.join(DEVICES)}.")
    if name != AUTO and name not in _usable():
        raise UsageError(
            f"--device {name}: torch finds no such device here; use --device cpu, or remove "
            "--device."
        )


def check_machine(plan: Plan) -> None:
    """Raises: PlanError where a plan trains on a device that torch cannot use here."""
    device = plan.training.device
    if device is not None and device.value not in _usable():
        raise PlanError(
            f"the plan has training.device {device.value}, and torch finds no such device here; "
            "add --device cpu, or remove training.device."
        )


def find_machine(name: str, threads: int) -> Machine:
    """The machine to train on; `auto` uses a GPU if there is one.

    >>> find_machine("cpu", 2).device
    'cpu'
    """
    import torch

    device = _usable()[0] if name == AUTO else name
    has_bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported()
    return Machine(
        device=device, threads=threads, is_explicit=name != AUTO, has_bfloat16=has_bfloat16
    )


def _usable() -> tuple[str, ...]:
    import torch

    devices = ["cuda"] if torch.cuda.is_available() else []
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return (*devices, "cpu")
