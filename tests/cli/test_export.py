"""An export as text: path, comparison with the model, use."""

from dataclasses import replace
from pathlib import Path

from warmstart.cli.export import export_text
from warmstart.records.answer import Agreement, Exported, SingleLayerHead

EXPORTED = Exported(
    run="pets",
    to="onnx",
    title="pets, ONNX",
    inputs="",
    outputs="",
    files={"README.md": 1500, "model.onnx": 13_559_537, "predict.py": 1643},
    agreement=Agreement(n=16, images="run", difference=8e-6, tolerance=1e-3, same_labels=16),
    libraries={},
)


def test_it_fits_the_screen_and_names_what_matters():
    text = export_text(EXPORTED, Path("runs/pets/export/onnx"))
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[0] == "Export    runs/pets/export/onnx: model.onnx 13.6 MB"
    assert text.splitlines()[-1] == "Use       python runs/pets/export/onnx/predict.py photo.jpg"
    assert "all labels are the same" in " ".join(text.split())
    assert "README" not in text


def test_a_small_model_is_named_without_its_size():
    small = replace(EXPORTED, files={"model.onnx": 900})
    assert export_text(small, Path("out")).startswith("Export    out: model.onnx\n")


def test_noise_and_single_layer_heads_are_reported():
    noise = replace(EXPORTED.agreement, images="noise")
    single_layer = SingleLayerHead(
        head="last", estimate=None, original=None, gap=None, why="no honest figure"
    )
    text = export_text(
        replace(EXPORTED, agreement=noise, single_layer=single_layer, to="timm"), Path("my out")
    )
    assert "16 images of noise" in " ".join(text.split())
    assert "Head      This export has a single-layer head" in text
    assert "python 'my out/predict.py' photo.jpg" in text
