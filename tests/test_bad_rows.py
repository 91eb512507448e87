"""Law 9 for tables, clips and tensors: what users get wrong is one line, and nothing is made."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import tables
import warmstart
from audio_clips import tone, wav
from warmstart.cli.main import main
from warmstart.errors import WarmstartError

HEAD = "age,dose,site,label\n"
ROWS = "".join(",".join(row) + "\n" for row in tables.rows(24))
TABLES = {
    "a row that is short": (HEAD + ROWS + "1,2\n", [], "line 26 has 2 cells, the first line 4"),
    "two columns of one name": ("age,age,label\n1,2,a\n2,1,b\n", [], 'two columns "age"'),
    "no rows": (HEAD, [], "has no rows; add one line an example"),
    "one class": (HEAD + "1,2,north,ill\n" * 9, [], 'has one class ("ill") and 2 are needed'),
    "an empty label": (HEAD + ROWS + "3,1,north,\n", [], "line 26 has an empty label"),
    "percent signs": (
        "age,label\n" + "".join(f"{n * 7 % 31}.5%,{'ab'[n % 2]}\n" for n in range(40)),
        [],
        "\"age\" has numbers with signs ('0.5%', line 02); write them like 1234.5",
    ),
    "words as numbers": (
        HEAD + ROWS,
        ["--set", "column.site=number"],
        "\"site\" holds numbers, but 'south' in line 02; correct it",
    ),
    "nothing left": (
        HEAD + ROWS,
        [
            "--set",
            "column.site=left-out",
            "--set",
            "column.age=left-out",
            "--set",
            "column.dose=left-out",
        ],
        "has no column to learn from (age, dose, site as you chose)",
    ),
    "a kind without a column": (
        HEAD + ROWS,
        ["--set", "column.=number"],
        "--set column.=number: it names no column",
    ),
    "the design of a picture's network": (
        HEAD + ROWS,
        ["--arch", "timm:resnet18"],
        "--arch timm:resnet18: for rows of a table warmstart has a network of its own",
    ),
    "a test without a column": (
        HEAD + ROWS,
        ["--test", "test.csv"],
        'of the test set, has no column "dose", which',
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_used_is_one_line(case, tmp_path, monkeypatch, capsys):
    text, words, says = TABLES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "test.csv").write_text("age,site,label\n1,north,ill\n2,south,well\n")
    assert main(["fit", "t.csv", "--budget", "fast", "-q", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert not (tmp_path / "runs").exists()


def test_clips_and_tables_and_tensors_are_no_starts_for_each_other(tmp_path):
    for place in range(4):
        path = tmp_path / "clips" / "ab"[place % 2] / f"{place}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(tone(np.random.default_rng(place), 300)))
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(WarmstartError) as caught:
        warmstart.fit(tmp_path / "clips", base=network, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
