"""Accelerate's trackers: which there are, which are installed here, and how one is begun."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from warmstart.errors import UsageError

# As Accelerate calls them; their modules and their packages are called so.
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
PLACE = "track"  # in the run folder: what trackers keep on disk


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that do not exist or are not installed, before any work begins.

    Raises: UsageError.
    """
    for name in names:
        if name not in TRACKERS:
            like = get_close_matches(name.lower(), TRACKERS, n=1)
            raise UsageError(
                f"--track {name} is not one of {', '.join(TRACKERS)}."
                + (f" Did you mean {like[0]}?" if like else "")
            )
        lacking = [package for package in ("accelerate", name) if not is_installed(package)]
        if lacking:
            raise UsageError(
                f"--track {name} needs what is not installed here; run "
                f"`pip install {' '.join(lacking)}`."
            )


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a folder of that name without code in it is none.

    >>> is_installed("json"), is_installed("no_such_module")
    (True, False)
    """
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def open_tracker(name: str, folder: Path) -> Any:
    """One of Accelerate's trackers, begun. `folder` is the run's.

    W&B and its like have projects, in which runs are compared: here one for each data set.
    """
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # without it, some of the trackers cannot write their own log
    kind = LOGGER_TYPE_TO_CLASS[name]
    run, place = folder.resolve().name, folder.resolve() / PLACE
    place.mkdir(exist_ok=True)
    places = [str(place)] if kind.requires_logging_directory else []
    title = run if name == "tensorboard" else project_of(folder)
    tracker = kind(title, *places, **_own_words(name, run, place))
    tracker.start()
    return tracker


def _own_words(name: str, run: str, place: Path) -> dict[str, Any]:
    """What a tracker calls the name of a run, and the folder for what it keeps on disk."""
    # W&B would also record the terminal, with the bar that moves in it.
    quiet = {"console": "off", "silent": True}
    words: dict[str, dict[str, Any]] = {
        "wandb": {"name": run, "dir": str(place), "settings": quiet},
        "mlflow": {"run_name": run},
        "clearml": {"task_name": run},
        "dvclive": {"dir": str(place / name), "dvcyaml": None, "save_dvc_exp": False},
        "swanlab": {"experiment_name": run, "logdir": str(place / name)},
        "trackio": {"name": run},
    }
    return words.get(name, {})


def project_of(folder: Path) -> str:
    """The name under which runs on the same data stand side by side.

    A number that only tells a run from an earlier one beside it is left away, and so are
    letters that not every tracker takes.

    >>> project_of(Path("runs/it's 5 %"))
    'it-s-5-'
    """
    name = folder.resolve().name
    base = re.sub(r"-[0-9]+$", "", name)
    if base and (folder.resolve().parent / base).exists():
        name = base
    return re.sub(r"[^\w.-]+", "-", name)


def tracker_location(name: str, tracker: Any, folder: Path) -> str:
    """Where the curves can be seen, in words.

    >>> where("tensorboard", None, Path("runs/photos"))
    'tensorboard --logdir runs/photos/track'
    """
    if name == "tensorboard":
        return f"tensorboard --logdir {shlex.quote(str(folder / PLACE))}"
    return f"{name}, {_url_of(tracker.tracker) or f'project {project_of(folder)}'}"


def _url_of(run: Any) -> str | None:
    """The page of a run, where it has one."""
    if getattr(run, "offline", False):
        return None
    try:
        url = run.url
    except Exception:  # some raise what they like where there is none
        return None
    return url if isinstance(url, str) else None
