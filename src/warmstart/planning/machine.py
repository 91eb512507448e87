"""How a training uses the machine: device, number format, memory, threads."""

from __future__ import annotations

from dataclasses import dataclass

from warmstart.records.plan import Choice

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("float32", "bfloat16", "float16")
MOST_WORKERS = 64
COMPILED_STEPS = 2000  # steps on a GPU from which compiling for about a minute pays, v0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What training may use. `has_bfloat16`: whether the GPU multiplies in it."""

    device: str = "cpu"
    has_bfloat16: bool = False
    threads: int = 1
    is_wish: bool = False  # whether the user named the device


def device(machine: Machine) -> Choice:
    """Where training runs.

    >>> device(Machine()).value
    'cpu'
    """
    if machine.is_wish:
        return Choice(value=machine.device, because="your choice", source="user")
    why = "no GPU that torch can use" if machine.device == "cpu" else "the GPU that torch found"
    return Choice(value=machine.device, because=why, source="rule")


def precision(machine: Machine) -> Choice:
    """Number format of the products while training; weights are always float32.

    >>> precision(Machine(device="cuda", has_bfloat16=True)).value
    'bfloat16'
    """
    if machine.device != "cuda":
        why = (
            "half formats are slow or unsafe there"
            if machine.device == "mps"
            else ("on processors half formats are mostly slower, and less exact")
        )
        return Choice(value="float32", because=why, source="rule")
    if machine.has_bfloat16:
        return Choice(value="bfloat16", because="twice as fast on this GPU", source="rule")
    why = "twice as fast on this GPU, with a loss scaled so that small gradients stay"
    return Choice(value="float16", because=why, source="rule")


def workers(machine: Machine) -> Choice:
    """Threads that cut and mirror the next images while the network trains.

    >>> workers(Machine(threads=2)).value, workers(Machine(device="cuda", threads=8)).value
    (1, 4)
    """
    count = 1 if machine.device == "cpu" else max(min(machine.threads // 2, 8), 1)
    return Choice(value=count, because="the network needs the other threads", source="rule")


def compiled(machine: Machine, n_steps: int) -> Choice:
    """Whether torch.compile is used: it takes about a minute before the first step.

    >>> compiled(Machine(), 10_000).value, compiled(Machine(device="cuda"), 10_000).value
    (False, True)
    """
    if machine.device != "cuda":
        why = "on processors it takes longer to compile than it saves"
        return Choice(value=False, because=why, source="rule")
    pays = n_steps >= COMPILED_STEPS
    why = f"{n_steps:,} steps {'pay' if pays else 'do not pay'} for a minute of compiling"
    return Choice(value=pays, because=why, source="rule")
