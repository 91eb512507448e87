"""`warmstart studio [DATA]`: the whole job in a page on this computer."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.events import Event, Steps, follow
from warmstart.records.run_folder import RunFolder
from warmstart.request import DEFAULT_BASE, folder_name
from warmstart.serving.serve import check_installed
from warmstart.studio.app import Keys
from warmstart.studio.jobs import Worker
from warmstart.studio.pictures import take_in
from warmstart.studio.project import Project
from warmstart.studio.tools import Fit, Hands

if TYPE_CHECKING:
    from warmstart.data.labels import TaskOption
    from warmstart.serving.access import Gate


HOME = Path("studio")
UNNAMED = "untitled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioOptions:
    """What a studio is opened with, and where it listens."""

    data: str | None = None
    out: Path | None = None
    label: str | None = None
    group: str | None = None
    task: TaskOption = "auto"
    base: str = DEFAULT_BASE
    port: int = 8001


def studio(
    project: Project,
    asked: StudioOptions,
    fit: Fit,
    ready: Callable[[str], None],
    stopping: Callable[[], None],
) -> None:
    """Answer a project's page until a signal comes; then it is closed.

    `ready` is told the address, with its token, when the first request can come.
    Raises: ServeError where the server cannot start.
    """
    from warmstart.serving import running
    from warmstart.serving.model import ServerLimits as Limits

    taken = running.bind("127.0.0.1", asked.port)
    try:
        token = secrets.token_urlsafe(24)
        keys = Keys(token, secrets.token_urlsafe(24))
        app, close = application(project, fit, asked.base, keys, taken.getsockname()[1])

        def stop() -> None:
            stopping()
            close()

        address = f"{running.address(taken)}?token={token}"
        running.run(running.make_server(app, Limits(), lambda: ready(address), stop), taken)
    finally:
        taken.close()
        project.close()


def opened(asked: StudioOptions, see: Callable[[Event], None]) -> tuple[Project, int | None]:
    """The project, its data taken in where it is new; how many files could not be read.

    None for the latter where nothing was taken in.

    Raises: DataError for data that cannot be read, RunFolderError for a folder that is no
    studio's or in use.
    """
    check_installed()
    name, source = UNNAMED, ""
    if asked.data is not None:
        name = folder_name(Path(asked.data).name.removeprefix("sample:"))
        is_sample = asked.data.startswith("sample:")
        source = asked.data if is_sample else str(Path(asked.data).expanduser().resolve())
    project = Project.open(asked.out or HOME / name, name, source)
    try:
        if asked.data is None or project.history.version:
            return project, None
        steps: Steps[int] = take_in(project, asked.data, asked.label, asked.group, asked.task)
        return project, follow(steps, see)
    except BaseException:
        project.close()
        if not project.pictures:  # nothing was taken in: a name that was misspelt leaves no folder
            shutil.rmtree(project.path, ignore_errors=True)
            if asked.out is None:
                with suppress(OSError):  # other studios are in it
                    HOME.rmdir()
        raise


def application(
    project: Project, fit: Fit, base: str, keys: Keys, port: int
) -> tuple[Gate, Callable[[], None]]:
    """The ASGI application of a project, and what ends its streams and its learning."""
    from warmstart.studio.app import make_app
    from warmstart.studio.work import Hub

    hub = Hub()
    worker = Worker(hub.tell_working, hub.tell_result)
    hands = Hands(project, worker, fit, base)
    numbers = project.numbers()
    if numbers and RunFolder(project.run(numbers[-1])).can_go_on:
        worker.set_stopped(numbers[-1], None)

    def close() -> None:
        worker.stop()
        worker.wait(10.0)
        hub.close()

    return make_app(project, hands.tools(), hub, keys, port), close
