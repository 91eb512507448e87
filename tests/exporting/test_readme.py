"""The card of an export: what is claimed is what ships, in the hub's format."""

from dataclasses import replace

import pytest
import yaml

from warmstart.exporting.readme import ReadmeFacts, readme
from warmstart.records.answer import Agreement, Exported, Gap, Quantized, SingleLayerHead
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Estimate, Summary


def estimate(value, low, high):
    return Estimate(metric="accuracy", value=value, low=low, high=high, n=200, method="nested-cv")


AGREED = Agreement(n=16, images="run", difference=8e-6, tolerance=1e-3, same_labels=16)
EXPORTED = Exported(
    run="pets",
    to="onnx",
    title='pets "2", ONNX',
    inputs="images",
    outputs="`logits`",
    files={"model.onnx": 13_600_000},
    agreement=AGREED,
    libraries={"torch": "2"},
)
SINGLE_LAYER = SingleLayerHead(
    head="last",
    why="out of fold",
    estimate=estimate(0.8125, 0.75, 0.86),
    original=estimate(0.83, 0.77, 0.88),
    gap=Gap(value=-0.0175, low=-0.054, high=0.014, n=200),
)
QUANTIZED = Quantized(
    images="test",
    accuracy=0.775,
    accuracy_before=0.785,
    gap=Gap(value=-0.01, low=-0.04, high=0.02, n=200),
    same_labels=0.93,
    calibrated_on=128,
    bytes=3_900_000,
    bytes_before=13_600_000,
    seconds=0.01,
    seconds_before=0.015,
    is_too_much=False,
    sentence="no loss that matters",
)


@pytest.fixture(scope="module")
def facts(finished):
    return ReadmeFacts(
        exported=EXPORTED,
        summary=read_json(finished.path / "summary.json", Summary),
        data_name='my: "pets"',
        labels=("cat", "dog"),
        base="lite0",
        base_model="timm/tf_efficientnet_lite0.in1k",
    )


def front(text):
    return yaml.safe_load(text.split("---")[1])


def metrics(text):
    (model,) = front(text)["model-index"]
    return model["results"][0]["metrics"]


def test_the_front_matter_is_that_of_the_hub(facts):
    text = readme(facts)
    result = front(text)
    assert result["library_name"] == "onnx"
    assert result["pipeline_tag"] == "image-classification"
    assert result["base_model"] == "timm/tf_efficientnet_lite0.in1k"
    assert result["model-index"][0]["name"] == 'pets "2", ONNX'
    assert result["model-index"][0]["results"][0]["dataset"]["name"] == 'my: "pets"'
    assert metrics(text)[0] == {
        "type": "accuracy",
        "value": round(facts.summary.test.accuracy, 4),
        "name": "Test accuracy",
    }
    assert "a logit differs from the model by 8e-06 at most" in text
    assert "Classifies images into 2 classes: cat, dog." in text


def test_a_run_without_a_test_part_claims_its_estimate(facts):
    text = readme(replace(facts, summary=replace(facts.summary, test=None)))
    assert metrics(text)[0]["name"] == "Accuracy (nested-cv)"
    assert "test images" not in text


def test_a_single_layer_head_claims_its_own_figure_and_says_what_it_is(facts):
    text = readme(replace(facts, exported=replace(EXPORTED, to="timm", single_layer=SINGLE_LAYER)))
    assert metrics(text) == [{"type": "accuracy", "value": 0.8125, "name": "Accuracy (nested-cv)"}]
    assert "a single-layer head, not the run's own" in text
    assert "Single-layer head: 81 % (95 % CI 75–86); run's model: 83 % (95 % CI 77–88)" in text
    assert "−1.8 points (−5.4 to +1.4)" in text
    assert "from the same network in torch" in text
    bare = replace(SINGLE_LAYER, estimate=None, original=None, gap=None, why="no honest figure: so")
    text = readme(replace(facts, exported=replace(EXPORTED, to="timm", single_layer=bare)))
    assert "model-index" not in front(text)
    assert "Accuracy: no honest figure: so." in text


def test_eight_bits_claim_what_was_measured_of_them(facts):
    rounded = replace(AGREED, tolerance=None, same_labels=15, difference=2.1)
    exported = replace(EXPORTED, quantized=QUANTIZED, agreement=rounded)
    text = readme(replace(facts, exported=exported))
    assert metrics(text)[0]["value"] == 0.775
    assert "−1.0 points (−4.0 to +2.0)" in text
    assert "3.9 MB instead of 13.6, 1.5 times as fast" in text
    assert "15 of 16 labels are the same" in text
    seen = replace(exported, quantized=replace(QUANTIZED, images="train", seconds=0.02))
    text = readme(replace(facts, exported=seen))
    assert "training images, which is optimistic" in text
    assert "slower (0.75 times)" in text
    assert "model-index" not in front(text)


def test_many_classes_are_not_all_named_and_a_format_has_its_note(facts):
    many = tuple(f"c{i}" for i in range(30))
    assert "c19, …." in readme(replace(facts, labels=many))
    text = " ".join(readme(replace(facts, exported=replace(EXPORTED, to="openvino"))).split())
    assert 'compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})' in text
    assert "processors with bfloat16 (AMX)" in text
    assert "INFERENCE_PRECISION_HINT" not in readme(facts)
