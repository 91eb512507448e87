"""Texts that a finished model is to name, as people hand them over."""

from __future__ import annotations

import pytest

from warmstart.errors import DataError
from warmstart.records.inputs import TextInputs
from warmstart.run.predictor import InputText, find_texts, items_of, text_payload


def test_typed_texts_files_folders_and_tables(tmp_path):
    (tmp_path / "b.txt").write_text("from a file", "utf-8")
    (tmp_path / "t.csv").write_text("text,other\nfrom a row,1\n,2\n", "utf-8")
    typed = "x" * 300  # longer than the name of any file
    result = find_texts([typed, str(tmp_path / "b.txt"), str(tmp_path / "t.csv"), str(tmp_path)])
    assert result[:2] == [typed, str(tmp_path / "b.txt")]
    table = tmp_path / "t.csv"
    assert result[2:4] == [InputText(f"{table}:2", "from a row"), InputText(f"{table}:3", "")]
    assert text_payload(result[4], "") == b"from a file"
    assert text_payload(" e\u0301\0 ", "") == "é".encode()


BAD = {
    "a folder without texts": ("folder", r"folder holds no \.txt files; name texts, or a folder"),
    "a table without words": ("n.csv", r"n\.csv has no column of words among n, m; name the one"),
    "a broken table": ("broken.jsonl", r"broken\.jsonl.*line 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_answered_is_reported_in_one_line(tmp_path, case):
    name, message = BAD[case]
    (tmp_path / "folder").mkdir()
    (tmp_path / "n.csv").write_text("n,m\n1,2\n3,4\n", "utf-8")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text"\n', "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        find_texts([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_one_text_is_answered_by_itself_and_a_folder_or_table_row_by_row(tmp_path):
    wanted = TextInputs(tokenizer="", length=8, most=8, pad=0, vocabulary=9)
    (tmp_path / "a.txt").write_text("from a file", "utf-8")
    (tmp_path / "t.csv").write_text("text\none\ntwo\n", "utf-8")
    one, file, table = "dear sir", tmp_path / "a.txt", tmp_path / "t.csv"
    assert items_of(one, wanted) == ([one], True)
    assert items_of(file, wanted) == ([file], True)
    assert items_of([one], wanted) == ([one], False)
    assert items_of((one, file), wanted) == ([one, file], False)
    assert items_of(tmp_path, wanted) == ([str(file)], False)
    rows, is_one = items_of(str(table), wanted)
    assert ([row.text for row in rows], is_one) == (["one", "two"], False)


def test_what_is_no_text(tmp_path):
    with pytest.raises(
        DataError, match=r"#0 is of type int; give a text, or the path of a \.txt file"
    ):
        text_payload(3, "#0")
    with pytest.raises(DataError, match="is a folder"):
        text_payload(tmp_path, str(tmp_path))
    with pytest.raises(DataError, match=r"gone\.txt"):
        text_payload(tmp_path / "gone.txt", "gone.txt")
