"""The facts behind a plan: the data, the network, and the machine with what follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from warmstart.modalities.registry import modality_of
from warmstart.nouns import Nouns
from warmstart.records.data import Task
from warmstart.records.inputs import DEFAULT_KIND, Inputs, Kind
from warmstart.records.network import NetworkRecord, Recipe
from warmstart.records.plan import Choice, ColumnPlan, Plan, by_rule
from warmstart.records.summary import VerdictKind
from warmstart.tasks.registry import DEFAULT_TASK

if TYPE_CHECKING:
    from warmstart.modalities.modality import Modality


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The training set."""

    n: int
    n_groups: int
    n_classes: int
    smallest_class: int
    holdout: int  # examples in the user's validation set, 0 without one
    columns: tuple[ColumnPlan, ...] | None = None  # types of a table's columns
    task: Task = DEFAULT_TASK
    kind: Kind = DEFAULT_KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """The network, and what was measured with it.

    Tensors that did not carry over from the base model have random values: most of those of
    `fresh` blocks, some of those of `partly_fresh` ones.
    """

    record: NetworkRecord
    recipe: Recipe | None = None
    preprocessing: Inputs | None = None  # of the network, after any surgery
    base_inputs: Inputs | None = None  # the base model's own; None: the same
    verdict: VerdictKind | None = None  # None: unknown
    fresh: frozenset[str] = frozenset()
    partly_fresh: frozenset[str] = frozenset()
    no_lora: frozenset[str] = frozenset()  # blocks without a layer for low-rank updates
    compares_fine_tuning: bool = False  # with the linear probe
    is_random: bool = False  # the base model is untrained
    max_cache_bytes: int = 4_000_000_000  # for the cached activations of frozen blocks

    @property
    def modality(self) -> Modality[Any]:
        return modality_of(self.preprocessing)

    @property
    def nouns(self) -> Nouns:
        """The words for its examples."""
        return self.modality.nouns

    @property
    def random(self) -> frozenset[str]:
        """Blocks that must not be frozen."""
        return self.fresh | self.partly_fresh

    @property
    def depth_verdict(self) -> VerdictKind | None:
        """The verdict that sets the depth."""
        return "fine-tune" if self.compares_fine_tuning else self.verdict

    @property
    def n_blocks(self) -> int:
        return len(self.record.blocks)


# ---- How a training uses the machine: device, number format, memory, threads.


DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("float32", "bfloat16", "float16")
MOST_WORKERS = 64
COMPILED_STEPS = 2000  # steps on a GPU from which compiling for about a minute pays, v0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What training may use; `has_bfloat16`: the GPU multiplies in it."""

    device: str = "cpu"
    has_bfloat16: bool = False
    threads: int = 1
    is_explicit: bool = False  # the user named the device


def device(machine: Machine) -> Choice:
    """Where training runs.

    >>> device(Machine()).value
    'cpu'
    """
    if machine.is_explicit:
        return Choice(value=machine.device, because="your choice", source="user")
    why = "torch can use no GPU" if machine.device == "cpu" else "torch can use this GPU"
    return by_rule(machine.device, why)


def precision(machine: Machine) -> Choice:
    """Number format of the products in training; weights are always float32.

    >>> precision(Machine(device="cuda", has_bfloat16=True)).value
    'bfloat16'
    """
    if machine.device != "cuda":
        why = "on processors half precision is mostly slower, and less exact"
        if machine.device == "mps":
            why = "half precision is slow or unsafe there"
        return by_rule("float32", why)
    if machine.has_bfloat16:
        return by_rule("bfloat16", "twice as fast on this GPU")
    why = "twice as fast on this GPU; the loss is scaled so that small gradients do not vanish"
    return by_rule("float16", why)


def workers(machine: Machine) -> Choice:
    """Threads that augment the next images while the network trains.

    >>> workers(Machine(threads=2)).value, workers(Machine(device="cuda", threads=8)).value
    (1, 4)
    """
    count = 1 if machine.device == "cpu" else max(min(machine.threads // 2, 8), 1)
    return by_rule(count, "the network needs the other threads")


def compiled(machine: Machine, n_steps: int) -> Choice:
    """Whether torch.compile is used: it takes about a minute before the first step.

    >>> compiled(Machine(), 10_000).value, compiled(Machine(device="cuda"), 10_000).value
    (False, True)
    """
    if machine.device != "cuda":
        why = "on processors compiling takes longer than it saves"
        return by_rule(False, why)
    pays = n_steps >= COMPILED_STEPS
    why = f"{n_steps:,} steps {'pay' if pays else 'do not pay'} for a minute of compiling"
    return by_rule(pays, why)


DATA, FSDP, PIPELINE = "data", "fsdp", "pipeline"  # processes share rows, weights or blocks
_PIPELINE = re.compile(r"pipeline:([1-9][0-9]{0,3})")
MICRO = 4  # micro-batches a stage: Huang et al. 2019, "GPipe", §3: little idle time from there
PARALLEL_MODES = "data, fsdp, or pipeline:N for N processes"
# Copies of what is trained: gradients, moments, average, base weights, validated weights.
BESIDE = {"adamw": 6, "sgd": 5}


def n_stages(value: object) -> int:
    """Pipeline stages of a value of training.parallel; 0 without a pipeline.

    >>> n_stages("pipeline:4"), n_stages("data"), n_stages("pipeline:x")
    (4, 0, 0)
    """
    match = _PIPELINE.fullmatch(str(value))
    return int(match[1]) if match else 0


def is_parallel_mode(value: object) -> bool:
    """Whether training.parallel may have this value.

    >>> is_parallel_mode("pipeline:2"), is_parallel_mode("fsdp"), is_parallel_mode("pipeline")
    (True, True, False)
    """
    return value in (DATA, FSDP) or n_stages(value) > 0


def parallel_mode(value: object) -> str:
    """The mode that a value of training.parallel names.

    >>> parallel_mode("pipeline:2"), parallel_mode("fsdp"), parallel_mode("data")
    ('pipeline', 'fsdp', 'data')
    """
    return PIPELINE if n_stages(value) else str(value)


def with_parallel(plan: Plan, network: NetworkRecord, processes: int, free: int | None) -> Plan:
    """The plan with shared weights, where several processes need that and the user chose nothing.

    `free`: bytes of memory of a machine that the processes share. Activations do not count: they
    are the same in both modes. Offloaded networks and float16 cannot be shared.
    """
    training = plan.training
    is_open = training.parallel is None and training.offload is None and processes > 1
    is_half = training.precision is not None and training.precision.value == "float16"
    if not plan.is_trained or not is_open or is_half or free is None:
        return plan
    moving = {b.name for b in plan.blocks if b.behaviour.trains_weights}
    n_bytes = sum(4 * block.parameters for block in network.blocks)
    n_moving = sum(4 * block.parameters for block in network.blocks if block.name in moving)
    optimizer = str(training.optimizer.value) if training.optimizer else ""
    # The network is in memory twice, as loaded and as trained.
    need = processes * (2 * n_bytes + BESIDE.get(optimizer, 6) * n_moving)
    if need <= free:
        return plan
    why = (
        f"{processes} times the weights with their gradients and moments take "
        f"{need / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free"
    )
    return replace(plan, training=replace(training, parallel=by_rule(FSDP, why)))


def pipeline_micro_batch(batch: int, n: int) -> Choice:
    """Images of a micro-batch that passes through `n` stages.

    A batch is split evenly, into at most four micro-batches a stage: while one is in the second
    stage, the next is in the first.

    >>> [pipeline_micro_batch(*sizes).value for sizes in ((32, 2), (30, 4), (7, 2))]
    [4, 2, 1]
    """
    count = max(m for m in range(1, min(MICRO * n, batch) + 1) if batch % m == 0)
    some = "1 micro-batch" if count == 1 else f"{count} micro-batches, so that no stage is idle"
    return by_rule(batch // count, f"a batch passes through {n} stages in {some}")


def least_idle(n: int, n_micro: int) -> float:
    """The share of time that `n` stages of equal cost are idle: GPipe, §2.3.

    >>> round(least_idle(2, 8), 3)
    0.111
    """
    return (n - 1) / (n_micro + n - 1)
