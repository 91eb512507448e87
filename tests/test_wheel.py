"""What `pip install` brings: every file that the programs read, their licence, typing marks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import warmstart
from pages_as_text import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("warmstart", "warmstart_studio")
BUILD = (
    "import sys; from setuptools import build_meta as build; made = sys.argv[1];"
    "build.build_wheel(made); build.build_sdist(made)"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with wheel and sdist, built from a copy: the working tree stays as it is."""
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
    return made


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(next(built.glob("warmstart-*.whl"))) as archive:
        yield archive


def files_of(package):
    """The files of a package, as a wheel names them."""
    source = ROOT / "src"
    return {
        path.relative_to(source).as_posix()
        for path in (source / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def text_of(wheel, name):
    """A file of the wheel's own record."""
    found = next(path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(found).decode()


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == set.union(*map(files_of, PACKAGES))
    assert {
        "warmstart/py.typed",
        "warmstart/reporting/templates/report.css",
        "warmstart/serving/page/index.html",
        "warmstart_studio/page/studio.html",
    } <= packed


def test_the_sdist_holds_what_a_wheel_is_built_from(built):
    with tarfile.open(next(built.glob("warmstart-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {f"src/{name}" for package in PACKAGES for name in files_of(package)}
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_it_works_where_it_is_installed(built, tmp_path):
    """In an environment of its own that lends the dependencies of this one."""
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    places = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    wheel = next(built.glob("warmstart-*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel],
        check=True,
    )
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (Path(places.strip()) / "borrowed.pth").write_text("\n".join(borrowed))
    code = (
        "import warmstart, warmstart_studio.app, sys;"
        "from warmstart.reporting.markup import render;"
        "print(warmstart.__file__.startswith(sys.prefix), warmstart.__version__)"
    )
    job = {"cwd": tmp_path, "env": {"PATH": ""}, "text": True}
    assert subprocess.check_output([python, "-c", code], **job).split()[0] == "True"
    command = [tmp_path / "env" / "bin" / "warmstart", "--version"]
    assert warmstart.__version__ in subprocess.check_output(command, **job)


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
