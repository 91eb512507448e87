"""`warmstart studio [DATA]`: collect, label, train and export in a page on this computer."""

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
from warmstart.studio.jobs import Worker
from warmstart.studio.pictures import import_data
from warmstart.studio.project import Project
from warmstart.studio.work import StudioWork

if TYPE_CHECKING:
    from warmstart.records.data import TaskOption
    from warmstart.serving.access import Gate
    from warmstart.studio.app import Keys


HOME = Path("studio")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioOptions:
    """The options of a studio."""

    data: str | None = None
    out: Path | None = None
    label: str | None = None
    group: str | None = None
    task: TaskOption = "auto"
    base: str = DEFAULT_BASE
    port: int = 8001


def studio(
    project: Project,
    options: StudioOptions,
    ready: Callable[[str], None],
    stopping: Callable[[], None],
) -> None:
    """Serve a project's page until a signal, then close it.

    `ready` gets the address, with its token, once the server listens.
    Raises: ServeError where the server cannot start.
    """
    from warmstart.serving import running
    from warmstart.serving.model import ServerLimits
    from warmstart.studio.app import Keys

    listener = running.bind("127.0.0.1", options.port)
    try:
        token = secrets.token_urlsafe(24)
        keys = Keys(token, secrets.token_urlsafe(24))
        app, close = application(project, options.base, keys, listener.getsockname()[1])

        def stop() -> None:
            stopping()
            close()

        address = f"{running.address(listener)}?token={token}"
        running.run(running.Server(app, ServerLimits(), lambda: ready(address), stop), listener)
    finally:
        listener.close()
        project.close()


def open_project(
    options: StudioOptions, on_event: Callable[[Event], None]
) -> tuple[Project, int | None]:
    """Open the project, and import its data if it is new.

    Returns it with the number of unreadable files, None without an import.
    Raises: DataError for unreadable data, RunFolderError for another kind of folder or one in use.
    """
    check_installed()
    name, source, data = "untitled", "", options.data
    if data is not None:
        name = folder_name(Path(data).name.removeprefix("sample:"))
        is_sample = data.startswith("sample:")
        source = data if is_sample else str(Path(data).expanduser().resolve())
    project = Project.open(options.out or HOME / name, name, source)
    try:
        if data is None or project.history.version:
            return project, None
        steps: Steps[int] = import_data(project, data, options.label, options.group, options.task)
        return project, follow(steps, on_event)
    except BaseException:
        project.close()
        if not project.pictures:  # nothing was imported: a misspelt name leaves no folder
            shutil.rmtree(project.path, ignore_errors=True)
            if options.out is None:
                with suppress(OSError):  # other studios are in it
                    HOME.rmdir()
        raise


def application(
    project: Project, base: str, keys: Keys, port: int
) -> tuple[Gate, Callable[[], None]]:
    """The ASGI application of a project, and a function that ends its streams and its run."""
    from warmstart.studio.app import Hub, make_app  # not before `check_installed`

    hub = Hub()
    worker = Worker(hub.send_working, hub.send_result)
    work = StudioWork(project, worker, base)
    numbers = project.numbers()
    if numbers and RunFolder(project.run(numbers[-1])).is_resumable:
        worker.set_stopped(numbers[-1], None)

    def close() -> None:
        worker.stop()
        worker.wait(10.0)
        hub.close()

    return make_app(project, work, hub, keys, port), close
