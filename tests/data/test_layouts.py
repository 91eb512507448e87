"""What lies in a folder: kinds of images, deep folders, metadata per split."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from image_files import GREYS, embedded, fails, paint, rows
from warmstart.data.read import read
from warmstart.events import drain
from warmstart.modalities.image import decode


def test_the_first_frame_of_animations_counts(tmp_path):
    frames = [Image.new("L", (4, 4), grey) for grey in (200, 10)]
    for label in "ab":
        (tmp_path / label).mkdir()
        for index, kind in enumerate(("gif", "webp", "png")):
            buffer = io.BytesIO()
            frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
            (tmp_path / label / f"{index}.{kind}").write_bytes(buffer.getvalue() + label.encode())
    collection = drain(read(tmp_path))
    assert len(collection.record.examples) == 6
    for example in collection.record.examples:
        image = decode(collection.load(example.id), example.id).convert("L")
        assert image.getextrema() == (200, 200), example.id


def test_images_three_folders_deep_belong_to_the_top_one(tmp_path):
    paint(tmp_path, {f"a/x/y/{name}": grey for name, grey in GREYS.items()})
    paint(tmp_path, {f"b/x/y/{name}": grey + 1 for name, grey in GREYS.items()})
    result = rows(tmp_path)
    assert len(result) == 12
    assert {(id[0], label) for id, label, _ in result} == {("a", "a"), ("b", "b")}


# ---- metadata.csv in each part, as Hugging Face's imagefolder has it ------------------------


def parts(root: Path, name: str = "metadata.csv", sizes=(("train", 4), ("test", 2))) -> Path:
    for k, (part, n) in enumerate(sizes):
        paint(root, {f"{part}/{i}.png": 50 * k + i for i in range(n)})
        lines = "".join(f"{i}.png,{'ab'[i % 2]},p{i // 2}\n" for i in range(n))
        (root / part / name).write_text("file_name,label,patient\n" + lines)
    return root


def test_metadata_in_each_split(tmp_path):
    sizes = (("train", 4), ("validation", 2), ("test", 2))
    collection = drain(read(parts(tmp_path / "photos", sizes=sizes), group="patient"))
    result = [(e.id, e.label, e.split, e.group) for e in collection.record.examples]
    assert result[3:] == [
        ("train/3.png", "b", "train", "p1"),
        ("validation/0.png", "a", "holdout", "p0"),
        ("validation/1.png", "b", "holdout", "p0"),
        ("test/0.png", "a", "test", "p0"),
        ("test/1.png", "b", "test", "p0"),
    ]
    assert collection.record.layout.startswith("train/validation/test folders, each with metadata")
    assert collection.load("test/1.png") == (tmp_path / "photos/test/1.png").read_bytes()


def test_metadata_in_train_alone_and_as_test_of_another(tmp_path):
    source = parts(tmp_path / "photos", sizes=[("train", 4)])
    assert [split for _, _, split in rows(source)] == ["train"] * 4
    ids = [id for id, _, _ in rows(source, test=source)]
    assert ids[4:] == [f"test/train/{i}.png" for i in range(4)]


def test_metadata_without_labels_leaves_them_to_the_class_folders(tmp_path):
    paint(tmp_path, {f"train/{name}": grey for name, grey in GREYS.items()})
    (tmp_path / "train/metadata.csv").write_text("file_name,caption\na/0.png,hello\n")
    assert {label for _, label, _ in rows(tmp_path)} == {"a", "b"}
    (tmp_path / "metadata.csv").write_text("file_name,caption\ntrain/a/0.png,hello\n")
    assert {label for _, label, _ in rows(tmp_path)} == {"a", "b"}
    fails(tmp_path, 'no column "kind". It has: file_name, caption.', label="kind")


def test_a_split_without_metadata(tmp_path):
    source = parts(tmp_path / "photos")
    (source / "test/metadata.csv").unlink()
    fails(source, "photos/test has no metadata.csv, but there is", "photos/train/metadata.csv")


def test_metadata_without_a_training_set(tmp_path):
    fails(parts(tmp_path / "photos", sizes=[("test", 2)]), "photos/ holds test/ but no train/")


def test_metadata_of_a_split_names_its_own_file(tmp_path):
    source = parts(tmp_path / "photos")
    (source / "train/1.png").unlink()
    fails(source, "train/metadata.csv: 1 of 4 files not found (first: 1.png, line 3)")


# ---- Parquet files called after the parts, as the Hugging Face Hub has them -------------------


def shards(root: Path, names) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": embedded(), "label": list("aaabbb")})
        pq.write_table(table, root / name)
    return root


def test_parquet_files_of_the_splits(tmp_path):
    names = [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    source = shards(tmp_path / "hub", [*names, "data/test-00000-of-00001.parquet"])
    (source / "README.md").write_text("x")
    result = rows(source)
    assert [split for _, _, split in result] == ["train"] * 12 + ["test"] * 6
    assert [id for id, _, _ in result[::6]] == [
        "train-00000-of-00002/a/0.png",
        "train-00001-of-00002/a/0.png",
        "test-00000-of-00001/a/0.png",
    ]
    collection = drain(read(source))
    assert collection.load(result[-1][0]) == embedded()[5]["bytes"].as_py()
    assert collection.title.startswith("18 images in")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["part-00000.parquet", "part-00001.parquet"], ["train"] * 12),
        (["train/0.parquet", "train/1.parquet", "test/0.parquet"], ["train"] * 12 + ["test"] * 6),
    ],
)
def test_a_folder_of_parquet_pieces(tmp_path, names, splits):
    source = shards(tmp_path / "pieces", names)
    result = rows(source)
    assert [split for _, _, split in result] == splits
    assert [id for id, _, _ in result[::6]] == [
        f"{n.removesuffix('.parquet')}/a/0.png" for n in names
    ]
    collection = drain(read(source))
    assert collection.load(result[7][0]) == embedded()[1]["bytes"].as_py()


def test_one_parquet_file_and_one_of_the_splits_alone(tmp_path):
    assert len(rows(shards(tmp_path / "one", ["train.parquet"]))) == 6
    assert len(rows(shards(tmp_path / "two", ["train.parquet", "validation.parquet"]))) == 12
    fails(
        shards(tmp_path / "tests", ["test.parquet", "val.parquet"]), "holds test/ and val/ but no"
    )
    fails(
        shards(tmp_path / "other", ["x.parquet", "y.parquet"]), "holds no image, only 2 other fil"
    )


# ---- train.csv beside test.csv ----------------------------------------------------------------

TEXTS = [(f"a sentence about {word} number {n}", word) for n in range(6) for word in ("ab", "cd")]


def write_table(path: Path, rows, head=("text", "label")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(
            pa.table(dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))), path
        )
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(head, row, strict=True))) for row in rows))
    else:
        comma = "," if path.suffix == ".csv" else "\t"
        path.write_text("\n".join(comma.join(map(str, row)) for row in (head, *rows)))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("below", ["", "data/"])
@pytest.mark.parametrize("holdout", ["val", "valid", "validation", "dev"])
def test_tables_called_after_the_splits(tmp_path, kind, below, holdout):
    write_table(tmp_path / f"{below}train.{kind}", TEXTS)
    write_table(tmp_path / f"{below}{holdout}.{kind}", TEXTS[:4])
    write_table(tmp_path / f"{below}test.{kind}", TEXTS[:6])
    collection = drain(read(tmp_path))
    splits = [example.split for example in collection.record.examples]
    assert splits == ["train"] * 12 + ["holdout"] * 4 + ["test"] * 6
    last = collection.record.examples[-1]
    assert last.id.startswith("test/")
    assert collection.load(last.id).decode() == TEXTS[5][0]
    assert collection.record.kind == "text"


def test_tables_of_measurements_called_after_the_splits(tmp_path):
    rows_of = [(n, n % 3, n / 7, "ab"[n % 2]) for n in range(20)]
    write_table(tmp_path / "train.csv", rows_of, ("x", "y", "z", "label"))
    write_table(tmp_path / "test.csv", rows_of[:6], ("x", "y", "z", "label"))
    (tmp_path / "sample_submission.csv").write_text("id,label\n1,a\n")
    record = drain(read(tmp_path)).record
    assert record.kind == "table"
    assert [example.split for example in record.examples] == ["train"] * 20 + ["test"] * 6


def test_tables_of_paths_called_after_the_splits(tmp_path):
    paint(tmp_path, {f"images/{n}.png": n for n in range(12)})
    listed = [(f"images/{n}.png", "ab"[n % 2]) for n in range(12)]
    write_table(tmp_path / "train.csv", listed[:8], ("path", "label"))
    write_table(tmp_path / "test.csv", listed[8:], ("path", "label"))
    assert [split for _, _, split in rows(tmp_path)] == ["train"] * 8 + ["test"] * 4


def test_a_test_table_without_labels_is_left_out(tmp_path):
    write_table(tmp_path / "train.csv", TEXTS)
    write_table(tmp_path / "test.csv", [(text,) for text, _ in TEXTS[:4]], ("text",))
    record = drain(read(tmp_path)).record
    assert {example.split for example in record.examples} == {"train"}
    assert record.problems[-1].items == ("test.csv: has no labels",)
    assert record.layout.startswith("train tables")


def test_two_tables_of_one_split(tmp_path):
    write_table(tmp_path / "train.csv", TEXTS)
    write_table(tmp_path / "train.jsonl", TEXTS)
    fails(tmp_path, "holds train.csv and train.jsonl, two tables of one split; remove one")
