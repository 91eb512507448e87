"""A missing package: what the metadata name is installed. A missing path: what was meant."""

import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from warmstart import errors
from warmstart.data.names import check_exists
from warmstart.errors import DataError, install_command, missing, requirements

USED = ["models", "data", "lora", "fast", "text", "sound", "track", "scale", "serve"]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def without(monkeypatch):
    """Makes packages count as not installed, or as of another version."""

    def make(**versions):
        real = errors.installed_version
        named = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(
            errors, "installed_version", lambda name: named[name] if name in named else real(name)
        )

    return make


@pytest.mark.parametrize("extra", USED)
def test_the_command_installs_what_the_extra_brings_and_nothing_of_our_own(extra, monkeypatch):
    monkeypatch.setattr(errors, "installed_version", lambda package: None)
    told = shlex.split(install_command(extra))
    assert told[:2] == ["pip", "install"]
    lines = [one for one in metadata.requires("warmstart") if f'extra == "{extra}"' in one]
    assert told[2:] == [re.match(r"[\w.-]+", line).group() for line in lines]
    assert told[2:]


def test_only_what_is_missing_or_too_old_is_named(without):
    without(fastapi="0.200", uvicorn="0.30.1", prometheus_client=None, python_multipart="0.0.9")
    assert install_command("serve") == ("pip install prometheus-client 'python-multipart>=0.0.28'")


def test_a_damaged_installation_is_made_anew(without):
    without(soundfile="99")
    assert install_command("sound") == "pip install --force-reinstall --no-deps soundfile"


def test_run_from_its_source_the_extra_is_named(monkeypatch):
    def gone(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", gone)
    monkeypatch.setattr(metadata, "version", gone)
    assert requirements("serve") == ()
    assert install_command("serve") == "pip install '.[serve]'"
    assert errors.installed_version("fastapi") is None


def test_no_line_of_the_project_installs_warmstart_from_an_index():
    """It is on none: `pip install warmstart[serve]` would end in an error, or bring another's."""
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    wrong = re.compile(r"pip install[^\n`&]*\bwarmstart\b")
    found = [path.name for path in places if wrong.search(path.read_text("utf-8"))]
    assert found == ["errors.py"]  # which says why not


# ---- a path that is not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("phtos", "phtos does not exist; did you mean photos?"),
        ("zzz", "zzz does not exist; check the spelling"),
        ("gone/inner", "gone/inner does not exist (gone is missing); check the spelling"),
    ],
)
def test_the_nearest_name_beside_it_is_offered(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    assert missing(Path(name), name) == said
    with pytest.raises(DataError, match=name):
        check_exists(name)


def test_of_a_missing_parent_folders_alone_are_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.py").touch()
    assert missing(Path("runs/none"), "runs/none").endswith("check the spelling")
    Path("run").mkdir()
    assert missing(Path("runs/none"), "runs/none").endswith("did you mean run?")


def test_a_link_to_nothing_is_told_apart(tmp_path):
    (tmp_path / "photos").symlink_to(tmp_path / "moved away")
    assert "is a link that leads nowhere" in missing(tmp_path / "photos", "photos")


@pytest.mark.parametrize("name", ["sample:digits", "https://example.org/x.zip", "", "  ", "."])
def test_what_is_no_path_is_not_looked_for(name):
    check_exists(name)
