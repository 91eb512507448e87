"""What of a computer and its packages changes results: noted, and the same again on resume."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import torch

import warmstart
from warmstart.distributed import here
from warmstart.errors import RunFolderError
from warmstart.features.cache_key import cpu_name, version_of
from warmstart.features.machine import n_processors, n_threads, threads_kept

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "onnxruntime",
    "peft",
    "transformers",
)
ARITHMETIC = "MKL_CBWR"  # the mode of MKL, in which a strict one rounds alike everywhere


def around() -> dict[str, Any]:
    """Versions, processors and the way of rounding, as they are now."""
    return {
        "packages": {"warmstart": warmstart.__version__, **_versions()},
        "processors": n_threads(),
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "arithmetic": os.environ.get(ARITHMETIC, ""),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version_of(name)
        except PackageNotFoundError:  # an extra that is not installed
            continue
    return found


def check_same(run: Path, before: Mapping[str, Any]) -> str:
    """What may differ in the last digits, in words; nothing where all is as it was.

    Raises: RunFolderError for another version of a package, or fewer processors: a run that
    went on would not be the one that was begun.
    """
    now = around()
    new = "or begin a new run with `warmstart fit`."
    for name, old in before["packages"].items():
        found = now["packages"].get(name)
        if found != old:
            here = f"{found} is installed" if found else "it is not installed"
            raise RunFolderError(
                f"{run} began with {name} {old}, and {here} now, so that results would differ; "
                f"install {name}=={old} again, {new}"
            )
    if n_processors() < before["processors"]:
        raise RunFolderError(
            f"{run} began on {before['processors']} processors, and this process may use "
            f"{n_processors()}, so that results would differ; allow it as many, {new}"
        )
    changed = [
        what for what in ("cpu", "gpu", "arithmetic") if now[what] != before.get(what, now[what])
    ]
    return "another processor than before: last digits may differ" if changed else ""


@contextmanager
def as_before(before: Mapping[str, Any]) -> Iterator[None]:
    """As many processors and threads as when the run began; put back at the end."""
    threads = torch.get_num_threads()
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        wanted = before["processors"] * here().local
        if own is not None and len(own) > wanted:
            os.sched_setaffinity(0, sorted(own)[:wanted])
        torch.set_num_threads(before["threads"])
        with threads_kept(before["processors"]):
            yield
    finally:
        torch.set_num_threads(threads)
        if own is not None:
            os.sched_setaffinity(0, own)
