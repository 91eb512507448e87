"""What bytes, groups and features tell of the data, and what --fix leaves out."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageOps

import warmstart
from detailed_images import training_data
from extraction import collect, look_at
from tiny import bytes_of, fit, network
from warmstart.data.dataset import Collection, Listing, Row
from warmstart.data.read import apply_relabel
from warmstart.errors import DataError, RunFolderError
from warmstart.nouns import Wording
from warmstart.records.data import DataRecord, Example
from warmstart.run.cleaning import clean, drop, drop_unreadable, write_index
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.training.dataset import arrange, groups_among

PER_CLASS = 5


def fill(root, labels="ab", per_class=PER_CLASS, seed=0):
    """Scenes with details of their own in each class folder."""
    for label in labels:
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = training_data(seed + 100 * "abc".index(label) + number)
            picture.save(root / label / f"{number}.png")
    return root


@pytest.fixture
def photos(tmp_path):
    """train/ and test/ with two classes each, every picture of its own."""
    fill(tmp_path / "photos" / "train")
    fill(tmp_path / "photos" / "test", per_class=2, seed=50)
    return tmp_path / "photos"


def original(label, number, seed=0):
    return training_data(seed + 100 * "abc".index(label) + number)


def reencode(label, number, to):
    original(label, number).resize((150, 112)).save(to, quality=60)


def mirror(label, number, to):
    ImageOps.mirror(original(label, number)).save(to)


def copy(path, to):
    to.write_bytes(path.read_bytes())


def settle(root, **options):
    collection = collect(root)
    return clean(collection, look_at(collection)[0], **options)


def found(collection):
    return {problem.kind: problem.items for problem in collection.record.problems}


def test_near_copies_in_training_are_one_block_and_a_duplicate(photos):
    reencode("a", 0, photos / "train/a/small.jpg")
    mirror("a", 0, photos / "train/a/turned.png")
    mirror("b", 1, photos / "train/b/turned.png")
    whole = settle(photos)
    labelled = arrange(whole.record)
    ids = [example.id for example in labelled.learn]
    groups = {frozenset(ids[row] for row in rows) for rows in labelled.group_rows if len(rows) > 1}
    assert groups == {
        frozenset({"train/a/0.png", "train/a/small.jpg", "train/a/turned.png"}),
        frozenset({"train/b/1.png", "train/b/turned.png"}),
    }
    assert found(whole) == {
        "near-duplicate": ("train/a/small.jpg", "train/a/turned.png", "train/b/turned.png")
    }
    assert len(groups_among(np.arange(len(ids)), labelled)) == 2 * PER_CLASS


def test_near_copies_across_the_split_are_a_leak_whatever_their_labels(photos):
    assert found(settle(photos)) == {}
    mirror("a", 0, photos / "test/a/turned.png")
    reencode("a", 1, photos / "test/b/small.jpg")
    whole = settle(photos)
    assert found(whole) == {"leakage": ("test/a/turned.png", "test/b/small.jpg")}
    assert len(arrange(whole.record).group_rows) == 2 * PER_CLASS


def test_a_near_copy_of_one_is_a_near_copy_of_its_exact_copies(photos):
    copy(photos / "train/a/0.png", photos / "train/a/same.png")
    reencode("a", 0, photos / "train/a/small.jpg")
    whole = settle(photos)
    assert set(whole.record.near_duplicates) == {
        ("train/a/0.png", "train/a/small.jpg"),
        ("train/a/same.png", "train/a/small.jpg"),
    }
    named = [item for problem in whole.record.problems for item in problem.items]
    assert sorted(named) == ["train/a/same.png", "train/a/small.jpg"]


@pytest.fixture
def faulty(photos):
    """One of each: leaks near and exact, conflicts near and exact, copies exact and near."""
    reencode("a", 0, photos / "test/a/leak.jpg")
    copy(photos / "train/b/0.png", photos / "test/b/leak.png")
    mirror("a", 1, photos / "train/b/conflict.png")
    copy(photos / "train/a/2.png", photos / "train/b/both.png")
    copy(photos / "train/b/3.png", photos / "train/b/again.png")
    reencode("a", 4, photos / "train/a/near.jpg")
    return photos


GONE = {
    "train/a/0.png",
    "train/b/0.png",  # the test holds them
    "train/a/1.png",
    "train/b/conflict.png",
    "train/a/2.png",
    "train/b/both.png",  # two labels
    "train/b/again.png",  # 3.png is the first of its bytes
}


def test_fix_leaves_out_what_it_promises_and_nothing_else(faulty, tmp_path):
    (tmp_path / "fixed").mkdir()
    before = bytes_of(faulty)
    noted, clean = settle(faulty), settle(faulty, fix_into=tmp_path / "fixed")
    assert bytes_of(faulty) == before
    assert bytes_of(tmp_path / "fixed").keys() == {"clean.csv"}
    gone = {e.id for e in noted.record.examples} - {e.id for e in clean.record.examples}
    assert gone == GONE
    tests = [[e for e in whole.record.examples if e.split == "test"] for whole in (noted, clean)]
    assert tests[0] == tests[1]
    assert clean.record.near_duplicates == (("train/a/4.png", "train/a/near.jpg"),)
    left = {p.kind: p.items for p in clean.record.problems if p.items}
    assert left == {"near-duplicate": ("train/a/near.jpg",), "small-class": ("a", "b")}


def test_the_clean_index_given_back_is_the_clean_set(faulty, tmp_path):
    (tmp_path / "fixed").mkdir()
    clean = settle(faulty, fix_into=tmp_path / "fixed").record
    again = collect(faulty, relabel=tmp_path / "fixed" / "clean.csv").record
    assert again.examples == clean.examples
    assert again.classes == clean.classes
    with open(tmp_path / "fixed" / "clean.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    files = {p.relative_to(faulty).as_posix() for p in faulty.rglob("*") if p.is_file()}
    assert rows.keys() == files
    for id, row in rows.items():
        assert bool(row["note"]) == (not row["label"])
        digest = hashlib.sha256((faulty / id).read_bytes()).hexdigest()
        is_kept = any(e.id == id and e.sha256 == digest for e in clean.examples)
        assert is_kept == bool(row["label"])


def test_a_class_of_which_too_little_is_left_is_named(photos, tmp_path):
    for number in range(PER_CLASS):
        mirror("a", number, photos / f"test/a/turned{number}.png")
    with pytest.raises(DataError, match=r"train/a.*: nothing is left of it when 5 images are"):
        settle(photos, fix_into=tmp_path)


def test_an_interrupted_run_with_fix_goes_on(pictures, tmp_path):
    copy(pictures / "red/000.png", pictures / "red/copy.png")

    def stop(event):
        if (event.stage, event.kind) == ("checks", "end"):
            raise KeyboardInterrupt

    options = {"fix": True, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        fit(pictures, **options, on_event=stop)
    assert {"clean.csv", "INTERRUPTED"} <= bytes_of(tmp_path / "out").keys()
    run = warmstart.resume(tmp_path / "out", base=network())
    assert (run.summary.data.train, run.summary.data.near_duplicates) == (36, 0)
    assert {"clean.csv", "label_issues.csv", "DONE"} <= bytes_of(run.path).keys()


WORDING = Wording(source="clothing/", before="clothing/", remove="the folder")


def collection(rows: list[tuple[str | None, ...]], ids: list[str] | None = None) -> Collection:
    """Rows of (label, split, sha256[, group]); ids are their numbers where none are given."""
    examples = tuple(
        Example(id=id, label=r[0], split=r[1], sha256=r[2], group=r[3] if r[3:] else None)
        for id, r in zip(ids or map(str, range(len(rows))), rows, strict=True)
    )
    record = DataRecord(
        name="clothing",
        kind="image",
        task="classify",
        layout="",
        classes=tuple(sorted({e.label for e in examples if e.split == "train"})),
        examples=examples,
    )
    return Collection(record=record, load=lambda _: b"", title="", wording=WORDING)


CLEAN = [(label, "train", f"{label}{i}") for label in "ab" for i in range(6)]


def findings(rows, reasons=None) -> list[tuple[str, tuple[str, ...]]]:
    problems = drop_unreadable(collection(rows), reasons or {}).record.problems
    return [(result.kind, result.items) for result in problems]


KNOWN = {
    "clean": ([], []),
    "copies and a conflict": (
        [("a", "train", "a0"), ("a", "train", "a0"), ("b", "train", "a1")],
        [("near-duplicate", ("12", "13")), ("conflict", ("1", "14"))],
    ),
    "leaks, which stay": (
        [("a", "holdout", "h"), ("b", "holdout", "b0"), ("a", "test", "h"), ("b", "test", "a0")],
        [("leakage", ("14", "15")), ("leakage", ("13",))],
    ),
    "a shared group": (
        [("a", "train", "x", "u1"), ("a", "test", "y", "u1"), ("a", "test", "z", "u2")],
        [("leakage", ("13",))],
    ),
    "copies within the test set": ([("a", "test", "t"), ("b", "test", "t")], []),
    "a small class": (
        [("c", "train", f"c{i}") for i in range(4)],
        [("small-class", ("c",))],
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_bytes_and_groups_tell(case):
    more, expected = KNOWN[case]
    assert findings([*CLEAN, *more]) == expected
    settled = drop_unreadable(collection([*CLEAN, *more]), {})
    assert len(settled.record.examples) == len(CLEAN) + len(more)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (["12"], r"clothing/hat has 1 training image.*remove the folder"),
        ([*map(str, range(6, 12))], "clothing/b: none of its images can be read; replace them"),
    ],
)
def test_too_little_that_can_be_read_is_an_error(lost, says):
    rows = [*CLEAN, ("hat", "train", "x"), ("hat", "train", "y")]
    with pytest.raises(DataError, match=says):
        drop_unreadable(collection(rows), dict.fromkeys(lost, "is cut off"))


def test_unreadable_images_leave_and_are_listed():
    settled = drop_unreadable(collection(CLEAN), {"3": "3 is cut off"})
    assert "3" not in {e.id for e in settled.record.examples}
    (result,) = settled.record.problems
    assert (result.kind, result.items) == ("unreadable", ("3: is cut off",))
    assert result.sentence == "1 image could not be read and was left out."


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["a0", "b3", "t", "u"])), max_size=8),
    st.randoms(use_true_random=False),
)
def test_permuting_test_labels_changes_nothing_but_those_labels(tests, random):
    rows = [*CLEAN, *[(label, "test", sha) for label, sha in tests]]
    shuffled = [label for label, _ in tests]
    random.shuffle(shuffled)
    other = [*CLEAN, *[(k, "test", sha) for k, (_, sha) in zip(shuffled, tests, strict=True)]]
    one, two = (drop_unreadable(collection(r), {"2": "is cut off"}).record for r in (rows, other))
    assert replace(one, examples=()) == replace(two, examples=())
    assert [(e.id, e.split) for e in one.examples] == [(e.id, e.split) for e in two.examples]


NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
LABEL = (NAME | st.sampled_from(["drop", "a,b", '"', "x\ny", "1.0", "=1+1"])).map(str.strip)


@given(
    ids=st.lists(NAME, min_size=6, max_size=20, unique=True),
    labels=st.lists(LABEL.filter(bool), min_size=2, max_size=3, unique=True),
    data=st.data(),
)
def test_the_index_given_back_is_what_drop_leaves_whatever_the_names(
    tmp_path_factory, ids, labels, data
):
    n = len(ids)
    splits = data.draw(
        st.lists(st.sampled_from(["train", "train", "test"]), min_size=n, max_size=n)
    )
    groups = data.draw(st.lists(st.none() | NAME, min_size=n, max_size=n))
    dropped = dict.fromkeys(data.draw(st.sets(st.sampled_from(ids))), 'note, of\n"any" kind')
    columns = [(labels[i % len(labels)], splits[i], ids[i], groups[i]) for i in range(n)]
    whole = collection(columns, ids)
    try:
        kept = drop(whole, dropped).record
    except DataError:
        return  # too little is left
    path = tmp_path_factory.mktemp("index") / "clean.csv"
    write_index(path, whole, dropped)
    rows = tuple(
        Row(id=id, label=label, split=split, group=group) for label, split, id, group in columns
    )
    listing = Listing(
        name="photos", layout="", title="", rows=rows, load=lambda _: b"", wording=WORDING
    )
    again = apply_relabel(listing, path.read_bytes(), "clean.csv", CLASSIFICATION)
    assert [(r.id, r.label, r.split, r.group) for r in again.rows] == [
        (e.id, e.label, e.split, e.group) for e in kept.examples
    ]


def test_what_cannot_be_dropped_or_written(tmp_path):
    for n, says in (
        (6, "clothing/a: nothing is left of it when 6 images"),
        (5, "a has 1 training"),
    ):
        with pytest.raises(DataError, match=says):
            drop(collection(CLEAN), dict.fromkeys(map(str, range(n)), "why"))
    with pytest.raises(RunFolderError, match=r"clean.csv cannot be written .* another place"):
        write_index(tmp_path / "no" / "clean.csv", collection(CLEAN), {})
