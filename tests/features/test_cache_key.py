"""What names the rows of an engine: each version they depend on, and nothing not installed."""

from importlib.metadata import PackageNotFoundError
from typing import get_args

import pytest

from warmstart.features import cache_key
from warmstart.features.cache_key import (
    ENGINE_TITLES,
    EngineName,
    engine_version,
    installed_engines,
)

VERSIONS = {"torch": "2.8", "onnxruntime": "1.20", "openvino": "2025.1"}


@pytest.fixture
def installed(monkeypatch):
    """The packages that seem to be installed."""
    versions = dict(VERSIONS)

    def version_of(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(cache_key, "version_of", version_of)
    return versions


@pytest.mark.parametrize("name", get_args(EngineName))
def test_another_torch_gives_other_rows_of_every_engine(installed, name):
    before = engine_version(name)
    installed["torch"] = "2.9"
    assert engine_version(name) != before


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_another_version_of_its_own_gives_other_rows(installed, name):
    before, others = engine_version(name), [n for n in get_args(EngineName) if n != name]
    unmoved = [engine_version(other) for other in others]
    installed[name] = "99"
    assert engine_version(name) != before
    assert [engine_version(other) for other in others] == unmoved


@pytest.mark.parametrize("gone", ["onnxruntime", "openvino"])
def test_what_is_not_installed_is_not_offered(installed, gone):
    assert installed_engines() == get_args(EngineName)
    del installed[gone]
    assert installed_engines() == tuple(n for n in get_args(EngineName) if n != gone)
    with pytest.raises(PackageNotFoundError):
        engine_version(gone)


def test_every_engine_has_a_name_for_people():
    assert ENGINE_TITLES.keys() == set(get_args(EngineName))
