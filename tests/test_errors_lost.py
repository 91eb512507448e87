"""A path that is not there is named, with what may have been meant."""

from pathlib import Path

import pytest

from warmstart.data.names import check_exists
from warmstart.errors import DataError, missing


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
