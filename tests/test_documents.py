"""What the documents show runs as it stands: their Python, their shell, and the tutorial."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shlex

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from sklearn.datasets import load_digits

import warmstart
from pages_as_text import DOCS, PAGES, ROOT, blocks, commands, named
from tiny import Convolutions
from warmstart.cli.main import main
from warmstart.cli.parse import parse

pytestmark = pytest.mark.slow

DOCUMENTS = [ROOT / "README.md", *PAGES]
BENCHES = {path.stem for path in (ROOT / "bench").glob("[a-z]*.py")}
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with what the documents name."""
    monkeypatch.chdir(tmp_path)
    scans = load_digits()
    pictures = np.uint8(scans.images[:60] * 255 / 16)
    with open("scans.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for index, (pixels, label) in enumerate(zip(pictures, scans.target, strict=False)):
            Image.fromarray(pixels).save(f"{index:02}.png")
            table.writerow([f"{index:02}.png", label])
    Image.fromarray(pictures[0]).save("photo.png")
    return tmp_path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A working directory as the pages have it: photos/, finer/, inbox/, new.jpg, runs so far."""
    place = tmp_path_factory.mktemp("workshop")
    scans = load_digits()
    pictures = np.uint8(scans.images * 255 / 16)
    folders = ("photos/cat", "photos/dog", "photos/owl", "finer/siamese", "finer/persian")
    for label, name in enumerate(folders):
        folder = place / name
        folder.mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(scans.target == label)[:16]):
            Image.fromarray(pictures[index]).resize((40, 40)).save(folder / f"{number}.png")
    (place / "inbox").mkdir()
    for number in range(8):
        Image.fromarray(pictures[200 + number]).resize((40, 40)).save(place / f"inbox/{number}.png")
    Image.fromarray(pictures[0]).resize((40, 40)).save(place / "new.jpg")
    with contextlib.chdir(place):
        yield place


def run_all(name, names=None):
    """Every block of Python in turn; what they have made."""
    names = {} if names is None else names
    for block in blocks(DOCS / name, "python"):
        exec(compile(block, name, "exec"), names)
    return names


def test_a_first_model_in_the_shell(workshop, capsys):
    for block in blocks(DOCS / "first-model.md", "sh"):
        for line in block.splitlines():
            assert main(shlex.split(line)[1:]) == 0, line
    shown = capsys.readouterr().out
    assert "Accuracy" in shown
    assert "new.jpg" in shown
    assert (workshop / "runs/photos-2/DONE").exists()
    made = run_all("first-model.md")
    assert made["answer"].label in ("cat", "dog", "owl")


@pytest.mark.parametrize("name", ["other-classes", "learning-rate"])
def test_a_story_in_the_shell(name, workshop, capsys):
    """The small example at its head; its runs are those of `bench run stories`."""
    for block in blocks(DOCS / f"tutorials/{name}.md", "sh"):
        for line in block.splitlines():
            assert main(shlex.split(line)[1:]) == 0, line
    assert "0.001: a tenth of 0.01" in capsys.readouterr().out or name == "other-classes"


def test_much_data_there_little_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = run_all("tutorials/same-kind.md")
    assert made["pair"].winner == made["pair"].a == "arrays"  # the one that began warm
    assert "is better by" in capsys.readouterr().out


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run_all("own-network.md")
    assert len(made["answers"]) == 3
    assert made["event"].values["moved"] == 0


def test_the_python_of_the_first_page(workshop):
    made = run_all("../README.md")
    assert made["run"].estimate.low > 0.5


def test_coming_from_elsewhere(workshop):
    made = run_all("coming-from.md")
    assert made["scores"].mean() > 0.5
    assert made["plan"].blocks[-1].name == "output"
    run_all("track.md")  # reads progress.jsonl of a run in which layers were trained


def test_sounds(place, capsys):
    made = run_all("sound.md")
    assert made["run"].estimate.low > 0.5
    assert made["answer"].label == "bell"
    assert "bell" in capsys.readouterr().out


def test_a_loop_of_ones_own(workshop, capsys):
    pytest.importorskip("lightning")
    pytest.importorskip("transformers")
    made = run_all("watch.md")
    made["proof"].check()
    assert "frozen: 90 tensors of blocks 1-7 unchanged" in capsys.readouterr().out


def test_guards_in_a_loop_of_ones_own(capsys):
    torch.manual_seed(0)
    network = Convolutions()
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 5
    run_all(
        "guards.md",
        {
            "warmstart": warmstart,
            "network": network,
            "plan": warmstart.plan(network, "full", inputs=images, lr=1e-9),
            "loader": [(images[:8], labels[:8]), (images[8:], labels[8:])],
        },
    )
    assert "stuck" in capsys.readouterr().out


# Pages whose blocks of code are run above or below.
RUN = {
    "python": {
        "README.md",
        "docs/coming-from.md",
        "docs/first-model.md",
        "docs/guards.md",
        "docs/notebook.md",
        "docs/own-network.md",
        "docs/scikit-learn.md",
        "docs/sound.md",
        "docs/track.md",
        "docs/tutorials/same-kind.md",
        "docs/watch.md",
    },
    "sh": {
        "docs/first-model.md",
        "docs/tutorials/other-classes.md",
        "docs/tutorials/learning-rate.md",
    },
}


@pytest.mark.parametrize("language", RUN)
def test_no_block_of_code_is_only_shown(language):
    have = {named(path) for path in DOCUMENTS if blocks(path, language)}
    assert have == RUN[language], "run its blocks in a test, or show them as text"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_command_can_be_typed(path):
    """Verbs, options and their values are those of this version; files are not looked for."""
    for line in commands(path):
        words = line.split(" && ")[0].split(" | ")[0].split(" > ")[0]
        if words.startswith("python -m bench "):
            verb, *rest = words.split()[3:]
            assert verb in ("list", "run", "table"), line
            assert verb != "run" or rest[0] in {*BENCHES, "NAME"}, line
        if not words.startswith("warmstart ") or "…" in words or "..." in words:
            continue
        asked = shlex.split(words)[1:]
        if asked[0].isupper() or "[" in words:
            continue  # a form to fill in, not a command
        parse(asked)


def test_scikit_learn(place):
    made = run_all("scikit-learn.md")
    assert made["scores"].mean() > 0.8
    assert (made["labels"] == made["y"][:5]).all()
    assert made["search"].best_score_ > 0.95
    np.testing.assert_allclose(
        made["again"].predict_proba(made["images"][:5]), made["chances"], atol=1e-3
    )


def test_notebook(place, capsys):
    made = run_all("notebook.md")
    assert made["run"].estimate.low > 0.5
    assert [one.lr for one in made["comparison"].results] == [0.00033, 0.001, 0.003]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.name)
def test_a_tutorial_is_stored_without_results(path):
    told = json.loads(path.read_text("utf-8"))
    code = [cell for cell in told["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text("utf-8"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.name)
def test_a_tutorial_runs(path, place):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(place)}}).execute()
    fitted = next(cell for cell in notebook.cells if "warmstart.fit(" in cell.source)
    progress, shown = fitted.outputs
    assert progress.output_type == "display_data"  # one output, however many events
    assert "Proof" in progress.data["text/plain"]
    assert "text/html" in shown.data
    assert ", cross-validated" in shown.data["text/html"]
    assert "on the test set" in shown.data["text/html"]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]
