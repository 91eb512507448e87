"""Experiment trackers, by Accelerate: check that one is installed, open it, find its curves."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from warmstart.errors import UsageError

# Names in Accelerate, of the modules and of the packages.
TRACKERS = (
    "tensorboard",
    "wandb",
    "mlflow",
    "comet_ml",
    "aim",
    "clearml",
    "dvclive",
    "swanlab",
    "trackio",
)
FOLDER = "track"  # of the trackers' files, in the run folder


def check_trackers(names: Sequence[str]) -> None:
    """Raises: UsageError for a tracker that does not exist or is not installed."""
    for name in names:
        if name not in TRACKERS:
            similar = get_close_matches(name.lower(), TRACKERS, n=1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            raise UsageError(f"--track {name} is not one of {', '.join(TRACKERS)}.{hint}")
        missing = [package for package in ("accelerate", name) if not is_installed(package)]
        if missing:
            raise UsageError(
                f"--track {name} needs a package that is not installed; run "
                f"`pip install {' '.join(missing)}`."
            )


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a folder without code does not count."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def open_tracker(name: str, folder: Path) -> Any:
    """Open a tracker for the run in `folder`.

    W&B and similar ones compare runs within a project: here one per data set.
    """
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # without it, some of the trackers cannot write their log
    kind = LOGGER_TYPE_TO_CLASS[name]
    run, files = folder.resolve().name, folder.resolve() / FOLDER
    files.mkdir(exist_ok=True)
    folders = [str(files)] if kind.requires_logging_directory else []
    title = run if name == "tensorboard" else project_of(folder)
    # W&B would also record the terminal with its progress bar.
    quiet = {"console": "off", "silent": True}
    settings: dict[str, dict[str, Any]] = {
        "wandb": {"name": run, "dir": str(files), "settings": quiet},
        "mlflow": {"run_name": run},
        "clearml": {"task_name": run},
        "dvclive": {"dir": str(files / name), "dvcyaml": None, "save_dvc_exp": False},
        "swanlab": {"experiment_name": run, "logdir": str(files / name)},
        "trackio": {"name": run},
    }
    tracker = kind(title, *folders, **settings.get(name, {}))
    tracker.start()
    return tracker


def project_of(folder: Path) -> str:
    """The project name of a run, shared by runs on the same data: `photos` for `photos-2`."""
    name = folder.resolve().name
    base = re.sub(r"-[0-9]+$", "", name)
    if base and (folder.resolve().parent / base).exists():
        name = base
    return re.sub(r"[^\w.-]+", "-", name)


def tracker_location(name: str, tracker: Any, folder: Path) -> str:
    """Where to see the curves, in words.

    >>> tracker_location("tensorboard", None, Path("runs/photos"))
    'tensorboard --logdir runs/photos/track'
    """
    if name == "tensorboard":
        return f"tensorboard --logdir {shlex.quote(str(folder / FOLDER))}"
    return f"{name}, {_url_of(tracker.tracker) or f'project {project_of(folder)}'}"


def _url_of(run: Any) -> str | None:
    if getattr(run, "offline", False):
        return None
    try:
        url = run.url
    except Exception:  # trackers without one may raise anything
        return None
    return url if isinstance(url, str) else None
