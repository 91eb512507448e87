"""What `pip install` brings: every file that the program reads, its licence, its typing mark."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec

import pytest

from pages_as_text import ROOT

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "src" / "warmstart"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the working tree stays as it is."""
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("made")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(made)], cwd=copy, check=True, capture_output=True
    )
    with zipfile.ZipFile(next(made.glob("warmstart-*.whl"))) as archive:
        yield archive


def text_of(wheel, name):
    """A file of the wheel's own record."""
    found = next(path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(found).decode()


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    have = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert have == packed
    assert {"warmstart/py.typed", "warmstart/serving/page/index.html"} <= packed


def test_the_command_the_licence_and_the_extras(wheel):
    assert "warmstart = warmstart.__main__:main" in text_of(wheel, "entry_points.txt")
    told = text_of(wheel, "METADATA")
    assert "License-Expression: Apache-2.0" in told
    assert "License-File: LICENSE" in told
    assert "Requires-Python: >=3.11" in told
    assert "Provides-Extra: serve" in told


def test_requirements_have_a_floor_and_no_pin(wheel):
    needed = [
        line.removeprefix("Requires-Dist: ").partition(";")[0].strip()
        for line in text_of(wheel, "METADATA").splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    assert any(line.startswith("torch>=") for line in needed)
    for line in needed:
        assert ">=" in line or line.startswith("warmstart["), f"{line} has no floor"
        assert not re.search(r"==|\+cpu", line), f"{line} is a pin"
