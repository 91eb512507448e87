"""Lets the laws import the modules beside them; each whole run is made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Gives the case of a name, such as "texts last:1", and its finished run."""
    from runs import Case

    found = {}

    def make(name):
        if name not in found:
            case = Case(name, tmp_path_factory.mktemp(name.replace(" ", "-").replace(":", "")))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WARMSTART_CACHE", str(case.root / "cache"))
                found[name] = case, case.fit("run")
        return found[name]

    return make
