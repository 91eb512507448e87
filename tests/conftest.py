"""Small picture folders for tests: classes differ in hue, pictures in noise."""

import os

# Several test processes share the cores: threads that wait for each other cost tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gc
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # lets tests import `drawing` and `tiny`

import pytest
from hypothesis import settings

from hue_images import fill
from warmstart.cli.main import prepare

# Half of what hypothesis takes by itself; WARMSTART_EXAMPLES=1000 looks longer. Without a
# deadline: a busy machine is no mistake.
settings.register_profile(
    "suite", deadline=None, max_examples=int(os.environ.get("WARMSTART_EXAMPLES", "50"))
)
settings.load_profile("suite")

prepare()  # the command sets this up once per process; tests call it in theirs
gc.enable()


def pytest_addoption(parser):
    """--pin: numbers that tests keep are written anew, not compared."""
    parser.addoption("--pin", action="store_true", default=False, help="keep numbers anew")


def pytest_collection_modifyitems(items):
    """Whatever needs a browser is slow."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


REAL = Path(__file__).parents[1].parent / "shared" / "data" / "images"


@pytest.fixture
def pictures(tmp_path):
    """A folder of 36 pictures in three classes."""
    return fill(tmp_path / "pictures", {"blue": 12, "green": 12, "red": 12})


@pytest.fixture
def split_pictures(tmp_path):
    """train/ with 36 and test/ with 15 pictures."""
    root = tmp_path / "split"
    fill(root / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or fills the user's feature cache."""
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def any_share(monkeypatch):
    """However much cannot be read is left out: for sets of a few files, of which one is bad."""
    monkeypatch.setattr("warmstart.data.dataset.MAX_UNREADABLE", 1.0)


@pytest.fixture
def real_images():
    """A folder of real image sets, <set>/{train,test}/<class>/*, if it lies beside the project."""
    if not REAL.is_dir():
        pytest.skip("no real image sets beside the project (../shared/data/images)")
    return REAL


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run with a test part that anybody can load; tests must not change it."""
    from tiny import fit, weights

    root = tmp_path_factory.mktemp("finished")
    fill(root / "split" / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "split" / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return fit(
            root / "split", base=weights(root), arch="timm:lcnet_035", out=root / "runs" / "split"
        )


@pytest.fixture
def own_run(finished, tmp_path):
    """The path of a copy of the finished run, to be damaged."""
    return Path(shutil.copytree(finished.path, tmp_path / "own_run"))


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; for tests that skip where it is missing."""
    from playwright.sync_api import sync_playwright

    from browser_checks import CHROMIUM

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
