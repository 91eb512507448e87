"""Several processes at one job: which of them this is, and what they tell each other.

Whoever starts them (`torchrun`, `accelerate launch`, Slurm) says in the environment who is who;
torch.distributed does the rest (https://docs.pytorch.org/docs/stable/distributed.html). All
processes do the same work in the same order and share what takes long; the first alone writes
and prints. Alone, every function here gives back what it was given.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import ProcessError, UsageError

Value = TypeVar("Value")
Float64 = NDArray[np.float64]
PATIENCE = timedelta(hours=2)  # for a process that is slower; one that died is met at once
_EXCHANGE = ("gloo", "nccl", "connection", "process group", "socket")
_CALLED = ("RANK", "WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Processes 0 … size − 1, of which this one is `rank`; `local` of them on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder and prints.

        >>> ProcessGroup().is_first
        True
        """
        return self.rank == 0

    def share(self, items: Sequence[Value]) -> Sequence[Value]:
        """What of all items falls to this process: every size-th one.

        >>> ProcessGroup(1, 3).share(range(8))
        range(1, 8, 3)
        """
        return items[self.rank :: self.size]

    def same(self, value: Value) -> Value:
        """What the first process holds. Raises: ProcessError where a process is gone."""
        if self.size == 1:
            return value
        told = [value]
        _talk(lambda dist: dist.broadcast_object_list(told, src=0))
        return told[0]

    def gather(self, value: Value) -> list[Value]:
        """What each process holds, in their order. Raises: ProcessError where one is gone."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        _talk(lambda dist: dist.all_gather_object(found, value))
        return cast(list[Value], found)

    def reduce_sum(self, values: Float64) -> Float64:
        """The sum over all processes, of arrays of one shape. Raises: ProcessError likewise."""
        if self.size == 1:
            return values
        import torch

        total = torch.from_numpy(np.array(values, np.float64, order="C"))
        _talk(lambda dist: dist.all_reduce(total))
        found: Float64 = total.numpy()
        return found


ALONE = ProcessGroup()
_here: ContextVar[ProcessGroup] = ContextVar("world", default=ALONE)


def here() -> ProcessGroup:
    """The world that this process is part of.

    >>> here()
    ProcessGroup(rank=0, size=1, local=1)
    """
    return _here.get()


def is_launched(told: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several.

    >>> is_launched({"RANK": "0", "WORLD_SIZE": "2"}), is_launched({})
    (True, False)
    """
    return all(name in told for name in _CALLED) and told["WORLD_SIZE"] != "1"


def expected_group(told: Mapping[str, str] = os.environ) -> ProcessGroup:
    """The world that this process is part of, or is called into and has not joined yet.

    >>> expected_group({})
    ProcessGroup(rank=0, size=1, local=1)
    """
    return group_from_environment(told) if here() == ALONE and is_launched(told) else here()


@contextmanager
def join_group(told: Mapping[str, str] = os.environ) -> Iterator[ProcessGroup]:
    """Be part of the world that the environment tells of, until the end of the block.

    Within another such block nothing changes.

    Raises: UsageError for an environment that makes no sense; ProcessError where the processes
    do not find each other, or one of them is gone.
    """
    if not is_launched(told) or here() != ALONE:
        yield here()
        return
    world = group_from_environment(told)
    # Of its C++ part: DDP's advice on each start would stand in the midst of the progress.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.device_count() >= world.local:  # a GPU for each
        torch.cuda.set_device(int(told.get("LOCAL_RANK", world.rank % world.local)))
        backend = "cpu:gloo,cuda:nccl"
    if not dist.is_initialized():  # by an earlier block, or by the script that this one is in
        _talk(lambda _: dist.init_process_group(backend, timeout=PATIENCE))
        atexit.register(_leave)  # not sooner: processes that meet anew may miss each other
    token = _here.set(world)
    try:
        yield world
    finally:
        _here.reset(token)


def _leave() -> None:
    import torch.distributed as dist

    with suppress(RuntimeError, ValueError):  # another process may be gone already
        dist.destroy_process_group()


def group_from_environment(told: Mapping[str, str] = os.environ) -> ProcessGroup:
    """The world that a launcher tells of, which this process need not have joined.

    Raises: UsageError for an environment that makes no sense.

    >>> group_from_environment({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    ProcessGroup(rank=1, size=4, local=2)
    """
    try:
        rank, size = int(told["RANK"]), int(told["WORLD_SIZE"])
        local = int(told.get("LOCAL_WORLD_SIZE", size))
    except ValueError:
        rank, size, local = 0, 0, 0
    if not 0 <= rank < size or not 1 <= local <= size:
        raise UsageError(
            f"RANK={told['RANK']} and WORLD_SIZE={told['WORLD_SIZE']} name no process of several; "
            "start them with torchrun or accelerate launch, or take these two away."
        )
    return ProcessGroup(rank, size, local)


def _talk(say: Callable[[Any], object]) -> None:
    """Let torch.distributed do something; what it raises is put into one line."""
    import torch.distributed as dist

    try:
        say(dist)
    except (RuntimeError, ValueError) as error:  # its own errors are RuntimeErrors
        raise gone(error) from error


def is_process_error(error: BaseException) -> bool:
    """Whether an error that torch raised somewhere is about the exchange with other processes.

    >>> is_process_error(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    False
    """
    return here().size > 1 and any(word in str(error).lower() for word in _EXCHANGE)


@contextmanager
def process_errors() -> Iterator[None]:
    """Torch's own errors about other processes in one line of ours. Raises: ProcessError."""
    try:
        yield
    except RuntimeError as error:
        if is_process_error(error):
            raise gone(error) from error
        raise


def gone(error: BaseException) -> ProcessError:
    """The error for a process that does not answer any more."""
    why = str(error).strip().partition("\n")[0].rpartition("] ")[2][:120]
    return ProcessError(f"another process of this job is gone ({why})")
