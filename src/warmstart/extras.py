"""What to install where an optional package is missing: told from warmstart's own metadata.

warmstart may not be on a package index, so that `pip install warmstart[serve]` need not work
where it was installed from a checkout; the packages that the extra names are on one.
"""

from __future__ import annotations

import re
import shlex
from importlib import metadata

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*(>=\s*([\d.]+))?")


def install_command(extra: str) -> str:
    """The command that installs what is missing of one of warmstart's extras.

    It names what is not installed, and what is too old with the least version. Where all is
    there and yet cannot be imported, the installation is damaged and made anew.
    """
    wanted = requirements(extra)
    if not wanted:  # run from its source, without having been installed
        return f"pip install '.[{extra}]'"
    lacking = [line for line in (_lacking(one) for one in wanted) if line is not None]
    if lacking:
        return f"pip install {shlex.join(lacking)}"
    return f"pip install --force-reinstall --no-deps {shlex.join(map(_name, wanted))}"


def requirements(extra: str) -> tuple[str, ...]:
    """What an extra brings, as `name>=version`; nothing where warmstart is not installed.

    >>> [one.partition(">")[0] for one in requirements("sound")] in (["soundfile"], [])
    True
    """
    try:
        lines = metadata.requires("warmstart") or []
    except metadata.PackageNotFoundError:
        return ()
    mark = re.compile(rf"""extra == ["']{re.escape(extra)}["']""")
    return tuple(line.partition(";")[0].strip() for line in lines if mark.search(line))


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _lacking(requirement: str) -> str | None:
    """What pip is to be given for a requirement; None where it is met."""
    found = _REQUIREMENT.match(requirement)
    here = installed_version(_name(requirement))
    if here is None:
        return _name(requirement)
    least = found.group(3) if found is not None else None
    return requirement if least is not None and _numbers(here) < _numbers(least) else None


def _name(requirement: str) -> str:
    found = _REQUIREMENT.match(requirement)
    return requirement if found is None else found.group(1)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _numbers("2.13.0+cpu"), _numbers("4.49rc1")
    ((2, 13, 0), (4, 49))
    """
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found is not None else ()
