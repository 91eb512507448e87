"""Last-tap twins: their head is the closed-form one, their figure is an honest one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from warmstart.errors import ExportError, RunFolderError
from warmstart.events import drain
from warmstart.exporting.single_layer_head import (
    has_trained,
    is_plain,
    make_single_layer_head,
    oof_hits,
)
from warmstart.features.batches import normalised
from warmstart.planning.plan_file import read_plan
from warmstart.records.data import DataRecord
from warmstart.records.network import Ledger, LedgerRow
from warmstart.records.run_folder import read_json
from warmstart.run.predictor import load
from warmstart.run.reopened import Reopened, reopen


@pytest.fixture(scope="module")
def parts(finished):
    predictor = load(finished.path)
    prep = predictor.bundle.record.preprocessing
    record = read_json(finished.path / "data.json", DataRecord)
    known = {
        "plan": read_plan((finished.path / "plan.toml").read_text("utf-8")),
        "hits": oof_hits(finished.path / "predictions.jsonl"),
        "is_fine_tuned": False,
    }
    images = reopen(finished.path, record, prep)
    return predictor.model, images, lambda pixels: normalised(pixels, prep), known


@pytest.fixture(scope="module")
def output(parts):
    return drain(make_single_layer_head(*parts[:3], **parts[3]))


def test_it_is_plain_and_shares_the_layers(parts, output):
    model, (single_layer, _) = parts[0], output
    assert is_plain(single_layer)
    pairs = zip(model.backbone.parameters(), single_layer.backbone.parameters(), strict=True)
    assert all(a is b for a, b in pairs)


def test_out_of_fold_both_are_judged_on_the_same_rows(parts, output, finished):
    _, images, _, known = parts
    _, record = output
    learn = images.of("train")
    assert record.estimate.method == record.original.method == "nested-cv"
    assert record.estimate.n == record.original.n == record.gap.n == len(learn)
    right = np.mean([known["hits"][e.id] for e in learn])
    assert record.original.value == pytest.approx(right)
    assert record.original.value == pytest.approx(finished.estimate.value)
    assert record.gap.value == pytest.approx(record.estimate.value - record.original.value)
    assert record.gap.low < record.gap.value < record.gap.high
    assert "out of fold" in record.why


def test_the_figure_is_out_of_fold_not_in_sample(parts):
    model, images, feed, known = parts
    rng = np.random.default_rng(0)
    examples = images.record.examples
    labels = rng.permutation([e.label for e in examples])
    shuffled = tuple(replace(e, label=y) for e, y in zip(examples, labels, strict=True))
    lost = Reopened(replace(images.record, examples=shuffled), images.prep, images.load)
    _, record = drain(make_single_layer_head(model, lost, feed, **known))
    assert record.estimate.value < 0.65  # a third of the labels is right by chance


def test_where_layers_learnt_from_the_images_only_the_test_part_counts(parts):
    model, images, feed, known = parts
    known = known | {"is_fine_tuned": True}
    single_layer, record = drain(make_single_layer_head(model, images, feed, **known))
    tests = images.of("test")
    assert (record.estimate.method, record.estimate.n) == ("holdout", len(tests))
    with torch.inference_mode():
        pixels = np.stack([images.pixels(e) for e in tests])
        text = single_layer(feed(pixels)).argmax(dim=1).numpy()
    classes = images.record.classes
    right = np.mean([classes[k] == e.label for k, e in zip(text, tests, strict=True)])
    assert record.estimate.value == pytest.approx(right)


def without(images, ids):
    """The images of a run, those of `ids` lost."""

    def load(id: str) -> bytes:
        if id in ids:
            raise KeyError(id)
        return images.load(id)

    return Reopened(images.record, images.prep, load)


def test_without_a_test_set_there_is_no_figure_and_it_is_said(parts):
    model, images, feed, known = parts
    train, test = tuple(images.of("train")), {example.id for example in images.of("test")}
    bare = Reopened(replace(images.record, examples=train), images.prep, images.load)
    for some, why in ((bare, "no honest figure"), (without(images, test), "test set is missing")):
        job = make_single_layer_head(model, some, feed, **known | {"is_fine_tuned": True})
        _, record = drain(job)
        assert (record.estimate, record.original, record.gap) == (None, None, None)
        assert why in record.why


def test_a_few_lost_images_are_counted_and_many_refuse_it(parts):
    model, images, feed, known = parts
    ids = [example.id for example in images.of("train")]
    job = make_single_layer_head(model, without(images, ids[:2]), feed, **known)
    assert drain(job)[1].why.endswith("2 of 36 training images were missing")
    for n in (10, 36):
        with pytest.raises(ExportError, match=rf"only {36 - n} of the run's 36 training images"):
            drain(make_single_layer_head(model, without(images, ids[:n]), feed, **known))


@pytest.mark.parametrize(
    ("rows", "is_trained"),
    [
        ({"stem": "unchanged", "head": "trained"}, False),
        ({"stem": "frozen", "blocks.3": "trained"}, True),
        ({"blocks.3": "merged"}, True),
        ({"stem": "new", "blocks.3": "dropped"}, True),  # from scratch
        ({"stem": "new", "blocks.3": "unchanged"}, False),
    ],
)
def test_layers_that_were_trained_are_in_the_ledger(rows, is_trained):
    row = LedgerRow(
        tensor="w", block="", fate="new", shape=(1,), numel=1, buffer=False, before="a", after="b"
    )
    rows = tuple(replace(row, block=block, fate=fate) for block, fate in rows.items())
    assert has_trained(Ledger(rows=rows)) is is_trained


@pytest.mark.parametrize("text", [None, "{", '{"split": "oof"}\n', "[]\n"])
def test_answers_that_are_missing_or_damaged_are_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "predictions.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunFolderError, match=r"predictions\.jsonl cannot be read"):
        oof_hits(path)
