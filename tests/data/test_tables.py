"""Tables of paths, of plain columns and of texts; what columns are, told from their cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from image_files import fails, paint, rows
from warmstart.data.read import read, read_for_scoring
from warmstart.data.tables import ColumnSetting, knots, type_columns
from warmstart.errors import DataError
from warmstart.events import drain

ROWS = [("img/0.png", "cat"), ("img/1.png", "dog"), ("img/2.png", "cat"), ("img/3.png", "dog")]
PATHS = [path for path, _ in ROWS]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path, {path: value for value, path in enumerate(PATHS)})


def write(root: Path, body, header: str = "path,label", name: str = "labels.csv") -> Path:
    (root / name).write_text("\n".join([header, *(",".join(map(str, row)) for row in body)]))
    return root / name


def lines(root: Path, *texts: str) -> Path:
    (root / "l.jsonl").write_text("\n".join(texts))
    return root / "l.jsonl"


def pairs(source, **options) -> list[tuple[str, str]]:
    return [(id, label) for id, label, _ in rows(source, **options)]


# ---- tables of paths --------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["path,label", "Image,Category", "file_name,target"])
@pytest.mark.parametrize("name", ["metadata.csv", "labels.csv"])
def test_a_table_and_the_folder_it_lies_in(root, header, name):
    table = write(root, ROWS, header, name)
    assert pairs(table) == pairs(root) == ROWS
    assert drain(read(root)).record.name == root.name
    assert pairs(table, test=table)[4:] == [("test/" + path, label) for path, label in ROWS]


@pytest.mark.parametrize("folders", [("train/cat", "train/dog"), ("cat", "dog")])
def test_class_folders_come_before_a_table_that_lies_beside_them(tmp_path, folders):
    paint(tmp_path, {f"{folder}/{value}.png": value for folder in folders for value in range(2)})
    write(tmp_path, [(1, 2)], "anything,else", "notes.csv")
    assert drain(read(tmp_path)).record.classes == ("cat", "dog")


def test_split_group_and_label_columns(root):
    users = ["u1", "u2", "", "u1"]
    body = [(*row, "train", user, row[1][::-1]) for row, user in zip(ROWS, users, strict=True)]
    body += [("./" + path, label, "VAL", user, other) for path, label, _, user, other in body]
    table = write(root, body, "path,label,Split,user,other")
    examples = drain(read(table, group="user")).record.examples
    assert [e.split for e in examples] == ["train"] * 4 + ["holdout"] * 4
    assert [e.group for e in examples[:4]] == ["u1", "u2", None, "u1"]
    assert [label for _, label in pairs(table, label="Other")] == ["tac", "god"] * 4
    assert pairs(
        lines(
            root,
            *(
                f'{{"path": "{p}", "label": {v}}}'
                for p, v in zip(PATHS, ["true", "false"] * 2, strict=True)
            ),
        )
    )[0] == ("img/0.png", "True")


def test_a_table_on_disk_may_name_any_path(root):
    (root / "lists").mkdir()
    body = [("../" + PATHS[0], "cat"), (str(root / PATHS[2]), "cat")]
    body += [("../" + PATHS[1], "dog"), ("../" + PATHS[3], "dog")]
    assert pairs(write(root / "lists", body)) == body
    collection = drain(read(write(root, [(p.replace("/", "\\"), k) for p, k in ROWS])))
    assert collection.record.examples[0].id == "img\\0.png"  # from Windows
    assert collection.load("img\\0.png") == (root / "img/0.png").read_bytes()


def test_a_table_inside_a_folder_does_not_lead_out_of_it(root):
    paint(root, {"outside.png": 9})
    data = root / "img"
    (data / "link.png").symlink_to(root / "outside.png")
    write(data, [("0.png", "a"), ("../outside.png", "a")], name="metadata.csv")
    fails(data, "1 of 2 files not found (first: ../outside.png, line 3)")
    write(data, [("0.png", "a"), ("link.png", "a")], name="metadata.csv")
    fails(data, "(first: link.png, line 3, a link that leads out of the data folder)")


@pytest.mark.parametrize(
    ("extra", "header", "part"),
    [
        ((), "path,kind", "looks like the label. It has: path, kind. Name it"),
        ((), "photo,label", "looks like the path. It has: photo, label. Call it"),
        ((), "label,path", "4 of 4 files not found (first: cat, line 2)"),
        (("", "cat"), "path,label", "(first: a cell without a path, line 6, has no path)"),
        (("img/4.png", ""), "path,label", "line 6 has an empty label"),
        (("img/0.png", "dog"), "path,label", "names img/0.png in lines 2 and 6"),
        (("img/9.png", "cat"), "path,label", "1 of 5 files not found (first: img/9.png, line"),
        (("http://a.b/c.png", "cat"), "path,label", "line 6, is a web address: download it"),
        (("img/0.png", "cow"), "path,label", "labels.csv names"),
    ],
)
def test_tables_that_do_not_fit(root, extra, header, part):
    fails(write(root, [*ROWS, extra] if extra else ROWS, header), part)


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ('{"a": 1}', '"label" is not a text'),
        ("NaN", "line 1 has an empty label"),
        ("null", "line 1 has an empty label"),
        ('"\\ud800"', "the name of \\ud800 is not UTF-8"),
        ('"a", "path": "no.png", "box": [1]', "1 of 1 file not"),
    ],
)
def test_labels_in_json_that_do_not_fit(root, label, part):
    fails(lines(root, f'{{"path": "img/0.png", "label": {label}}}'), part)


def test_options_and_columns_that_do_not_fit(root, monkeypatch):
    table = write(root, [(*row, "u", "3") for row in ROWS], "path,label,user,splits")
    fails(
        table,
        'no column "lable". It has: path, label, user, splits.',
        "Did you mean --label label?",
        label="lable",
    )
    fails(table, 'no column "users"', "Did you mean --group user?", group="users")
    fails(table, '"path" holds the paths; name another', label="path")
    fails(write(root, [(*row, "3") for row in ROWS], "path,label,split"), 'line 2: split is "3"')
    fails(write(root, ROWS[:3]), 'labels.csv: class "dog" has 1 training image', "its row.")
    monkeypatch.setattr("warmstart.data.place.MAX_FILE_BYTES", 10)
    fails(table, "labels.csv is larger than 512 MB")
    fails(root, "labels.csv is larger than 512 MB; copy it again, or remove it")


def test_labels_that_are_all_different(root):
    body = [(path, f"photo {i}", kind) for i, (path, kind) in enumerate(ROWS)]
    part = 'labels.csv: all 4 labels in "label" are different, so they cannot be classes; '
    fails(write(root, body, "path,label,kind"), part + "did you mean --label kind?")
    fails(write(root, [row[:2] for row in body]), part + "name another one with --label")


def test_labels_that_are_measurements(root):
    table = write(root, [(path, 1.5 * i) for i, path in enumerate(PATHS)])
    fails(table, 'labels.csv: "label" holds measurements (0.0, 1.5', task="classify")
    record = drain(read(table)).record
    assert (record.task, record.classes) == ("regress", ("label",))
    assert [example.label for example in record.examples] == ["0", "1.5", "3", "4.5"]
    # A few fractions are classes, and few images to score may all differ.
    table = write(root, [(path, 0.5 + i % 2) for i, path in enumerate(PATHS)])
    assert [label for _, label in pairs(table)] == ["0.5", "1.5", "0.5", "1.5"]
    table = write(root, [(path, f"{i}.5") for i, path in enumerate(PATHS)])
    classes = ("0.5", "1.5", "2.5", "3.5", "4.5")
    assert len(drain(read_for_scoring(table, classes)).record.examples) == 4


def test_a_table_of_too_many_columns_says_what_to_do(tmp_path):
    names = ",".join([*(f"c{n}" for n in range(20_000)), "label"])
    table = write(tmp_path, [["1"] * 20_000 + ["ab"[n % 2]] for n in range(6)], names, "t.csv")
    fails(table, "t.csv has 20,001 columns; the maximum is 8,000", "WarmStartClassif")


# ---- the types of columns -----------------------------------------------------------------------

MANY = [f"{x:.3f}" for x in np.random.default_rng(0).normal(5, 2, 40)]
SITES = ["north", "south"] * 20


def typed(settings=None, **columns):
    kinds = (settings or {}).items()
    settings = {name: ColumnSetting(kind, f"--set column.{name}={kind}") for name, kind in kinds}
    body = [
        dict(zip(columns, map(str, row), strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    return type_columns(body, [f"line {row + 2}" for row in range(len(body))], "t.csv", settings)


def test_numbers_and_categories():
    age, site = typed(age=MANY, site=SITES).columns
    assert (age.kind, site.kind, site.values) == ("number", "category", ("north", "south"))
    numbers = np.array(MANY, float)
    assert (age.mean, age.std) == (pytest.approx(numbers.mean()), pytest.approx(numbers.std()))
    assert (len(age.knots), age.has_missing) == (5, False)
    age, site = typed(age=["", *MANY[1:]], site=["?", *SITES[1:]]).columns
    assert age.slots == ("age", "age is missing")
    assert site.slots[-1] == "site is missing"
    assert "?" not in site.values
    (site,) = typed(site=[*SITES[:38], "odd", "even"]).columns
    assert site.values == ("north", "south")  # rare ones share the slot of "none"


def test_codes_stay_numbers_with_a_knot_each_unless_the_user_says_otherwise():
    (code,) = typed(cp=[0, 1, 2, 3] * 10).columns
    assert (code.kind, len(code.knots)) == ("number", 4)
    (code,) = typed({"cp": "category"}, cp=[0, 1, 2, 3] * 10).columns
    assert (code.kind, code.values) == ("category", ("0", "1", "2", "3"))
    (price,) = typed({"price": "category"}, price=["1,5", "2,5"] * 20).columns
    assert price.values == ("1,5", "2,5")


def test_what_tells_nothing_of_a_new_row_is_left_out_and_said():
    result = typed(
        age=MANY,
        same=["x"] * 40,
        number=range(40),
        name=[f"row {n}" for n in range(40)],
        gone=["1"] + [""] * 39,
    )
    assert [column.name for column in result.columns] == ["age"]
    assert {finding.kind for finding in result.findings} == {"columns"}
    sentences = {finding.items: finding.sentence for finding in result.findings}
    assert sentences[("same",)] == "1 column is left out: the same in every row."
    assert "it only counts the rows" in sentences[("number",)]
    assert "another text in nearly every row" in sentences[("name",)]
    assert "almost always missing" in sentences[("gone",)]


def test_every_column_has_its_reason_and_what_the_rule_would_have_said():
    settings = {"cp": "category", "age": "left-out", "number": "number"}
    columns = {"age": MANY, "cp": [0, 1] * 20, "site": SITES, "same": ["x"] * 40}
    result = typed(settings, **columns, number=range(40))
    choices = {c.name: (c.kind.value, c.kind.rule, c.kind.source) for c in result.choices}
    assert choices == {
        "age": ("left-out", "number", "user"),
        "cp": ("category", "number", "user"),
        "site": ("category", "category", "rule"),
        "same": ("left-out", "left-out", "rule"),
        "number": ("number", "left-out", "user"),
    }
    assert [column.name for column in result.columns] == ["cp", "site", "number"]
    assert result.choices[3].kind.because == "the same in every row"
    assert result.findings[0].sentence == "1 column is left out: as you chose."


@pytest.mark.parametrize(
    ("settings", "cells", "part"),
    [
        ({}, ["1,5", "2,25", *["3"] * 38], "\"x\" has numbers with commas ('1,5', line 2)"),
        ({}, [f"{n},{n}00" for n in range(1, 41)], "numbers with commas"),
        ({}, [*MANY[:2], "old", *MANY[3:]], "\"x\" holds numbers, but 'old' in line 4; correct it"),
        ({"x": "number"}, SITES, "holds numbers, but 'north' in line 2"),
        ({}, ["inf", *MANY[1:]], '"x" is inf in line 2; give a number, or leave it empty'),
        ({}, ["1e308", "-1e308", *MANY[2:]], '"x" holds numbers too large to compute with'),
        ({}, ["x"] * 40, "t.csv has no column to learn from (x the same in every row)"),
        ({"y": "number"}, MANY, "--set column.y=number: t.csv has no such column. It has: x"),
        ({"x": "colour"}, MANY, "--set column.x=colour: a column is number, category or left-out"),
    ],
)
def test_columns_that_do_not_fit(settings, cells, part):
    with pytest.raises(DataError) as caught:
        typed(settings, x=cells)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_knots_rise_and_are_quantiles():
    result = knots(np.random.default_rng(1).normal(size=1000))
    assert len(result) == 5
    assert list(result) == sorted(set(result))
    assert result[2] == pytest.approx(0, abs=0.1)
