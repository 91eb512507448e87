"""What the documents show runs as it stands: their Python, and the tutorial."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from sklearn.datasets import load_digits

DOCS = Path(__file__).parents[1] / "docs"
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


def blocks(name):
    """The Python of a document, block by block."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text("utf-8"), re.M | re.S)


def run_all(name):
    """Every block in turn; what they have made."""
    names = {}
    for block in blocks(name):
        exec(compile(block, name, "exec"), names)
    return names


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
    assert [one.rate for one in made["found"].tried] == [0.00033, 0.001, 0.003]
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
    assert "estimated on examples it had not seen" in shown.data["text/html"]
    assert "on your test part" in shown.data["text/html"]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]
