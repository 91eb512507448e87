"""Label issues, off-topic pictures and drift; the lists that a user corrects and gives back."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from extraction import collect, scene_of, table
from hue_images import fill
from issues import issue, issues, off_topic
from refit import left_out
from warmstart.evidence.data_checks import (
    COLUMNS,
    LEAST_LISTED,
    LISTED,
    OFF_TOPIC_COLUMNS,
    check_data,
    left_out_probabilities,
    write_lists,
)
from warmstart.evidence.probe import PENALTIES
from warmstart.planning import rules
from warmstart.solve.calibration import fit_temperature, log_losses, log_probabilities
from warmstart.solve.kernels import mixed_kernels


def invert(folder):
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            ImageOps.invert(image).save(path)


CLASSES = ("blue", "green", "red")


def fill_varied(root, per_class, wrong=0, seed=1):
    """Pictures plain and hard to tell, some of each class under the next; returns their ids."""
    rng, misfiled = np.random.default_rng(seed), []
    for hue in range(3):
        for number in range(per_class):
            blobs = Image.fromarray(rng.integers(60, 190, (4, 4, 3)).astype(np.uint8))
            pixels = np.asarray(blobs.resize((32, 32), Image.Resampling.BICUBIC), dtype=float)
            pixels = pixels + rng.exponential(24) * (2 * np.eye(3)[hue] - 1)
            label = CLASSES[(hue + (number < wrong)) % 3]
            path = root / label / f"{CLASSES[hue]}{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
            if number < wrong:
                misfiled.append(path.relative_to(root).as_posix())
    return misfiled


@pytest.fixture(scope="module")
def misfiled(tmp_path_factory):
    """300 images in three classes, fifteen of them under a wrong one; their ids."""
    root = tmp_path_factory.mktemp("misfiled") / "photos"
    return root, fill_varied(root, 100, wrong=5)


@pytest.fixture(scope="module")
def misfiled_result(misfiled, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
        return check_data(scene_of(misfiled[0]), True)


# ---- probabilities -------------------------------------------------------------------------


def test_probabilities_are_of_heads_that_have_not_seen_the_block(pictures):
    files = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    source = table(pictures, [(f, f.parent, n // 2) for n, f in enumerate(files)])
    training_data = scene_of(source, label="label", group="person")
    labelled = training_data.labelled
    assert {len(rows) for rows in labelled.group_rows} == {2}
    read = training_data.extracted.reader(labelled.learn)
    pair = training_data.pair()
    feature_layers = {layer for layer_weights in pair.values() for layer in layer_weights}
    kernels = mixed_kernels(
        [
            (layer, read(layer))
            for layer in training_data.extracted.feature_layers
            if layer in feature_layers
        ],
        pair,
    )
    tried = []
    for kernel in kernels.values():
        for penalty in PENALTIES:
            scores = left_out(kernel, np.eye(3)[labelled.labels], penalty, labelled.group_rows)
            calibration = fit_temperature(scores, labelled.labels)
            loss = log_losses(scores, labelled.labels, calibration).mean()
            tried.append((loss, np.exp(log_probabilities(scores, calibration))))
    best = min(tried, key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(left_out_probabilities(training_data), best, atol=1e-6)


def test_many_rows_are_judged_in_parts_of_whole_blocks(misfiled, monkeypatch):
    root, _ = misfiled
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    source = table(root, [(f, f.parent, n % 50) for n, f in enumerate(files)])
    training_data = scene_of(source, label="label", group="person")
    whole = left_out_probabilities(training_data)
    monkeypatch.setattr(rules, "DUAL_LIMIT", 110)
    parts = left_out_probabilities(training_data)
    for result in (whole, parts):
        assert np.isfinite(result).all()
        np.testing.assert_allclose(result.sum(axis=1), 1.0)
    agree = (whole.argmax(axis=1) == parts.argmax(axis=1)).mean()
    assert agree > 0.8
    assert not np.allclose(whole, parts)


# ---- label issues ------------------------------------------------------------------------------


def test_misfiled_images_lead_the_list(misfiled, misfiled_result):
    (_, names), result = misfiled, misfiled_result
    warning = result.label_issues
    assert warning.count == len(warning.issues) >= 5
    assert sum(one.id in names for one in warning.issues) >= 0.9 * warning.count
    assert warning.ranked[: warning.count] == warning.issues
    assert warning.rate.low <= 15 / 300 <= warning.rate.high
    for one in warning.ranked:
        assert one.label == one.id.split("/")[0] != one.suggested
        assert 0 <= one.score <= 0.5
    assert len(warning.ranked) <= max(LEAST_LISTED, round(LISTED * 300), warning.count)
    (finding,) = [f for f in result.findings if f.kind == "label-issue"]
    assert finding.sentence == warning.sentence
    assert [item.split(":")[0] for item in finding.items] == [one.id for one in warning.issues]
    assert result.evidence[0].low <= 285 / 300 <= result.evidence[0].high


def test_labels_without_a_signal_are_ranked_and_not_counted(misfiled):
    root, names = misfiled
    result = check_data(scene_of(root), is_signal=False)
    warning = result.label_issues
    assert (warning.count, warning.rate, warning.why) == (None, None, "no-signal")
    assert {one.id for one in warning.ranked} & set(names)
    assert not warning.issues
    assert [f for f in result.findings if f.kind == "label-issue"] == []
    assert result.evidence[0].value is None


def test_a_test_part_of_another_kind_forbids_a_count(misfiled, tmp_path):
    root, names = misfiled
    data = tmp_path / "both"
    shutil.copytree(root, data / "train")
    fill(data / "test", {"blue": 20, "green": 20, "red": 20})
    invert(data / "test")
    result = check_data(scene_of(data), True)
    assert "distribution-shift" in {finding.kind for finding in result.findings}
    warning = result.label_issues
    assert (warning.count, warning.why) == (None, "distribution-shift")
    assert {one.id for one in warning.ranked} & {f"train/{name}" for name in names}


def test_a_clean_set_has_no_label_issues(tmp_path):
    fill_varied(tmp_path / "photos", 60)
    result = check_data(scene_of(tmp_path / "photos"), True)
    assert (result.label_issues.count, result.label_issues.why) == (0, "not-significant")
    assert result.label_issues.sentence.startswith("No label issues found")
    assert [f for f in result.findings if f.kind == "label-issue"] == []
    assert result.evidence[0].value == 1.0
    assert result.off_topic.count == 0
    assert not [f for f in result.findings if f.kind == "off-topic"]


def test_near_copies_with_two_labels_lower_the_ceiling(tmp_path):
    root = fill(tmp_path / "photos", {"blue": 12, "green": 12, "red": 12})
    with Image.open(root / "blue" / "000.png") as picture:
        ImageOps.mirror(picture).save(root / "red" / "mirrored.png")
    training_data = scene_of(root)
    assert training_data.labelled.near_duplicates == (("blue/000.png", "red/mirrored.png"),)
    assert check_data(training_data, True).evidence[0].details["conflicts"] == 1


def test_hold_out_and_test_labels_are_not_looked_at(tmp_path):
    root = tmp_path / "photos"
    for number, part in enumerate(("train", "val", "test")):
        fill(root / part, {"blue": 12, "green": 12, "red": 12}, seed=number)
    one = check_data(scene_of(root), True)
    for part in ("val", "test"):  # red and blue exchanged, names kept in order
        for old, new in (("red", "x"), ("blue", "red"), ("x", "blue")):
            (root / part / old).rename(root / part / new)
    assert check_data(scene_of(root), True) == one


# ---- the list, given back ------------------------------------------------------------------


def test_the_columns(tmp_path):
    warning = issues(issue('a/1, "odd".png', "a", "b"), issue("a/2.png", "a", "b", is_issue=False))
    write_lists(tmp_path, warning, off_topic("a/3.png"))
    with open(tmp_path / "label_issues.csv", newline="") as file:
        assert [*csv.reader(file)] == [
            [*COLUMNS],
            ['a/1, "odd".png', "a", "b", "0.97", "0.02", "yes"],
            ["a/2.png", "a", "b", "0.97", "0.02", "no"],
        ]
    with open(tmp_path / "off_topic.csv", newline="") as file:
        assert [*csv.reader(file)] == [[*OFF_TOPIC_COLUMNS], ["a/3.png", "a", "5.0", "yes"]]


def test_where_nothing_off_topic_was_looked_for_there_is_no_list_of_it(tmp_path):
    write_lists(tmp_path, issues(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["label_issues.csv"]


def test_unedited_it_changes_nothing(misfiled, misfiled_result, tmp_path):
    (root, _), result = misfiled, misfiled_result
    write_lists(tmp_path, result.label_issues, result.off_topic)
    for name in ("label_issues.csv", "off_topic.csv"):
        before, after = collect(root), collect(root, relabel=tmp_path / name)
        assert before.record.examples == after.record.examples


def test_edited_it_changes_the_labels_and_their_ceiling(misfiled, misfiled_result, tmp_path):
    (root, names), first = misfiled, misfiled_result
    corrected = tmp_path / "label_issues.csv"
    write_lists(tmp_path, first.label_issues, first.off_topic)
    with open(corrected, newline="") as file:
        rows = [*csv.DictReader(file)]
    with open(corrected, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            is_wrong = row["path"] in names
            writer.writerow({**row, "label": row["suggested"] if is_wrong else row["label"]})
    training_data = scene_of(root, relabel=corrected)
    labels = {e.id: e.label for e in training_data.collection.record.examples}
    edited = {row["path"]: row["suggested"] for row in rows if row["path"] in names}
    assert len(edited) >= 10
    assert {id: labels[id] for id in edited} == edited
    rest = {e.id: e.label for e in collect(root).record.examples if e.id not in edited}
    assert {id: labels[id] for id in rest} == rest
    assert check_data(training_data, True).evidence[0].value > first.evidence[0].value


def test_of_several_labels_the_list_says_which_is_meant(tmp_path):
    warning = issues(issue("1.png", "a|b", "b", concerns=("a",)))
    write_lists(tmp_path, warning, None)
    header, row = csv.reader((tmp_path / "label_issues.csv").read_text().splitlines())
    assert header == [*COLUMNS, "concerns"]
    assert row == ["1.png", "a|b", "b", "0.97", "0.02", "yes", "a"]


# ---- off-topic pictures --------------------------------------------------------------------


def test_pictures_of_another_kind_are_off_topic(tmp_path):
    root = tmp_path / "photos"
    fill_varied(root, 60)
    rng = np.random.default_rng(3)
    for number in range(2):
        stripes = np.zeros((32, 32, 3), np.uint8)
        stripes[:: 2 + number] = rng.integers(200, 256, 3)
        Image.fromarray(stripes).save(root / "red" / f"stripes{number}.png")
    result = check_data(scene_of(root), True)
    names = {"red/stripes0.png", "red/stripes1.png"}
    assert {one.id for one in result.off_topic.off_topic} == names
    assert {one.label for one in result.off_topic.off_topic} == {"red"}
    (finding,) = [f for f in result.findings if f.kind == "off-topic"]
    assert finding.sentence == result.off_topic.sentence
    assert {item.split(":")[0] for item in finding.items} == names
