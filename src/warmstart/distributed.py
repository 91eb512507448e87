"""Several processes at one job: which of them this is, and how they exchange values.

Their launcher (`torchrun`, `accelerate launch`, Slurm) sets ranks in the environment;
torch.distributed does the rest (https://docs.pytorch.org/docs/stable/distributed.html). All
processes do the same work in the same order and share what takes long; only the first writes
and prints. With a single process, every function here returns its argument.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from warmstart.errors import ProcessError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = TypeVar("Value")
TIMEOUT = timedelta(hours=2)  # for a slower process; one that died is noticed at once
_EXCHANGE_WORDS = ("gloo", "nccl", "connection", "process group", "socket")


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
        """This process's share of the items: every size-th one.

        >>> ProcessGroup(1, 3).share(range(8))
        range(1, 8, 3)
        """
        return items[self.rank :: self.size]

    def same(self, value: Value) -> Value:
        """The first process's value. Raises: ProcessError where a process has died."""
        if self.size == 1:
            return value
        values = [value]
        _exchange(lambda dist: dist.broadcast_object_list(values, src=0))
        return values[0]

    def gather(self, value: Value) -> list[Value]:
        """Each process's value, by rank. Raises: ProcessError where one has died."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        _exchange(lambda dist: dist.all_gather_object(values, value))
        return cast(list[Value], values)

    def reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of all processes' arrays of one shape. Raises: ProcessError likewise."""
        if self.size == 1:
            return values
        import torch

        total = torch.tensor(values, dtype=torch.float64)
        _exchange(lambda dist: dist.all_reduce(total))
        return cast("NDArray[np.float64]", total.numpy())


ALONE = ProcessGroup()
_group: ContextVar[ProcessGroup] = ContextVar("group", default=ALONE)


def here() -> ProcessGroup:
    """The group that this process has joined.

    >>> here()
    ProcessGroup(rank=0, size=1, local=1)
    """
    return _group.get()


def is_launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several.

    >>> is_launched({"RANK": "0", "WORLD_SIZE": "2"}), is_launched({})
    (True, False)
    """
    return "RANK" in environ and environ.get("WORLD_SIZE", "1") != "1"


def expected_group(environ: Mapping[str, str] = os.environ) -> ProcessGroup:
    """The group that this process has joined, or will join.

    >>> expected_group({})
    ProcessGroup(rank=0, size=1, local=1)
    """
    is_outside = here() == ALONE and is_launched(environ)
    return group_from_environment(environ) if is_outside else here()


@contextmanager
def join_group(environ: Mapping[str, str] = os.environ) -> Iterator[ProcessGroup]:
    """Join the group that the environment names, until the end of the block.

    A nested block changes nothing.

    Raises: UsageError for inconsistent variables; ProcessError where the processes do not find
    each other, or one of them has died.
    """
    if not is_launched(environ) or here() != ALONE:
        yield here()
        return
    group = group_from_environment(environ)
    # DDP's advice, logged in C++ at each start, would interrupt the progress bar.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.device_count() >= group.local:  # a GPU for each
        torch.cuda.set_device(int(environ.get("LOCAL_RANK", group.rank % group.local)))
        backend = "cpu:gloo,cuda:nccl"
    if not dist.is_initialized():  # by an earlier block, or by the user's script
        _exchange(lambda _: dist.init_process_group(backend, timeout=TIMEOUT))
        atexit.register(_leave)  # not sooner: processes that join again may miss each other
    token = _group.set(group)
    try:
        yield group
    finally:
        _group.reset(token)


def _leave() -> None:
    import torch.distributed as dist

    with suppress(RuntimeError, ValueError):  # another process may be gone already
        dist.destroy_process_group()


def group_from_environment(environ: Mapping[str, str] = os.environ) -> ProcessGroup:
    """The group that a launcher names, whether or not this process has joined it.

    Raises: UsageError for inconsistent variables.

    >>> group_from_environment({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    ProcessGroup(rank=1, size=4, local=2)
    """
    try:
        rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        local = int(environ.get("LOCAL_WORLD_SIZE", size))
    except ValueError:
        rank, size, local = 0, 0, 0
    if not 0 <= rank < size or not 1 <= local <= size:
        raise UsageError(
            f"RANK={environ['RANK']} and WORLD_SIZE={environ['WORLD_SIZE']} do not name one of "
            "several processes; start them with torchrun or accelerate launch, or unset both "
            "variables."
        )
    return ProcessGroup(rank, size, local)


def _exchange(run: Callable[[Any], object]) -> None:
    """Call torch.distributed. Raises: ProcessError, in one line, for all of its errors."""
    import torch.distributed as dist

    try:
        run(dist)
    except (RuntimeError, ValueError) as error:  # its own errors are RuntimeErrors
        raise _process_error(error) from error


def is_process_error(error: BaseException) -> bool:
    """Whether an error that torch raised is about the exchange with other processes.

    >>> is_process_error(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    False
    """
    return here().size > 1 and any(word in str(error).lower() for word in _EXCHANGE_WORDS)


@contextmanager
def process_errors() -> Iterator[None]:
    """Raises: ProcessError, in one line, for torch's errors about other processes."""
    try:
        yield
    except RuntimeError as error:
        if is_process_error(error):
            raise _process_error(error) from error
        raise


def _process_error(error: BaseException) -> ProcessError:
    why = str(error).strip().partition("\n")[0].rpartition("] ")[2][:120]
    return ProcessError(f"another process of this job has died ({why})")
