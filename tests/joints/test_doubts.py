"""Doubtful labels and drift over whole pictures; the list that a user corrects and gives back."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from drawing import fill
from looking import collect, scene_of, table
from refit import left_out
from warmstart.inspection.hits import PENALTIES
from warmstart.joints.doubting import LEAST_LISTED, LISTED
from warmstart.joints.doubts import (
    COLUMNS,
    doubt,
    left_out_probabilities,
    write_suspects,
)
from warmstart.planning import rules
from warmstart.records import SuspectLabel
from warmstart.solve.kernels import mixed_kernels
from warmstart.solve.temperature import fit_temperature, log_losses, log_probabilities


def doubts_of(scene, seed=0):
    return doubt(replace(scene, seed=seed))


def probabilities_of(scene, seed=0):
    return left_out_probabilities(replace(scene, seed=seed))


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


@pytest.fixture
def misfiled(tmp_path):
    """300 pictures in three classes, fifteen of them under a wrong one."""
    return tmp_path / "photos", fill_varied(tmp_path / "photos", 100, wrong=5)


# ---- probabilities -------------------------------------------------------------------------


def test_probabilities_are_of_heads_that_have_not_seen_the_block(pictures):
    files = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    source = table(pictures, [(f, f.parent, n // 2) for n, f in enumerate(files)])
    scene = scene_of(source, label="label", group="person")
    arranged = scene.arranged
    assert {len(rows) for rows in arranged.groups} == {2}
    read = scene.look.reader(arranged.learn)
    pair = scene.pair()
    taps = {tap for profile in pair.values() for tap in profile}
    kernels = mixed_kernels([(tap, read(tap)) for tap in scene.look.taps if tap in taps], pair)
    tried = []
    for kernel in kernels.values():
        for penalty in PENALTIES:
            scores = left_out(kernel, np.eye(3)[arranged.labels], penalty, arranged.groups)
            calibration = fit_temperature(scores, arranged.labels)
            loss = log_losses(scores, arranged.labels, calibration).mean()
            tried.append((loss, np.exp(log_probabilities(scores, calibration))))
    best = min(tried, key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(probabilities_of(scene), best, atol=1e-6)


def test_many_rows_are_judged_in_parts_of_whole_blocks(misfiled, monkeypatch):
    root, _ = misfiled
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    source = table(root, [(f, f.parent, n % 50) for n, f in enumerate(files)])
    scene = scene_of(source, label="label", group="person")
    whole = probabilities_of(scene)
    monkeypatch.setattr(rules, "DUAL_LIMIT", 110)
    parts = probabilities_of(scene)
    for found in (whole, parts):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(axis=1), 1.0)
    agree = (whole.argmax(axis=1) == parts.argmax(axis=1)).mean()
    assert agree > 0.8
    assert not np.allclose(whole, parts)


# ---- suspects ------------------------------------------------------------------------------


def test_misfiled_pictures_lead_the_list(misfiled):
    root, names = misfiled
    found = doubts_of(scene_of(root))
    believed = [suspect for suspect in found.suspects if suspect.believed]
    assert len(believed) >= 5
    assert sum(suspect.id in names for suspect in believed) >= 0.9 * len(believed)
    assert list(found.suspects[: len(believed)]) == believed
    for suspect in found.suspects:
        assert suspect.label == suspect.id.split("/")[0] != suspect.suggested
        assert 0 <= suspect.wrong <= 1
    assert all(suspect.wrong > 0.5 for suspect in believed)
    assert len(found.suspects) <= max(LEAST_LISTED, round(LISTED * 300), len(believed))
    (finding,) = [f for f in found.findings if f.kind == "suspect-label"]
    assert [item.split(":")[0] for item in finding.items] == [s.id for s in believed]
    assert found.ceiling.low <= 285 / 300 <= found.ceiling.high


def test_a_clean_set_has_no_suspect_to_believe(tmp_path):
    fill_varied(tmp_path / "photos", 60)
    found = doubts_of(scene_of(tmp_path / "photos"))
    assert not any(suspect.believed for suspect in found.suspects)
    assert [f for f in found.findings if f.kind == "suspect-label"] == []
    assert found.ceiling.value == 1.0


def test_near_copies_with_two_labels_lower_the_ceiling(tmp_path):
    root = fill(tmp_path / "photos", {"blue": 12, "green": 12, "red": 12})
    with Image.open(root / "blue" / "000.png") as picture:
        ImageOps.mirror(picture).save(root / "red" / "mirrored.png")
    scene = scene_of(root)
    assert scene.arranged.twins == (("blue/000.png", "red/mirrored.png"),)
    assert doubts_of(scene).ceiling.details["conflicts"] == 1


def test_hold_out_and_test_labels_are_not_looked_at(tmp_path):
    root = tmp_path / "photos"
    for number, part in enumerate(("train", "val", "test")):
        fill(root / part, {"blue": 12, "green": 12, "red": 12}, seed=number)
    one = doubts_of(scene_of(root))
    for part in ("val", "test"):  # red and blue exchanged, names kept in order
        for old, new in (("red", "x"), ("blue", "red"), ("x", "blue")):
            (root / part / old).rename(root / part / new)
    assert doubts_of(scene_of(root)) == one


# ---- drift ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_other", [False, True])
def test_a_test_part_of_another_kind_is_told(tmp_path, is_other):
    root = tmp_path / "photos"
    fill(root / "train", {"blue": 20, "red": 20})
    fill(root / "test", {"blue": 20, "red": 20}, seed=1)
    if is_other:
        for path in (root / "test").rglob("*.png"):
            with Image.open(path) as picture:
                ImageOps.invert(picture).save(path)
    kinds = {finding.kind for finding in doubts_of(scene_of(root)).findings}
    assert ("drift" in kinds) == is_other


# ---- the list, given back ------------------------------------------------------------------


def test_the_columns(tmp_path):
    suspects = [
        SuspectLabel(
            id='a/1, "odd".png', label="a", suggested="b", probability=0.9, wrong=0.7, believed=True
        )
    ]
    write_suspects(tmp_path / "suspects.csv", suspects)
    with open(tmp_path / "suspects.csv", newline="") as file:
        assert [*csv.reader(file)] == [[*COLUMNS], ['a/1, "odd".png', "a", "b", "0.9", "0.7"]]


def test_unedited_it_changes_nothing(misfiled, tmp_path):
    root, _ = misfiled
    write_suspects(tmp_path / "suspects.csv", doubts_of(scene_of(root)).suspects)
    before, after = collect(root), collect(root, relabel=tmp_path / "suspects.csv")
    assert before.record.examples == after.record.examples


def test_edited_it_changes_the_labels_and_their_ceiling(misfiled, tmp_path):
    root, names = misfiled
    first = doubts_of(scene_of(root))
    corrected = tmp_path / "suspects.csv"
    write_suspects(corrected, first.suspects)
    with open(corrected, newline="") as file:
        rows = [*csv.DictReader(file)]
    with open(corrected, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            is_wrong = row["path"] in names
            writer.writerow({**row, "label": row["suggested"] if is_wrong else row["label"]})
    scene = scene_of(root, relabel=corrected)
    labels = {e.id: e.label for e in scene.collection.record.examples}
    edited = {row["path"]: row["suggested"] for row in rows if row["path"] in names}
    assert len(edited) >= 10
    assert {id: labels[id] for id in edited} == edited
    rest = {e.id: e.label for e in collect(root).record.examples if e.id not in edited}
    assert {id: labels[id] for id in rest} == rest
    assert doubts_of(scene).ceiling.value > first.ceiling.value


def test_of_several_labels_the_list_says_which_is_meant(tmp_path):
    suspect = SuspectLabel(
        id="1.png", label="a|b", suggested="b", probability=0.9, wrong=0.5, believed=True,
        concerns=("a",),
    )  # fmt: skip
    write_suspects(tmp_path / "s.csv", [suspect])
    header, row = csv.reader((tmp_path / "s.csv").read_text().splitlines())
    assert header == [*COLUMNS, "concerns"]
    assert row == ["1.png", "a|b", "b", "0.9", "0.5", "a"]
