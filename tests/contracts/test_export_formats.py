"""A new export format is one class and one entry of the registry."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny
import warmstart
from hue_images import fill
from warmstart.errors import ExportError
from warmstart.exporting import FORMATS
from warmstart.exporting.format import ExportFormat, any_head
from warmstart.exporting.single_layer_head import backbone_state, linear

SOURCE = Path(warmstart.__file__).parent


class Arrays(ExportFormat):
    """The tiny multi-layer perceptron as arrays and three products of NumPy."""

    name = "npz"
    title = "NumPy arrays"
    model = "model.npz"
    libraries = ("numpy",)
    is_single_layer = True

    needs = "nothing else"
    imports = ""
    load = 'w = np.load(HERE / "model.npz")'
    answer = """\
    a = np.maximum({x}.reshape(len({x}), -1) @ w["1.weight"].T + w["1.bias"], 0)
    a = np.maximum(a @ w["3.weight"].T + w["3.bias"], 0)
    logits = a @ w["weight"].T + w["bias"]
    e = np.exp(logits - logits.max(1, keepdims=True))
    return logits, e / e.sum(1, keepdims=True)"""
    how_loaded = 'np.load("model.npz")'

    def check_possible(self, source):
        if "1.weight" not in backbone_state(source.model):
            raise ExportError(f"{self.name} holds perceptrons; use {any_head()}.")

    def write(self, folder, source, title):
        weight, bias = linear(source.model.head)
        arrays = {name: t.numpy() for name, t in backbone_state(source.model).items()}
        np.savez(folder / self.model, **arrays, weight=weight.numpy(), bias=bias.numpy())


class Wrong(Arrays):
    """Another sign of the bias."""

    name = "wrong"

    def write(self, folder, source, title):
        super().write(folder, source, title)
        arrays = dict(np.load(folder / self.model))
        np.savez(folder / self.model, **arrays | {"bias": arrays["bias"] + [1, 0, 0]})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for one in (Arrays(), Wrong()):
        monkeypatch.setitem(FORMATS, one.name, one)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    fill(root / "photos", {"blue": 12, "green": 12, "red": 12})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return tiny.fit(root / "photos", kind="layers", out=root / "run")


def test_a_toy_format_gives_the_same_logits_in_a_clean_process(run):
    exported = warmstart.export(run, "npz")
    assert exported.agreement.images == "run"
    assert exported.agreement.difference <= exported.agreement.tolerance == 1e-3
    folder = run.path / "export" / "npz"
    assert {"model.npz", "predict.py"} <= exported.files.keys()
    card = (folder / "README.md").read_text("utf-8")
    assert "library_name: npz" in card
    assert 'load it yourself with `np.load("model.npz")`' in card
    assert "as NumPy arrays it needs no warmstart" in card


def test_a_toy_format_that_gives_other_logits_is_refused(run, tmp_path):
    with pytest.raises(ExportError, match="disagrees with the model"):
        warmstart.export(run, "wrong", out=tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_toy_format_refuses_what_it_cannot_hold_and_names_what_can(finished, tmp_path):
    with pytest.raises(ExportError, match="npz holds perceptrons; use --to onnx, torch or openvin"):
        warmstart.export(finished, "npz", out=tmp_path / "out")


NEW = """
from warmstart.exporting.onnx import Onnx
from warmstart.exporting import FORMATS
FORMATS["npz"] = type("Arrays", (Onnx,), {"name": "npz", "hint": "NumPy", "has_int8": False})()
from warmstart.cli.main import main
main(["export", "--help"])
main(["export", "run"])
main(["export", "run", "--to", "tflite"])
"""


def test_the_command_line_lists_it(tmp_path):
    job = subprocess.run([sys.executable, "-c", NEW], capture_output=True, text=True, cwd=tmp_path)
    shown, errors = (" ".join(text.split()) for text in (job.stdout, job.stderr))
    assert "onnx, torch (torch.export), timm, transformers, openvino or npz (NumPy)" in shown
    assert "(onnx, torch, openvino, npz)" in shown
    assert "--int8 onnx quantized" in shown
    assert "export needs a format: --to onnx, torch, timm, transformers, openvino or npz." in errors
    assert "--to tflite is not one of onnx, torch, timm, transformers, openvino, npz." in errors


# Names of the library: its version in every export.json, and whether it is loaded already.
ALLOWED = {("exporting/format.py", "torch"), ("cli/output.py", "torch")}


def test_no_other_file_names_a_format():
    names = {
        (path.relative_to(SOURCE).as_posix(), node.value)
        for part in ("exporting", "cli", "terminal", "serving", "records/answer.py")
        for path in ([SOURCE / part] if part.endswith(".py") else (SOURCE / part).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in FORMATS
    }
    own = {(f"exporting/{name}.py", name) for name in FORMATS}
    assert names - own == ALLOWED


def test_no_sentence_names_the_formats():
    """Except examples of commands, which name one."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"(--to \w+, |try --to )\w", node.value), path
