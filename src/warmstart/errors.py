"""Every error of warmstart, in one tree.

    WarmstartError
    ├── UsageError          an option, verb or argument that cannot be used     exit 2
    ├── DataError           the labelled examples cannot be used as they are    exit 2
    ├── ModelError          the pretrained network cannot be used               exit 2
    ├── PlanError           a plan or one of its values cannot be followed      exit 2
    ├── RunFolderError      a run folder cannot be read or written              exit 2
    ├── TrainingError       the work itself failed                              exit 1
    │   └── ProcessError    another process of the same job is gone             exit 1
    ├── ExportError         a model could not be exported faithfully            exit 1
    └── ServeError          the server cannot start or go on                    exit 1

Each message is one line that says what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path


class WarmstartError(Exception):
    """Catch this one to catch every error of ours."""

    exit_code = 1


class UsageError(WarmstartError, ValueError):
    """An option, verb or argument cannot be used."""

    exit_code = 2


class DataError(WarmstartError, ValueError):
    """The labelled examples cannot be used as they are."""

    exit_code = 2


class ModelError(WarmstartError):
    """The pretrained network cannot be used."""

    exit_code = 2


class PlanError(WarmstartError, ValueError):
    """A plan, or one of its values, cannot be followed."""

    exit_code = 2


class RunFolderError(WarmstartError):
    """A run folder cannot be read or written."""

    exit_code = 2


class TrainingError(WarmstartError):
    """The work failed after it had begun; the run folder says where."""


class ProcessError(TrainingError):
    """Another process of the same job is gone, or cannot be reached; the run can go on later."""


class ExportError(WarmstartError):
    """A model could not be exported, or its export did not agree with it."""


class ServeError(WarmstartError):
    """The server cannot start or go on."""


# ---- What to install where an optional package is missing, by warmstart's own metadata.
#
# warmstart may not be on a package index, so `pip install warmstart[serve]` may fail where it was
# installed from a checkout; the packages that the extra names are on one.

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*(>=\s*([\d.]+))?")


def install_command(extra: str) -> str:
    """The command that installs what is missing of one of warmstart's extras.

    It names what is not installed, and what is too old with the least version. Where everything is
    installed and yet cannot be imported, the installation is damaged: it reinstalls.
    """
    required = requirements(extra)
    if not required:  # run from its source, without having been installed
        return f"pip install '.[{extra}]'"
    missing = [line for line in map(_to_install, required) if line is not None]
    if missing:
        return f"pip install {shlex.join(missing)}"
    return f"pip install --force-reinstall --no-deps {shlex.join(map(_name, required))}"


def requirements(extra: str) -> tuple[str, ...]:
    """The requirements of an extra, as `name>=version`; none where warmstart is not installed.

    >>> [one.partition(">")[0] for one in requirements("sound")] in (["soundfile"], [])
    True
    """
    from importlib import metadata  # 20 ms, and only where something is missing

    try:
        lines = metadata.requires("warmstart") or []
    except metadata.PackageNotFoundError:
        return ()
    mark = re.compile(rf"""extra == ["']{re.escape(extra)}["']""")
    return tuple(line.partition(";")[0].strip() for line in lines if mark.search(line))


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where there is none."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _to_install(requirement: str) -> str | None:
    """What to pass to pip for a requirement; None where it is met."""
    match = _REQUIREMENT.match(requirement)
    installed = installed_version(_name(requirement))
    if installed is None:
        return _name(requirement)
    least = match.group(3) if match is not None else None
    return requirement if least and _numbers(installed) < _numbers(least) else None


def _name(requirement: str) -> str:
    match = _REQUIREMENT.match(requirement)
    return requirement if match is None else match.group(1)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _numbers("2.13.0+cpu"), _numbers("4.49rc1")
    ((2, 13, 0), (4, 49))
    """
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match is not None else ()


def first_line(error: BaseException, most: int = 160) -> str:
    """The first line of another library's message; the error's class where it has none.

    >>> first_line(RuntimeError("no such operator.\\n  at line 3"))
    'no such operator'
    """
    lines = str(error).strip().splitlines()
    return (lines[0][:most].rstrip(" .") if lines else "") or type(error).__name__


def missing(path: Path, shown: str, otherwise: str = "check the spelling") -> str:
    """Name the first part of the path that is missing, and the sibling with the closest name.

    `otherwise` is the hint where no sibling has a name like it.
    """
    if path.is_symlink():
        return f"{shown} is a link that leads nowhere; point it to the data"
    first = path
    while not os.path.exists(first.parent) and first.parent != first:
        first = first.parent
    siblings = sorted(os.listdir(first.parent)) if os.access(first.parent, os.R_OK) else []
    if first != path:
        siblings = [name for name in siblings if (first.parent / name).is_dir()]
    near = difflib.get_close_matches(first.name, siblings, 1)
    hint = f"did you mean {first.with_name(near[0])}?" if near else otherwise
    what = "" if first == path else f" ({first} is missing)"
    return f"{shown} does not exist{what}; {hint}"


def no_folder(path: Path, otherwise: str) -> str:
    """Words for a path that should be a folder and is none."""
    if path.exists():
        return f"{path} is a file; {otherwise}"
    return missing(path, str(path), otherwise)
