"""8 bits: measured on images held out, and the loss is called what it is."""

from dataclasses import replace

import pytest

from warmstart.errors import ExportError
from warmstart.events import drain
from warmstart.exporting import quantize
from warmstart.exporting.graph import ExportSource, onnx_graph
from warmstart.exporting.quantize import loss_sentence
from warmstart.exporting.quantize import quantize as quantize_run
from warmstart.features.batches import normalised
from warmstart.records.answer import Gap
from warmstart.records.data import DataRecord
from warmstart.records.run_folder import read_json
from warmstart.run.predictor import load
from warmstart.run.reopened import Reopened, reopen


@pytest.fixture(scope="module")
def parts(finished):
    predictor = load(finished.path)
    record = predictor.bundle.record
    data = read_json(finished.path / "data.json", DataRecord)
    images = reopen(finished.path, data, record.preprocessing)
    graph = onnx_graph(ExportSource(predictor.model, record, None), "split")

    def feed(pixels):
        return normalised(pixels, record.preprocessing).contiguous().numpy()

    return graph, images, feed


def test_it_is_measured_on_the_test_set_or_on_what_it_was_fitted_on(parts):
    graph, images, feed = parts
    small, record = drain(quantize_run(graph, images, feed, "images"))
    assert (record.images, record.gap.n) == ("test", len(images.of("test")))
    assert record.bytes == len(small) < record.bytes_before == len(graph)
    assert record.gap.value == pytest.approx(record.accuracy - record.accuracy_before)
    assert record.calibrated_on == len(images.of("train"))
    assert 0.5 < record.same_labels <= 1
    assert min(record.seconds, record.seconds_before) > 0
    train = tuple(images.of("train"))
    bare = Reopened(replace(images.record, examples=train), images.prep, images.load)
    assert drain(quantize_run(graph, bare, feed, "images"))[1].images == "train"


def test_a_ruined_graph_is_called_one(parts, monkeypatch):
    graph, images, feed = parts
    real, text = quantize.run, []

    def ruined(output, inputs):
        text.append(output)
        result = real(output, inputs)
        return result[:, ::-1] if output is not text[0] else result

    monkeypatch.setattr(quantize, "run", ruined)
    _, record = drain(quantize_run(graph, images, feed, "images"))
    assert record.is_too_much
    assert record.sentence == "this loss is too large: use the export without --int8"
    assert record.gap.value < -0.3


def test_without_images_there_is_no_range_and_no_measure(parts):
    graph, images, feed = parts
    with pytest.raises(ExportError, match=r"--int8 is calibrated on .* 0 of 36 are where"):
        drain(quantize_run(graph, Reopened(images.record, images.prep, None), feed, "images"))


@pytest.mark.parametrize(
    ("low", "high", "n", "word"),
    [(-0.1, 0.1, 20, "do not rule out"), (-0.005, 0.005, 2000, "no loss that matters")],
)
def test_too_few_images_rule_nothing_out(low, high, n, word):
    assert word in loss_sentence(Gap(value=0.0, low=low, high=high, n=n))
