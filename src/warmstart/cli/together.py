"""One command in several processes: the first works as ever, the others along in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.cli.asked import request_of
from warmstart.cli.output import settle_imports
from warmstart.cli.parse import Call
from warmstart.cli.stop import stoppable
from warmstart.errors import UsageError, WarmstartError, WorldError
from warmstart.events import Event, follow
from warmstart.world import World, here

if TYPE_CHECKING:
    from warmstart.events import Steps
    from warmstart.joints.deliver import Finished

INTERRUPTED = 130


def check_processes(call: Call, world: World) -> None:
    """Raises: UsageError where --parallel asks for other processes than there are."""
    from warmstart.planning.piping import KIND, is_way, n_stages

    value = call.values.get("--parallel")
    if value is None:
        return
    if not is_way(value):
        raise UsageError(f"--parallel {value}: it takes {KIND}.")
    wanted = n_stages(value)
    if wanted not in (0, world.size):
        raise UsageError(
            f"--parallel {value} needs {wanted} processes, and {world.size} "
            f"{'runs' if world.size == 1 else 'run'}; start it with torchrun --nproc-per-node "
            f"{wanted} -m -- warmstart fit ..."
        )


def fit_along(call: Call) -> int:
    """`warmstart fit` in a process that is not the first."""
    from warmstart.flow import fit
    from warmstart.verbs.along import fit_along as along

    return _silent(lambda: along(request_of(call), fit))


def resume_along(run: Path) -> int:
    """`warmstart resume` likewise."""
    from warmstart.flow import fit
    from warmstart.verbs.along import resume_along as along

    return _silent(lambda: along(run, fit))


def _silent(steps: Callable[[], Steps[Finished]]) -> int:
    """Work to the end. What the first process says as well is not said again."""
    settle_imports()
    try:
        with stoppable(_unseen) as see:
            follow(steps(), see)
    except KeyboardInterrupt:
        return INTERRUPTED
    except WarmstartError as error:
        if error.exit_code != 1:
            return error.exit_code
        cause = error.__cause__ or error
        if not isinstance(cause, WorldError):
            raise
        world = here()  # it may be the first that is gone, and cannot say so
        raise WorldError(f"process {world.rank} of 0 to {world.size - 1}: {cause}") from error
    return 0


def _unseen(event: Event) -> None:
    """Progress is the first process's to show."""
