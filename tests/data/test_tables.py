"""CSV, TSV and JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from warmstart.data.parsing import parse
from warmstart.data.read import read, read_for_scoring
from warmstart.errors import DataError
from warmstart.events import drain

ROWS = [("img/0.png", "cat"), ("img/1.png", "dog"), ("img/2.png", "cat"), ("img/3.png", "dog")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for value, (path, _) in enumerate(ROWS):
        Image.new("L", (2, 2), value).save(tmp_path / path)
    return tmp_path


def write(root: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def csv(header: str = "path,label", rows=ROWS, sep: str = ",") -> str:
    return "\n".join([header, *(sep.join(row) for row in rows)])


def pairs(source, **options) -> list[tuple[str, str]]:
    return [(e.id, e.label) for e in drain(read(source, **options)).record.examples]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", csv()),
        ("labels.csv", "\ufeff" + csv("Image,Category")),
        ("labels.csv", csv("file_name;target", sep=";")),
        ("labels.csv", csv().replace("\n", "\r\n") + "\r\n\r\n"),
        ("labels.tsv", csv("filename\tclass", sep="\t")),
        ("labels.jsonl", "\n".join(json.dumps({"path": p, "label": k}) for p, k in ROWS) + "\n"),
    ],
)
def test_every_dialect_gives_the_same_rows(root, name, text):
    assert pairs(write(root, text, name)) == ROWS


def test_metadata_inside_a_folder(root):
    write(root, csv("file_name,label"), "metadata.csv")
    assert pairs(root) == ROWS
    assert drain(read(root)).record.name == root.name


def test_the_only_table_of_a_folder_without_class_folders(root):
    write(root, csv(), "labels.csv")
    assert pairs(root) == ROWS


@pytest.mark.parametrize("folders", [("train/cat", "train/dog"), ("cat", "dog")])
def test_class_folders_come_before_a_table_that_lies_beside_them(tmp_path, folders):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        for value in range(2):
            Image.new("L", (2, 2), value).save(tmp_path / folder / f"{value}.png")
    write(tmp_path, "anything,else\n1,2\n", "notes.csv")
    assert drain(read(tmp_path)).record.classes == ("cat", "dog")


def test_split_and_group_columns(root):
    rows = [
        (*row, split, user)
        for row, split, user in zip(
            ROWS * 2, ["train"] * 4 + ["test"] * 4, ["u1", "u2", "", "u1"] * 2, strict=True
        )
    ]
    rows = rows[:4] + [("./" + path, label, "VAL", user) for path, label, _, user in rows[4:]]
    table = write(root, csv("path,label,Split,user", rows))
    examples = drain(read(table, group="user")).record.examples
    assert [e.split for e in examples] == ["train"] * 4 + ["holdout"] * 4
    assert [e.group for e in examples[:4]] == ["u1", "u2", None, "u1"]


def test_the_label_column_a_user_names(root):
    rows = [(path, label, label[::-1]) for path, label in ROWS]
    table = write(root, csv("path,label,other", rows))
    assert [label for _, label in pairs(table, label="Other")] == ["tac", "god", "tac", "god"]


def test_json_numbers_are_labels(root):
    lines = [json.dumps({"path": path, "label": label == "dog"}) for path, label in ROWS]
    assert pairs(write(root, "\n".join(lines), "l.jsonl"))[0] == ("img/0.png", "False")


def test_a_table_as_test_set(root):
    table = write(root, csv())
    assert pairs(table, test=table)[4:] == [("test/" + path, label) for path, label in ROWS]


def fails(source, *parts: str, **options) -> None:
    with pytest.raises(DataError) as caught:
        drain(read(source, **options))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_misspelt_column_gets_a_suggestion(root):
    table = write(root, csv("path,label,user", [(*row, "u") for row in ROWS]))
    fails(
        table,
        'labels.csv has no column "lable". It has: path, label, user. Did you mean --label label?',
        label="lable",
    )
    fails(table, 'no column "users"', "Did you mean --group user?", group="users")


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("labels.csv", "", "is empty; its first line should be: path,label"),
        ("labels.csv", "path,label\n", "has no rows"),
        ("labels.csv", csv("path,kind"), "looks like the label. It has: path, kind. Name it"),
        ("labels.csv", csv("photo,label"), "looks like the path. It has: photo, label. Call it"),
        ("labels.csv", csv("label,label"), 'two columns "label"'),
        ("labels.csv", csv() + "\na,b,c", "line 6 has 3 cells, the first line 2"),
        ("labels.csv", csv() + "\n,cat", "(first: a cell without a path, line 6, has no path)"),
        ("labels.csv", csv() + "\nimg/4.png,", "line 6 has an empty label"),
        ("labels.csv", csv() + "\nimg/0.png,dog", "names img/0.png in lines 2 and 6"),
        ("labels.csv", csv() + "\nimg/9.png,cat", "1 of 5 files not found (first: img/9.png, line"),
        ("labels.csv", csv() + "\nhttp://a.b/c.png,cat", "line 6, is a web address: download it"),
        ("labels.csv", csv() + '\n"img/4.png,cat', "unexpected end of data"),
        ("labels.csv", csv().encode("utf-16"), "is UTF-16; save it again as UTF-8 (Excel: CSV UT"),
        ("labels.csv", csv().encode("utf-16-le"), "is UTF-16; save it again as UTF-8"),
        ("labels.csv", csv() + "\nimg/\0.png,cat", "line 6 holds a NUL byte, which is not text"),
        ("labels.tsv", csv(), "has no tabs but commas; call it .csv, or separate cells by tabs"),
        ("labels.csv", csv().encode() + b"\nimg/4.png,caf\xe9", "is not UTF-8 (byte"),
        ("labels.csv", csv("label,path"), "4 of 4 files not found (first: cat, line 2)"),
        ("l.jsonl", '{"path": "img/0.png", "label": "a"}\nnope', "line 2 is not JSON"),
        ("l.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("l.jsonl", '["a"]', "line 1 is not a JSON object"),
        ("l.jsonl", '{"path": "img/0.png", "label": {"a": 1}}', '"label" is not a text'),
        ("l.jsonl", '{"path": "img/0.png", "label": NaN}', "line 1 has an empty label"),
        (
            "l.jsonl",
            '{"path": "img/0.png", "label": "\\ud800"}',
            "the name of \\ud800 is not UTF-8",
        ),
        (
            "l.jsonl",
            '{"path": "img/0.png", "label": "a"}\n{"path": "im',
            "may be cut off; copy it aga",
        ),
        ("l.jsonl", '{"path": "img/0.png", "label": null}', "line 1 has an empty label"),
        ("l.jsonl", '{"path": "img/0.png", "label": "a"}\n{"path": "b"}', 'line 2 has no "label"'),
        ("l.jsonl", "\n\n", "has no rows"),
        ("l.jsonl", '{"path": "img/9.png", "label": 1.5, "box": [1]}', "1 of 1 file not"),
    ],
)
def test_tables_that_do_not_fit(root, name, text, part):
    fails(write(root, text, name), part)


def test_an_unknown_split_value(root):
    rows = [(*row, "3") for row in ROWS]
    fails(write(root, csv("path,label,split", rows)), 'line 2: split is "3"; write train, val')


def test_the_path_column_as_label(root):
    fails(write(root, csv()), '"path" holds the paths; name another', label="path")


def test_a_class_with_one_row(root):
    fails(
        write(root, csv(rows=[*ROWS[:3]])),
        'labels.csv: class "dog" has 1 training image',
        "remove its row.",
    )


def test_a_table_that_is_too_large(root, monkeypatch):
    monkeypatch.setattr("warmstart.data.place.MAX_FILE_BYTES", 10)
    fails(write(root, csv()), "labels.csv is larger than 512 MB")


def test_labels_that_are_all_different(root):
    rows = [(path, f"photo {i}", kind) for i, (path, kind) in enumerate(ROWS)]
    table = write(root, csv("path,label,kind", rows))
    fails(
        table,
        'labels.csv: all 4 labels in "label" are different, so they cannot be classes; '
        "did you mean --label kind?",
    )
    table = write(root, csv("path,label", [row[:2] for row in rows]))
    fails(table, 'all 4 labels in "label" are different', "name another one with --label")


def test_labels_that_are_measurements(root):
    rows = [(path, f"{1.5 * i}") for i, (path, _) in enumerate(ROWS)]
    table = write(root, csv("path,label", rows))
    fails(
        table,
        'labels.csv: "label" holds measurements (0.0, 1.5',
        "not classes; use --task regress",
        task="classify",
    )
    record = drain(read(table)).record
    assert record.task == "regress"
    assert record.classes == ("label",)
    assert [example.label for example in record.examples] == ["0", "1.5", "3", "4.5"]


def test_a_few_fractions_are_classes(root):
    rows = [(path, f"{0.5 + i % 2}") for i, (path, _) in enumerate(ROWS)]
    assert [label for _, label in pairs(write(root, csv("path,label", rows)))] == [
        "0.5",
        "1.5",
        "0.5",
        "1.5",
    ]


def test_few_images_to_score_may_all_differ(root):
    rows = [(path, f"{i}.5") for i, (path, _) in enumerate(ROWS)]
    table = write(root, csv("path,label", rows))
    classes = ("0.5", "1.5", "2.5", "3.5", "4.5")
    assert len(drain(read_for_scoring(table, classes)).record.examples) == 4


def test_separators_from_windows(root):
    rows = [(path.replace("/", "\\"), label) for path, label in ROWS]
    collection = drain(read(write(root, csv(rows=rows))))
    assert collection.record.examples[0].id == "img\\0.png"
    assert collection.load("img\\0.png") == (root / "img/0.png").read_bytes()


def test_a_table_on_disk_may_name_any_path(root):
    (root / "lists").mkdir()
    rows = [("../" + ROWS[0][0], "cat"), (str(root / ROWS[2][0]), "cat")]
    rows += [("../" + ROWS[1][0], "dog"), ("../" + ROWS[3][0], "dog")]
    assert pairs(write(root / "lists", csv(rows=rows))) == rows


def test_a_table_inside_a_folder_does_not_lead_out_of_it(root):
    outside = root / "outside.png"
    outside.write_bytes((root / "img/0.png").read_bytes())
    data = root / "img"
    (data / "link.png").symlink_to(outside)
    write(data, csv(rows=[("0.png", "a"), ("../outside.png", "a")]), "metadata.csv")
    fails(data, "1 of 2 files not found (first: ../outside.png, line 3)")
    write(data, csv(rows=[("0.png", "a"), ("link.png", "a")]), "metadata.csv")
    fails(data, "(first: link.png, line 3, a link that leads out of the data folder)")


def test_a_table_in_a_folder_that_is_too_large(root, monkeypatch):
    write(root, csv(), "metadata.csv")
    monkeypatch.setattr("warmstart.data.place.MAX_FILE_BYTES", 10)
    fails(root, "metadata.csv is larger than 512 MB; copy it again, or remove it")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "text,label\n" + "some words here,a\n" * 50_000),
        ("t.tsv", "a\tb\tlabel\n" + "1\t2\tx\n" * 100_000),
        ("t.jsonl", '{"text": "' + "x" * 4_000_000 + '", "label": "a"}\n'),
        ("t.jsonl", '{"text": [' + "[]," * 200_000 + '[]], "label": "a"}\n'),
    ],
)
def test_a_table_that_does_not_fit_into_memory(tmp_path, monkeypatch, name, text):
    monkeypatch.setattr("warmstart.machine.free_memory", lambda: 10_000_000)
    (tmp_path / name).write_text(text)
    fails(tmp_path / name, f"{name} takes about", "of memory when it is read, and 5 MB may be used")


def test_a_table_of_many_columns_is_read_once_a_column(tmp_path):
    """Looking up the place of a column in each row made 20,000 columns take minutes."""

    class Name(str):
        n_compared = 0

        def __eq__(self, other):
            Name.n_compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [f"c{n}" for n in range(500)]
    table = parse("\n".join([",".join(names), *[",".join(["1"] * 500)] * 40]).encode(), "t.csv")
    for name in names:
        table.texts(Name(name))
    assert Name.n_compared <= 2 * len(names)


def test_a_table_of_too_many_columns_says_what_to_do(tmp_path):
    names = [*(f"c{n}" for n in range(20_000)), "label"]
    rows_of = ["1," * 20_000 + "ab"[n % 2] for n in range(6)]
    (tmp_path / "t.csv").write_text("\n".join([",".join(names), *rows_of]))
    fails(tmp_path / "t.csv", "t.csv has 20,001 columns; the maximum is 8,000", "WarmStartClassif")
