"""Labelled texts of every layout, and what is wrong with some."""

import io
import zipfile

import numpy as np
import pytest

import tiny_text_encoder
from hue_images import fill
from warmstart.data.dataset import Columns
from warmstart.data.near_duplicates import same_fingerprint
from warmstart.data.read import list_source, read
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.modalities.text import TEXT, normal, word_counts
from warmstart.records.data import Example

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


def test_the_only_column_of_words_is_used_and_one_can_be_named(tmp_path):
    lines = [
        "id,said,label",
        "1,it was good,yes",
        "2,not for me,no",
        "3,so so la,yes",
        "4,never again sir,no",
    ]
    path = csv(tmp_path, lines)
    assert list_source(path, Columns()).layout == 't.csv: texts from "said", labels from "label"'
    two = csv(tmp_path, [f"{line},{line[::-1]} b c" for line in MANY], "two.csv")
    named = "text" + "lebal,txet b c"[0:0]
    assert list_source(two, Columns(text=named)).kind == "text"


def test_folders_of_text_files_and_archives_of_them(tmp_path):
    root = tmp_path / "mails"
    for label, text, _ in wordy_files():
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{abs(hash(text))}.txt").write_text(text, "utf-8")
    result = drain(read(root))
    assert (result.record.kind, result.record.classes) == ("text", ("food", "sky", "sport"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in root.rglob("*.txt"):
            archive.write(path, path.relative_to(tmp_path))
    (tmp_path / "mails.zip").write_bytes(packed.getvalue())
    again = drain(read(tmp_path / "mails.zip"))
    assert len(again.record.examples) == len(result.record.examples) == 6


def wordy_files():
    return [(label, text, None) for text, label in tiny_text_encoder.rows(2)]


def test_lists_of_texts_in_python():
    result = drain(
        read((["a good one", "a bad one", "nice one", "poor one"], ["y", "n", "y", "n"]))
    )
    assert result.record.kind == "text"
    assert texts(result)[3] == "poor one"


def test_texts_that_read_alike_are_the_same(tmp_path):
    lines = ["text,label", "cafe\u0301  au lait,a", "café au lait,a", "thé,b", "thé vert,b"]
    result = drain(read(csv(tmp_path, lines)))
    first, second, *_ = result.record.examples
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("text", ["😀 👍🏽 ok", "مرحبا بالعالم", "שלום", "a\u200fb", "𝔘𝔫𝔦"])
def test_any_script_comes_through(tmp_path, text):
    path = csv(tmp_path, ["text,label", *(f"{text} {n},{n % 2}" for n in range(4))])
    assert texts(drain(read(path)))[0] == f"{text} 0"


def test_rows_without_a_text_are_left_out_and_listed(tmp_path):
    result = drain(read(csv(tmp_path, [*MANY, " ,yes", '"",no'])))
    assert len(result.record.examples) == 4
    finding = result.record.problems[0]
    assert finding.kind == "unreadable"
    assert finding.sentence == "2 lines without a text left out."
    assert finding.items == ("6", "7")


def test_case_marks_and_spaces_make_near_duplicates():
    texts = {"a": "Good, film!", "b": "good film", "c": "bad", "d": "good film", "e": "?", "f": "!"}
    examples = [Example(id=id, label="x", split="train", sha256=text) for id, text in texts.items()]
    prints = TEXT.fingerprints((id, text.encode()) for id, text in texts.items())
    assert same_fingerprint(examples, prints) == (("a", "b"), ("a", "d"))


def test_a_bag_of_words_reads_languages_without_spaces():
    counts = word_counts(["酒店的服务很好很好很好很好很好", "酒店的服务不好不好不好不好不好", "x"])
    assert np.count_nonzero(counts[0] * counts[1]) > 4
    assert normal(" a\n\tb ") == "a b"


BAD = {
    "two columns of words": (
        ["said,heard,label", "it was good,so it was,y", "it was bad,no way sir,n"],
        {"kind": "text"},
        r"t.csv has 2 columns of words \(said, heard\); .* with --text",
    ),
    "no column of words": (
        ["n,label", "1,y", "2,n"],
        {"kind": "text"},
        r"t.csv has no column of words among n, label; name the one to learn from with --text",
    ),
    "a column that is not there": (
        MANY,
        {"text": "txt"},
        r'has no column "txt"\. It has: text, label\. Did you mean --text',
    ),
    "the label is the text": (
        MANY,
        {"label": "text"},
        r't.csv: "text" holds the texts; name another column with --label',
    ),
    "texts called images": (
        MANY,
        {"kind": "image"},
        r"has no column that looks like the path",
    ),
    "no label": (
        ["text,other", "a b c,1", "d e f,2"],
        {},
        r"no column that looks like the label",
    ),
    "one class": (["text,label", "a b,x", "c d,x"], {}, r'has one class \("x"\) and 2 are needed'),
    "one text of a class": (
        ["text,label", "a b,x", "c d,x", "e f,y"],
        {},
        r"1 training text; a class needs at least",
    ),
    "nothing but empty texts": (
        ["text,label", " ,x", " ,y"],
        {},
        r"holds no training text; add at least 2 for each class",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, case):
    lines, requested, message = BAD[case]
    csv(tmp_path, lines)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        drain(read("t.csv", **requested))
    assert "\n" not in str(caught.value)


def test_a_request_for_another_kind_is_refused(tmp_path):
    photos = fill(tmp_path / "photos", {"blue": 2, "red": 2})
    with pytest.raises(DataError, match=r"--kind text: .*photos/ holds images; drop --kind"):
        list_source(photos, Columns(kind="text"))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((["a b", 3], ["x", "y"]), r"X\[1\] is a int, not a text; give one per row"),
        ((["a b", " "], ["x", "y"]), r"X\[1\] is an empty text; fill it in or drop the row"),
    ],
)
def test_lists_that_are_no_texts(pair, message):
    with pytest.raises(DataError, match=message):
        list_source(pair, Columns(kind="text"))


def test_a_cell_that_is_no_text(tmp_path):
    lines = ['{"text": "a b", "label": "x"}', '{"text": ["a"], "label": "y"}']
    path = csv(tmp_path, lines, "t.jsonl")
    with pytest.raises(DataError, match=r'line 2: "text" is not a text; give one per row'):
        list_source(path, Columns(text="text"))


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
