"""Groups are proposed from names, rarely, and never acted on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_files import paint
from warmstart.data.dataset import Row
from warmstart.data.parsing import parse
from warmstart.data.read import read
from warmstart.data.splits import propose_columns, propose_series
from warmstart.events import drain


def proposed(header: str, values, selected=("path", "label")) -> list[str]:
    lines = [f"{i}.png,x,{value}" for i, value in enumerate(values)]
    table = parse("\n".join([f"path,label,{header}", *lines]).encode(), "labels.csv")
    return [
        item for result in propose_columns(table, selected, "labels.csv") for item in result.items
    ]


NAMES = [
    "patient",
    "Patient_ID",
    "patientId",
    "SUBJECT",
    "lesion_id",
    "case-id",
    "Video ID",
    "burst",
]


@pytest.mark.parametrize("name", NAMES)
def test_columns_called_like_a_group(name):
    assert proposed(name, "aabbc") == [name]


@pytest.mark.parametrize("name", ["age", "patients_age", "id", "lesion", "camera_model", "file"])
def test_other_columns(name):
    assert proposed(name, "aabbc") == []


@pytest.mark.parametrize("values", ["abcde", "aaaaa", ["a", "", "b", "", "c"], [""] * 5])
def test_values_that_come_once_or_always(values):
    assert proposed("patient", values) == []


def test_the_label_itself_is_no_group():
    assert proposed("patient", "aabbc", selected=("path", "patient")) == []


def table_of(root: Path) -> Path:
    paint(root)
    lines = "".join(
        f"{name},{name[0]},{i // 2}\n"
        for i, name in enumerate(f"{label}/{i}.png" for label in "ab" for i in range(3))
    )
    (root / "labels.csv").write_text("path,label,Patient ID\n" + lines)
    return root / "labels.csv"


def test_a_table_with_a_patient_column(tmp_path):
    table = table_of(tmp_path)
    record = drain(read(table)).record
    (finding,) = record.problems
    assert finding.kind == "group-proposed"
    assert finding.items == ("Patient ID",)
    assert finding.sentence.startswith('Column "Patient ID" of ')
    assert finding.sentence.endswith(
        "labels.csv (3 values) looks like a group; if rows of one Patient ID belong "
        'together, add --group "Patient ID"'
    )
    assert {example.group for example in record.examples} == {None}  # proposed, not done
    assert drain(read(table, group="Patient ID")).record.problems == ()
    assert len(drain(read(table, test=table)).record.problems) == 1


def series(pattern: str, n_keys: int = 6, n_files: int = 3, labels: str = "xy") -> list[Row]:
    return [
        Row(id=f"{label}/{pattern.format(key=key, n=n)}", label=label)
        for key in range(n_keys)
        for n in range(n_files)
        for label in (labels[key % len(labels)],)
    ]


PATTERNS = ["person{key:02}_{n:02}.jpg", "IMG_00{key} ({n}).jpg", "p{key}-{n}.png", "{key}.{n}.png"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_series_of_file_names(pattern):
    (finding,) = propose_series(series(pattern), "photos/")
    assert finding.kind == "group-proposed"
    assert finding.items == ()  # there is no column to name
    assert "File names in photos/ look like 6 series" in finding.sentence
    assert "--group COLUMN" in finding.sentence


@pytest.mark.parametrize(
    "rows",
    [
        series("{key}{n}.jpg"),  # plain numbers
        series("cat_{key}{n}.jpg"),  # a key without a digit
        series("person{key}_{n}.jpg", n_files=1),  # every key once
        series("person{key}_{n}.jpg", n_keys=2, labels="x"),  # too few keys
        series("person{key}_{n}.jpg", n_keys=3, labels="xyz"),  # one key a class
        [Row(id=f"{k}/{k}_{n}.jpg", label=str(k)) for k in range(9) for n in range(3)],  # classes
        series("person{key}_{n}.jpg", n_keys=3)
        + [Row(id=f"x/{i}.jpg", label="x") for i in range(10)],  # less than half
        [],
    ],
)
def test_names_that_are_no_series(rows):
    assert propose_series(rows, "photos/") == ()


@given(st.lists(st.from_regex(r"[a-z]{0,8}[0-9]{1,6}", fullmatch=True), max_size=60, unique=True))
def test_names_without_a_separator_are_never_series(stems):
    assert propose_series([Row(id=f"x/{s}.jpg", label="x") for s in stems], "photos/") == ()


def test_a_folder_of_series_says_so(tmp_path):
    paint(
        tmp_path,
        {f"{'ab'[p % 2]}/person{p}_{n}.png": 10 * p + n for p in range(6) for n in range(3)},
    )
    (finding,) = drain(read(tmp_path)).record.problems
    assert '(person0_0.png is one of 3 with "person0")' in finding.sentence


def test_no_proposal_on_real_photographs(real_images):
    for root in sorted(path for path in real_images.iterdir() if path.is_dir()):
        rows = [
            Row(id=path.relative_to(root).as_posix(), label=path.parent.name)
            for path in root.rglob("*.jpg")
        ]
        assert propose_series(rows, root.name) == (), root.name
