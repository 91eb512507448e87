"""How a training uses the machine: device, number format, memory, threads."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Choice, Plan

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


# ---- training.parallel: what several processes share: rows, weights too, or a network's parts.


DATA, FSDP, PIPELINE = "data", "fsdp", "pipeline"
_PIPELINE = re.compile(r"pipeline:([1-9][0-9]{0,3})")
MICRO = 4  # micro-batches a stage: Huang et al. 2019, "GPipe", §3: the rest is idle by then
KIND = "data, fsdp, or pipeline:N for as many processes"
_MOVE = ("tuned", "fresh")
# Of what is trained: gradients, moments, average, start, and the weights while others are shown.
BESIDE = {"adamw": 6, "sgd": 5}


def n_stages(value: object) -> int:
    """Stages of the pipeline that a value of training.parallel asks for; 0: none.

    >>> n_stages("pipeline:4"), n_stages("data"), n_stages("pipeline:x")
    (4, 0, 0)
    """
    found = _PIPELINE.fullmatch(str(value))
    return int(found[1]) if found else 0


def is_way(value: object) -> bool:
    """Whether training.parallel may be so.

    >>> is_way("pipeline:2"), is_way("fsdp"), is_way("pipeline")
    (True, True, False)
    """
    return value in (DATA, FSDP) or n_stages(value) > 0


def kind_of(value: object) -> str:
    """Which of the ways a value names.

    >>> kind_of("pipeline:2"), kind_of("fsdp"), kind_of("data")
    ('pipeline', 'fsdp', 'data')
    """
    return PIPELINE if n_stages(value) else str(value)


def by_memory(
    n_bytes: int, n_moving: int, optimizer: str, processes: int, free: int | None
) -> Choice | None:
    """Weights are shared where they do not fit beside what training keeps of them.

    In bytes: `n_bytes` of the network, which stands there twice, as it came and as it is
    trained; `n_moving` of what is trained; `free` on a machine that `processes` of the job
    share. What layers give on the way is not counted: it is the same in both ways.
    None: rows alone are shared, as ever.

    >>> by_memory(4 * 10**9, 4 * 10**9, "adamw", 2, 30 * 10**9).value
    'fsdp'
    >>> by_memory(4 * 10**9, 10**8, "adamw", 2, 30 * 10**9) is None
    True
    """
    need = processes * (2 * n_bytes + BESIDE.get(optimizer, 6) * n_moving)
    if free is None or need <= free:
        return None
    why = (
        f"{processes} times the weights with their gradients and moments take "
        f"{need / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free"
    )
    return Choice(value=FSDP, because=why, source="rule")


def with_parallel(plan: Plan, network: NetworkRecord, processes: int, free: int | None) -> Plan:
    """The plan in which weights are shared, where several processes need that and nobody chose.

    A network that is streamed is in no memory as a whole; float16 cannot be shared.
    """
    training = plan.training
    is_open = training.parallel is None and training.offload is None and processes > 1
    if (
        not plan.is_trained
        or not is_open
        or (training.precision is not None and training.precision.value == "float16")
    ):
        return plan
    moving = {block.name for block in plan.blocks if block.action.value in _MOVE}
    sizes = {block.name: 4 * block.parameters for block in network.blocks}
    found = by_memory(
        sum(sizes.values()),
        sum(size for name, size in sizes.items() if name in moving),
        str(training.optimizer.value) if training.optimizer else "",
        processes,
        free,
    )
    return replace(plan, training=replace(training, parallel=found)) if found else plan


def in_turn(batch: int, n: int) -> Choice:
    """How many images of a batch pass through `n` stages at once.

    A batch goes in equal parts, at most four a stage: while one part is in the second stage,
    the next is in the first.

    >>> in_turn(32, 2).value, in_turn(30, 4).value, in_turn(7, 2).value
    (4, 2, 1)
    """
    parts = max(m for m in range(1, min(MICRO * n, batch) + 1) if batch % m == 0)
    why = f"a batch passes through {n} stages in {parts} parts, so that all of them have work"
    return Choice(value=batch // parts, because=why, source="rule")


def least_idle(n: int, parts: int) -> float:
    """The share of time that stages of equal cost stand idle: GPipe, §2.3.

    >>> round(least_idle(2, 8), 3)
    0.111
    """
    return (n - 1) / (parts + n - 1)
