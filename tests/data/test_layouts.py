"""What lies in a folder: deep folders, metadata per split, shards, data sets of `datasets`."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_files import GREYS, embedded, fails, features, paint, rows
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.modalities.image import decode

NAMES = list(GREYS)


def splits(source, **options) -> list[str]:
    return [split for _, _, split in rows(source, **options)]


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
    paint(tmp_path, {f"{top}/x/y/{name}": grey for top in "ab" for name, grey in GREYS.items()})
    assert {(id[0], label) for id, label, _ in rows(tmp_path)} == {("a", "a"), ("b", "b")}


# ---- metadata.csv in each split, as Hugging Face's imagefolder has it ------------------------


def with_metadata(root: Path, **sizes: int) -> Path:
    for k, (split, n) in enumerate((sizes or {"train": 4, "test": 2}).items()):
        paint(root, {f"{split}/{i}.png": 50 * k + i for i in range(n)})
        lines = "".join(f"{i}.png,{'ab'[i % 2]},p{i // 2}\n" for i in range(n))
        (root / split / "metadata.csv").write_text("file_name,label,patient\n" + lines)
    return root


def test_metadata_in_each_split(tmp_path):
    source = with_metadata(tmp_path / "photos", train=4, validation=2, test=2)
    collection = drain(read(source, group="patient"))
    result = [(e.id, e.label, e.split, e.group) for e in collection.record.examples]
    assert result[3:6] == [
        ("train/3.png", "b", "train", "p1"),
        ("validation/0.png", "a", "holdout", "p0"),
        ("validation/1.png", "b", "holdout", "p0"),
    ]
    assert splits(source) == ["train"] * 4 + ["holdout"] * 2 + ["test"] * 2
    assert collection.record.layout.startswith("train/validation/test folders, each with metadata")
    assert collection.load("test/1.png") == (source / "test/1.png").read_bytes()
    alone = with_metadata(tmp_path / "alone", train=4)
    assert [id for id, _, _ in rows(alone, test=alone)][4] == "test/train/0.png"


def test_metadata_without_labels_leaves_them_to_the_class_folders(tmp_path):
    paint(tmp_path, {f"train/{name}": grey for name, grey in GREYS.items()})
    for folder, name in (("train", "a/0.png"), (".", "train/a/0.png")):
        (tmp_path / folder / "metadata.csv").write_text(f"file_name,caption\n{name},hello\n")
        assert {label for _, label, _ in rows(tmp_path)} == {"a", "b"}
    fails(tmp_path, 'no column "kind". It has: file_name, caption.', label="kind")


def test_metadata_that_does_not_fit(tmp_path):
    source = with_metadata(tmp_path / "photos")
    (source / "train/1.png").unlink()
    fails(source, "train/metadata.csv: 1 of 4 files not found (first: 1.png, line 3)")
    (source / "test/metadata.csv").unlink()
    fails(source, "photos/test has no metadata.csv, but there is", "photos/train/metadata.csv")
    fails(with_metadata(tmp_path / "tests", test=2), "tests/ holds test/ but no train/")


# ---- tables called after the splits, as the Hugging Face Hub and competitions have them ---------


def shards(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": embedded(), "label": list("aaabbb")}), root / name)
    return root


@pytest.mark.parametrize(
    ("names", "n_test"),
    [
        (["part-00000.parquet", "part-00001.parquet"], 0),
        (["train/0.parquet", "train/1.parquet", "test/0.parquet"], 6),
        (
            [
                *(f"data/train-0000{i}-of-00002.parquet" for i in range(2)),
                "data/test-00000-of-00001.parquet",
            ],
            6,
        ),
    ],
)
def test_a_folder_of_parquet_pieces(tmp_path, names, n_test):
    source = shards(tmp_path / "pieces", *names)
    (source / "README.md").write_text("x")
    assert splits(source) == ["train"] * 12 + ["test"] * n_test
    ids = [id for id, _, _ in rows(source)]
    stems = [name.removesuffix(".parquet").removeprefix("data/") for name in names]
    assert ids[::6] == [f"{stem}/a/0.png" for stem in stems]
    collection = drain(read(source))
    assert collection.load(ids[7]) == embedded()[1]["bytes"].as_py()
    assert collection.title.startswith(f"{12 + n_test} images in")


def test_one_parquet_file_and_some_of_the_splits(tmp_path):
    assert len(rows(shards(tmp_path / "one", "train.parquet"))) == 6
    assert len(rows(shards(tmp_path / "two", "train.parquet", "validation.parquet"))) == 12
    for names, part in (
        (("test.parquet", "val.parquet"), "holds test/ and val/ but no"),
        (("x.parquet", "y.parquet"), "holds no image, only 2 other fil"),
    ):
        fails(shards(tmp_path / names[0], *names), part)


TEXTS = [(f"a sentence about {word} number {n}", word) for n in range(6) for word in ("ab", "cd")]


def write_table(path: Path, rows, head=("text", "label")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dicts = [dict(zip(head, row, strict=True)) for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(dicts), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, dicts)))
    else:
        comma = "," if path.suffix == ".csv" else "\t"
        path.write_text("\n".join(comma.join(map(str, row)) for row in (head, *rows)))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(("below", "holdout"), [("", "val"), ("data/", "dev"), ("", "valid")])
def test_tables_called_after_the_splits(tmp_path, kind, below, holdout):
    for name, n in (("train", 12), (holdout, 4), ("test", 6)):
        write_table(tmp_path / f"{below}{name}.{kind}", TEXTS[:n])
    assert splits(tmp_path) == ["train"] * 12 + ["holdout"] * 4 + ["test"] * 6
    collection = drain(read(tmp_path))
    last = collection.record.examples[-1]
    assert (last.id.partition("/")[0], collection.record.kind) == ("test", "text")
    assert collection.load(last.id).decode() == TEXTS[5][0]


def test_tables_of_measurements_and_of_paths(tmp_path):
    numbers = [(n, n % 3, n / 7, "ab"[n % 2]) for n in range(20)]
    paint(tmp_path / "p", {f"images/{n}.png": n for n in range(12)})
    listed = [(f"images/{n}.png", "ab"[n % 2]) for n in range(12)]
    for folder, body, n, head in (
        ("t", numbers, 6, ("x", "y", "z", "label")),
        ("p", listed, 4, ("path", "label")),
    ):
        write_table(tmp_path / folder / "train.csv", body, head)
        write_table(tmp_path / folder / "test.csv", body[:n] if folder == "t" else body[-n:], head)
    (tmp_path / "t/sample_submission.csv").write_text("id,label\n1,a\n")
    write_table(tmp_path / "p/train.csv", listed[:8], ("path", "label"))
    assert splits(tmp_path / "t") == ["train"] * 20 + ["test"] * 6
    assert splits(tmp_path / "p") == ["train"] * 8 + ["test"] * 4


def test_a_test_table_without_labels_and_two_tables_of_one_split(tmp_path):
    write_table(tmp_path / "train.csv", TEXTS)
    write_table(tmp_path / "test.csv", [(text,) for text, _ in TEXTS[:4]], ("text",))
    record = drain(read(tmp_path)).record
    assert set(splits(tmp_path)) == {"train"}
    assert record.problems[-1].items == ("test.csv: has no labels",)
    assert record.layout.startswith("train tables")
    write_table(tmp_path / "train.jsonl", TEXTS)
    fails(tmp_path, "holds train.csv and train.jsonl, two tables of one split; remove one")


# ---- data sets saved by `datasets`; the files are made with pyarrow in the same format ----------


def save(root: Path, n_shards: int = 1, options=None, **columns) -> Path:
    """As `Dataset.save_to_disk(root)` does; columns "image" and "label" unless others are named."""
    root.mkdir(parents=True)
    table = pa.table({"image": embedded(), "label": [0, 0, 0, 1, 1, 1]} | columns)
    files = [f"data-{i:05}-of-{n_shards:05}.arrow" for i in range(n_shards)]
    step = -(-table.num_rows // n_shards)
    for index, file in enumerate(files):
        with (
            pa.OSFile(str(root / file), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema, options=options) as writer,
        ):
            writer.write_table(table.slice(index * step, step), max_chunksize=2)
    names = {} if isinstance(columns.get("label", [0])[0], str) else {"label": "ab"}
    info = {"citation": "", "features": features(**names)}
    state = {"_data_files": [{"filename": file} for file in files], "_fingerprint": "x"}
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "state.json").write_text(json.dumps(state))
    return root


def save_dict(root: Path, names=("train", "validation", "test")) -> Path:
    """As `DatasetDict.save_to_disk(root)` does."""
    root.mkdir(parents=True)
    for split in names:
        save(root / split)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(names)}))
    return root


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "saved", n_shards=3)


SHARD = "data-00001-of-00003.arrow"


@pytest.mark.parametrize("n_shards", [1, 2, 6])
def test_one_saved_data_set(tmp_path, n_shards):
    source = save(tmp_path / "saved", n_shards, person=list("ppqqrr"))
    (source / "cache-0123.arrow").write_bytes(b"x")  # other files are not read
    (source / "notes.csv").write_text("x")
    collection = drain(read(source, group="person"))
    result = [(e.id, e.label, e.group) for e in collection.record.examples]
    assert result == [(n, n[0], p) for n, p in zip(NAMES, "ppqqrr", strict=True)]
    for index, name in enumerate(NAMES):
        assert collection.load(name) == embedded()[index]["bytes"].as_py()
    assert collection.record.layout == (
        'Hugging Face data set: images from "image", labels from "label", groups from "person"'
    )
    assert (collection.record.name, collection.title) == ("saved", f"6 images in {source}/")


def test_a_dictionary_of_splits(tmp_path):
    root = save_dict(tmp_path / "in" / "saved")
    assert splits(root) == ["train"] * 6 + ["holdout"] * 6 + ["test"] * 6
    collection = drain(read(root))
    ids = [e.id for e in collection.record.examples]
    assert ids[5:7] == ["train/b/2.png", "validation/a/0.png"]
    assert collection.load("test/a/0.png") == embedded()[0]["bytes"].as_py()
    assert collection.record.layout.startswith("train/validation/test of Hugging Face data set")
    assert collection.wording.place("a").endswith('saved/train/: class "a"')
    ids = [id for id, _, _ in rows(root / "train", test=root / "test")]
    assert ids[::6] == ["a/0.png", "test/a/0.png"]
    for kind in ("zip", "tar", "gztar"):
        packed = shutil.make_archive(str(tmp_path / "packed"), kind, root.parent)
        assert rows(packed) == rows(root)


def test_rows_without_paths_and_labels_that_are_texts(tmp_path):
    result = rows(save(tmp_path / "s", image=embedded(name=None), label=list("xxxyyy")))
    assert [(id, label) for id, label, _ in result] == list(zip("012345", "xxxyyy", strict=True))


def test_images_named_only_lie_in_the_folder(tmp_path):
    root = save_dict(tmp_path / "saved", ["train"])
    paint(root / "files")
    paths = [f"../files/{name}" for name in NAMES[:-1]] + [str(root / "files" / NAMES[-1])]
    cells = [{"bytes": None, "path": path} for path in paths]
    shutil.rmtree(root / "train")
    save(root / "train", image=pa.array(cells, embedded().type))
    collection = drain(read(root))
    assert collection.load(f"train/../files/{NAMES[0]}") == (root / "files/a/0.png").read_bytes()
    assert collection.load(f"train/{paths[-1]}") == (root / "files" / NAMES[-1]).read_bytes()


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "nowhere.png"])
def test_images_named_only_outside_the_folder(tmp_path, path):
    paint(tmp_path, {"outside.png": 1})
    cells = pa.array([{"bytes": None, "path": path}] * 6, embedded().type)
    root = save(tmp_path / "saved", image=cells)
    fails(root, f"files that do not lie beside it (first: {path}, row 0)")


@pytest.mark.parametrize("end", [-30, 300, 9, 0])
def test_a_shard_that_is_cut_off(saved, end):
    (saved / SHARD).write_bytes((saved / SHARD).read_bytes()[:end])
    fails(saved, "saved/ cannot be read as Arrow stream (", "copy it again")


def test_a_shard_that_is_missing_or_a_link_outside(saved):
    outside = (saved / SHARD).rename(saved.parent / "elsewhere.arrow")
    fails(saved, f"saved/{SHARD} is missing (1 of 3 shards); copy the whole")
    (saved / SHARD).symlink_to(outside)
    fails(saved, f"{SHARD} is missing")


def test_offsets_that_point_outside_are_refused(tmp_path):
    """They would read memory that is not the file's."""
    root = save(tmp_path / "saved", image=[b"x"] * 6, label=list("ababab"))
    shard = root / "data-00000-of-00001.arrow"
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 1, 2))  # two rows a batch
    payload = shard.read_bytes()
    assert offsets in payload
    far = offsets[:8] + (900_000).to_bytes(4, "little")
    shard.write_bytes(payload.replace(offsets, far, 1))
    fails(root, "saved/ cannot be read as Arrow stream (")


@given(place=st.floats(0, 1), byte=st.integers(0, 255), n=st.integers(1, 8))
@settings(max_examples=40)
def test_damaged_shards_are_refused_or_read(tmp_path_factory, place, byte, n):
    """Never a crash, and never an error that is not ours."""
    shard = save(tmp_path_factory.mktemp("x") / "saved") / "data-00000-of-00001.arrow"
    payload = bytearray(shard.read_bytes())
    start = int(place * (len(payload) - 1))
    payload[start : start + n] = bytes([byte]) * n
    shard.write_bytes(payload)
    with suppress(DataError):
        drain(read(shard.parent))


@pytest.mark.parametrize("name", ["dataset_info.json", "state.json", "dataset_dict.json"])
def test_a_damaged_description(tmp_path, name):
    root = save_dict(tmp_path / "saved", ["train"])
    path = root / name if name == "dataset_dict.json" else root / "train" / name
    for text in ("", "{", "[]", "3", "{}", '{"features": 1, "_data_files": 1}'):
        path.write_text(text)
        fails(root, f"{name} is damaged (", "copy the whole folder again")


def test_descriptions_that_do_not_fit(saved):
    path = saved / "state.json"
    state = json.loads(path.read_text()) | {"_indices_data_files": [{"filename": "indices.arrow"}]}
    for text, part in (
        (json.dumps(state), "state.json selects rows as an old version did, which is not"),
        ('{"_data_files": [{"filename": 3}]}', "state.json is damaged (a file name is not a text)"),
        ('{"_data_files": []}', "saved/ has no rows; save the data set again"),
    ):
        path.write_text(text)
        fails(saved, part)
    path.unlink()
    fails(saved, "saved/state.json is missing, which `save_to_disk` writes; copy the whole folder")


@pytest.mark.parametrize("number", [2, -1])
def test_a_class_number_out_of_range(tmp_path, number):
    root = save(tmp_path / "saved", label=[0, 0, 0, 1, 1, number])
    fails(root, f'saved/ row 5: "label" is {number}', "it names 2 classes, counted from 0")


def test_splits_that_do_not_fit(tmp_path):
    root = save_dict(tmp_path / "saved", ["train", "unsupervised"])
    fails(root, "names the split 'unsupervised', which is not train", "name a single split")
    fails(save_dict(tmp_path / "other", ["test"]), "has no train split, only test")
    fails(save_dict(tmp_path / "none", []), "has no train split, only none")
    root = save_dict(tmp_path / "gone")
    shutil.rmtree(root / "test")
    fails(root, "gone/test/dataset_info.json is missing")


def test_a_compressed_stream_that_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("warmstart.data.arrow.RATIO_FROM_BYTES", 2**20)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    columns = {"image": [bytes(2**18)] * 16, "label": ["a", "b"] * 8}
    root = save(tmp_path / "saved", options=options, **columns)
    fails(root, "saved/ unpacks to more than is plausible; save its images as files")
