"""Labelled texts of every layout, and what is wrong with some."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import tiny_text_encoder
from warmstart.data.dataset import Columns
from warmstart.data.read import list_source, read
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.modalities.text import TEXT, normal, word_counts

MANY = ["text,label", "a good film,yes", "bad film,no", "fine,yes", "dull film,no"]


def csv(tmp_path, lines, name="t.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def texts(collection):
    return [collection.load(example.id).decode() for example in collection.record.examples]


def test_a_table_with_a_text_column_holds_texts(tmp_path):
    result = drain(read(csv(tmp_path, MANY)))
    assert result.record.kind == "text"
    assert result.record.classes == ("no", "yes")
    assert texts(result)[0] == "a good film"
    assert [example.id for example in result.record.examples] == ["2", "3", "4", "5"]
    assert result.title.startswith("4 texts in ")


@pytest.mark.parametrize("name", ["t.tsv", "t.jsonl", "t.parquet"])
def test_other_tables(tmp_path, name):
    rows = [line.split(",") for line in MANY]
    path = tmp_path / name
    if name == "t.tsv":
        csv(tmp_path, ["\t".join(row) for row in rows], name)
    elif name == "t.jsonl":
        lines = [f'{{"text": "{text}", "label": "{label}"}}' for text, label in rows[1:]]
        csv(tmp_path, lines, name)
    else:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(rows[1:], columns=rows[0]).to_parquet(path)
    result = drain(read(path))
    assert (result.record.kind, len(result.record.examples)) == ("text", 4)


def test_folders_of_text_files_and_archives_of_them(tmp_path):
    root = tmp_path / "mails"
    for n, (text, label) in enumerate(tiny_text_encoder.rows(2)):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{n}.txt").write_text(text, "utf-8")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "mails")
    for place in (root, Path(packed)):
        record = drain(read(place)).record
        assert (record.kind, record.classes) == ("text", ("food", "sky", "sport"))
        assert len(record.examples) == 6


def test_lists_of_texts_in_python_in_any_script():
    rows = ["😀 👍🏽 ok", "مرحبا بالعالم", "a\u200fb", "𝔘𝔫𝔦"]
    result = drain(read((rows, ["y", "n", "y", "n"])))
    assert result.record.kind == "text"
    assert texts(result) == rows


def test_rows_without_a_text_are_left_out_and_listed(tmp_path):
    result = drain(read(csv(tmp_path, [*MANY, " ,yes", '"",no'])))
    assert len(result.record.examples) == 4
    finding = result.record.problems[0]
    assert finding.kind == "unreadable"
    assert finding.sentence == "2 lines without a text left out."
    assert finding.items == ("6", "7")


def test_case_marks_and_spaces_make_near_duplicates():
    texts = {"a": "Good, film!", "b": "good film", "c": "bad", "d": "good film", "e": "?", "f": "!"}
    prints = TEXT.fingerprints((id, text.encode()) for id, text in texts.items())
    assert prints["a"] == prints["b"] == prints["d"] != prints["c"]
    assert "e" not in prints
    assert normal(" cafe\u0301\n\tau lait ") == "café au lait"


def test_a_bag_of_words_reads_languages_without_spaces():
    counts = word_counts(["酒店的服务很好很好很好很好很好", "酒店的服务不好不好不好不好不好", "x"])
    assert np.count_nonzero(counts[0] * counts[1]) > 4
    assert normal(" a\n\tb ") == "a b"


SAID = ["said,heard,label", "it was good,so it was,y", "it was bad,no way sir,n"]


BAD = [
    (SAID, {"kind": "text"}, r"t.csv has 2 columns of words \(said, heard\); .* with --text"),
    (["n,label", "1,y", "2,n"], {"kind": "text"}, r"no column of words among n, label; name the"),
    (MANY, {"text": "txt"}, r'has no column "txt"\. It has: text, label\. Did you mean --text'),
    (MANY, {"label": "text"}, r't.csv: "text" holds the texts; name another column with --label'),
    (MANY, {"kind": "image"}, r"has no column that looks like the path"),
    (["text,other", "a b c,1", "d e f,2"], {}, r"no column that looks like the label"),
    (["text,label", "a b,x", "c d,x"], {}, r'has one class \("x"\) and 2 are needed'),
    (["text,label", "a b,x", "c d,x", "e f,y"], {}, r"1 training text; a class needs at least"),
    (["text,label", " ,x", " ,y"], {}, r"holds no training text; add at least 2 for each class"),
]


@pytest.mark.parametrize(("lines", "requested", "message"), BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, lines, requested, message):
    csv(tmp_path, lines)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        drain(read("t.csv", **requested))
    assert "\n" not in str(caught.value)


def test_lists_that_are_no_texts():
    for rows, message in (
        (["a b", 3], r"X\[1\] is a int, not a text; give one per row"),
        (["a b", " "], r"X\[1\] is an empty text; fill it in or drop the row"),
    ):
        with pytest.raises(DataError, match=message):
            list_source((rows, ["x", "y"]), Columns(kind="text"))


@pytest.mark.usefixtures("any_share")
def test_a_file_that_is_not_utf_8_is_left_out(tmp_path):
    root = tmp_path / "t"
    for label in "ab":
        (root / label).mkdir(parents=True)
        for n in range(2):
            (root / label / f"{n}.txt").write_text(f"{label} {n}")
    (root / "a" / "bad.txt").write_bytes(b"\xff\xfe\x00x\xff")
    (root / "a" / "empty.txt").write_bytes(b" \n")
    result = drain(read(root))
    assert result.record.problems[-1].items == (
        "a/bad.txt: is not UTF-8 (byte 0); save it again as UTF-8",
        "a/empty.txt: is empty",
    )
