"""The cleaned index gives back what was kept, whatever the names."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_files import paint
from warmstart.data.dataset import Collection, Listing, Row
from warmstart.data.read import apply_relabel, read
from warmstart.errors import DataError, RunFolderError
from warmstart.events import drain
from warmstart.nouns import Wording
from warmstart.records.data import DataRecord, Example
from warmstart.run.cleaning import drop, write_index
from warmstart.tasks.classify import CLASSIFICATION

WORDING = Wording(source="photos/", before="photos/", remove="the folder")


def collection(rows: list[Row]) -> Collection:
    examples = tuple(
        Example(id=r.id, label=r.label, split=r.split, sha256=r.id, group=r.group) for r in rows
    )
    record = DataRecord(
        name="photos",
        kind="image",
        task="classify",
        layout="class folders",
        classes=tuple(sorted({e.label for e in examples if e.split == "train"})),
        examples=examples,
    )
    return Collection(record=record, load=lambda _: b"", title="", wording=WORDING)


def some_rows() -> list[Row]:
    rows = [Row(id=f"{k}/{i}.png", label=k, group=f"p{i}") for k in "ab" for i in range(4)]
    return [*rows, Row(id="test/a/0.png", label="a", split="test")]


def test_the_columns(tmp_path):
    write_index(tmp_path / "clean.csv", collection(some_rows()), {"a/1.png": "a copy of a/0.png"})
    with open(tmp_path / "clean.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [
        ["path", "label", "split", "group", "note"],
        ["a/0.png", "a", "train", "p0", ""],
        ["a/1.png", "", "train", "p1", "a copy of a/0.png"],
    ]
    assert rows[-1] == ["test/a/0.png", "a", "test", "", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["clean.csv"]


def test_given_back_on_the_same_folder_it_gives_what_drop_gives(tmp_path):
    photos = paint(tmp_path / "photos", {f"{k}/{i}.png": i for k in "ab" for i in range(4)})
    whole = drain(read(photos, test=photos))
    dropped = {"a/1.png": "near-duplicate", "b/3.png": "conflict", "test/a/0.png": "leakage"}
    write_index(tmp_path / "clean.csv", whole, dropped)
    again = drain(read(photos, test=photos, relabel=tmp_path / "clean.csv")).record
    kept = drop(whole, dropped).record
    assert again.examples == kept.examples
    assert again.classes == kept.classes
    assert again.layout.endswith("; labels corrected by clean.csv (3)")


NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
LABEL = (NAME | st.sampled_from(["drop", "a,b", '"', "x\ny", "1.0", "=1+1"])).map(str.strip)


@given(
    ids=st.lists(NAME, min_size=6, max_size=20, unique=True),
    labels=st.lists(LABEL.filter(bool), min_size=2, max_size=3, unique=True),
    data=st.data(),
)
@settings(max_examples=80)
def test_whatever_the_names(tmp_path_factory, ids, labels, data):
    splits = data.draw(
        st.lists(st.sampled_from(["train", "train", "test"]), min_size=len(ids), max_size=len(ids))
    )
    groups = data.draw(st.lists(st.none() | NAME, min_size=len(ids), max_size=len(ids)))
    rows = [
        Row(id=id, label=labels[i % len(labels)], split=splits[i], group=groups[i])
        for i, id in enumerate(ids)
    ]
    dropped = dict.fromkeys(data.draw(st.sets(st.sampled_from(ids))), 'note, of\n"any" kind')
    whole = collection(rows)
    try:
        kept = drop(whole, dropped).record
    except DataError:
        return  # too little is left to be learnt from
    path = tmp_path_factory.mktemp("index") / "clean.csv"
    write_index(path, whole, dropped)
    listing = Listing(
        name="photos", layout="", title="", rows=tuple(rows), load=lambda _: b"", wording=WORDING
    )
    again = apply_relabel(listing, path.read_bytes(), "clean.csv", CLASSIFICATION)
    assert [(r.id, r.label, r.split, r.group) for r in again.rows] == [
        (e.id, e.label, e.split, e.group) for e in kept.examples
    ]


def test_dropping_nothing_changes_nothing():
    whole = collection(some_rows())
    assert drop(whole, {}).record == whole.record


@pytest.mark.parametrize(
    ("dropped", "part"),
    [
        ([f"a/{i}.png" for i in range(4)], "photos/a: nothing is left of it when 4 images are dro"),
        ([f"a/{i}.png" for i in range(3)], "photos/a has 1 training image; a class needs at lea"),
    ],
)
def test_what_cannot_be_dropped(dropped, part):
    with pytest.raises(DataError) as caught:
        drop(collection(some_rows()), dict.fromkeys(dropped, "why"))
    assert part in str(caught.value)


def test_an_index_that_cannot_be_written(tmp_path):
    with pytest.raises(RunFolderError, match=r"clean.csv cannot be written .* another place"):
        write_index(tmp_path / "no" / "clean.csv", collection(some_rows()), {})
    assert list(tmp_path.iterdir()) == []


def test_a_crash_leaves_the_old_index(tmp_path, monkeypatch):
    path: Path = tmp_path / "clean.csv"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write_index(path, collection(some_rows()), {})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["clean.csv"]
