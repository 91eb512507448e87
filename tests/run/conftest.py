"""What several tests of runs begin with."""

from __future__ import annotations

import pytest

from extraction import table


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Paths are relative to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def people(pictures):
    """Writes a table over the pictures in which row k is of person k modulo n."""
    files = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    return lambda n: table(pictures, [(f, f.parent, k % n) for k, f in enumerate(files)])


@pytest.fixture
def torn(tmp_path):
    """Three files that are no whole image, in the order of their names."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("dear")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return [tmp_path / name for name in ("empty.png", "text.jpg", "torn.png")]
