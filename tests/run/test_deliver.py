"""The model card and the report: numbers of the run, and plain torch that predicts the same."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from heads import arranged_of, fitted_head, layers_of
from issues import issue, issues, off_topic
from plans import typed_request
from tiny import ARCH, PREP, fit, weights
from warmstart.errors import TrainingError
from warmstart.records.findings import Finding
from warmstart.records.summary import Inspection
from warmstart.reporting.report import report
from warmstart.request import open_folder
from warmstart.run import deliver


def photographs(folder, n=20, seed=0):
    """Wide and tall pictures, larger than any crop, smooth; some under the other's name."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        kind, shape = ("sky", "wood")[number % 2], ((260, 390), (330, 250))[number // 2 % 2]
        coarse = rng.normal((90, 130, 200) if kind == "sky" else (150, 110, 60), 50, (9, 9, 3))
        picture = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
        label = ("sky", "wood")[(number + (number % 5 == 4)) % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture.resize(shape[::-1], Image.Resampling.BICUBIC).save(folder / label / f"{number}.png")
    return folder


def snippet(run):
    """The code of the section "Without warmstart"."""
    text = (run / "README.md").read_text("utf-8")
    result = re.search(r"## Without warmstart\n\n```python\n(.*?)```", text, re.DOTALL)
    return result.group(1) if result else None


@contextmanager
def beside_photo(run, image):
    """Work inside the run folder, where the image is called as the snippet has it."""
    with chdir(run):
        Path("photo.jpg").write_bytes(Path(image).read_bytes())
        yield
        Path("photo.jpg").unlink()


def doubtful(run, data):
    """The pictures a run is least certain about: where all are certain, agreeing is no feat."""
    answers = sorted(run.predict(sorted(data.rglob("*.png"))), key=lambda a: a.probability)
    assert answers[0].probability < 0.95
    return answers[:3]


def agrees(run, data):
    """The snippet gives the scores of `predict`."""
    for answer in doubtful(run, data):
        printed = io.StringIO()
        with beside_photo(run.path, answer.path), redirect_stdout(printed):
            exec(compile(snippet(run.path), "README.md", "exec"), {})
        result = ast.literal_eval(printed.getvalue())
        assert result == pytest.approx(answer.scores, abs=2e-2)


def test_the_plain_torch_of_the_default_base_model_predicts_the_same_in_a_clean_process(tmp_path):
    data = photographs(tmp_path / "photos")
    run = fit(data, base="lite0", preprocessing=None, out=tmp_path / "run")
    agrees(run, data)
    answer = doubtful(run, data)[0]
    with beside_photo(run.path, answer.path):
        job = subprocess.run(
            [sys.executable, "-c", snippet(run.path)], capture_output=True, text=True, check=False
        )
    assert job.returncode == 0, job.stderr[-2000:]
    front = (run.path / "README.md").read_text("utf-8").split("---\n")[1]
    assert 'base_model: "timm/tf_efficientnet_lite0.in1k"\n' in front
    assert ast.literal_eval(job.stdout) == pytest.approx(answer.scores, abs=2e-2)
    assert "photo.jpg" not in {path.name for path in run.path.iterdir()}


@pytest.mark.parametrize(
    "kind",
    [
        {"size": (32, 64), "resize": 48, "squash": True, "interpolation": "bilinear"},
        {"size": (32, 64), "resize": 32},  # tall pictures are too narrow for it: enlarged
    ],
)
def test_the_plain_torch_follows_the_preprocessing(tmp_path, kind):
    data, prep = photographs(tmp_path / "photos"), replace(PREP, **kind)
    run = fit(data, base=weights(tmp_path), arch=ARCH, preprocessing=prep, out=tmp_path / "run")
    agrees(run, data)


@pytest.mark.parametrize("design", ["test_vit", "lcnet_035"])
def test_the_plain_torch_of_a_transformer_and_a_grey_network_predicts_the_same(tmp_path, design):
    path, is_grey = tmp_path / "base.safetensors", design == "lcnet_035"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(design, in_chans=1 if is_grey else 3, num_classes=4)
        save_file(module.state_dict(), path)
    data = photographs(tmp_path / "photos")
    prep = replace(PREP, mean=(0.5,), std=(0.25,)) if is_grey else None
    run = fit(data, base=path, arch=f"timm:{design}", preprocessing=prep, out=tmp_path / "run")
    agrees(run, data)


def test_the_report_of_a_run_is_the_one_rebuilt_from_its_files(finished, own_run):
    report(own_run)
    assert (own_run / "report.html").read_bytes() == (finished.path / "report.html").read_bytes()


def test_a_card_without_a_model_promises_none(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    run = fit((images, np.arange(100) % 2), out=tmp_path / "run")
    assert run.summary.shipped.strategy == "none"
    text = (run.path / "README.md").read_text("utf-8")
    assert "No signal found" in text
    sections = ("## Use", "## Without warmstart", "## How good")
    words = ("pipeline_tag", "model-index", "weights_ledger", "The model knows")
    assert not [promise for promise in (*sections, *words) if promise in text]


def test_findings_stand_in_the_card(pictures, tmp_path):
    (pictures / "red" / "003.png").write_bytes(b"")
    run = fit(pictures, out=tmp_path / "run")
    text = (run.path / "README.md").read_text()
    assert snippet(run.path) is None  # a network of one's own
    assert "unreadable" in {finding.kind for finding in run.summary.findings}
    for finding in run.summary.findings:
        assert f"- {finding.sentence}" in text
    for evidence in run.verdict.evidence:
        assert (evidence.meaning in text) == (evidence.value is not None)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("photos", "photos"),
        ("my photos", "my-photos"),
        ("größe", "größe"),
        ("a/b", "a-b"),
        ("..", "data"),
        ("-x-", "x"),
        ("", "data"),
        ("labels.csv", "labels.csv"),
    ],
)
def test_run_folders_have_plain_names(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    made = open_folder(typed_request(data="d"), name)
    assert made.path.as_posix() == f"runs/{folder}"
    assert (tmp_path / "runs" / "latest").resolve() == (tmp_path / "runs" / folder).resolve()


def test_a_network_that_is_not_its_features_is_refused():
    head = fitted_head()

    class Model:
        head = torch.nn.Linear(5, 3)

        def features(self, inputs):
            return (inputs[:, :2], inputs[:, 2:])

    read = layers_of(8)
    inputs = torch.tensor(np.concatenate([read(layer) for layer in head.feature_layers], axis=1))
    Model.head.weight.data = torch.tensor(head.weight)
    Model.head.bias.data = torch.tensor(head.bias)
    assert deliver.check_model(Model(), head, inputs, read) < 1e-5
    with pytest.raises(TrainingError, match=r"differs from the features .* by [0-9.]+%"):
        deliver.check_model(Model(), head, inputs + 0.1, read)
    with pytest.raises(TrainingError, match="nothing was shipped"):
        deliver.check_model(Model(), head, inputs * float("nan"), read)
    rounded = inputs * 1.006  # as what was kept in half precision may be off
    with pytest.raises(TrainingError, match="differs from the features"):
        deliver.check_model(Model(), head, rounded, read)
    assert deliver.check_model(Model(), head, rounded, read, "float16") > 5e-3
    with pytest.raises(TrainingError, match="differs from the features"):
        deliver.check_model(Model(), head, inputs + 0.1, read, "float16")


def test_counts_are_of_images():
    findings = [
        Finding(kind="unreadable", sentence=".", items=("a: why", "b: why")),
        Finding(kind="unreadable", sentence=".", items=("c: why",)),
        Finding(kind="near-duplicate", sentence=".", items=("d",)),
        Finding(kind="small-class", sentence=".", items=("x", "y")),
        Finding(kind="leakage", sentence=".", items=("t1", "t2")),
    ]
    ranked = [issue(str(i), "a", "b", is_issue=i < 4) for i in range(6)]
    inspection = Inspection(evidence=(), label_issues=issues(*ranked), off_topic=off_topic("a/1"))
    counts = deliver.count_data(arranged_of(), findings, inspection, "image")
    assert (counts.unreadable, counts.near_duplicates, counts.leaks) == (3, 1, 2)
    assert (counts.train, counts.test, counts.classes, counts.label_issues) == (30, 6, 3, 4)
    assert counts.off_topic == 1


def test_the_environment_names_what_computed(finished):
    result = json.loads((finished.path / "env.json").read_text())
    assert result["packages"]["torch"] == torch.__version__
    assert result.keys() == {"warmstart", "python", "platform", "machine", "threads", "packages"}
    assert result["threads"] >= 1
